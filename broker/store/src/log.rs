//! The log of one partition in three layers: segments, then spill, then the tail.
//!
//! Of a partition with a tier, the layers begin at the local start. What is between the log start
//! and the local start is in the bucket: a read there is answered with its range, and the caller
//! reads it from a [`RemoteLog`](crate::remote::RemoteLog).
//!
//! The tail holds the newest batches in memory. A checkpoint moves it to segment files, or into the
//! shard's spill file if it is small; readers see no difference. Every record in a log is
//! committed, because the driver appends only applied batches (O1).
//!
//! The replica's driver appends, request handlers read. Flushers and the checkpoint thread move
//! records between layers (`layers`), and recovery restores a log from the files that a snapshot
//! names.
//!
//! # Invariants
//!
//! - **O4** segments, spill and tail are contiguous: each layer begins at the offset where the one
//!   before ends. They change together, under one lock, and only after the bytes can be read at
//!   their new place.
//! - **R1** an idle partition holds no batch, buffer or file descriptor, and less than 1 KiB.
//! - **T1** records are removed below the local start only, which the replica's driver raises when
//!   it has applied the command. No file is removed that a kept snapshot names.
//! - The lock is never held during a read or write of the disk: `append` never waits for the disk.
//!
//! # After a crash
//!
//! The tail is lost and is restored by replaying the write-ahead log. The files are those that the
//! snapshot names.

use std::fmt;
use std::mem;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ropewalk_batch::StampedBatch;
use ropewalk_segment::{Reader, Segments};
use ropewalk_shard::{PartitionId, ReplicaId};

use crate::limits;
use crate::remote::RemoteRange;
use crate::snapshot::SpillRun;
use crate::store::ShardStore;
use crate::work::WorkError;

mod tail;
mod read;
mod lookup;
mod waiter;
pub(crate) mod layers;

pub use lookup::{first_in, youngest_in};
pub use read::{Chunk, Limits, Part, Planned, ReadError};
use tail::Tail;
pub use waiter::Waiter;

/// Creates and closes the partition logs of a shard.
pub trait Logs: Send + Sync + fmt::Debug {
    /// Creates the empty log of a new partition.
    fn open(&self, partition: PartitionId) -> Arc<PartitionLog>;
    /// Closes the log of a removed partition; its files are removed once no snapshot names them.
    fn closed(&self, partition: PartitionId, log: Arc<PartitionLog>);
    /// Asks for a checkpoint of the shard at once.
    fn checkpoint(&self);
    /// Marks the shard's replica durably, so that it never starts again. Blocks on the disk.
    ///
    /// # Errors
    /// See [`WorkError`].
    fn quarantine(&self, replica: ReplicaId, reason: &str) -> Result<(), WorkError>;
}

/// Receives the changes of the logs of a shard. Called without a lock of the log.
pub(crate) trait ChangeSink: Send + Sync + fmt::Debug {
    /// Reports a change that was not reported since the last checkpoint or flush.
    fn changed(&self, log: Weak<PartitionLog>, change: Change);
}

/// A change of a log that a flusher or the checkpoint thread acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The log was appended to, or its start moved.
    Dirty,
    /// The tail reached [`limits::TAIL_BYTES_TO_FLUSH`].
    Full,
    /// Some records have waited for compaction longer than `max.compaction.lag.ms`.
    Overdue,
}

/// The records of one partition.
#[derive(Debug)]
pub struct PartitionLog {
    me: Weak<Self>,
    partition: PartitionId,
    incarnation: u64,
    files: Arc<ShardStore>,
    changes: Arc<dyn ChangeSink>,
    inner: Mutex<Inner>,
    /// Locked by a thread that moves records between the layers, before `inner` and never after it.
    /// `None` until the first flush.
    segments: Mutex<Option<Box<Segments>>>,
    /// Whether the log is in the list of unsynced logs.
    listed: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    log_start: i64,
    /// The first offset in the layers; not below `log_start`.
    local_start: i64,
    next_offset: i64,
    /// Offsets below are read from the segments.
    segments_end: i64,
    segments_bytes: u64,
    reader: Option<Reader>,
    spill: Vec<SpillRun>,
    tail: Tail,
    waiters: Vec<Registered>,
    closed: bool,
    /// Whether [`Change::Dirty`] was reported since the last checkpoint.
    dirty: bool,
    /// Whether [`Change::Full`] was reported for the current tail.
    full: bool,
    /// Whether the spill is damaged, so that the records after it cannot be moved to segments.
    stuck: bool,
}

