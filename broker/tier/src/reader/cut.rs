//! Cuts runs of batches to what a reader asked for.

use bytes::Bytes;
use ropewalk_batch::{BatchError, Header};

/// Whole batches of one object, in order, as they are sent to a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The batches, in pieces that end between batches.
    pub pieces: Vec<Bytes>,
    /// Offset behind the last batch; where the next read begins.
    pub next_offset: i64,
    pinned_bytes: u64,
}

impl Stretch {
    pub(super) fn empty(next_offset: i64) -> Self {
        Self { pieces: Vec::new(), next_offset, pinned_bytes: 0 }
    }

    /// From the batch that contains `offset` as many as have at most `bytes_max` together, but at
    /// least one. The runs were verified, so only headers are read.
    pub(super) fn cut(runs: Vec<Bytes>, offset: i64, bytes_max: u64) -> Result<Self, BatchError> {
        let mut stretch = Self::empty(offset);
        let mut taken: u64 = 0;
        let mut is_full = false;
        for run in runs {
            let (mut start, mut end) = (None, 0);
            while end < run.len() && !is_full {
                let header = Header::parse(&run[end..])?;
                let size = header.size_bytes();
                if size > run.len() - end {
                    return Err(BatchError::Short { needed: size, given: run.len() - end });
                }
                if header.last_offset() >= offset {
                    if taken > 0 && taken + size as u64 > bytes_max {
                        is_full = true;
                        break;
                    }
                    start = start.or(Some(end));
                    taken += size as u64;
                    stretch.next_offset = header.last_offset().saturating_add(1);
                }
                end += size;
            }
            if let Some(start) = start {
                stretch.pinned_bytes += crate::limits::CHUNK_BYTES.max(run.len() as u64);
                stretch.pieces.push(run.slice(start..end));
            }
        }
        Ok(stretch)
    }

    pub(super) fn ending_at_most(mut self, end: i64) -> Self {
        self.next_offset = self.next_offset.min(end);
        self
    }

    /// Bytes of the batches.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// At most this much memory is held while any of the pieces is: each is a part of a chunk.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }
}
