//! Reads whole batches.
//!
//! A fetch that the tail in memory cannot serve makes a [`ReadPlan`], which is cheap, and runs it
//! on a thread that may block on the disk. The plan holds its files open, so retention and
//! compaction cannot remove them in between.
//!
//! # Invariants
//!
//! - **D3.** Only blocks with a valid checksum are used. A damaged block is an error, never
//!   skipped.
//! - **O4.** The first batch has the requested offset, or is the first one after it if compaction
//!   removed that offset. The following batches continue it without gap or overlap.
//! - **R1.** One read takes at most [`READ_BYTES_MAX`] and a block, or one batch if that is larger.
//!   The returned bytes keep at most twice their size in memory.

use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::Header;

use crate::error::{Damage, Result, SegmentError};
use crate::index::Entry;
use crate::index::search;
use crate::view::{OpenSegment, SharedSegments};

/// Largest number of bytes that one read takes from the disk, for any `bytes_max`.
pub const READ_BYTES_MAX: usize = 8 << 20;
/// Largest number of index entries that one read decodes, for any size of blocks.
const ENTRIES_MAX: u32 = 256;
/// Usual smallest size of a block. It bounds the number of index entries that a read of some size
/// decodes.
const BLOCK_BYTES_USUAL: usize = 4_096;

/// Reads the segments of a partition. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) shared: Arc<SharedSegments>,
}

/// A prepared read, which runs without a lock.
#[derive(Debug)]
pub struct ReadPlan {
    segment: Option<OpenSegment>,
    from: i64,
    until: i64,
    bytes_max: usize,
    at_least_one: bool,
}

/// Adjacent batches of one read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first batch.
    pub base_offset: i64,
    /// Offset behind the last batch.
    pub next_offset: i64,
    /// All batches, concatenated.
    pub bytes: Bytes,
    /// Start of each batch in `bytes`.
    starts: Vec<usize>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<SharedSegments>) -> Self {
        Self { shared }
    }

    /// Prepares to read batches from the one with offset `from` on: at most `bytes_max` bytes, but
    /// at least one whole batch.
    ///
    /// At the end of the log the plan is empty; below the start or above the end it is an error.
    pub fn plan_read(&self, from: i64, bytes_max: usize) -> Result<ReadPlan> {
        let view = self.shared.view.read();
        if from < view.start_offset || from > view.next_offset {
            let (start_offset, next_offset) = (view.start_offset, view.next_offset);
            return Err(SegmentError::OutOfRange { offset: from, start_offset, next_offset });
        }
        let segment = view.holding(from)?.map(|segment| segment.open(&self.shared)).transpose()?;
        Ok(ReadPlan { segment, from, until: i64::MAX, bytes_max, at_least_one: true })
    }

    /// Reads whole batches: see [`Reader::plan_read`]. Without `at_least_one`, the result is empty
    /// if the first batch alone is larger than `bytes_max`.
    pub fn read(&self, from: i64, bytes_max: usize, at_least_one: bool) -> Result<Vec<Bytes>> {
        self.plan_read(from, bytes_max)?.at_least_one(at_least_one).run()
    }

    /// The log start offset.
    #[must_use]
    pub fn start_offset(&self) -> i64 {
        self.shared.view.read().start_offset
    }

    /// Offset behind the last batch.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.shared.view.read().next_offset
    }
}

impl ReadPlan {
    /// Sets whether a first batch over the limit is returned anyway. The default is yes.
    #[must_use]
    pub fn at_least_one(self, at_least_one: bool) -> Self {
        Self { at_least_one, ..self }
    }

    /// Excludes batches that begin at or after `offset`.
    #[must_use]
    pub fn until(self, offset: i64) -> Self {
        Self { until: offset, ..self }
    }

    /// Reads the batches, each as a slice of the bytes that were read.
    pub fn run(self) -> Result<Vec<Bytes>> {
        Ok(self.run_span()?.map_or_else(Vec::new, |span| span.batches().collect()))
    }

    /// Reads the batches as one piece, to be sent as they are. `None` if there is nothing to read.
    pub fn run_span(self) -> Result<Option<Span>> {
        let Some(segment) = &self.segment else { return Ok(None) };
        let first = segment.index.partition_point(|entry| entry.next_offset <= self.from)?;
        let entries_max = u32::try_from(2 + self.bytes_max / BLOCK_BYTES_USUAL).unwrap_or(u32::MAX);
        let entries = segment.index.entries(first, entries_max.min(ENTRIES_MAX))?;
        let taken = self.blocks_wanted(&entries);
        if taken.is_empty() {
            return Ok(None);
        }
        let bytes = segment.blocks(taken)?;
        self.select(segment, taken, bytes)
    }