/// The layer that holds an offset.
enum Layer {
    Segments(Reader, i64),
    Spill(SpillRun),
    Tail,
    End,
}

impl Inner {
    fn layer(&self, offset: i64) -> Layer {
        if offset < self.segments_end
            && let Some(reader) = &self.reader
        {
            return Layer::Segments(reader.clone(), self.segments_end);
        }
        if let Some(spilled) = self.spill.iter().find(|spilled| offset < spilled.next_offset) {
            return Layer::Spill(*spilled);
        }
        if self.tail.is_empty() { Layer::End } else { Layer::Tail }
    }

    fn check(&self, asked: i64) -> Result<(), ReadError> {
        let (log_start, high_watermark) = (self.log_start, self.next_offset);
        if !(log_start..=high_watermark).contains(&asked) {
            return Err(ReadError::OutOfRange { asked, log_start, high_watermark });
        }
        self.remote_from(asked).map_or(Ok(()), |range| Err(ReadError::Remote(range)))
    }

    /// The offsets from `from` on that are in the bucket and not in the layers.
    fn remote_from(&self, from: i64) -> Option<RemoteRange> {
        let until = self.local_start;
        (from < until).then_some(RemoteRange { from, until })
    }

    /// Removes batches that end at `offset` or before from the tail. Returns the freed bytes.
    fn drop_tail_through(&mut self, offset: i64) -> usize {
        let before = self.tail.size_bytes();
        self.tail.drop_through(offset);
        self.full &= self.tail.size_bytes() >= limits::TAIL_BYTES_TO_FLUSH;
        before - self.tail.size_bytes()
    }

    fn spill_bytes(&self) -> u64 {
        self.spill.iter().map(|spilled| u64::from(spilled.length_bytes)).sum()
    }
}

