//! Reads whole batches back.
//!
//! Place in the walk: a fetch that the tail in memory cannot serve asks for a [`ReadPlan`], which is
//! cheap, and runs it where waiting for the disk disturbs nobody. A plan holds its files open, so
//! retention and compaction cannot take them away in between.
//!
//! # Invariants
//!
//! - **D3.** Only blocks whose checksum holds are looked into. A damaged block is an error, never skipped.
//! - **O4.** The first batch holds the asked offset, or is the first after it where compaction took that
//!   offset away. What follows continues it without gap or repeat.
//! - **R1.** One read takes at most [`READ_BYTES_MAX`] and a block, or one batch if that is larger; what is
//!   returned pins not more than twice its size.
//!
//! A crash leaves nothing of this behind.

use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::Header;

use crate::error::{Damage, Result, SegmentError};
use crate::index::Entry;
use crate::index::search;
use crate::view::{OpenSegment, SharedSegments};

/// The most that one read takes from the disk, however much is asked for.
pub const READ_BYTES_MAX: usize = 8 << 20;
/// Index entries that one read looks at, however small their blocks are.
const ENTRIES_MAX: u32 = 256;
/// Hardly a block is smaller, so more entries than this leads one to expect need not be looked at.
const BLOCK_BYTES_USUAL: usize = 4_096;

/// The readers' side of a partition's segments. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) shared: Arc<SharedSegments>,
}

/// A read that is ready to run, without any lock.
#[derive(Debug)]
pub struct ReadPlan {
    segment: Option<OpenSegment>,
    from: i64,
    until: i64,
    bytes_max: usize,
    at_least_one: bool,
}

/// Batches that lie side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first batch.
    pub base_offset: i64,
    /// The offset after the last batch.
    pub next_offset: i64,
    /// All batches, one after another.
    pub bytes: Bytes,
    /// Where each batch begins in `bytes`.
    starts: Vec<usize>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<SharedSegments>) -> Self {
        Self { shared }
    }

    /// Prepares to read batches from the one with offset `from` on, at most `bytes_max` of them but at
    /// least one whole batch.
    ///
    /// At the end of the log the plan is empty; below the start or beyond the end it is an error.
    pub fn plan_read(&self, from: i64, bytes_max: usize) -> Result<ReadPlan> {
        let view = self.shared.view.read();
        if from < view.start_offset || from > view.next_offset {
            let (start_offset, next_offset) = (view.start_offset, view.next_offset);
            return Err(SegmentError::OutOfRange { offset: from, start_offset, next_offset });
        }
        let segment = view.holding(from)?.map(|segment| segment.open(&self.shared)).transpose()?;
        Ok(ReadPlan { segment, from, until: i64::MAX, bytes_max, at_least_one: true })
    }

    /// Reads whole batches: see [`Reader::plan_read`]. Without `at_least_one` nothing is returned when
    /// the first batch alone is larger than `bytes_max`.
    pub fn read(&self, from: i64, bytes_max: usize, at_least_one: bool) -> Result<Vec<Bytes>> {
        self.plan_read(from, bytes_max)?.at_least_one(at_least_one).run()
    }

    /// The first offset that is kept.
    #[must_use]
    pub fn start_offset(&self) -> i64 {
        self.shared.view.read().start_offset
    }

    /// The offset after the last batch.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.shared.view.read().next_offset
    }
}

impl ReadPlan {
    /// Whether a first batch that is too large is returned all the same (it is unless this says no).
    #[must_use]
    pub fn at_least_one(self, at_least_one: bool) -> Self {
        Self { at_least_one, ..self }
    }

    /// Leaves out batches that begin at or after `offset`.
    #[must_use]
    pub fn until(self, offset: i64) -> Self {
        Self { until: offset, ..self }
    }

    /// Reads the batches, each as its own slice of what was read.
    pub fn run(self) -> Result<Vec<Bytes>> {
        Ok(self.run_span()?.map_or_else(Vec::new, |span| span.batches().collect()))
    }

    /// Reads the batches in one piece, to be sent as they are. `None` if there is nothing to read.
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

    /// The blocks that the batches to return lie in: also those of which only a part is wanted.
    fn blocks_wanted<'a>(&self, entries: &'a [Entry]) -> &'a [Entry] {
        let bytes_max = self.bytes_max.min(READ_BYTES_MAX);
        let mut bytes = 0;
        let wanted = entries.iter().take_while(|entry| {
            // The first block may hold more of what is before `from` than of what is wanted.
            let is_wanted = entry.base_offset < self.until && bytes < bytes_max.max(1);
            bytes += if entry.base_offset < self.from { 0 } else { entry.length as usize };
            is_wanted
        });
        &entries[..wanted.count()]
    }

    /// Picks the batches out of verified blocks.
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
    /// The batches, one by one.
    pub fn batches(&self) -> impl Iterator<Item = Bytes> {
        let ends = self.starts.iter().skip(1).copied().chain([self.bytes.len()]);
        self.starts.iter().zip(ends).map(|(start, end)| self.bytes.slice(*start..end))
    }

    /// Copied out where a small part would keep a large buffer alive.
    fn unpinned(mut self, buffer_bytes: usize) -> Self {
        if self.bytes.len() * 2 < buffer_bytes {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
        }
        self
    }
}

impl OpenSegment {
    /// Reads blocks that lie side by side, and verifies each.
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
                let what = format!(
                    "the checksum of the block at offset {} does not hold",
                    block.base_offset
                );
                return Err(Damage::new(&self.log_path, u64::from(block.position), what).into());
            }
        }
        Ok(bytes.into())
    }

    /// Calls `each` with the place and the header of every batch in verified blocks, until it has enough.
    ///
    /// The batches must be those that the index speaks of, offset by offset.
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
                    return Err(damage("a batch has another offset than its index says").into());
                }
                if !each(at, &header) {
                    return Ok(());
                }
                at += header.size_bytes();
                next_offset = header.last_offset() + 1;
            }
            if next_offset != block.next_offset {
                let what = "a block ends at another offset than its index says";
                return Err(Damage::new(&self.log_path, block.end(), what).into());
            }
        }
        Ok(())
    }
}
