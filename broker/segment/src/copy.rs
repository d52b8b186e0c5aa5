//! Lists the segment files of a partition for a copy on another broker, and verifies such a copy.
//!
//! A copy is equal byte for byte, so a compacted segment keeps its gaps and its end. Its index is
//! copied first: the checksums in it then identify every block of the log. Two indexes with an
//! equal entry describe equal blocks, so a copy of an older state of the segment is continued at
//! the first block that differs ([`CopiedIndex::common_bytes`]).
//!
//! Whole files are compared by CRC-32, not by the CRC-32C that they contain ([`sum`]).
//!
//! # Invariants
//!
//! - **D3** nothing of a damaged file is listed: header and every entry of an index are verified.
//! - **O4** the listed segments follow one another without a gap, up to the durable end.
//! - **R1** at most [`ENTRIES`] entries of an index are in memory.
//!
//! The files must not change meanwhile: the caller keeps compaction and removals away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Disk, Open};

use crate::durable_end::DurableEnd;
use crate::error::{Damage, Result, SegmentError};
use crate::files::{self, INDEX, LOG, SWAP_INDEX};
use crate::index::search::{IndexFile, read};
use crate::index::{self, Entry};

/// Most index entries that are read at once.
pub const ENTRIES: u32 = 256;

/// Number of bytes that are read at once to sum a file.
const PIECE_BYTES: usize = 64 << 10;

/// The files of one segment, as far as a durable end covers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFiles {
    /// First offset, which is also in the names of the files.
    pub base_offset: i64,
    /// Offset at which the next segment begins.
    pub next_offset: i64,
    /// Length of the log in bytes.
    pub log_bytes: u64,
    /// Length of the index in bytes.
    pub index_bytes: u64,
    /// The [`sum`] of the index.
    pub index_sum: u32,
}

/// The bytes of one block in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Position of the block in the log.
    pub position_bytes: u64,
    /// Length of the block.
    pub length_bytes: u32,
    /// CRC-32C of the block.
    pub crc: u32,
}

impl Block {
    /// Position behind the block.
    #[must_use]
    pub fn end_bytes(&self) -> u64 {
        self.position_bytes + u64::from(self.length_bytes)
    }
}

/// The paths of the log and the index of a segment.
#[must_use]
pub fn paths(dir: &Path, base_offset: i64) -> [PathBuf; 2] {
    [LOG, INDEX].map(|extension| files::path(dir, base_offset, extension))
}

/// Creates the directory of a partition. Its parent directory is durable at once, the directory
/// itself after a sync of the parent.
///
/// # Errors
/// When the disk fails.
pub fn make_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    files::make_dir(disk, dir).map_err(|error| SegmentError::io(dir, error))
}

/// The segments that hold the records from `log_start` up to the durable end, oldest first.
///
/// # Errors
/// [`SegmentError::Damaged`] when a file is missing or damaged; [`SegmentError::Io`] also while a
/// replacement by compaction is not complete.
pub fn list(
    disk: &dyn Disk,
    dir: &Path,
    at: &DurableEnd,
    log_start: i64,
) -> Result<Vec<SegmentFiles>> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(|error| SegmentError::io(dir, error))?,
    };
    let found: Vec<(i64, &str)> = names.iter().filter_map(|name| files::parse(name)).collect();
    if found.iter().any(|(_, extension)| *extension == SWAP_INDEX) {
        let source = io::Error::other("a replacement of segments is not complete");
        return Err(SegmentError::io(dir, source));
    }
    let mut bases: Vec<i64> = found
        .iter()
        .filter(|(base, extension)| *extension == INDEX && *base < at.segment_base)
        .map(|(base, _)| *base)
        .collect();
    if at.position_bytes > 0 && at.next_offset > log_start {
        bases.push(at.segment_base);
    }
    let mut segments: Vec<SegmentFiles> = Vec::new();
    for (number, base) in bases.iter().enumerate() {
        let boundary = bases.get(number + 1).copied().unwrap_or(at.segment_base);
        if segments.last().is_some_and(|last| *base < last.next_offset) {
            continue; // Merged into the previous one.
        }
        let tail = (*base == at.segment_base).then_some(at);
        let segment = segment(disk, dir, *base, boundary, tail)?;
        if segment.next_offset > log_start {
            segments.push(segment);
        }
    }
    check_order(dir, &segments, at, log_start)?;
    Ok(segments)
}

/// Reads the index of a segment. `boundary` is where the next one begins; `tail` is the durable end
/// if it is in this segment.
fn segment(
    disk: &dyn Disk,
    dir: &Path,
    base_offset: i64,
    boundary: i64,
    tail: Option<&DurableEnd>,
) -> Result<SegmentFiles> {
    let [log_path, index_path] = paths(dir, base_offset);
    let whole = CopiedIndex::open(disk, dir, base_offset, None)?;
    // A repair may have sealed the segment of the durable end, and cut it.
    let end = tail.filter(|_| whole.compacted_end.is_none());
    let index = CopiedIndex {
        blocks: end.map_or(whole.blocks, |end| end.blocks),
        index: end.map_or_else(|| whole.index.clone(), |end| whole.index.with_blocks(end.blocks)),
        ..whole
    };
    let last = index.verify()?;
    let log_bytes = last.map_or(0, |last| last.end());
    let log = disk.open(&log_path, Open::Read).map_err(|e| SegmentError::open(&log_path, e))?;
    let there = log.len().map_err(|error| SegmentError::io(&log_path, error))?;
    if there < log_bytes || end.is_some_and(|end| end.position_bytes != log_bytes) {
        return Err(Damage::new(&log_path, there, "the log does not fit its index").into());
    }
    let index_bytes = index::size_bytes(index.blocks);
    Ok(SegmentFiles {
        base_offset,
        next_offset: match (end, index.compacted_end) {
            (Some(end), _) => end.next_offset,
            (None, Some(end)) => end,
            (None, None) => last.map_or(boundary, |last| last.next_offset),
        },
        log_bytes,
        index_bytes,
        index_sum: sum(disk, &index_path, index_bytes)?,
    })
}