impl PartitionLog {
    /// The log of a new partition.
    pub(crate) fn empty(
        files: Arc<ShardStore>,
        changes: Arc<dyn ChangeSink>,
        partition: PartitionId,
        incarnation: u64,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            partition,
            incarnation,
            files,
            changes,
            inner: Mutex::new(Inner {
                log_start: 0,
                local_start: 0,
                next_offset: 0,
                segments_end: 0,
                segments_bytes: 0,
                reader: None,
                spill: Vec::new(),
                tail: Tail::default(),
                waiters: Vec::new(),
                closed: false,
                dirty: false,
                full: false,
                stuck: false,
            }),
            segments: Mutex::new(None),
            listed: AtomicBool::new(false),
        })
    }

    /// The partition whose log this is.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The first offset that remains.
    #[must_use]
    pub fn log_start(&self) -> i64 {
        self.inner.lock().log_start
    }

    /// The first offset that is on the disk or in the memory of this broker.
    #[must_use]
    pub fn local_start(&self) -> i64 {
        self.inner.lock().local_start
    }

    /// The offsets from `from` on that a reader gets from the bucket and not from this log, if
    /// `from` is one of them.
    #[must_use]
    pub fn remote_range(&self, from: i64) -> Option<RemoteRange> {
        let inner = self.inner.lock();
        inner.remote_from(from).filter(|_| from >= inner.log_start)
    }

    /// The offset after the last committed record.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.inner.lock().next_offset
    }

    /// Whether the partition was closed. Its records can still be read.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Bytes of batches in all layers.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.segments_bytes + inner.spill_bytes() + inner.tail.size_bytes() as u64
    }

    /// Appends the newest batch, which is readable when this returns. Accesses memory only.
    pub fn append(&self, batch: StampedBatch, appended_ms: i64) {
        let size_bytes = batch.size_bytes();
        self.files.take_memory(size_bytes);
        let (waiters, first, full) = {
            let mut inner = self.inner.lock();
            debug_assert_eq!(batch.base_offset, inner.next_offset, "apply gives dense offsets");
            inner.next_offset = batch.next_offset();
            inner.tail.push(batch, appended_ms);
            let full = !inner.full && inner.tail.size_bytes() >= limits::TAIL_BYTES_TO_FLUSH;
            inner.full |= full;
            (mem::take(&mut inner.waiters), !mem::replace(&mut inner.dirty, true), full)
        };
        notify(&waiters);
        if first {
            self.changes.changed(self.me.clone(), Change::Dirty);
        }
        if full {
            self.changes.changed(self.me.clone(), Change::Full);
        }
    }

    /// Raises the log start to `offset`. Files below it are removed once no snapshot names them.
    pub fn set_log_start(&self, offset: i64) {
        self.raise(offset, offset);
    }

    /// Raises the local start to `offset`, because the bucket has everything below it and this
    /// replica has applied the command that says so (T1). Files below it are removed once no
    /// snapshot names them.
    pub fn set_local_start(&self, offset: i64) {
        self.raise(i64::MIN, offset);
    }

    /// Places an empty log at `end`, because the bucket has everything from `log_start` to there.
    pub fn restore(&self, log_start: i64, end: i64) {
        let (waiters, first) = {
            let mut inner = self.inner.lock();
            debug_assert_eq!(inner.next_offset, 0, "only an empty partition is restored");
            (inner.log_start, inner.local_start, inner.next_offset) = (log_start, end, end);
            (mem::take(&mut inner.waiters), !mem::replace(&mut inner.dirty, true))
        };
        notify(&waiters);
        if first {
            self.changes.changed(self.me.clone(), Change::Dirty);
        }
    }

    fn raise(&self, log_start: i64, local_start: i64) {
        let (waiters, freed, first) = {
            let mut inner = self.inner.lock();
            if log_start <= inner.log_start && local_start <= inner.local_start {
                return;
            }
            inner.log_start = inner.log_start.max(log_start);
            inner.local_start = inner.local_start.max(local_start);
            let local_start = inner.local_start;
            inner.spill.retain(|spilled| spilled.next_offset > local_start);
            let freed = inner.drop_tail_through(local_start);
            (mem::take(&mut inner.waiters), freed, !mem::replace(&mut inner.dirty, true))
        };
        notify(&waiters);
        self.files.budget().give_back(freed);
        if first {
            self.changes.changed(self.me.clone(), Change::Dirty);
        }
    }

    /// Marks the partition as removed and wakes all waiting readers. Its records can be read until
    /// the last reference is dropped.
    pub fn close(&self) {
        let waiters = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            mem::take(&mut inner.waiters)
        };
        notify(&waiters);
    }

    /// Reports `token` to `waiter` once when records are appended, a start moves or the partition
    /// is closed. To miss no change, call this before the read.
    pub fn notify_on_change(&self, waiter: &Arc<Waiter>, token: u32) {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            waiter.wake(token);
            return;
        }
        // Without a change the list is never emptied, and each long poll adds a waiter.
        if inner.waiters.len() == inner.waiters.capacity() {
            inner.waiters.retain(|known| known.waiter.strong_count() > 0);
            inner.waiters.sort_unstable_by_key(Registered::identity);
            inner.waiters.dedup_by_key(|known| known.identity());
        }
        inner.waiters.push(Registered { waiter: Arc::downgrade(waiter), token });
    }
}

impl Drop for PartitionLog {
    fn drop(&mut self) {
        self.files.budget().give_back(self.inner.get_mut().tail.size_bytes());
    }
}

/// A waiter, and the token by which it knows this log.
#[derive(Debug)]
struct Registered {
    waiter: Weak<Waiter>,
    token: u32,
}

impl Registered {
    fn identity(&self) -> (*const Waiter, u32) {
        (self.waiter.as_ptr(), self.token)
    }
}

fn notify(waiters: &[Registered]) {
    for known in waiters {
        if let Some(waiter) = known.waiter.upgrade() {
            waiter.wake(known.token);
        }
    }
}

#[cfg(test)]
mod tests;
