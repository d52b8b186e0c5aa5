//! Shards: what is agreed on.
//!
//! A shard is one Raft group. Its entries are [`command`]s; every replica applies them alike to its
//! [`state`]. The modules stand in the order in which a batch walks through them: the [`driver`]
//! decides what is proposed and when, the [`replica`] proposes and applies, the [`engine`] agrees.
//!
//! There are no files, clocks, threads, tasks or random numbers here: events and the time go in,
//! and what has to be written, answered and carried out comes out. `broker/store` keeps what is
//! applied, `broker/node` drives.

pub mod id;
pub mod limits;
pub mod command;
pub mod proposal;
pub mod driver;
pub mod replica;
pub mod engine;
pub mod state;

pub use id::{BrokerId, PartitionId, ReplicaId, ShardId, TopicId};
pub use proposal::ProposeError;
pub use state::{Effect, Outcome, State};
