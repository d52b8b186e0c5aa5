//! All shards of one broker as they run: a driver task per shard, the write-ahead log's threads, the
//! checkpoint thread and the cleaner, their supervision, and the order in which they stop.
//!
//! `broker/shard` decides and `broker/store` keeps; this joins them with time, tasks and threads. The
//! rest of the broker sees a [`Node`] and its [`ShardHandle`]s. Sockets, Kafka requests and
//! Kubernetes are unknown here.

pub mod limits;
pub mod supervision;
pub mod handle;
pub mod driver;
mod background;
mod node;

pub use handle::{Observer, ShardHandle};
pub use node::{Node, NodeError, NodeOptions};
