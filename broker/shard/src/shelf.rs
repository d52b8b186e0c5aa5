//! Where the partitions of one shard put their records: files, memory, and who has to be told.
//!
//! A [`Shelf`] makes the logs of a shard and remembers which of them changed, so that a checkpoint
//! looks at those and at no others: an idle partition costs it nothing. [`Store`] is what all
//! shelves of a broker share.
//!
//! # Place in the walk
//!
//! The driver opens and closes logs here, logs report changes here, the checkpoint thread takes the
//! reports. The locks are leaves: nothing is called while one is held.
//!
//! A crash leaves nothing of this behind.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::Thread;

use parking_lot::Mutex;
use ropewalk_batch::Stamped;
use ropewalk_segment::spill::SpillReader;
use ropewalk_segment::{FileCache, SegmentError, Segments};

use crate::budget::TailBudget;
use crate::directory::DataDir;
use crate::driver::Logs;
use crate::id::{PartitionId, ShardId};
use crate::log::PartitionLog;
use crate::snapshot::{SegmentsEnd, Spilled};

/// What the shelves of a broker share.
#[derive(Debug)]
pub struct Store {
    data: DataDir,
    files: Arc<FileCache>,
    budget: Arc<TailBudget>,
    /// The life that the next partition gets; above every life that has a directory.
    next_life: AtomicU64,
    keeper: Mutex<Option<Thread>>,
}

impl Store {
    pub(crate) fn new(
        data: DataDir,
        files: Arc<FileCache>,
        budget: Arc<TailBudget>,
        next_life: u64,
    ) -> Arc<Self> {
        let next_life = AtomicU64::new(next_life);
        Arc::new(Self { data, files, budget, next_life, keeper: Mutex::new(None) })
    }

    /// The directory.
    #[must_use]
    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// The memory that tails may pin.
    #[must_use]
    pub fn budget(&self) -> &Arc<TailBudget> {
        &self.budget
    }

    /// The thread that is woken when there is something to write.
    pub(crate) fn set_keeper(&self, thread: Option<Thread>) {
        *self.keeper.lock() = thread;
    }

    fn wake_keeper(&self) {
        if let Some(thread) = &*self.keeper.lock() {
            thread.unpark();
        }
    }
}

/// The logs of one shard.
#[derive(Debug)]
pub struct Shelf {
    me: Weak<Self>,
    store: Arc<Store>,
    shard: ShardId,
    changes: Mutex<Changes>,
}

/// What happened on a shelf since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Logs that were appended to or whose start moved.
    pub(crate) dirty: Vec<Weak<PartitionLog>>,
    /// Logs with a long tail.
    pub(crate) full: Vec<Weak<PartitionLog>>,
    /// Logs with records that wait longer to be compacted than they may.
    pub(crate) overdue: Vec<Weak<PartitionLog>>,
    /// Partitions that are gone, with the life that ended.
    pub(crate) closed: Vec<(PartitionId, u64)>,
}

impl Shelf {
    pub(crate) fn new(store: Arc<Store>, shard: ShardId) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), store, shard, changes: Mutex::default() })
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// What the shelves share.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn budget(&self) -> &Arc<TailBudget> {
        &self.store.budget
    }

    /// Notes that a tail grew.
    pub(crate) fn take_memory(&self, bytes: usize) {
        if self.budget().take(bytes) {
            self.store.wake_keeper();
        }
    }

    pub(crate) fn mark_dirty(&self, log: Weak<PartitionLog>) {
        self.changes.lock().dirty.push(log);
    }

    pub(crate) fn mark_full(&self, log: Weak<PartitionLog>) {
        self.changes.lock().full.push(log);
        self.store.wake_keeper();
    }

    pub(crate) fn mark_overdue(&self, log: Weak<PartitionLog>) {
        self.changes.lock().overdue.push(log);
        self.store.wake_keeper();
    }

    /// What changed since this was asked last.
    pub(crate) fn take_changes(&self) -> Changes {
        mem::take(&mut self.changes.lock())
    }

    /// The segments of a partition, cut at `end`.
    pub(crate) fn open_segments(
        &self,
        partition: PartitionId,
        life: u64,
        end: Option<SegmentsEnd>,
        log_start: i64,
    ) -> Result<Segments, SegmentError> {
        let data = &self.store.data;
        let (disk, files) = (Arc::clone(data.disk()), Arc::clone(&self.store.files));
        let end = end.map(ropewalk_segment::DurableEnd::from);
        Segments::open(disk, files, data.partition(partition, life), end.as_ref(), log_start)
    }

    /// Reads a run of batches back from its spill file.
    pub(crate) fn read_spilled(&self, run: &Spilled) -> Result<Vec<Stamped>, SegmentError> {
        let path = self.store.data.spill_file(self.shard, run.file);
        SpillReader::open(&**self.store.data.disk(), path)?.read(&run.extent())
    }
}

impl Logs for Shelf {
    fn open(&self, partition: PartitionId) -> Arc<PartitionLog> {
        let life = self.store.next_life.fetch_add(1, Ordering::Relaxed);
        PartitionLog::empty(self.me.upgrade().expect("it is borrowed"), partition, life)
    }

    fn closed(&self, partition: PartitionId, log: Arc<PartitionLog>) {
        self.changes.lock().closed.push((partition, log.life()));
        log.close();
    }
}
