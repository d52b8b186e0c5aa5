//! The logs of one shard's partitions, and which of them changed.
//!
//! [`PartitionLogs`] creates the logs of a shard and collects the changes that they report. The
//! checkpoint thread takes these reports and processes only the logs that changed: an idle
//! partition costs a checkpoint no flush and no sync. The lock is a leaf: no other lock is taken
//! while it is held.

use std::mem;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ropewalk_segment::SegmentError;
use ropewalk_shard::{PartitionId, ShardId};

use crate::budget::TailBudget;
use crate::log::{Change, ChangeSink, Logs, PartitionLog};
use crate::snapshot::{PartitionFiles, PartitionIncarnation};
use crate::store::{ShardStore, Store};

/// The logs of one shard.
#[derive(Debug)]
pub struct PartitionLogs {
    me: Weak<Self>,
    files: Arc<ShardStore>,
    changes: Mutex<Changes>,
}

/// Changes of the logs since the checkpoint thread last took them.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Logs that were appended to or whose start moved.
    pub(crate) dirty: Vec<Weak<PartitionLog>>,
    /// Logs whose tail is to be flushed: see [`Change::Full`].
    pub(crate) full: Vec<Weak<PartitionLog>>,
    /// Logs with records that have waited too long for compaction: see [`Change::Overdue`].
    pub(crate) overdue: Vec<Weak<PartitionLog>>,
    /// Partitions that were closed.
    pub(crate) closed: Vec<PartitionIncarnation>,
}

impl PartitionLogs {
    pub(crate) fn new(store: Arc<Store>, shard: ShardId) -> Arc<Self> {
        let files = Arc::new(ShardStore::new(store, shard));
        Arc::new_cyclic(|me| Self { me: me.clone(), files, changes: Mutex::default() })
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

    /// Takes the changes since the last call.
    pub(crate) fn take_changes(&self) -> Changes {
        mem::take(&mut self.changes.lock())
    }

    /// Restores a log from the files that a snapshot names, and cuts off anything after their ends.
    ///
    /// # Errors
    /// When the files do not hold what the snapshot names.
    pub(crate) fn recover(
        &self,
        files: &PartitionFiles,
    ) -> Result<Arc<PartitionLog>, SegmentError> {
        PartitionLog::recover(Arc::clone(&self.files), self.sink(), files)
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
            Change::Full | Change::Overdue => self.store().wake_checkpointer(),
        }
    }
}
