//! The store of a broker: where what is applied lies in memory and on disk, and how it survives.
//!
//! Applied records go to partition [`log`]s. A [`checkpoint`] moves them to files and writes a
//! [`snapshot`] that names them; [`recovery`] begins from one. The write-ahead log keeps what no
//! snapshot covers yet ([`replica_log`]).
//!
//! Nothing here runs by itself: `broker/node` gives the checkpointer and the cleaner their threads.
//! Files are reached through `broker/disk` only. Sockets, Kafka requests and Kubernetes are unknown
//! here.

pub mod limits;
pub mod directory;
pub mod budget;
pub mod replica_log;
pub mod snapshot;
pub mod store;
pub mod log;
pub mod partition_logs;
pub mod policy;
pub mod work;
pub mod checkpoint;
pub mod clean;
pub mod recovery;
pub mod bootstrap;
pub mod repair;
#[cfg(test)]
mod testing;

pub use budget::TailBudget;
pub use directory::{DataDir, Identity};
pub use log::PartitionLog;
pub use partition_logs::PartitionLogs;
pub use store::Store;
