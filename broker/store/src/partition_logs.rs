//! The logs of one shard's partitions, and which of them changed.
//!
//! [`PartitionLogs`] makes the logs of a shard and remembers which of them changed, so that a
//! checkpoint looks at those and at no others: an idle partition costs it nothing.
//!
//! # Place in the walk
//!
//! The driver opens and closes logs here, logs report changes here, the checkpoint thread takes the
//! reports. The locks are leaves: nothing is called while one is held.
//!
//! A crash leaves nothing of this behind.

use std::mem;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ropewalk_segment::SegmentError;
use ropewalk_shard::{PartitionId, ShardId};

use crate::budget::TailBudget;
use crate::log::{Change, ChangeSink, Logs, PartitionLog};
use crate::snapshot::PartitionFiles;
use crate::store::{ShardStore, Store};

/// The logs of one shard.
#[derive(Debug)]
pub struct PartitionLogs {
    me: Weak<Self>,
    files: Arc<ShardStore>,
    changes: Mutex<Changes>,
}

/// What happened to the logs since this was last asked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Logs that were appended to or whose start moved.
    pub(crate) dirty: Vec<Weak<PartitionLog>>,
    /// Logs with a long tail.
    pub(crate) full: Vec<Weak<PartitionLog>>,
    /// Logs with records that wait longer to be compacted than they may.
    pub(crate) overdue: Vec<Weak<PartitionLog>>,
    /// Partitions that are gone, with the incarnation that ended.
    pub(crate) closed: Vec<(PartitionId, u64)>,
}

impl PartitionLogs {
    pub(crate) fn new(store: Arc<Store>, shard: ShardId) -> Arc<Self> {
        let files = Arc::new(ShardStore::new(store, shard));
        Arc::new_cyclic(|me| Self { me: me.clone(), files, changes: Mutex::default() })
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.files.shard()
    }

    /// What the logs of all shards share.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        self.files.store()
    }

    pub(crate) fn budget(&self) -> &Arc<TailBudget> {
        self.files.budget()
    }

    /// What changed since this was asked last.
    pub(crate) fn take_changes(&self) -> Changes {
        mem::take(&mut self.changes.lock())
    }

    /// Puts a log together again as a snapshot names it. Everything beyond is cut off.
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
        self.changes.lock().closed.push((partition, log.incarnation()));
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
