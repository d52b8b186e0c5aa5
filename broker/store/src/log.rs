//! The records of one partition, as readers see them: segments, then spill, then the tail.
//!
//! The tail holds the newest batches in memory. A checkpoint moves it to segment files, or into the
//! shard's spill file if it is small; a reader cannot tell which. Everything here is committed: what
//! is not applied is not visible (O1).
//!
//! # Place in the walk
//!
//! The replica's driver appends what was applied. Handlers read. The checkpoint moves records from
//! layer to layer ([`layers`]), recovery puts a log together again from what a snapshot names.
//!
//! # Invariants
//!
//! - **O4** `segments_end`, the spill and the tail follow one another: where one ends the next begins.
//!   They change together, under one lock, and only after the bytes can be read at their new place.
//! - **R1** an idle partition holds no batch, buffer or file descriptor, and less than 1 KiB.
//! - The lock is never held while the disk is read or written: `append` never waits for it.
//!
//! # After a crash
//!
//! The tail is gone and comes again by replaying the write-ahead log; of the files, what the
//! snapshot names is there.

use std::fmt;
use std::mem;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use ropewalk_batch::{PREFIX_LEN, StampedBatch};
use ropewalk_segment::{Reader, SegmentError, Segments};
use ropewalk_shard::PartitionId;
use tokio::sync::Notify;

use crate::limits;
use crate::snapshot::SpillRun;
use crate::store::ShardStore;

mod tail;
mod lookup;
pub(crate) mod layers;

use tail::Tail;

/// Where a partition's records go. The store behind it knows directories and budgets.
pub trait Logs: Send + Sync + fmt::Debug {
    /// The (empty) log of a partition that was just opened.
    fn open(&self, partition: PartitionId) -> Arc<PartitionLog>;
    /// The partition is gone; its files may go once no snapshot names them.
    fn closed(&self, partition: PartitionId, log: Arc<PartitionLog>);
}

/// Learns what changed in the logs of a shard. Called without a lock of the log.
pub(crate) trait ChangeSink: Send + Sync + fmt::Debug {
    /// A log changed in this way, and that was not reported since the last checkpoint or flush.
    fn changed(&self, log: Weak<PartitionLog>, change: Change);
}

/// What the checkpoint thread has to know of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was appended to, or its start moved.
    Dirty,
    /// Its tail became long.
    Full,
    /// It has records that wait longer to be compacted than they may.
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
    /// Held by whoever moves records between the layers, never while `inner` is. `None` until there
    /// is something to write.
    segments: Mutex<Option<Box<Segments>>>,
}

#[derive(Debug)]
struct Inner {
    log_start: i64,
    next_offset: i64,
    /// What lies below is read from the segments.
    segments_end: i64,
    segments_bytes: u64,
    reader: Option<Reader>,
    spill: Vec<SpillRun>,
    tail: Tail,
    waiters: Vec<Weak<Notify>>,
    closed: bool,
    /// Whether it was reported that something changed since the last checkpoint.
    dirty: bool,
    /// Whether it was reported that the tail is long.
    full: bool,
    /// Whether the spill is damaged, so that nothing behind it can be moved to segments.
    stuck: bool,
}

/// Why there is nothing to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the high watermark.
    #[error("offset {asked} is outside {log_start}..={high_watermark}")]
    OutOfRange {
        /// What was asked.
        asked: i64,
        /// The first offset there is.
        log_start: i64,
        /// The end.
        high_watermark: i64,
    },
    /// What was read is not what was written (D3), or the disk failed.
    #[error("storage: {0}")]
    Storage(String),
}

/// Whole batches in order, the first of which contains the offset asked for.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// To be sent one after the other.
    pub bytes: Vec<Bytes>,
    /// Their sum.
    pub size_bytes: usize,
    /// The offset after the last batch; the asked one if there is none.
    pub next_offset: i64,
}

