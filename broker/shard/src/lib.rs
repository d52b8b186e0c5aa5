//! Shards: the Raft groups of a cluster and their replicated state machine.
//!
//! A shard is one Raft group. Its log entries are [`command`]s, and every replica applies them in
//! the same order to its [`state`]. The modules are declared in the order in which a batch passes
//! through them: the [`driver`] decides what is proposed and when, the [`replica`] proposes and
//! applies, the [`engine`] wraps the `raft` crate.
//!
//! This crate has no files, clocks, threads, tasks or random numbers: the caller passes in events
//! and the time, and carries out the writes, answers and effects that are returned. `broker/store`
//! stores the applied records and the checkpoints; `broker/node` runs the driver.

pub mod id;
pub mod limits;
mod payload;
pub mod footprint;
pub mod placement;
pub mod manifest;
pub mod command;
mod deletion;
mod entry;
pub mod proposal;
pub mod driver;
pub mod replica;
pub mod engine;
pub mod message;
pub mod send_budget;
pub mod state;

pub use deletion::Deletion;
pub use footprint::Footprint;
pub use id::{BrokerId, HistoryId, PartitionId, ReplicaId, ShardId, TopicId};
pub use payload::Payload;
pub use proposal::ProposeError;
pub use state::{Effect, Outcome, State};
