//! The store of a broker: applied records and state, in memory and on disk.
//!
//! Applied records are appended to partition [`log`]s. [`flush`] writes them to segment files. A
//! [`checkpoint`] makes the files durable and writes a [`snapshot`] that names them; [`recovery`]
//! starts from a snapshot. The write-ahead log keeps the entries that no snapshot covers yet
//! ([`replica_log`]). A replica that lacks what the log no longer has gets the files of another
//! broker ([`transfer`]). Records that are only in the bucket are read through [`remote`].
//!
//! This crate starts no threads: `broker/node` runs the flushers, the checkpointer and the cleaner.
//! It accesses files through `broker/disk` only.

pub mod limits;
pub mod directory;
pub mod budget;
pub mod replica_log;
pub mod snapshot;
mod quarantine;
pub mod destroyed;
pub(crate) mod pins;
pub mod store;
pub mod remote;
pub mod log;
pub mod partition_logs;
pub mod policy;
pub mod work;
pub(crate) mod unsynced;
pub mod flush;
pub mod checkpoint;
pub mod clean;
pub mod transfer;
pub mod destroy;
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
