//! The operations of the write-ahead log that a checkpoint needs, as a trait that tests replace.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ropewalk_shard::engine::EntryId;
use ropewalk_wal::{Record, ReplicaKey, Submission, WalError, WalHandle};

use crate::work::WorkError;

/// The write-ahead log, for checkpoints.
pub trait Journal: Send + fmt::Debug {
    /// Records durably, in one write, through which entry snapshots cover the log of each replica.
    ///
    /// # Errors
    /// When the records cannot be written; then none of them counts.
    fn truncate(&self, covered: &[(ReplicaKey, EntryId)]) -> Result<(), WorkError>;
    /// Removes files that hold no entry at or above the given index of each replica.
    fn release(&self, needed: &BTreeMap<ReplicaKey, u64>);
    /// Bytes in use.
    fn used_bytes(&self) -> u64;
    /// Whether the log accepts no more records until some of it is released.
    fn is_full(&self) -> bool;
    /// The replicas that pin the oldest file, and the last index of each in it.
    fn pinned_by_oldest(&self) -> Vec<(ReplicaKey, u64)>;
}

impl Journal for WalHandle {
    fn truncate(&self, covered: &[(ReplicaKey, EntryId)]) -> Result<(), WorkError> {
        let (answer, answered) = ropewalk_thread::channel();
        let records = covered.iter().map(|(key, entry)| Record::Truncated {
            key: *key,
            index: entry.index,
            term: entry.term,
        });
        let submission = Submission::new(records.collect(), move |result| {
            // The receiver may have been dropped.
            answer.send(result);
        });
        self.submit(submission.for_release());
        let result = answered.recv().unwrap_or_else(|_| Err(Arc::new(WalError::Closed)));
        result.map_err(|error| match error.is_final() {
            true => WorkError::Final(error.to_string()),
            false => WorkError::Later(error.to_string()),
        })
    }

    fn release(&self, needed: &BTreeMap<ReplicaKey, u64>) {
        Self::release(self, needed.clone());
    }

    fn used_bytes(&self) -> u64 {
        self.stats().used_bytes
    }

    fn is_full(&self) -> bool {
        Self::is_full(self)
    }

    fn pinned_by_oldest(&self) -> Vec<(ReplicaKey, u64)> {
        Self::pinned_by_oldest(self)
    }
}
