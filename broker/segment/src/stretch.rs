//! A stretch of a segment that a reader was promised, read and verified piece by piece.
//!
//! A fetch says how many bytes it will send before it sends the first one, so a [`Stretch`] is
//! chosen by the index alone. Its bytes are read later, in pieces of whole blocks, into a buffer of
//! the caller. A piece that cannot be read leaves its offsets among the suspects of the
//! partition, and the next plan over them reads them before it promises anything.
//!
//! # Invariants
//!
//! - **D3.** A piece is returned only if the checksum of each of its blocks is valid and its
//!   batches have the offsets of the index.
//! - A stretch holds its file open: what it promised can be read whatever happens to the partition.
//! - **R1.** A stretch has at most [`crate::READ_BYTES_MAX`] of blocks, or one batch if that is
//!   larger, and keeps an index entry of each.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::index::Entry;
use crate::view::{OpenSegment, SharedSegments};

/// Adjacent batches of a segment, not read yet. It is not empty.
#[derive(Debug)]
pub struct Stretch {
    shared: Arc<SharedSegments>,
    segment: OpenSegment,
    chosen: Chosen,
}

/// Some adjacent blocks of a [`Stretch`], which are read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece(Range<usize>);

/// The blocks of a stretch, and the part of their bytes that is wanted.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) blocks: Vec<Entry>,
    /// The wanted bytes, from the start of the first block.
    wanted: Range<usize>,
    offsets: Range<i64>,
    /// Whether more batches of the segment follow, which did not fit.
    pub(crate) is_cut: bool,
}

impl Chosen {
    /// Nothing yet, from this offset on.
    pub(crate) fn from(offset: i64) -> Self {
        Self { blocks: Vec::new(), wanted: 0..0, offsets: offset..offset, is_cut: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.wanted.len()
    }

    /// Adds a whole block.
    pub(crate) fn whole(&mut self, block: Entry) {
        self.part(block, 0..block.length as usize, block.base_offset..block.next_offset);
    }

    /// Adds a block of which these bytes are wanted, which are batches with these offsets. Only of
    /// the first block they may begin behind its start, and only of the last end before its end.
    pub(crate) fn part(&mut self, block: Entry, bytes: Range<usize>, offsets: Range<i64>) {
        // All blocks so far are wanted to their ends.
        let before = self.wanted.end;
        if self.blocks.is_empty() {
            (self.wanted.start, self.offsets.start) = (bytes.start, offsets.start);
        }
        self.wanted.end = before + bytes.end;
        self.offsets.end = offsets.end;
        self.blocks.push(block);
    }
}

impl Stretch {
    pub(crate) fn new(shared: Arc<SharedSegments>, segment: OpenSegment, chosen: Chosen) -> Self {
        Self { shared, segment, chosen }
    }

    /// Offset of the first batch.
    #[must_use]
    pub fn base_offset(&self) -> i64 {
        self.chosen.offsets.start
    }

    /// Offset behind the last batch.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.chosen.offsets.end
    }

    /// Total size of the batches, bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.chosen.size_bytes()
    }

    /// Whether it ends because the next batches did not fit, not because the segment ends.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.chosen.is_cut
    }

    /// The piece after `previous`, or the first one: as many blocks as `bytes_max` has room for,
    /// but at least one. `None` at the end.
    #[must_use]
    pub fn piece_after(&self, previous: Option<&Piece>, bytes_max: usize) -> Option<Piece> {
        let first = previous.map_or(0, |previous| previous.0.end);
        let mut size_bytes = 0;
        let fitting = self.chosen.blocks[first..].iter().take_while(|block| {
            size_bytes += block.length as usize;
            size_bytes <= bytes_max
        });
        let end = (first + fitting.count().max(1)).min(self.chosen.blocks.len());
        (first < end).then_some(Piece(first..end))
    }

    /// Size of the buffer that a piece is read into, bytes: of all its blocks.
    #[must_use]
    pub fn buffer_bytes(&self, piece: &Piece) -> usize {
        self.blocks(piece).iter().map(|block| block.length as usize).sum()
    }

    /// Reads and verifies a piece. Returns which part of `into` is the piece's part of the batches:
    /// all of it, except of the first and of the last piece.
    ///
    /// # Errors
    /// When the piece is damaged or the disk fails; the next plan over these offsets then reads
    /// them before it promises anything.
    ///
    /// # Panics
    /// If `into` is smaller than [`Self::buffer_bytes`].
    pub fn read(&self, piece: &Piece, into: &mut [u8]) -> Result<Range<usize>> {
        self.read_each(piece, into, |_| {})
    }

    /// Reads and verifies all batches, as one allocation.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn read_whole(&self) -> Result<Bytes> {
        let mut bytes = vec![0; self.buffer_bytes(&self.whole())];
        let range = self.read(&self.whole(), &mut bytes)?;
        Ok(Bytes::from(bytes).slice(range))
    }

    /// Like [`Self::read`], and calls `each` with the start of every batch in `into`.
    pub(crate) fn read_each(
        &self,
        piece: &Piece,
        into: &mut [u8],
        mut each: impl FnMut(usize),
    ) -> Result<Range<usize>> {
        let blocks = self.blocks(piece);
        let into = &mut into[..self.buffer_bytes(piece)];
        let read = self.segment.read_blocks(blocks, into).and_then(|()| {
            self.segment.each_header(into, blocks, |at, _| {
                each(at);
                true
            })
        });
        if let Err(error) = read {
            let (first, last) = (&blocks[0], &blocks[blocks.len() - 1]);
            self.shared.suspects.add(first.base_offset..last.next_offset);
            return Err(error);
        }
        let before: usize =
            self.chosen.blocks[..piece.0.start].iter().map(|block| block.length as usize).sum();
        let wanted = &self.chosen.wanted;
        let start = wanted.start.saturating_sub(before);
        Ok(start..into.len().min(wanted.end - before))
    }

    /// All blocks as one piece.
    pub(crate) fn whole(&self) -> Piece {
        Piece(0..self.chosen.blocks.len())
    }

    fn blocks(&self, piece: &Piece) -> &[Entry] {
        &self.chosen.blocks[piece.0.clone()]
    }
}

impl SharedSegments {
    /// Reads those of the blocks that are suspect, and clears the suspicion of offsets that can be
    /// read again. An error is what a reader of these blocks gets.
    pub(crate) fn recheck(&self, segment: &OpenSegment, blocks: &[Entry]) -> Result<()> {
        for suspect in self.suspects.all() {
            let from = blocks.partition_point(|block| block.next_offset <= suspect.start);
            let to = blocks.partition_point(|block| block.base_offset < suspect.end);
            for block in blocks.get(from..to).unwrap_or_default() {
                segment.each_header(&segment.blocks(&[*block])?, &[*block], |_, _| true)?;
            }
            let is_covered = blocks.first().is_some_and(|b| b.base_offset <= suspect.start)
                && blocks.last().is_some_and(|b| suspect.end <= b.next_offset);
            if is_covered {
                self.suspects.remove(&suspect);
            }
        }
        Ok(())
    }
}
