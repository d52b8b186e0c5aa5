//! The write-ahead log as a checkpoint needs it, so that a test can stand in for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, mpsc};

use ropewalk_wal::{Record, ReplicaKey, Submission, WalError, WalHandle};

use crate::work::WorkError;

/// The write-ahead log as a checkpoint needs it.
pub trait Journal: Send + fmt::Debug {
    /// Notes, durably, that a replica's log through `index` is covered by snapshots.
    ///
    /// # Errors
    /// When it could not be written.
    fn truncate(&self, key: ReplicaKey, index: u64, term: u64) -> Result<(), WorkError>;
    /// Lets files go that hold nothing from the given index of each replica on.
    fn release(&self, needed: &BTreeMap<ReplicaKey, u64>);
    /// How much of it is in use.
    fn used_bytes(&self) -> u64;
    /// Whether it takes no more records before some of it is let go.
    fn is_full(&self) -> bool;
    /// Who keeps the oldest file, and the last index each has in it.
    fn pinned_by_oldest(&self) -> Vec<(ReplicaKey, u64)>;
}

impl Journal for WalHandle {
    fn truncate(&self, key: ReplicaKey, index: u64, term: u64) -> Result<(), WorkError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let record = Record::Truncated { key, index, term };
        let submission = Submission::new(vec![record], move |result| {
            // Whoever asked may have gone.
            let _ = answer.send(result);
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
