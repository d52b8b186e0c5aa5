//! Reads batches of a log from its layers.
//!
//! What is in memory is returned by reference. Of what is in segments a fetch first gets a plan,
//! [`Planned`]: how many bytes there are and where. It reads them piece by piece while it sends
//! them.
//!
//! # Invariants
//!
//! - **O4** a read passes through the layers in order and has no gap and no repeat, while records
//!   move from one layer to the next.
//! - **R1** a plan has at most [`Limits::stretches`] stretches of segments, each of which holds a
//!   file open.

use std::mem;

use bytes::Bytes;
use ropewalk_batch::{PREFIX_LEN, StampedBatch};
use ropewalk_segment::{SegmentError, Stretch};

use super::tail::Tail;
use super::{Layer, PartitionLog};
use crate::remote::RemoteRange;

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
    /// The records are in the bucket and no longer on this broker: a
    /// [`RemoteLog`](crate::remote::RemoteLog) has them.
    #[error("offsets {}..{} are in the bucket only", .0.from, .0.until)]
    Remote(RemoteRange),
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

/// Batches as in a [`Chunk`], of which those in segments are not read yet.
#[derive(Debug, Default)]
pub struct Planned {
    /// The batches, to be sent one part after the other.
    pub parts: Vec<Part>,
    /// Total size of `parts`.
    pub size_bytes: usize,
    /// Bytes that were read from files into memory.
    pub loaded_bytes: usize,
    /// Number of parts that are in segments.
    pub stretches: usize,
    /// The offset after the last batch; the requested one if there is none.
    pub next_offset: i64,
}

/// The limits of a planned read.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes. Up to a quarter may stay unused.
    pub bytes: usize,
    /// Whether the first batch is chosen whatever its size.
    pub at_least_one: bool,
    /// Most stretches of segments.
    pub stretches: usize,
}

/// Some batches of a [`Planned`] read.
#[derive(Debug)]
pub enum Part {
    /// They are in memory.
    Memory(Bytes),
    /// They are in a segment, and are read when they are sent.
    Segment(Stretch),
}

impl PartitionLog {
    /// Reads whole batches from `from` up to `bytes_max` into memory, but at least one if
    /// `at_least_one`. Blocks on the disk when the records are no longer in memory.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(
        &self,
        from: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Chunk, ReadError> {
        let limits = Limits { bytes: bytes_max, at_least_one, stretches: usize::MAX };
        let planned = self.plan(from, limits)?;
        let mut chunk = Chunk { next_offset: planned.next_offset, ..Chunk::default() };
        for part in planned.parts {
            chunk.push(match part {
                Part::Memory(bytes) => bytes,
                Part::Segment(stretch) => stretch.read_whole()?,
            });
        }
        Ok(chunk)
    }

    /// Chooses whole batches from `from` on like [`Self::read`], and leaves those in segments to be
    /// read later. May block on the disk, because an index or a small file may have to be read.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn plan(&self, from: i64, limits: Limits) -> Result<Planned, ReadError> {
        let mut planned = Planned { next_offset: from, ..Planned::default() };
        loop {
            let room = Room {
                bytes: limits.bytes.saturating_sub(planned.size_bytes),
                spare: limits.bytes / 4,
                at_least_one: limits.at_least_one && planned.parts.is_empty(),
            };
            let before = planned.next_offset;
            let layer = {
                let inner = self.inner.lock();
                match inner.check(before) {
                    // The batches chosen so far are valid, although the log start has passed them.
                    Err(_) if !planned.parts.is_empty() => return Ok(planned),
                    checked => checked?,
                }
                let layer = inner.layer(before);
                if matches!(layer, Layer::Tail) {
                    planned.add(tail_chunk(&inner.tail, before, room));
                    return Ok(planned);
                }
                layer
            };
            if room.is_full() || planned.stretches == limits.stretches {
                return Ok(planned);
            }
            match self.plan_layer(&layer, room, &mut planned) {
                Ok(is_cut) if is_cut || planned.next_offset == before => return Ok(planned),
                Ok(_) => {}
                Err(_) if !planned.parts.is_empty() => return Ok(planned),
                Err(error) => self.unless_moved(before, &layer, error)?,
            }
        }
    }

    /// Chooses batches of a file, without the lock. Chooses none at the end, or if no batch fits.
    /// Returns whether more of the layer did not fit.
    fn plan_layer(
        &self,
        layer: &Layer,
        room: Room,
        planned: &mut Planned,
    ) -> Result<bool, ReadError> {
        match layer {
            Layer::Segments(reader, end) => {
                let plan = reader.plan_read(planned.next_offset, room.bytes)?.spare(room.spare);
                match plan.at_least_one(room.at_least_one).until(*end).resolve()? {
                    Some(stretch) => {
                        let is_cut = stretch.is_cut();
                        planned.next_offset = stretch.next_offset();
                        planned.size_bytes += stretch.size_bytes();
                        planned.stretches += 1;
                        planned.parts.push(Part::Segment(stretch));
                        return Ok(is_cut);
                    }
                    // Compaction removed all records up to the end of the segments.
                    None if room.at_least_one => planned.next_offset = *end,
                    None => {}
                }
            }
            Layer::Spill(spilled) => {
                let mut tail = Tail::default();
                for batch in self.files.read_spilled(spilled)? {
                    tail.push(batch, spilled.appended_ms);
                }
                planned.loaded_bytes += tail.size_bytes();
                planned.add(tail_chunk(&tail, planned.next_offset, room));
            }
            Layer::Tail | Layer::End => {}
        }
        Ok(false)
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

    /// Whether a read from this offset needs no file for its first batch.
    #[must_use]
    pub fn is_in_memory(&self, from: i64) -> bool {
        !matches!(self.inner.lock().layer(from), Layer::Segments(..) | Layer::Spill(_))
    }

    /// Like [`Self::read`], but `None` if a file would have to be read for the first batch.
    ///
    /// # Errors
    /// When the offset is out of range, or in the bucket.
    pub fn read_from_memory(
        &self,
        from: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        let inner = self.inner.lock();
        inner.check(from)?;
        match inner.layer(from) {
            Layer::Segments(..) | Layer::Spill(_) => Ok(None),
            Layer::Tail => {
                let room = Room { bytes: bytes_max, spare: 0, at_least_one };
                Ok(Some(tail_chunk(&inner.tail, from, room)))
            }
            Layer::End => Ok(Some(Chunk { next_offset: from, ..Chunk::default() })),
        }
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

impl From<Chunk> for Planned {
    fn from(chunk: Chunk) -> Self {
        let mut planned = Self::default();
        planned.add(chunk);
        planned
    }
}

impl Planned {
    fn add(&mut self, chunk: Chunk) {
        self.size_bytes += chunk.size_bytes;
        self.next_offset = chunk.next_offset;
        self.parts.extend(chunk.bytes.into_iter().map(Part::Memory));
    }
}

/// The space left in a response.
#[derive(Clone, Copy)]
struct Room {
    bytes: usize,
    /// How much of it may stay unused.
    spare: usize,
    at_least_one: bool,
}

impl Room {
    fn is_full(self) -> bool {
        self.bytes == 0 && !self.at_least_one
    }
}

/// Batches of the tail from `from` on: each as its prefix, then its unchanged body.
fn tail_chunk(tail: &Tail, from: i64, room: Room) -> Chunk {
    let mut chunk = Chunk { next_offset: from, ..Chunk::default() };
    let mut size_bytes = 0;
    let mut is_wanted = room.at_least_one;
    let fitting: Vec<&StampedBatch> = tail
        .from(from)
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
    chunk
}
