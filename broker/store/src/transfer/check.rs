//! Verifies the log of a segment against its index, in pieces of any length.

use std::path::Path;

use ropewalk_disk::Disk;
use ropewalk_segment::SegmentError;
use ropewalk_segment::copy::{Block, CopiedIndex};

use super::manifest::SegmentOf;

/// A log that is being read or received from its start, or from the start of a block.
#[derive(Debug)]
pub(super) struct LogCheck {
    index: CopiedIndex,
    /// Some blocks, and the number of the first of them.
    window: Vec<Block>,
    window_first: u32,
    /// The block that is incomplete.
    number: u32,
    /// Checksum of the bytes of that block so far.
    crc: u32,
    verified_bytes: u64,
    position_bytes: u64,
}

/// Whether bytes are those that the index describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// The block after [`LogCheck::verified_bytes`] is another one.
    Bad,
}

impl LogCheck {
    /// Begins at the block that holds the byte `from`.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        of: &SegmentOf,
        from: u64,
    ) -> Result<Self, SegmentError> {
        let index = CopiedIndex::open(disk, dir, of.base_offset, Some(of.index_bytes))?;
        let number = index.block_at(from)?;
        let mut check = Self {
            index,
            window: Vec::new(),
            window_first: 0,
            number,
            crc: 0,
            verified_bytes: 0,
            position_bytes: 0,
        };
        let start = match (check.block()?, number.checked_sub(1)) {
            (Some(block), _) => block.position_bytes,
            (None, Some(last)) => {
                check.index.read(last)?.first().map_or(0, |block| block.end_bytes())
            }
            (None, None) => 0,
        };
        (check.verified_bytes, check.position_bytes) = (start, start);
        Ok(check)
    }

    /// Position of the next byte.
    pub(super) fn position_bytes(&self) -> u64 {
        self.position_bytes
    }

    /// End of the last complete block.
    pub(super) fn verified_bytes(&self) -> u64 {
        self.verified_bytes
    }

    /// Takes the next bytes. After [`Verdict::Bad`] it continues at [`Self::verified_bytes`].
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<Verdict, SegmentError> {
        while !bytes.is_empty() {
            let Some(block) = self.block()? else { return Ok(Verdict::Bad) };
            let left = block.end_bytes() - self.position_bytes;
            let length = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (part, rest) = bytes.split_at(length);
            self.crc = crc32c::crc32c_append(self.crc, part);
            self.position_bytes += length as u64;
            bytes = rest;
            if self.position_bytes < block.end_bytes() {
                break;
            }
            if std::mem::take(&mut self.crc) != block.crc {
                self.position_bytes = self.verified_bytes;
                return Ok(Verdict::Bad);
            }
            self.verified_bytes = self.position_bytes;
            self.number += 1;
        }
        Ok(Verdict::Good)
    }

    /// The incomplete block.
    fn block(&mut self) -> Result<Option<Block>, SegmentError> {
        let at = |check: &Self| {
            let at = check.number.checked_sub(check.window_first)?;
            check.window.get(at as usize).copied()
        };
        if let Some(block) = at(self) {
            return Ok(Some(block));
        }
        self.window = self.index.read(self.number)?;
        self.window_first = self.number;
        Ok(at(self))
    }
}
