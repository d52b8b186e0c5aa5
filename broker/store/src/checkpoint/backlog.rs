//! The work of the checkpoint thread for one shard: the logs that have something to write.
//!
//! # Invariants
//!
//! - The work of a failed checkpoint returns to the backlog: no change is dropped before a durable
//!   snapshot covers it.

use std::mem;
use std::sync::Arc;

use super::capture::Source;
use super::files::ShardFiles;
use crate::log::PartitionLog;

/// A shard and its pending work.
#[derive(Debug)]
pub(super) struct ShardBacklog {
    pub(super) files: ShardFiles,
    pub(super) source: Box<dyn Source>,
    /// Logs whose records have to become sealed segments, so that they can be compacted.
    overdue: Vec<Arc<PartitionLog>>,
    /// Whether another checkpoint is needed, so that the older kept snapshot names what was sealed.
    seals_again: bool,
    /// Whether a checkpoint was asked for.
    pub(super) is_wanted: bool,
    pub(super) dirty_since_ms: Option<i64>,
    /// When a checkpoint was last due and had nothing to write.
    pub(super) in_vain_ms: Option<i64>,
    /// When the last checkpoint failed; `None` if it succeeded.
    pub(super) failed_ms: Option<i64>,
    /// Since when files wait for another checkpoint to be removed.
    pub(super) removals_since_ms: Option<i64>,
}

/// The part of a backlog that a checkpoint completes once its snapshot is durable.
#[derive(Debug, Default)]
pub(super) struct CheckpointWork {
    dirty: Vec<Arc<PartitionLog>>,
    pub(super) overdue: Vec<Arc<PartitionLog>>,
    seals_again: bool,
    is_wanted: bool,
}

impl CheckpointWork {
    /// Whether the checkpoint is needed even if nothing was applied since the last one.
    pub(super) fn seals(&self) -> bool {
        self.seals_again || !self.overdue.is_empty()
    }
}

impl ShardBacklog {
    pub(super) fn new(files: ShardFiles, source: Box<dyn Source>) -> Self {
        Self {
            files,
            source,
            overdue: Vec::new(),
            seals_again: false,
            is_wanted: false,
            dirty_since_ms: None,
            in_vain_ms: None,
            failed_ms: None,
            removals_since_ms: None,
        }
    }

    /// Adds the changes that the logs reported.
    pub(super) fn take_changes(&mut self, now_ms: i64) {
        let logs = Arc::clone(self.files.partition_logs());
        let closed = logs.take_closed();
        self.is_wanted |= logs.take_checkpoint_wanted();
        if logs.is_dirty() || !closed.is_empty() {
            self.dirty_since_ms.get_or_insert(now_ms);
        }
        for log in logs.take_overdue() {
            if !self.overdue.iter().any(|known| Arc::ptr_eq(known, &log)) {
                self.overdue.push(log);
            }
        }
        self.files.closed(closed);
    }

    /// Bytes in tails that only a checkpoint can free.
    pub(super) fn spillable_bytes(&self) -> usize {
        self.files.partition_logs().dirty().iter().map(|log| log.spillable_bytes()).sum()
    }

    /// Whether records wait for a checkpoint that seals them for compaction.
    pub(super) fn wants_to_seal(&self) -> bool {
        self.seals_again || !self.overdue.is_empty()
    }

    /// Takes the work of a checkpoint that begins now. Later changes are reported again.
    pub(super) fn take(&mut self) -> CheckpointWork {
        self.dirty_since_ms = None;
        self.removals_since_ms = None;
        let taken = CheckpointWork {
            dirty: self.files.partition_logs().take_dirty(),
            overdue: mem::take(&mut self.overdue),
            seals_again: mem::take(&mut self.seals_again),
            is_wanted: mem::take(&mut self.is_wanted),
        };
        taken.dirty.iter().for_each(|log| log.mark_clean());
        taken
    }

    /// Returns the work of a failed checkpoint.
    pub(super) fn give_back(&mut self, taken: CheckpointWork, now_ms: i64) {
        self.dirty_since_ms = Some(now_ms);
        self.failed_ms = Some(now_ms);
        self.files.partition_logs().return_dirty(taken.dirty);
        self.overdue.extend(taken.overdue);
        self.seals_again |= taken.seals_again;
        self.is_wanted |= taken.is_wanted;
    }

    /// Ends a checkpoint whose snapshot is durable.
    pub(super) fn done(&mut self, taken: &CheckpointWork, now_ms: i64) {
        self.failed_ms = None;
        self.seals_again |= !taken.overdue.is_empty();
        self.removals_since_ms = self.files.has_removals().then_some(now_ms);
    }
}