    /// The blocks with the batches to return, including blocks of which only a part is wanted.
    fn blocks_wanted<'a>(&self, entries: &'a [Entry]) -> &'a [Entry] {
        let bytes_max = self.bytes_max.min(READ_BYTES_MAX);
        let mut bytes = 0;
        let wanted = entries.iter().take_while(|entry| {
            // Most of the first block may be before `from`.
            let is_wanted = entry.base_offset < self.until && bytes < bytes_max.max(1);
            bytes += if entry.base_offset < self.from { 0 } else { entry.length as usize };
            is_wanted
        });
        &entries[..wanted.count()]
    }

    /// Selects the wanted batches of verified blocks.
    fn select(
        &self,
        segment: &OpenSegment,
        blocks: &[Entry],
        bytes: Bytes,
    ) -> Result<Option<Span>> {
        let mut starts: Vec<usize> = Vec::new();
        let mut base_offset = self.from;
        let (mut end, mut next_offset) = (0, self.from);
        segment.each_header(&bytes, blocks, |at, header| {
            if header.last_offset() < self.from {
                return true;
            }
            let batch_end = at + header.size_bytes();
            let first = starts.first().copied();
            let fits = batch_end - first.unwrap_or(at) <= self.bytes_max
                || (first.is_none() && self.at_least_one);
            if header.base_offset >= self.until || !fits {
                return false;
            }
            if first.is_none() {
                base_offset = header.base_offset;
            }
            starts.push(at);
            (end, next_offset) = (batch_end, header.last_offset() + 1);
            true
        })?;
        let Some(first) = starts.first().copied() else { return Ok(None) };
        starts.iter_mut().for_each(|start| *start -= first);
        let span = Span { base_offset, next_offset, bytes: bytes.slice(first..end), starts };
        Ok(Some(span.unpinned(bytes.len())))
    }
}

impl Span {
    /// Iterates over the batches.
    pub fn batches(&self) -> impl Iterator<Item = Bytes> {
        let ends = self.starts.iter().skip(1).copied().chain([self.bytes.len()]);
        self.starts.iter().zip(ends).map(|(start, end)| self.bytes.slice(*start..end))
    }

    /// Copies the bytes if they would otherwise keep a much larger buffer in memory.
    fn unpinned(mut self, buffer_bytes: usize) -> Self {
        if self.bytes.len() * 2 < buffer_bytes {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
        }
        self
    }
}

impl OpenSegment {
    /// Reads adjacent blocks and verifies each.
    pub(crate) fn blocks(&self, blocks: &[Entry]) -> Result<Bytes> {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return Ok(Bytes::new());
        };
        let position = u64::from(first.position);
        if last.end() > u64::from(self.log_bytes) {
            let what = "the index names a block beyond the end of the log";
            return Err(Damage::new(&self.index.path, 0, what).into());
        }
        let mut bytes = vec![0; (last.end() - position) as usize];
        search::read(&*self.log, &self.log_path, &mut bytes, position)?;
        for block in blocks {
            let start = (u64::from(block.position) - position) as usize;
            if crc32c::crc32c(&bytes[start..start + block.length as usize]) != block.crc {
                let what =
                    format!("the checksum of the block at offset {} is wrong", block.base_offset);
                return Err(Damage::new(&self.log_path, u64::from(block.position), what).into());
            }
        }
        Ok(bytes.into())
    }

    /// Calls `each` with the position and the header of every batch in verified blocks, until it
    /// returns false.
    ///
    /// The batches must have the offsets that the index states.
    pub(crate) fn each_header(
        &self,
        bytes: &Bytes,
        blocks: &[Entry],
        mut each: impl FnMut(usize, &Header) -> bool,
    ) -> Result<()> {
        let mut at = 0;
        for block in blocks {
            let end = at + block.length as usize;
            let mut next_offset = block.base_offset;
            while at < end {
                let position = block.end() - (end - at) as u64;
                let damage = |what: &str| Damage::new(&self.log_path, position, what);
                let header = Header::parse(&bytes[at..end])
                    .map_err(|error| damage(&format!("no batch: {error}")))?;
                if header.size_bytes() > end - at || header.last_offset_delta < 0 {
                    return Err(damage("a batch reaches beyond its block").into());
                }
                let is_first = next_offset == block.base_offset;
                let follows = header.base_offset >= next_offset
                    && header.last_offset() < block.next_offset
                    && (!is_first || header.base_offset == block.base_offset);
                if !follows {
                    return Err(damage("a batch has a different offset than the index says").into());
                }
                if !each(at, &header) {
                    return Ok(());
                }
                at += header.size_bytes();
                next_offset = header.last_offset() + 1;
            }
            if next_offset != block.next_offset {
                let what = "a block ends at a different offset than the index says";
                return Err(Damage::new(&self.log_path, block.end(), what).into());
            }
        }
        Ok(())
    }
}
