//! A shard's snapshot: its state at an index, and where the records of its partitions end on disk.
//!
//! # Format
//!
//! ```text
//! "RWSNAP\0\0" | version u32 | shard u32 | length u64 | postcard of Snapshot | CRC-32C u32 over all before
//! ```
//! Numbers outside of the postcard are little-endian. Files are named by a number that only grows:
//! two snapshots may well be of the same index. Version 2 is written; version 1, which knew no bound
//! groups, is read as well (see [`version1`]).
//!
//! # Place in the walk
//!
//! The checkpoint writes one when everything it names is durable; recovery begins from one. A shard
//! is born as one, at index 1 and term 1.
//!
//! # Invariants
//!
//! - **D3** a snapshot whose checksum fails is not believed; the older one serves instead.
//! - **D6** two are kept, and the write-ahead log from the older one on.
//!
//! # After a crash
//!
//! A snapshot is written under another name, synced, renamed, and its directory synced. Before the rename
//! is durable it is not there; what was left of it is removed with the next one that is written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Disk, File, Open};
use ropewalk_segment::DurableEnd;
use ropewalk_segment::spill::SpillExtent;
use ropewalk_shard::engine::Members;
use ropewalk_shard::{BrokerId, PartitionId, ReplicaId, ShardId, State};
use serde::{Deserialize, Serialize};

use crate::directory::{DataDir, DirectoryError, read_whole};

mod version1;

const MAGIC: [u8; 8] = *b"RWSNAP\0\0";
const VERSION: u32 = 2;
const HEAD_LEN: usize = 24;
/// No snapshot is larger: what would be read is bounded before it is.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = "unfinished";

/// Everything a replica needs to begin at an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The shard.
    pub shard: ShardId,
    /// Whose copy this is. One under another replica's name is not believed (D4).
    pub replica: ReplicaId,
    /// Everything through this index is in the state.
    pub index: u64,
    /// The term of the entry at the index.
    pub term: u64,
    /// Who takes part, as of the index.
    pub members: Members,
    /// Which broker holds which replica, as of the index.
    pub replicas: BTreeMap<ReplicaId, BrokerId>,
    /// What the shard knows.
    pub state: State,
    /// Where the records of each partition are, sorted.
    pub partitions: Vec<PartitionFiles>,
}

/// Where the records of one partition are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionFiles {
    /// Which.
    pub partition: PartitionId,
    /// Which of the partition's incarnations: part of its directory's name.
    pub incarnation: u64,
    /// The first offset that is left.
    pub log_start: i64,
    /// The offset that the next record gets.
    pub next_offset: i64,
    /// Where the segments end; `None` if there are none.
    pub segments: Option<SegmentsEnd>,
    /// What follows the segments, in order.
    pub spill: Vec<SpillRun>,
}

/// Where the segments of a partition end. Recovery cuts them there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentsEnd {
    segment_base: i64,
    position_bytes: u64,
    blocks: u32,
    next_offset: i64,
}

/// A run of batches in a spill file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpillRun {
    /// The file's number.
    pub file: u64,
    /// Where it begins in the file.
    pub position_bytes: u64,
    /// How long it is.
    pub length_bytes: u32,
    /// CRC-32C of it.
    pub crc: u32,
    /// Its first offset.
    pub base_offset: i64,
    /// The offset after it.
    pub next_offset: i64,
    /// Records of data in it.
    pub records: u32,
    /// The largest timestamp in it.
    pub max_timestamp_ms: i64,
    /// When its first batch was proposed.
    pub appended_ms: i64,
}

impl From<DurableEnd> for SegmentsEnd {
    fn from(end: DurableEnd) -> Self {
        let DurableEnd { segment_base, position_bytes, blocks, next_offset } = end;
        Self { segment_base, position_bytes, blocks, next_offset }
    }
}

impl From<SegmentsEnd> for DurableEnd {
    fn from(end: SegmentsEnd) -> Self {
        let SegmentsEnd { segment_base, position_bytes, blocks, next_offset } = end;
        Self { segment_base, position_bytes, blocks, next_offset }
    }
}

impl SpillRun {
    /// A run that lies in the file with this number, and what the file does not know of it.
    pub(crate) fn new(
        file: u64,
        extent: SpillExtent,
        records: u32,
        max_timestamp_ms: i64,
        appended_ms: i64,
    ) -> Self {
        let SpillExtent { position, len, base_offset, next_offset, crc } = extent;
        Self {
            file,
            position_bytes: position,
            length_bytes: len,
            crc,
            base_offset,
            next_offset,
            records,
            max_timestamp_ms,
            appended_ms,
        }
    }

