//! A shard as the checkpoint thread sees it: which of its logs have something to write.
//!
//! # Invariants
//!
//! - What a checkpoint took is given back when the checkpoint fails: nothing that was noted is dropped before
//!   a durable snapshot covers it.
//! - A log that counts as full stands in a list here or with its shard's logs until a flush left less than
//!   [`limits::TAIL_BYTES_TO_FLUSH`](crate::limits::TAIL_BYTES_TO_FLUSH) of its tail.

use std::mem;
use std::sync::{Arc, Weak};

use super::capture::Source;
use super::files::ShardFiles;
use crate::log::PartitionLog;

/// A shard and what is to be done for it.
#[derive(Debug)]
pub(super) struct ShardBacklog {
    pub(super) files: ShardFiles,
    pub(super) source: Box<dyn Source>,
    /// Logs that changed since the last checkpoint began.
    pub(super) dirty: Vec<Arc<PartitionLog>>,
    /// Logs with a long tail.
    pub(super) full: Vec<Arc<PartitionLog>>,
    /// Logs whose records have to become sealed segments, so that they can be compacted.
    overdue: Vec<Arc<PartitionLog>>,
    /// Whether another checkpoint is wanted, so that the older kept snapshot names what was sealed.
    seals_once_more: bool,
    pub(super) dirty_since_ms: Option<i64>,
    /// When a checkpoint was last due and would have changed nothing.
    pub(super) in_vain_ms: Option<i64>,
    /// When the last checkpoint failed; `None` if it did not.
    pub(super) failed_ms: Option<i64>,
    /// Since when files wait for one more checkpoint to be unlinked.
    pub(super) doomed_since_ms: Option<i64>,
}

/// What a checkpoint took to be done with once its snapshot is durable.
#[derive(Debug, Default)]
pub(super) struct CheckpointWork {
    dirty: Vec<Arc<PartitionLog>>,
    pub(super) overdue: Vec<Arc<PartitionLog>>,
    seals_once_more: bool,
}

impl CheckpointWork {
    /// Whether a checkpoint is wanted although nothing may have been applied since the last one.
    pub(super) fn seals(&self) -> bool {
        self.seals_once_more || !self.overdue.is_empty()
    }
}

impl ShardBacklog {
    pub(super) fn new(files: ShardFiles, source: Box<dyn Source>) -> Self {
        Self {
            files,
            source,
            dirty: Vec::new(),
            full: Vec::new(),
            overdue: Vec::new(),
            seals_once_more: false,
            dirty_since_ms: None,
            in_vain_ms: None,
            failed_ms: None,
            doomed_since_ms: None,
        }
    }

    /// Takes what was noted.
    pub(super) fn look(&mut self, now_ms: i64) {
        let changes = self.files.partition_logs().take_changes();
        let log = |weak: Weak<PartitionLog>| weak.upgrade();
        if !changes.dirty.is_empty() || !changes.closed.is_empty() {
            self.dirty_since_ms.get_or_insert(now_ms);
        }
        self.dirty.extend(changes.dirty.into_iter().filter_map(log));
        self.full.extend(changes.full.into_iter().filter_map(log));
        for log in changes.overdue.into_iter().filter_map(log) {
            if !self.overdue.iter().any(|known| Arc::ptr_eq(known, &log)) {
                self.overdue.push(log);
            }
        }
        self.files.closed(changes.closed);
    }

    /// Bytes in the tails of the logs that changed.
    pub(super) fn tail_bytes(&self) -> usize {
        self.dirty.iter().map(|log| log.tail_bytes()).sum()
    }

    /// Whether records wait for a checkpoint that makes them ready to be compacted.
    pub(super) fn wants_to_seal(&self) -> bool {
        self.seals_once_more || !self.overdue.is_empty()
    }

    /// What a checkpoint that begins now is to be done with. Whatever changes after it is noted anew.
    pub(super) fn take(&mut self) -> CheckpointWork {
        self.dirty_since_ms = None;
        self.doomed_since_ms = None;
        let taken = CheckpointWork {
            dirty: mem::take(&mut self.dirty),
            overdue: mem::take(&mut self.overdue),
            seals_once_more: mem::take(&mut self.seals_once_more),
        };
        taken.dirty.iter().for_each(|log| log.mark_clean());
        taken
    }

    /// The checkpoint failed: what it took is still to be done.
    pub(super) fn give_back(&mut self, taken: CheckpointWork, now_ms: i64) {
        self.dirty_since_ms = Some(now_ms);
        self.failed_ms = Some(now_ms);
        // A log that has changed since then has reported again.
        self.dirty.extend(taken.dirty.into_iter().filter(|log| log.mark_dirty()));
        self.overdue.extend(taken.overdue);
        self.seals_once_more |= taken.seals_once_more;
    }

    /// The checkpoint is durable.
    pub(super) fn done(&mut self, taken: &CheckpointWork, now_ms: i64) {
        self.failed_ms = None;
        self.seals_once_more |= !taken.overdue.is_empty();
        self.doomed_since_ms = self.files.has_doomed().then_some(now_ms);
    }
}