/// Where an offset lies.
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

    /// Drops what ends at `offset` or before from the tail; how many bytes that frees.
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
    /// The log of a partition that has no records and never had.
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
        })
    }

    /// Which partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The first offset that is left.
    #[must_use]
    pub fn log_start(&self) -> i64 {
        self.inner.lock().log_start
    }

    /// The offset after the last committed record.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.inner.lock().next_offset
    }

    /// Whether the partition was closed. What was in it can still be read.
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

    /// Takes the newest batch; it can be read when this returns. Memory only.
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

    /// Records below `offset` are gone from now on; their files go when no snapshot names them.
    pub fn set_log_start(&self, offset: i64) {
        let (freed, first) = {
            let mut inner = self.inner.lock();
            if offset <= inner.log_start {
                return;
            }
            inner.log_start = offset;
            inner.spill.retain(|spilled| spilled.next_offset > offset);
            (inner.drop_tail_through(offset), !mem::replace(&mut inner.dirty, true))
        };
        self.files.budget().give_back(freed);
        if first {
            self.changes.changed(self.me.clone(), Change::Dirty);
        }
    }

    /// The partition is gone: whoever waits for records is told. What is there can be read until the
    /// last handle goes.
    pub fn close(&self) {
        let waiters = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            mem::take(&mut inner.waiters)
        };
        notify(&waiters);
    }

    /// `notify` is told once when records are appended, or the partition goes. Register first, then
    /// read: what is appended in between is then not missed.
    pub fn notify_on_append(&self, notify: &Arc<Notify>) {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            notify.notify_one();
            return;
        }
        // A partition that nobody writes to is waited for again and again.
        if inner.waiters.len() == inner.waiters.capacity() {
            inner.waiters.retain(|waiter| waiter.strong_count() > 0);
            inner.waiters.sort_unstable_by_key(Weak::as_ptr);
            inner.waiters.dedup_by_key(|waiter| waiter.as_ptr());
        }
        inner.waiters.push(Arc::downgrade(notify));
    }

    /// Reads whole batches from `from` up to `bytes_max`, but at least one if `at_least_one`.
    /// Blocks on the disk when the records are no longer in memory: call it where that is allowed.
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
                    // What was read already is good, although it has gone meanwhile.
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

    /// Reads from a file, without the lock. Nothing is read at the end, or where nothing fits.
    fn read_layer(&self, layer: &Layer, room: Room, chunk: &mut Chunk) -> Result<(), ReadError> {
        match layer {
            Layer::Segments(reader, end) => {
                let plan = reader.plan_read(chunk.next_offset, room.bytes)?;
                match plan.at_least_one(room.at_least_one).until(*end).run_span()? {
                    Some(span) => {
                        chunk.next_offset = span.next_offset;
                        chunk.push(span.bytes);
                    }
                    // Compaction took away what was there.
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

    /// Records may move to another layer, or go, after we looked where they are: then it is worth
    /// looking again. Where they have not, the error stands.
    fn unless_moved(&self, offset: i64, seen: &Layer, error: ReadError) -> Result<(), ReadError> {
        let inner = self.inner.lock();
        inner.check(offset)?;
        match (seen, inner.layer(offset)) {
            (Layer::Segments(..), Layer::Segments(..)) => Err(error),
            (Layer::Spill(then), Layer::Spill(now)) if *then == now => Err(error),
            (Layer::Segments(..) | Layer::Spill(_) | Layer::Tail | Layer::End, _) => Ok(()),
        }
    }

    /// The same if no file has to be read for the first batch; else `None`.
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

/// What still fits into an answer.
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

/// Adds batches in memory to the answer: each as its prefix, then its body as it came.
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

fn notify(waiters: &[Weak<Notify>]) {
    for waiter in waiters.iter().filter_map(Weak::upgrade) {
        waiter.notify_one();
    }
}

#[cfg(test)]
mod tests;