fn check_order(
    dir: &Path,
    segments: &[SegmentFiles],
    at: &DurableEnd,
    log_start: i64,
) -> Result<()> {
    let mut expected = log_start.min(at.next_offset);
    for (number, segment) in segments.iter().enumerate() {
        let follows =
            segment.base_offset == expected || (number == 0 && segment.base_offset <= log_start);
        if !follows {
            break;
        }
        expected = segment.next_offset;
    }
    if expected < at.next_offset && at.next_offset > log_start {
        let path = files::path(dir, expected, LOG);
        let what = format!("the offsets from {expected} up to {} are missing", at.next_offset);
        return Err(Damage::new(&path, 0, what).into());
    }
    Ok(())
}

/// CRC-32 (that of Ethernet and zlib) of the first `bytes` of a file, read in pieces.
///
/// CRC-32C would be the same for any two snapshots, and for any two indexes of the same length and
/// base offset: the sum of bytes with their own sum behind them is a constant.
///
/// # Errors
/// [`SegmentError::Damaged`] when the file is missing or shorter.
pub fn sum(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<u32> {
    let file = disk.open(path, Open::Read).map_err(|error| SegmentError::open(path, error))?;
    let mut piece = vec![0; PIECE_BYTES];
    let (mut at, mut summed) = (0, crc32fast::Hasher::new());
    while at < bytes {
        let length = usize::try_from(bytes - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        read(&*file, path, &mut piece[..length], at)?;
        summed.update(&piece[..length]);
        at += length as u64;
    }
    Ok(summed.finalize())
}

/// The [`sum`] of bytes in memory.
#[must_use]
pub fn sum_of(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The index of a copied segment. It says which bytes belong into the log.
#[derive(Debug)]
pub struct CopiedIndex {
    index: IndexFile,
    blocks: u32,
    compacted_end: Option<i64>,
}

impl CopiedIndex {
    /// Opens the index in `dir`, of `index_bytes` or of its whole length, and verifies its header.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when the file is missing or damaged.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        base_offset: i64,
        index_bytes: Option<u64>,
    ) -> Result<Self> {
        Self::open_at(disk, files::path(dir, base_offset, INDEX), base_offset, index_bytes)
    }

    /// Like [`Self::open`], for an index under another name.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_at(
        disk: &dyn Disk,
        path: PathBuf,
        base_offset: i64,
        index_bytes: Option<u64>,
    ) -> Result<Self> {
        let file =
            disk.open(&path, Open::Read).map_err(|error| SegmentError::open(&path, error))?;
        let there = file.len().map_err(|error| SegmentError::io(&path, error))?;
        let bytes = index_bytes.unwrap_or(there).min(there);
        let entries = bytes.saturating_sub(index::HEADER_BYTES as u64) / index::ENTRY_BYTES as u64;
        let blocks = u32::try_from(entries).unwrap_or(u32::MAX);
        let index = IndexFile::new(file, Arc::from(path), base_offset, blocks);
        let compacted_end = index.header()?.compacted_end;
        Ok(Self { index, blocks, compacted_end })
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Blocks from number `first` on, at most [`ENTRIES`]; none behind the last one.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when an entry is damaged.
    pub fn read(&self, first: u32) -> Result<Vec<Block>> {
        let entries = self.index.entries(first.min(self.blocks), ENTRIES)?;
        let block = |entry: &Entry| Block {
            position_bytes: u64::from(entry.position),
            length_bytes: entry.length,
            crc: entry.crc,
        };
        Ok(entries.iter().map(block).collect())
    }

    /// Verifies all entries. Returns the last one.
    fn verify(&self) -> Result<Option<Entry>> {
        let (mut number, mut last): (u32, Option<Entry>) = (0, None);
        while number < self.blocks {
            let entries = self.index.entries(number, ENTRIES)?;
            let end = last.map_or(0, |last| last.end());
            if entries.first().is_some_and(|first| u64::from(first.position) != end) {
                let what = format!("index entry {number} does not continue the one before");
                return Err(Damage::new(&self.index.path, index::entry_at(number), what).into());
            }
            number += entries.len() as u32;
            last = entries.last().copied();
        }
        Ok(last)
    }

    /// The number of the block that begins at or holds `position_bytes`; the number of blocks if it
    /// is behind all of them.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when an entry is damaged.
    pub fn block_at(&self, position_bytes: u64) -> Result<u32> {
        self.index.partition_point(|entry| entry.end() <= position_bytes)
    }

    /// Position behind the leading blocks that both indexes describe alike. The logs are equal up
    /// to there.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when an entry of `self` is damaged.
    pub fn common_bytes(&self, other: &Self) -> Result<u64> {
        let (mut number, mut end) = (0, 0);
        loop {
            let entries = self.index.entries(number, ENTRIES)?;
            let others = other.index.entries(number, ENTRIES).unwrap_or_default();
            let alike = entries.iter().zip(&others).take_while(|(one, other)| one == other).count();
            end = alike.checked_sub(1).map_or(end, |last| entries[last].end());
            if alike < entries.len() || entries.is_empty() {
                return Ok(end);
            }
            number += alike as u32;
        }
    }
}
