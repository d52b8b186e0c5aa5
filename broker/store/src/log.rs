//! The log of one partition in three layers: segments, then spill, then the tail.
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

use bytes::Bytes;
use parking_lot::Mutex;
use ropewalk_batch::{PREFIX_LEN, StampedBatch};
use ropewalk_segment::{Reader, SegmentError, Segments};
use ropewalk_shard::PartitionId;

use crate::limits;
use crate::snapshot::SpillRun;
use crate::store::ShardStore;

mod tail;
mod lookup;
mod waiter;
pub(crate) mod layers;

pub use waiter::Waiter;

use tail::Tail;

/// Creates and closes the partition logs of a shard.
pub trait Logs: Send + Sync + fmt::Debug {
    /// Creates the empty log of a new partition.
    fn open(&self, partition: PartitionId) -> Arc<PartitionLog>;
    /// Closes the log of a removed partition; its files are removed once no snapshot names them.
    fn closed(&self, partition: PartitionId, log: Arc<PartitionLog>);
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

/// Why records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the high watermark.
    #[error("offset {asked} is outside {log_start}..={high_watermark}")]
    OutOfRange {
        /// The requested offset.
        asked: i64,
        /// The first offset that remains.
        log_start: i64,
        /// The offset after the last committed record.
        high_watermark: i64,
    },
    /// The records are damaged (D3), or the disk failed.
    #[error("storage: {0}")]
    Storage(String),
}

/// Whole batches in order, the first of which contains the requested offset.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// Pieces of the batches, to be sent one after the other.
    pub bytes: Vec<Bytes>,
    /// Total size of `bytes`.
    pub size_bytes: usize,
    /// The offset after the last batch; the requested one if there is none.
    pub next_offset: i64,
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
        if (log_start..=high_watermark).contains(&asked) {
            return Ok(());
        }
        Err(ReadError::OutOfRange { asked, log_start, high_watermark })
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
        let (waiters, freed, first) = {
            let mut inner = self.inner.lock();
            if offset <= inner.log_start {
                return;
            }
            inner.log_start = offset;
            inner.spill.retain(|spilled| spilled.next_offset > offset);
            let freed = inner.drop_tail_through(offset);
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

    /// Reports `token` to `waiter` once when records are appended, the log start moves or the
    /// partition is closed. To miss no change, call this before the read.
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

    /// Reads whole batches from `from` up to `bytes_max`, but at least one if `at_least_one`.
    /// Blocks on the disk when the records are no longer in memory.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(
        &self,
        from: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Chunk, ReadError> {
        let mut chunk = Chunk { next_offset: from, ..Chunk::default() };
        loop {
            let room = Room {
                bytes: bytes_max.saturating_sub(chunk.size_bytes),
                at_least_one: at_least_one && chunk.bytes.is_empty(),
            };
            let before = chunk.next_offset;
            let layer = {
                let inner = self.inner.lock();
                match inner.check(before) {
                    // The batches read so far are valid, although the log start has passed them.
                    Err(_) if !chunk.bytes.is_empty() => return Ok(chunk),
                    checked => checked?,
                }
                let layer = inner.layer(before);
                if matches!(layer, Layer::Tail) {
                    push_tail(&inner.tail, room, &mut chunk);
                    return Ok(chunk);
                }
                layer
            };
            if room.is_full() {
                return Ok(chunk);
            }
            match self.read_layer(&layer, room, &mut chunk) {
                Ok(()) if chunk.next_offset == before => return Ok(chunk),
                Ok(()) => {}
                Err(_) if !chunk.bytes.is_empty() => return Ok(chunk),
                Err(error) => self.unless_moved(before, &layer, error)?,
            }
        }
    }

    /// Reads from a file, without the lock. Reads nothing at the end, or if no batch fits.
    fn read_layer(&self, layer: &Layer, room: Room, chunk: &mut Chunk) -> Result<(), ReadError> {
        match layer {
            Layer::Segments(reader, end) => {
                let plan = reader.plan_read(chunk.next_offset, room.bytes)?;
                match plan.at_least_one(room.at_least_one).until(*end).run_span()? {
                    Some(span) => {
                        chunk.next_offset = span.next_offset;
                        chunk.push(span.bytes);
                    }
                    // Compaction removed all records up to the end of the segments.
                    None if room.at_least_one => chunk.next_offset = *end,
                    None => {}
                }
            }
            Layer::Spill(spilled) => {
                let mut tail = Tail::default();
                for batch in self.files.read_spilled(spilled)? {
                    tail.push(batch, spilled.appended_ms);
                }
                push_tail(&tail, room, chunk);
            }
            Layer::Tail | Layer::End => {}
        }
        Ok(())
    }

    /// Ignores a read error if the records moved to another layer in between, so that the caller
    /// retries. Returns the error if they did not move.
    fn unless_moved(&self, offset: i64, seen: &Layer, error: ReadError) -> Result<(), ReadError> {
        let inner = self.inner.lock();
        inner.check(offset)?;
        match (seen, inner.layer(offset)) {
            (Layer::Segments(..), Layer::Segments(..)) => Err(error),
            (Layer::Spill(then), Layer::Spill(now)) if *then == now => Err(error),
            (Layer::Segments(..) | Layer::Spill(_) | Layer::Tail | Layer::End, _) => Ok(()),
        }
    }

    /// Like [`Self::read`], but `None` if a file would have to be read for the first batch.
    ///
    /// # Errors
    /// When the offset is out of range.
    pub fn read_from_memory(
        &self,
        from: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        let inner = self.inner.lock();
        inner.check(from)?;
        let mut chunk = Chunk { next_offset: from, ..Chunk::default() };
        match inner.layer(from) {
            Layer::Segments(..) | Layer::Spill(_) => return Ok(None),
            Layer::Tail => {
                push_tail(&inner.tail, Room { bytes: bytes_max, at_least_one }, &mut chunk);
            }
            Layer::End => {}
        }
        Ok(Some(chunk))
    }
}

impl Drop for PartitionLog {
    fn drop(&mut self) {
        self.files.budget().give_back(self.inner.get_mut().tail.size_bytes());
    }
}

impl From<SegmentError> for ReadError {
    fn from(error: SegmentError) -> Self {
        Self::Storage(error.to_string())
    }
}

impl Chunk {
    fn push(&mut self, bytes: Bytes) {
        self.size_bytes += bytes.len();
        self.bytes.push(bytes);
    }
}

/// The space left in a response.
#[derive(Clone, Copy)]
struct Room {
    bytes: usize,
    at_least_one: bool,
}

impl Room {
    fn is_full(self) -> bool {
        self.bytes == 0 && !self.at_least_one
    }
}

/// Adds batches of the tail to the chunk: each as its prefix, then its unchanged body.
fn push_tail(tail: &Tail, room: Room, chunk: &mut Chunk) {
    let mut size_bytes = 0;
    let mut is_wanted = room.at_least_one;
    let fitting: Vec<&StampedBatch> = tail
        .from(chunk.next_offset)
        .map(|held| &held.batch)
        .take_while(|batch| {
            size_bytes += batch.size_bytes();
            mem::take(&mut is_wanted) || size_bytes <= room.bytes
        })
        .collect();
    let prefixes: Vec<u8> = fitting.iter().flat_map(|batch| batch.prefix()).collect();
    let prefixes = Bytes::from(prefixes);
    for (number, batch) in fitting.into_iter().enumerate() {
        let at = number * PREFIX_LEN;
        chunk.push(prefixes.slice(at..at + PREFIX_LEN));
        chunk.push(batch.body());
        chunk.next_offset = batch.next_offset();
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
