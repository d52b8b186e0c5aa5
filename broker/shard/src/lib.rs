//! Shards: what is agreed on, and how it survives.
//!
//! A shard is one Raft group. Its entries are [`command`]s; every replica applies them alike to
//! its [`state`]; the records themselves go to partition [`log`]s. The modules stand in the order
//! in which a batch walks through them.
//!
//! Sockets, Kafka requests and Kubernetes are unknown here.

pub mod id;
pub mod limits;
pub mod supervision;
pub mod command;
pub mod handle;
pub mod driver;
pub mod replica;
pub mod engine;
pub mod state;
pub mod log;
pub mod budget;
pub mod shelf;
pub mod snapshot;
pub mod checkpoint;
pub mod clean;
pub mod recovery;
pub mod birth;
pub mod directory;
pub mod repair;
pub mod node;
#[cfg(test)]
mod testing;

pub use budget::TailBudget;
pub use directory::{DataDir, Identity};
pub use handle::{Observer, ProposeError, Shard};
pub use id::{BrokerId, PartitionId, ReplicaId, ShardId, TopicId};
pub use log::PartitionLog;
pub use state::{Effect, Outcome, State};
