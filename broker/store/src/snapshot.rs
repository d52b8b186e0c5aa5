//! A shard's snapshot: its state at an index, and the files that hold the records of its
//! partitions.
//!
//! # Format
//!
//! ```text
//! "RWSNAP\0\0" | version u32 | shard u32 | length u64 | postcard of Snapshot
//! | CRC-32C u32 over all before
//! ```
//! Numbers outside of the postcard are little-endian. Files are named by a number that only grows,
//! because two snapshots may have the same index. Version 7 is written for a catalog with a claim
//! of the bucket, version 6 for another shard of which a partition has a tier, version 5 for any
//! other one; versions 1 to 4 are read as well (see `earlier`).
//!
//! The encoding is canonical: equal snapshots have equal bytes.
//!
//! A checkpoint writes a snapshot when everything that it names is durable; recovery starts from
//! one. A new shard has a snapshot at index 1 and term 1.
//!
//! # Invariants
//!
//! - **D3** a snapshot whose checksum does not match is not used; the older one is used instead.
//! - **D6** two snapshots are kept, and the write-ahead log from the older one on.
//!
//! # After a crash
//!
//! A snapshot is written under another name, synced, renamed, and its directory synced, once for
//! the snapshots of all shards of a checkpoint. Before the rename is durable it does not exist; the
//! next write overwrites the unfinished file.

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

mod earlier;

const MAGIC: [u8; 8] = *b"RWSNAP\0\0";
const VERSION: u32 = 7;
const HEAD_LEN: usize = 24;
/// Largest snapshot that is read, bytes.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = "unfinished";

/// Everything that a replica needs to start at an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The shard that was captured.
    pub shard: ShardId,
    /// The replica that wrote it. Snapshots of another replica are not used (D4).
    pub replica: ReplicaId,
    /// The index of the last entry that is applied to the state.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The shard's members, as of the index.
    pub members: Members,
    /// The broker of each replica, as of the index.
    pub replicas: BTreeMap<ReplicaId, BrokerId>,
    /// The replicated state.
    pub state: State,
    /// The files of each partition, sorted by partition.
    pub partitions: Vec<PartitionFiles>,
}

/// One incarnation of a partition. Each has a directory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionIncarnation {
    pub(crate) partition: PartitionId,
    pub(crate) incarnation: u64,
}

/// The files that hold the records of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionFiles {
    /// The partition that the files belong to.
    pub partition: PartitionId,
    /// The partition's incarnation, which is part of its directory's name.
    pub incarnation: u64,
    /// The first offset in the files. It may be after that of the state, because they are captured
    /// later.
    pub local_start: i64,
    /// The offset that the next record gets.
    pub next_offset: i64,
    /// The end of the segments; `None` if there are none.
    pub segments: Option<SegmentsEnd>,
    /// The runs in spill files that follow the segments, in order.
    pub spill: Vec<SpillRun>,
}

/// The end of the segments of a partition. Recovery cuts off anything after it.
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
    /// Number of the spill file.
    pub file: u64,
    /// Start of the run in the file.
    pub position_bytes: u64,
    /// Length of the run.
    pub length_bytes: u32,
    /// CRC-32C of the run.
    pub crc: u32,
    /// The first offset of the run.
    pub base_offset: i64,
    /// The offset after the run.
    pub next_offset: i64,
    /// Number of data records in the run.
    pub records: u32,
    /// The largest timestamp in the run, Unix milliseconds.
    pub max_timestamp_ms: i64,
    /// When its first batch was proposed, Unix milliseconds.
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

impl Snapshot {
    /// The first offset that remains of the partition of these files. Only of one with a tier is it
    /// before the first offset in the files: what is between is in the bucket.
    pub(crate) fn log_start(&self, files: &PartitionFiles) -> i64 {
        let partition = self.state.partitions.get(&files.partition);
        let tiered = partition.filter(|partition| partition.tier.is_some());
        tiered.map_or(files.local_start, |partition| partition.log_start)
    }
}

impl PartitionFiles {
    pub(crate) fn id(&self) -> PartitionIncarnation {
        PartitionIncarnation { partition: self.partition, incarnation: self.incarnation }
    }
}

impl SpillRun {
    /// A run in the file with this number, with the attributes that the file does not store.
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

    /// The run's extent in its file.
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
    /// Base offset of the active segment: only compaction changes the segments before it.
    pub(crate) fn segment_base(self) -> i64 {
        self.segment_base
    }
}

