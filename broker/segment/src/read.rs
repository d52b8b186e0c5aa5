//! Reads whole batches.
//!
//! A fetch that the tail in memory cannot serve makes a [`ReadPlan`], which is cheap, and resolves
//! it on a thread that may block on the disk. The plan and the [`Stretch`] that it resolves to hold
//! their files open, so retention and compaction cannot remove them in between.
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
use crate::stretch::{Chosen, Stretch};
use crate::view::{OpenSegment, SharedSegments};

/// Largest number of bytes of one read, for any `bytes_max`.
pub const READ_BYTES_MAX: usize = 8 << 20;

/// Reads the segments of a partition. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) shared: Arc<SharedSegments>,
}

/// A prepared read, which runs without a lock.
#[derive(Debug)]
pub struct ReadPlan {
    shared: Arc<SharedSegments>,
    segment: Option<OpenSegment>,
    from: i64,
    until: i64,
    bytes_max: usize,
    spare_bytes: usize,
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
        Ok(ReadPlan {
            shared: Arc::clone(&self.shared),
            segment,
            from,
            until: i64::MAX,
            bytes_max,
            spare_bytes: bytes_max / 4,
            at_least_one: true,
        })
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

    /// Sets how many bytes of the limit may stay unused, so that the read ends with a whole block,
    /// where the next one begins. The default is a quarter of the limit.
    #[must_use]
    pub fn spare(self, bytes: usize) -> Self {
        Self { spare_bytes: bytes, ..self }
    }

    /// Reads the batches, each as a slice of the bytes that were read.
    pub fn run(self) -> Result<Vec<Bytes>> {
        Ok(self.run_span()?.map_or_else(Vec::new, |span| span.batches().collect()))
    }

    /// Reads the batches as one piece, to be sent as they are. `None` if there is nothing to read.
    pub fn run_span(self) -> Result<Option<Span>> {
        let Some(stretch) = self.resolve()? else { return Ok(None) };
        let mut bytes = vec![0; stretch.buffer_bytes(&stretch.whole())];
        let mut starts = Vec::new();
        let range = stretch.read_each(&stretch.whole(), &mut bytes, |at| starts.push(at))?;
        starts.retain(|start| range.contains(start));
        starts.iter_mut().for_each(|start| *start -= range.start);
        let (base_offset, next_offset) = (stretch.base_offset(), stretch.next_offset());
        let read_bytes = bytes.len();
        let bytes = Bytes::from(bytes).slice(range);
        Ok(Some(Span { base_offset, next_offset, bytes, starts }.unpinned(read_bytes)))
    }

    /// Chooses the batches to return. `None` if there is nothing to read, or if no batch fits.
    ///
    /// The index has the sizes of blocks. Only a block of which a part is wanted is read here: the
    /// first one if `from` is inside it, and the last one if whole blocks would leave more than
    /// [`Self::spare`] of the limit unused.
    pub fn resolve(self) -> Result<Option<Stretch>> {
        let Some(segment) = &self.segment else { return Ok(None) };
        let mut chosen = Chosen::from(self.from);
        for block in segment.index.entries_from(self.from)? {
            let is_first = chosen.is_empty();
            let room = self.bytes_max.saturating_sub(chosen.size_bytes());
            let is_over = !is_first && chosen.size_bytes() + block.length as usize > READ_BYTES_MAX;
            if block.base_offset >= self.until || is_over {
                break;
            }
            let fits = block.length as usize <= room;
            let is_wanted_whole = self.from <= block.base_offset && block.next_offset <= self.until;
            if fits && is_wanted_whole {
                chosen.whole(block);
                continue;
            }
            if is_wanted_whole && !is_first && room <= self.spare_bytes {
                chosen.is_cut = true;
                break;
            }
            if !self.choose_part(segment, block, room, &mut chosen)? {
                break;
            }
        }
        if chosen.is_empty() {
            return Ok(None);
        }
        segment.check_inside(&chosen.blocks)?;
        self.shared.recheck(segment, &chosen.blocks)?;
        Ok(Some(Stretch::new(Arc::clone(&self.shared), segment.clone(), chosen)))
    }

    /// Chooses batches of one block. Returns whether the next block may be chosen too.
    fn choose_part(
        &self,
        segment: &OpenSegment,
        block: Entry,
        room: usize,
        chosen: &mut Chosen,
    ) -> Result<bool> {
        let bytes = segment.blocks(&[block])?;
        let mut must = self.at_least_one && chosen.is_empty();
        let (mut start, mut end, mut base_offset, mut next_offset) = (None, 0, 0, 0);
        let (mut is_cut, mut reaches_end) = (false, true);
        segment.each_header(&bytes, &[block], |at, header| {
            if header.last_offset() < self.from {
                return true;
            }
            let batch_end = at + header.size_bytes();
            if header.base_offset >= self.until {
                reaches_end = false;
                return false;
            }
            if batch_end - start.unwrap_or(at) > room && !std::mem::take(&mut must) {
                (is_cut, reaches_end) = (true, false);
                return false;
            }
            must = false;
            if start.is_none() {
                (start, base_offset) = (Some(at), header.base_offset);
            }
            (end, next_offset) = (batch_end, header.last_offset() + 1);
            true
        })?;
        chosen.is_cut |= is_cut;
        if let Some(start) = start {
            chosen.part(block, start..end, base_offset..next_offset);
        }
        Ok(reaches_end)
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
        self.check_inside(blocks)?;
        let mut bytes = vec![0; blocks.iter().map(|block| block.length as usize).sum()];
        self.read_blocks(blocks, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Whether the log has room for adjacent blocks of the index.
    pub(crate) fn check_inside(&self, blocks: &[Entry]) -> Result<()> {
        if blocks.last().is_some_and(|last| last.end() > u64::from(self.log_bytes)) {
            let what = "the index names a block beyond the end of the log";
            return Err(Damage::new(&self.index.path, 0, what).into());
        }
        Ok(())
    }

    /// Reads adjacent blocks inside the log into a buffer of exactly their size, and verifies each.
    pub(crate) fn read_blocks(&self, blocks: &[Entry], into: &mut [u8]) -> Result<()> {
        let Some(first) = blocks.first() else { return Ok(()) };
        let position = u64::from(first.position);
        search::read(&*self.log, &self.log_path, into, position)?;
        for block in blocks {
            let start = (u64::from(block.position) - position) as usize;
            if ropewalk_crc::of(&into[start..start + block.length as usize]) != block.crc {
                let what =
                    format!("the checksum of the block at offset {} is wrong", block.base_offset);
                return Err(Damage::new(&self.log_path, u64::from(block.position), what).into());
            }
        }
        Ok(())
    }

    /// Calls `each` with the position and the header of every batch in verified blocks, until it
    /// returns false.
    ///
    /// The batches must have the offsets that the index states.
    pub(crate) fn each_header(
        &self,
        bytes: &[u8],
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
