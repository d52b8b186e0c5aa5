//! Runs all shards of one broker: the tasks of their drivers, the threads of the write-ahead log,
//! the flushers, the checkpoint thread and the cleaner, their supervision, and the order in which
//! they stop.
//!
//! This crate adds time, tasks and threads to `broker/shard` and `broker/store`. The rest of the
//! broker uses a [`Node`] and its [`ShardHandle`]s.

pub mod limits;
pub mod supervision;
pub mod blocking;
pub mod handle;
pub mod sends;
pub mod peers;
pub mod transfers;
pub mod driver;
mod drivers;
mod pace;
mod background;
mod error;
mod shards;
mod node;

pub use error::NodeError;
pub use handle::{FeatureLevel, Halt, Observer, Replication, ShardHandle};
pub use node::{Node, NodeOptions, OnRound, StartedAs};
pub use peers::{NoPeers, Peers};
pub use ropewalk_shard::engine::Progress;