    /// The run as its file knows it.
    pub(crate) fn extent(&self) -> SpillExtent {
        SpillExtent {
            position: self.position_bytes,
            len: self.length_bytes,
            base_offset: self.base_offset,
            next_offset: self.next_offset,
            crc: self.crc,
        }
    }
}

impl SegmentsEnd {
    /// The segment that takes the next batch: those before it never change again, but by compaction.
    pub(crate) fn segment_base(self) -> i64 {
        self.segment_base
    }
}

/// Why there is no snapshot in a file.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A broker of another version wrote it. Nothing may be done with the directory.
    #[error("{} has format version {version}; this broker knows versions 1 to {VERSION}", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
    /// It is not what was written (D3).
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The disk failed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// The snapshots of one shard on disk.
#[derive(Debug, Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    shard: ShardId,
}

impl Snapshots {
    /// Those of `shard`.
    #[must_use]
    pub fn new(data: &DataDir, shard: ShardId) -> Self {
        Self { disk: Arc::clone(data.disk()), dir: data.snapshots(shard), shard }
    }

    /// The numbers of those that are there, oldest first.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn numbers(&self) -> Result<Vec<u64>, DirectoryError> {
        let names = match self.disk.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(DirectoryError::io(&self.dir)(source)),
        };
        let numbers = names.iter().filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads and checks one.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn load(&self, number: u64) -> Result<Snapshot, SnapshotError> {
        let path = self.path(number);
        let bytes = read_whole(&*self.disk, &path, SNAPSHOT_BYTES_MAX)?;
        let snapshot = decode(&bytes, &path)?;
        if snapshot.shard != self.shard {
            return Err(SnapshotError::Damaged { path, what: "it is another shard's" });
        }
        Ok(snapshot)
    }

    /// Writes one; it is durable when this returns.
    ///
    /// # Errors
    /// When the disk fails. A failed sync is final (D2).
    pub fn write(&self, number: u64, snapshot: &Snapshot) -> Result<(), DirectoryError> {
        let unfinished = self.dir.join(UNFINISHED);
        let path = self.path(number);
        let write = || -> io::Result<Arc<dyn File>> {
            let file = self.disk.open(&unfinished, Open::CreateOrTruncate)?;
            file.write_all_at(&encode(snapshot), 0)?;
            Ok(file)
        };
        let file = write().map_err(|error| {
            // It takes room that others need. If it stays, the next one overwrites it.
            let _ = self.disk.remove(&unfinished);
            DirectoryError::io(&unfinished)(error)
        })?;
        file.sync("snapshot").map_err(DirectoryError::sync(&unfinished))?;
        self.disk.rename(&unfinished, &path).map_err(DirectoryError::io(&path))?;
        let synced = self.disk.sync_dir(&self.dir, "snapshot-directory");
        synced.map_err(DirectoryError::sync(&self.dir))
    }

    /// Removes all but `kept`. Not durable at once: one that comes back is removed again.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove_all_but(&self, kept: &[u64]) -> Result<(), DirectoryError> {
        for number in self.numbers()? {
            if !kept.contains(&number) {
                let path = self.path(number);
                self.disk.remove(&path).map_err(DirectoryError::io(&path))?;
            }
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}{SUFFIX}"))
    }
}

fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(snapshot.shard.0.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    let mut out = postcard::to_extend(snapshot, out).expect("a snapshot always encodes");
    let length = (out.len() - HEAD_LEN) as u64;
    out[16..24].copy_from_slice(&length.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// Magic, version and checksum stay where they are in every version to come: a flipped bit is
/// damage, whichever it hits, and only what was written by another version is refused as that.
fn decode(bytes: &[u8], path: &Path) -> Result<Snapshot, SnapshotError> {
    let damaged = |what| SnapshotError::Damaged { path: path.to_owned(), what };
    let head = bytes.get(..HEAD_LEN).ok_or_else(|| damaged("it is cut short"))?;
    if head[..8] != MAGIC {
        return Err(damaged("it does not begin like one of ours"));
    }
    let (checked, crc) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(checked).to_le_bytes() != crc {
        return Err(damaged("its checksum does not hold"));
    }
    let version = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes"));
    if version != VERSION && version != version1::VERSION {
        return Err(SnapshotError::UnknownVersion { path: path.to_owned(), version });
    }
    let length = u64::from_le_bytes(head[16..24].try_into().expect("8 bytes"));
    let body = bytes.len().checked_sub(HEAD_LEN + 4);
    if body.map(|body| body as u64) != Some(length) {
        return Err(damaged("its length is not the one it names"));
    }
    let body = &checked[HEAD_LEN..];
    let snapshot =
        if version == VERSION { postcard::from_bytes(body) } else { version1::decode(body) };
    snapshot.map_err(|_| damaged("it does not decode"))
}

#[cfg(test)]
mod tests;
