//! The logs of one shard's partitions, and which of them changed.
//!
//! [`PartitionLogs`] creates the logs of a shard and collects the changes that they report. The
//! shard's flusher and the checkpoint thread take these reports and process only the logs that
//! changed: an idle partition costs no flush and no sync. The lock of the changes is a leaf: no
//! other lock is taken while it is held.
//!
//! # Invariants
//!
//! - Tails are written to segments only under the flush lock, and a checkpoint captures the state
//!   and reads the ends of the segments under it. So the ends are at the captured index.
//! - The flush lock is never held during a sync, and a flusher never waits for it.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use ropewalk_segment::SegmentError;
use ropewalk_shard::{PartitionId, ReplicaId, ShardId};

use crate::budget::TailBudget;
use crate::log::{Change, ChangeSink, Logs, PartitionLog};
use crate::quarantine;
use crate::snapshot::{PartitionFiles, PartitionIncarnation};
use crate::store::{ShardStore, Store};
use crate::work::WorkError;

/// The logs of one shard.
#[derive(Debug)]
pub struct PartitionLogs {
    me: Weak<Self>,
    files: Arc<ShardStore>,
    changes: Mutex<Changes>,
    flush_lock: Mutex<()>,
    /// Whether a checkpoint was asked for that has not begun.
    is_checkpoint_wanted: AtomicBool,
}

/// Changes of the logs that were not taken yet.
#[derive(Debug, Default)]
struct Changes {
    /// Logs that were appended to or whose start moved since the last checkpoint began.
    dirty: Vec<Weak<PartitionLog>>,
    /// Logs whose tail is to be flushed: see [`Change::Full`].
    full: Vec<Weak<PartitionLog>>,
    /// Logs with records that have waited too long for compaction: see [`Change::Overdue`].
    overdue: Vec<Weak<PartitionLog>>,
    /// Partitions that were closed.
    closed: Vec<PartitionIncarnation>,
}

impl PartitionLogs {
    pub(crate) fn new(store: Arc<Store>, shard: ShardId) -> Arc<Self> {
        let files = Arc::new(ShardStore::new(store, shard));
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            files,
            changes: Mutex::default(),
            flush_lock: Mutex::default(),
            is_checkpoint_wanted: AtomicBool::new(false),
        })
    }

    /// The shard whose logs these are.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.files.shard()
    }

    /// The store that the logs of all shards share.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        self.files.store()
    }

    pub(crate) fn budget(&self) -> &Arc<TailBudget> {
        self.files.budget()
    }

    /// Whether a log changed since [`Self::take_dirty`].
    pub(crate) fn is_dirty(&self) -> bool {
        !self.changes.lock().dirty.is_empty()
    }

    /// The logs that changed since [`Self::take_dirty`].
    pub(crate) fn dirty(&self) -> Vec<Arc<PartitionLog>> {
        upgrade(&self.changes.lock().dirty)
    }

    /// Takes the logs that changed, for a checkpoint that begins now.
    pub(crate) fn take_dirty(&self) -> Vec<Arc<PartitionLog>> {
        upgrade(&mem::take(&mut self.changes.lock().dirty))
    }

    /// Returns the logs of a checkpoint that failed. One that has changed since then has reported
    /// again.
    pub(crate) fn return_dirty(&self, logs: Vec<Arc<PartitionLog>>) {
        let unchanged = logs.into_iter().filter(|log| log.mark_dirty());
        let unchanged: Vec<_> = unchanged.map(|log| Arc::downgrade(&log)).collect();
        self.changes.lock().dirty.extend(unchanged);
    }

    /// Takes the logs whose tail became long.
    pub(crate) fn take_full(&self) -> Vec<Arc<PartitionLog>> {
        upgrade(&mem::take(&mut self.changes.lock().full))
    }

    /// Takes the logs with records that have waited too long for compaction.
    pub(crate) fn take_overdue(&self) -> Vec<Arc<PartitionLog>> {
        upgrade(&mem::take(&mut self.changes.lock().overdue))
    }

    /// Takes the partitions that were closed.
    pub(crate) fn take_closed(&self) -> Vec<PartitionIncarnation> {
        mem::take(&mut self.changes.lock().closed)
    }

    /// Takes whether a checkpoint was asked for.
    pub(crate) fn take_checkpoint_wanted(&self) -> bool {
        self.is_checkpoint_wanted.swap(false, Ordering::AcqRel)
    }

    /// Waits until no tail of the shard is being written, and keeps it so.
    pub(crate) fn hold_flushes(&self) -> MutexGuard<'_, ()> {
        self.flush_lock.lock()
    }

    /// Takes the flush lock; `None` if a checkpoint holds it.
    pub(crate) fn try_flush(&self) -> Option<MutexGuard<'_, ()>> {
        self.flush_lock.try_lock()
    }

    /// Restores a log that starts at `log_start` from the files that a snapshot names, and cuts off
    /// anything after their ends.
    ///
    /// # Errors
    /// When the files do not hold what the snapshot names.
    pub(crate) fn recover(
        &self,
        files: &PartitionFiles,
        log_start: i64,
    ) -> Result<Arc<PartitionLog>, SegmentError> {
        PartitionLog::recover(Arc::clone(&self.files), self.sink(), files, log_start)
    }

    fn sink(&self) -> Arc<dyn ChangeSink> {
        self.me.upgrade().expect("it is borrowed")
    }
}

impl Logs for PartitionLogs {
    fn open(&self, partition: PartitionId) -> Arc<PartitionLog> {
        let incarnation = self.store().next_incarnation();
        PartitionLog::empty(Arc::clone(&self.files), self.sink(), partition, incarnation)
    }

    fn closed(&self, partition: PartitionId, log: Arc<PartitionLog>) {
        let incarnation = log.incarnation();
        self.changes.lock().closed.push(PartitionIncarnation { partition, incarnation });
        log.close();
    }

    fn checkpoint(&self) {
        self.is_checkpoint_wanted.store(true, Ordering::Release);
        self.store().wake_checkpointer();
    }

    fn quarantine(&self, replica: ReplicaId, reason: &str) -> Result<(), WorkError> {
        Ok(quarantine::put(self.store().data(), self.shard(), replica, reason)?)
    }
}

impl ChangeSink for PartitionLogs {
    fn changed(&self, log: Weak<PartitionLog>, change: Change) {
        {
            let mut changes = self.changes.lock();
            match change {
                Change::Dirty => &mut changes.dirty,
                Change::Full => &mut changes.full,
                Change::Overdue => &mut changes.overdue,
            }
            .push(log);
        }
        match change {
            Change::Dirty => {}
            Change::Full => self.store().wake_flusher(self.shard()),
            Change::Overdue => self.store().wake_checkpointer(),
        }
    }
}

fn upgrade(logs: &[Weak<PartitionLog>]) -> Vec<Arc<PartitionLog>> {
    logs.iter().filter_map(Weak::upgrade).collect()
}
