//! What the partition logs of a broker share: the data directory, open files and memory.
//!
//! Partition logs open and read their files through `ShardStore` and count their memory in its
//! budget. When memory becomes short, the store wakes the flushers and the checkpoint thread. The
//! lock is a leaf: no other lock is taken while it is held.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use ropewalk_batch::StampedBatch;
use ropewalk_segment::spill::SpillReader;
use ropewalk_segment::{FileCache, SegmentError, Segments};
use ropewalk_shard::{PartitionId, ShardId};
use ropewalk_thread::Thread;

use crate::budget::TailBudget;
use crate::directory::DataDir;
use crate::limits;
use crate::pins::Pins;
use crate::snapshot::{SegmentsEnd, SpillRun};

/// What the partition logs of a broker share.
#[derive(Debug)]
pub struct Store {
    data: DataDir,
    files: Arc<FileCache>,
    budget: Arc<TailBudget>,
    /// The incarnation of the next new partition; above every incarnation that has a directory.
    next_incarnation: AtomicU64,
    workers: Mutex<Workers>,
    /// Files that are being sent to another broker.
    pins: Pins,
    pause: OnceLock<Pause>,
}

/// What the background work calls after it has given the disk this many bytes, to wait for a while.
pub struct Pause(Box<dyn Fn(usize) + Send + Sync>);

impl Pause {
    /// A pause that `wait` makes for a number of bytes.
    pub fn new(wait: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self(Box::new(wait))
    }
}

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pause")
    }
}

/// The threads of the background work that are running.
#[derive(Debug, Default)]
struct Workers {
    checkpointer: Option<Thread>,
    flushers: [Option<Thread>; limits::FLUSHERS],
}

impl Store {
    pub(crate) fn new(
        data: DataDir,
        files: Arc<FileCache>,
        budget: Arc<TailBudget>,
        next_incarnation: u64,
    ) -> Arc<Self> {
        let next_incarnation = AtomicU64::new(next_incarnation);
        Arc::new(Self {
            data,
            files,
            budget,
            next_incarnation,
            workers: Mutex::default(),
            pause: OnceLock::new(),
            pins: Pins::default(),
        })
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// The memory that tails may pin.
    #[must_use]
    pub fn budget(&self) -> &Arc<TailBudget> {
        &self.budget
    }

    /// The files that are being sent to another broker.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Sets the pause before a tail is written to a segment. Without it there is none.
    pub fn set_pause(&self, pause: Pause) {
        let is_first = self.pause.set(pause);
        debug_assert!(is_first.is_ok(), "set once");
    }

    /// Leaves the disk to the rounds of the write-ahead log before `bytes` are written, unless
    /// memory is short: a round waits for everything that the disk was given before it, and many
    /// tails become long at the same time.
    pub(crate) fn pause_before(&self, bytes: usize) {
        if let Some(Pause(wait)) = self.pause.get().filter(|_| !self.budget.is_short()) {
            wait(bytes);
        }
    }

    /// Closes the files of segments that were not read since the last call.
    pub(crate) fn close_idle_files(&self) {
        self.files.close_idle();
    }

    /// Sets the checkpoint thread, which is woken when a checkpoint is due at once.
    pub fn set_checkpointer(&self, thread: Thread) {
        self.workers.lock().checkpointer = Some(thread);
    }

    /// Sets the thread of a flusher, which is woken when a log of its shards has a long tail.
    pub(crate) fn set_flusher(&self, number: usize, thread: Thread) {
        self.workers.lock().flushers[number] = Some(thread);
    }

    pub(crate) fn wake_checkpointer(&self) {
        if let Some(thread) = &self.workers.lock().checkpointer {
            thread.unpark();
        }
    }

    /// Wakes the flusher of a shard.
    pub(crate) fn wake_flusher(&self, shard: ShardId) {
        if let Some(thread) = &self.workers.lock().flushers[flusher_of(shard)] {
            thread.unpark();
        }
    }

    /// Wakes every flusher.
    pub(crate) fn wake_flushers(&self) {
        self.workers.lock().flushers.iter().flatten().for_each(Thread::unpark);
    }

    /// Assigns the incarnation of a new partition.
    pub(crate) fn next_incarnation(&self) -> u64 {
        self.next_incarnation.fetch_add(1, Ordering::Relaxed)
    }
}

/// The number of the flusher that serves a shard, from 0.
#[must_use]
pub fn flusher_of(shard: ShardId) -> usize {
    shard.0 as usize % limits::FLUSHERS
}

/// A shard's part of the store.
#[derive(Debug)]
pub(crate) struct ShardStore {
    store: Arc<Store>,
    shard: ShardId,
}

impl ShardStore {
    pub(crate) fn new(store: Arc<Store>, shard: ShardId) -> Self {
        Self { store, shard }
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn budget(&self) -> &Arc<TailBudget> {
        &self.store.budget
    }

    /// Counts the memory by which a tail grew.
    pub(crate) fn take_memory(&self, bytes: usize) {
        if self.budget().take(bytes) {
            self.store.wake_flushers();
            self.store.wake_checkpointer();
        }
    }

    /// The segments of a partition, cut at `end`.
    pub(crate) fn open_segments(
        &self,
        partition: PartitionId,
        incarnation: u64,
        end: Option<SegmentsEnd>,
        log_start: i64,
    ) -> Result<Segments, SegmentError> {
        let data = &self.store.data;
        let (disk, files) = (Arc::clone(data.disk()), Arc::clone(&self.store.files));
        let end = end.map(ropewalk_segment::DurableEnd::from);
        Segments::open(disk, files, data.partition(partition, incarnation), end.as_ref(), log_start)
    }

    /// Reads a run of batches back from its spill file.
    pub(crate) fn read_spilled(&self, run: &SpillRun) -> Result<Vec<StampedBatch>, SegmentError> {
        let path = self.store.data.spill_file(self.shard, run.file);
        SpillReader::open(&**self.store.data.disk(), path)?.read(&run.extent())
    }
}
