//! Rebuilds an index from its log.
//!
//! Recovery uses it when an index is missing or damaged. The log is read once from the start, in
//! pieces, and every batch is verified before it is added to a block.
//!
//! Invariants:
//! - **D3.** A batch counts only if its own checksum is valid, its offsets continue the previous
//!   ones and its epoch does not decrease. A batch's prefix has no checksum of its own. Without
//!   gaps the offsets determine the right base offset, so gaps are accepted only if the header of
//!   the index says that compaction made them. The leader epoch in a prefix cannot be verified
//!   further without an index.
//! - The first invalid batch ends the index: nothing behind it is used.
//! - Memory is bounded by a piece, whatever a length field says.
//!
//! A crash leaves an `.index.rebuilt` file, which the next recovery removes.

use std::path::Path;

use ropewalk_batch::HEADER_LEN;
use ropewalk_disk::File;

use super::cut::{Cutter, Facts, RunningTotals};
use super::search::read;
use super::{BLOCK_BYTES_MAX, Entry};
use crate::error::{Damage, Result, SegmentError};

/// Number of bytes of a batch that are in memory at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Position in a batch from which its checksum counts.
const CRC_FROM: usize = 21;

/// The expected content of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedLog {
    pub(crate) base_offset: i64,
    /// Offset behind its last batch, or behind the gap that compaction left there.
    pub(crate) end_offset: i64,
    /// Size of the log in bytes; `None` is the size of the file.
    pub(crate) log_bytes: Option<u64>,
    pub(crate) gaps: bool,
}

/// The actual content of a log.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) entries: Vec<Entry>,
    /// The damage for which the scan ended before [`ExpectedLog::end_offset`].
    pub(crate) damage: Option<Damage>,
}

/// Reads a log from its start to its end or to the first damage.
pub(crate) fn scan(file: &dyn File, path: &Path, expected: &ExpectedLog) -> Result<Scan> {
    let file_bytes = file.len().map_err(|error| SegmentError::io(path, error))?;
    let end = expected.log_bytes.unwrap_or(file_bytes).min(u64::from(u32::MAX));
    let mut scanner = Scanner {
        file,
        path,
        end: end.min(file_bytes),
        piece: vec![0; PIECE_BYTES],
        cutter: Cutter::new(RunningTotals::EMPTY, BLOCK_BYTES_MAX),
        next_offset: expected.base_offset,
        leader_epoch: i32::MIN,
    };
    let damage = loop {
        let at = u64::from(scanner.cutter.running().position);
        let finished = scanner.next_offset >= expected.end_offset || at >= scanner.end;
        if finished {
            break scanner.short_of(expected, at);
        }
        match scanner.batch(at, expected) {
            Ok(()) => {}
            Err(SegmentError::Damaged(damage)) => break Some(damage),
            Err(error) => return Err(error),
        }
    };
    Ok(Scan { entries: scanner.cutter.finish(), damage })
}

struct Scanner<'a> {
    file: &'a dyn File,
    path: &'a Path,
    end: u64,
    piece: Vec<u8>,
    cutter: Cutter,
    next_offset: i64,
    leader_epoch: i32,
}

impl Scanner<'_> {
    /// Verifies the whole batch at `at`, and only then adds it to a block.
    fn batch(&mut self, at: u64, expected: &ExpectedLog) -> Result<()> {
        let path = self.path;
        let damage = |what: String| SegmentError::Damaged(Damage::new(path, at, what));
        let mut front = [0; HEADER_LEN];
        if self.end - at < HEADER_LEN as u64 {
            return Err(damage("the log ends inside a batch".to_owned()));
        }
        read(self.file, self.path, &mut front, at)?;
        let header = ropewalk_batch::Header::parse(&front)
            .map_err(|error| damage(format!("no batch: {error}")))?;
        let facts = Facts::of(&header);
        let end = at + u64::from(facts.size_bytes);
        let gap = facts.base_offset > self.next_offset;
        if end > self.end {
            return Err(damage("the log ends inside a batch".to_owned()));
        }
        if header.last_offset_delta < 0
            || facts.base_offset < self.next_offset
            || facts.next_offset > expected.end_offset
            || facts.next_offset - expected.base_offset > i64::from(u32::MAX)
            || (gap && !expected.gaps)
            || header.leader_epoch < self.leader_epoch
        {
            return Err(damage(format!(
                "a batch at offset {} of epoch {} does not continue offset {}",
                header.base_offset, header.leader_epoch, self.next_offset
            )));
        }
        let mut crc = 0;
        self.pieces(at + CRC_FROM as u64, end, |_, piece| crc = ropewalk_crc::append(crc, piece))?;
        if crc != header.crc {
            return Err(damage(format!(
                "the checksum of the batch at {} fails",
                header.base_offset
            )));
        }
        self.cutter.batch(&facts);
        self.pieces(at, end, |cutter, piece| cutter.bytes(piece))?;
        self.next_offset = facts.next_offset;
        self.leader_epoch = header.leader_epoch;
        Ok(())
    }

    fn pieces(
        &mut self,
        from: u64,
        to: u64,
        mut each: impl FnMut(&mut Cutter, &[u8]),
    ) -> Result<()> {
        let mut at = from;
        while at < to {
            let length = usize::try_from(to - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
            read(self.file, self.path, &mut self.piece[..length], at)?;
            each(&mut self.cutter, &self.piece[..length]);
            at += length as u64;
        }
        Ok(())
    }

    fn short_of(&self, expected: &ExpectedLog, at: u64) -> Option<Damage> {
        let short = expected
            .log_bytes
            .map_or(!expected.gaps && self.next_offset < expected.end_offset, |log_bytes| {
                at < log_bytes
            });
        let what = || {
            format!("the log ends at offset {} before {}", self.next_offset, expected.end_offset)
        };
        short.then(|| Damage::new(self.path, at, what()))
    }
}