/// Why a snapshot cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A broker of another version wrote it. The directory must not be changed.
    #[error("{} has format version {version}; this broker supports versions 1 to {VERSION}", path.display())]
    UnknownVersion {
        /// Path of the snapshot.
        path: PathBuf,
        /// The version in the file.
        version: u32,
    },
    /// The file is damaged (D3).
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// Path of the snapshot.
        path: PathBuf,
        /// Description of the damage.
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
    /// The snapshots of `shard`.
    #[must_use]
    pub fn new(data: &DataDir, shard: ShardId) -> Self {
        Self { disk: Arc::clone(data.disk()), dir: data.snapshots(), shard }
    }

    /// The numbers of the snapshots on disk, oldest first.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn numbers(&self) -> Result<Vec<u64>, DirectoryError> {
        let prefix = self.prefix();
        let names = match self.disk.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(DirectoryError::io(&self.dir)(source)),
        };
        let number =
            |name: &String| name.strip_prefix(&prefix)?.strip_suffix(SUFFIX)?.parse::<u64>().ok();
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads a snapshot and verifies its checksum.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn load(&self, number: u64) -> Result<Snapshot, SnapshotError> {
        self.load_from(self.path(number))
    }

    /// Like [`Self::load`], from a file with another name.
    pub(crate) fn load_from(&self, path: PathBuf) -> Result<Snapshot, SnapshotError> {
        let bytes = read_whole(&*self.disk, &path, SNAPSHOT_BYTES_MAX)?;
        let snapshot = decode(&bytes, &path)?;
        if snapshot.shard != self.shard {
            return Err(SnapshotError::Damaged { path, what: "it belongs to another shard" });
        }
        Ok(snapshot)
    }

    /// Writes a snapshot, which is durable when this returns.
    ///
    /// # Errors
    /// When the disk fails. A failed sync is final (D2).
    pub fn write(&self, number: u64, snapshot: &Snapshot) -> Result<(), DirectoryError> {
        self.write_unnamed(number, snapshot)?;
        self.sync_names()
    }

    /// Writes a snapshot, whose name is durable after the next [`Self::sync_names`].
    ///
    /// # Errors
    /// See [`Self::write`].
    pub(crate) fn write_unnamed(
        &self,
        number: u64,
        snapshot: &Snapshot,
    ) -> Result<(), DirectoryError> {
        let unfinished = self.dir.join(format!("{}.{UNFINISHED}", self.shard.0));
        let path = self.path(number);
        let write = || -> io::Result<Arc<dyn File>> {
            let file = self.disk.open(&unfinished, Open::CreateOrTruncate)?;
            file.write_all_at(&encode(snapshot), 0)?;
            Ok(file)
        };
        let file = write().map_err(|error| {
            // Free the space. If the file cannot be removed, the next snapshot overwrites it.
            let _ = self.disk.remove(&unfinished);
            DirectoryError::io(&unfinished)(error)
        })?;
        file.sync("snapshot").map_err(DirectoryError::sync(&unfinished))?;
        self.disk.rename(&unfinished, &path).map_err(DirectoryError::io(&path))
    }

    /// Makes the names of all snapshots durable, those of other shards too.
    ///
    /// # Errors
    /// A failed sync is final (D2).
    pub(crate) fn sync_names(&self) -> Result<(), DirectoryError> {
        let synced = self.disk.sync_dir(&self.dir, "snapshot-directory");
        synced.map_err(DirectoryError::sync(&self.dir))
    }

    /// Removes all but `kept`, without a sync: one that a crash brings back is removed again.
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

    fn prefix(&self) -> String {
        format!("{}-", self.shard.0)
    }

    /// The path of a snapshot.
    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{}{number:020}{SUFFIX}", self.prefix()))
    }
}

/// A snapshot as bytes.
pub(crate) fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let earlier = earlier::version_of(snapshot);
    let version = earlier.unwrap_or(VERSION);
    let mut out = MAGIC.to_vec();
    out.extend(version.to_le_bytes());
    out.extend(snapshot.shard.0.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    let encoded = match earlier {
        Some(version) => earlier::encode(version, snapshot, out),
        None => postcard::to_extend(snapshot, out),
    };
    let mut out = encoded.expect("a snapshot always encodes");
    let length = (out.len() - HEAD_LEN) as u64;
    out[16..24].copy_from_slice(&length.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// Magic, version and checksum have the same place in every version, so that a flipped bit is
/// reported as damage, and only a file of another version as an unknown version.
fn decode(bytes: &[u8], path: &Path) -> Result<Snapshot, SnapshotError> {
    let damaged = |what| SnapshotError::Damaged { path: path.to_owned(), what };
    let head = bytes.get(..HEAD_LEN).ok_or_else(|| damaged("it is cut short"))?;
    if head[..8] != MAGIC {
        return Err(damaged("it has the wrong magic number"));
    }
    let (checked, crc) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(checked).to_le_bytes() != crc {
        return Err(damaged("its checksum does not match"));
    }
    let version = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes"));
    if !(1..=VERSION).contains(&version) {
        return Err(SnapshotError::UnknownVersion { path: path.to_owned(), version });
    }
    let length = u64::from_le_bytes(head[16..24].try_into().expect("8 bytes"));
    let body = bytes.len().checked_sub(HEAD_LEN + 4);
    if body.map(|body| body as u64) != Some(length) {
        return Err(damaged("its length is not the one in its header"));
    }
    let body = &checked[HEAD_LEN..];
    let snapshot = if version == VERSION {
        postcard::from_bytes(body)
    } else {
        earlier::decode(version, body)
    };
    snapshot.map_err(|_| damaged("it cannot be decoded"))
}

#[cfg(test)]
mod tests;
