//! The data directory of a broker: its layout, identity, lock and formatting.
//!
//! # Layout
//!
//! ```text
//! meta                                    identity of the broker, and the format version
//! meta.forming                            only while the directory is being formatted
//! meta.mended                             only while a damaged meta is rewritten
//! lock                                    locked by the broker that uses the directory
//! incarnation                             number of the last start (see `incarnation`)
//! starts                                  the last starts, to recognise a copy (see `starts`)
//! wal/                                    the write-ahead log of all shards
//! snapshots/<shard>-<n>.snapshot          the newest two snapshots of each shard (see `snapshot`)
//! shards/<shard>/spill/<n>.spill          small tails of many partitions, one file a checkpoint
//! shards/<shard>/quarantined-<replica>    why this replica must not start (see `quarantine`)
//! shards/<shard>/destroyed-<replica>      the catalog has removed this replica (see `destroyed`)
//! partitions/<topic id>-<index>.<n>/      segments of a partition in its n-th incarnation
//! transfers/<shard>/                      what is received from another broker (see `transfer`)
//! ```
//!
//! `meta` is `[magic "RWMETA\0\0"][version u32 LE][length u32 LE][postcard of Identity][CRC-32C u32
//! LE over all before]`. Version 1 has no [`Identity::is_joined`]. An unknown version is refused
//! before anything else is read.
//!
//! A partition that is closed and opened again gets a new incarnation: a number that no directory
//! has had, so that files which an older snapshot still names are never overwritten.
//!
//! # After a crash
//!
//! Formatting makes `meta.forming` durable first and renames it to `meta` last. A directory with
//! only `meta.forming` has never served and is formatted again. A directory with `meta` is never
//! formatted, whatever else is missing from it (D4).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Disk, Lock, Open};
use ropewalk_shard::{BrokerId, PartitionId, ShardId};
use serde::{Deserialize, Serialize};

mod incarnation;
mod starts;

pub use starts::{STARTS_MAX, Start};

const MAGIC: [u8; 8] = *b"RWMETA\0\0";
/// The format version that this broker reads and writes.
const VERSION: u32 = 2;
/// Brokers of version 1 were all first ones.
const VERSION_ALL_FIRST: u32 = 1;
const META_BYTES_MAX: u64 = 64 * 1024;
const META: &str = "meta";
const FORMING: &str = "meta.forming";
const REWRITTEN: &str = "meta.mended";
const LOCK: &str = "lock";
const WAL: &str = "wal";
const SHARDS: &str = "shards";
const SNAPSHOTS: &str = "snapshots";
const PARTITIONS: &str = "partitions";
const TRANSFERS: &str = "transfers";
/// Names that a filesystem creates in its root.
const NOT_OURS: [&str; 1] = ["lost+found"];

/// The broker that a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Id of the cluster.
    pub cluster_id: String,
    /// Id of the broker in the cluster.
    pub broker_id: BrokerId,
    /// Number of shards that the cluster was created with, without the catalog.
    pub shards: u32,
    /// Whether the broker joined a cluster: then it was formatted without any shard, and holds
    /// those that it has received. Otherwise it was the first one, and was formatted with all.
    pub is_joined: bool,
}

impl Identity {
    /// The first broker of a new cluster of `shards` shards.
    #[must_use]
    pub fn first(cluster_id: String, broker_id: BrokerId, shards: u32) -> Self {
        Self { cluster_id, broker_id, shards, is_joined: false }
    }

    /// A broker that joins a cluster of `shards` shards.
    #[must_use]
    pub fn joining(cluster_id: String, broker_id: BrokerId, shards: u32) -> Self {
        Self { cluster_id, broker_id, shards, is_joined: true }
    }
}

/// An identity of version 1.
#[derive(Deserialize)]
struct FirstIdentity {
    cluster_id: String,
    broker_id: BrokerId,
    shards: u32,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has locked it.
    #[error("{} is in use by another broker", .0.display())]
    InUse(PathBuf),
    /// It is empty and has to be formatted first.
    #[error("{} is empty: it has to be formatted before a broker can run on it", .0.display())]
    Empty(PathBuf),
    /// It has files, but they are not a broker's data.
    #[error("{} contains '{stranger}' and is not a data directory", path.display())]
    Foreign {
        /// Path of the directory.
        path: PathBuf,
        /// A name in it that is not a broker's.
        stranger: String,
    },
    /// It is formatted already, and is not formatted again.
    #[error("{} belongs to broker {} of cluster {} already", path.display(), identity.broker_id.0, identity.cluster_id)]
    Formatted {
        /// Path of the directory.
        path: PathBuf,
        /// The broker that it belongs to.
        identity: Identity,
    },
    /// Written by another version of the broker.
    #[error("{} has format version {version}; this broker supports version {VERSION}", path.display())]
    UnknownVersion {
        /// The file with the version.
        path: PathBuf,
        /// The version in the file.
        version: u32,
    },
    /// A file is damaged (D3).
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Description of the damage.
        what: String,
    },
    /// A sync failed: written data may be lost, although it can be read (D2). The process ends.
    #[error("sync of {} failed: {source}", path.display())]
    SyncFailed {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An operation on the file or directory failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl DirectoryError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn sync(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::SyncFailed { path, source }
    }
}

/// The state of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirContents {
    /// The directory is empty or does not exist.
    Empty,
    /// Formatting was started and not finished.
    HalfFormatted,
    /// The directory is formatted for this broker.
    Formatted(Identity),
}

/// A data directory and the paths in it.
#[derive(Clone)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataDir({})", self.root.display())
    }
}

impl DataDir {
    /// The directory at `root`, which need not exist.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, root: PathBuf) -> Self {
        Self { disk, root }
    }

    /// The disk that holds the directory.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Path of the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of the write-ahead log.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.root.join(WAL)
    }

    /// One directory for all shards: a checkpoint of many makes their names durable at once.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join(SNAPSHOTS)
    }

    pub(crate) fn spill(&self, shard: ShardId) -> PathBuf {
        self.shard(shard).join("spill")
    }

    pub(crate) fn spill_file(&self, shard: ShardId, number: u64) -> PathBuf {
        self.spill(shard).join(format!("{number:020}.spill"))
    }

    pub(crate) fn partitions(&self) -> PathBuf {
        self.root.join(PARTITIONS)
    }

    pub(crate) fn partition(&self, partition: PartitionId, incarnation: u64) -> PathBuf {
        self.partitions().join(Self::partition_name(partition, incarnation))
    }

    pub(crate) fn partition_name(partition: PartitionId, incarnation: u64) -> String {
        format!("{partition}.{incarnation}")
    }

    pub(crate) fn transfers(&self) -> PathBuf {
        self.root.join(TRANSFERS)
    }

    pub(crate) fn transfer(&self, shard: ShardId) -> PathBuf {
        self.transfers().join(shard.0.to_string())
    }

    pub(crate) fn shard(&self, shard: ShardId) -> PathBuf {
        self.root.join(SHARDS).join(shard.0.to_string())
    }

    /// The shards that have a directory.
    pub(crate) fn shards(&self) -> Result<Vec<ShardId>, DirectoryError> {
        let names = self.names(&self.root.join(SHARDS))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).map(ShardId).collect())
    }

    /// Locks the directory against a second broker, and creates it if it is missing. A directory
    /// with other files is refused before a file is created in it.
    ///
    /// # Errors
    /// When another process holds the lock, or the directory is not a broker's.
    pub fn lock(&self) -> Result<Lock, DirectoryError> {
        if let Err(error @ DirectoryError::Foreign { .. }) = self.contents() {
            return Err(error);
        }
        let disk = &self.disk;
        disk.create_dir_all(&self.root).map_err(DirectoryError::io(&self.root))?;
        let path = self.root.join(LOCK);
        disk.lock(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                return DirectoryError::InUse(self.root.clone());
            }
            DirectoryError::Io { path, source: error }
        })
    }

    /// Whether the directory is formatted, and for which broker.
    ///
    /// # Errors
    /// When it is neither empty nor a data directory of a supported version.
    pub fn contents(&self) -> Result<DataDirContents, DirectoryError> {
        let names = self.names(&self.root)?;
        if names.iter().any(|name| name == META) {
            return self.read_meta().map(DataDirContents::Formatted);
        }
        if names.iter().any(|name| name == FORMING) {
            return Ok(DataDirContents::HalfFormatted);
        }
        let ignored = |name: &str| name == LOCK || NOT_OURS.contains(&name);
        match names.into_iter().find(|name| !ignored(name)) {
            None => Ok(DataDirContents::Empty),
            Some(stranger) => Err(DirectoryError::Foreign { path: self.root.clone(), stranger }),
        }
    }

    /// Begins formatting: the directory counts as empty until [`Self::finish_formatting`]. Removes
    /// the files of an earlier attempt.
    ///
    /// # Errors
    /// When the directory is not empty, or the disk fails.
    pub(crate) fn begin_formatting(&self, identity: &Identity) -> Result<(), DirectoryError> {
        match self.contents()? {
            DataDirContents::Formatted(identity) => {
                return Err(DirectoryError::Formatted { path: self.root.clone(), identity });
            }
            DataDirContents::Empty | DataDirContents::HalfFormatted => {}
        }
        self.create_dir(&self.root)?;
        let path = self.root.join(FORMING);
        let write = || -> io::Result<()> {
            let file = self.disk.open(&path, Open::CreateOrTruncate)?;
            file.write_all_at(&encode_meta(identity), 0)?;
            file.sync("meta")?;
            self.disk.sync_dir(&self.root, "meta-directory")
        };
        write().map_err(DirectoryError::io(&path))?;
        self.remove_all_in(&self.wal())?;
        self.remove_all_in(&self.snapshots())?;
        let shards = self.root.join(SHARDS);
        for shard in self.names(&shards)? {
            self.remove_all_in(&shards.join(&shard).join("spill"))?;
        }
        Ok(())
    }

    /// Replaces a damaged `meta`.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn rewrite_meta(&self, identity: &Identity) -> Result<(), DirectoryError> {
        let (rewritten, meta) = (self.root.join(REWRITTEN), self.root.join(META));
        let write = || -> io::Result<()> {
            let file = self.disk.open(&rewritten, Open::CreateOrTruncate)?;
            file.write_all_at(&encode_meta(identity), 0)?;
            file.sync("meta")?;
            self.disk.rename(&rewritten, &meta)
        };
        write().map_err(DirectoryError::io(&meta))?;
        self.sync_root()
    }

    /// Ends formatting: the directory counts as formatted from here on.
    ///
    /// # Errors
    /// When the disk fails; only the next start can then see whether the directory is formatted.
    pub(crate) fn finish_formatting(&self) -> Result<(), DirectoryError> {
        let (from, to) = (self.root.join(FORMING), self.root.join(META));
        self.disk.rename(&from, &to).map_err(DirectoryError::io(&to))?;
        self.sync_root()
    }

    /// Makes durable what [`Self::contents`] read. An earlier process may have failed to sync the
    /// rename of `meta` and ended, and left it in the page cache only.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn sync_root(&self) -> Result<(), DirectoryError> {
        let synced = self.disk.sync_dir(&self.root, "meta-directory");
        synced.map_err(DirectoryError::sync(&self.root))
    }

    fn read_meta(&self) -> Result<Identity, DirectoryError> {
        let path = self.root.join(META);
        let bytes = read_whole(&*self.disk, &path, META_BYTES_MAX)?;
        decode_meta(&bytes).map_err(|error| match error {
            MetaError::Version(version) => {
                DirectoryError::UnknownVersion { path: path.clone(), version }
            }
            MetaError::Damaged(what) => {
                DirectoryError::Damaged { path: path.clone(), what: what.to_owned() }
            }
        })
    }

    /// The names in a directory; none if it does not exist.
    pub(crate) fn names(&self, dir: &Path) -> Result<Vec<String>, DirectoryError> {
        match self.disk.list(dir) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(DirectoryError::Io { path: dir.to_owned(), source }),
        }
    }

    /// Starts write-back of all dirty pages. See [`Disk::write_back`].
    pub(crate) fn write_back(&self) {
        self.disk.write_back(&self.root);
    }

    /// Creates a directory, durably.
    pub(crate) fn create_dir(&self, dir: &Path) -> Result<(), DirectoryError> {
        self.disk.create_dir_all(dir).map_err(DirectoryError::io(dir))
    }

    /// Removes every file in a directory, without a sync.
    pub(crate) fn remove_all_in(&self, dir: &Path) -> Result<(), DirectoryError> {
        for name in self.names(dir)? {
            let path = dir.join(name);
            self.disk.remove(&path).map_err(DirectoryError::io(&path))?;
        }
        Ok(())
    }
}

/// Reads a whole file of at most `len_max` bytes.
pub(crate) fn read_whole(
    disk: &dyn Disk,
    path: &Path,
    len_max: u64,
) -> Result<Vec<u8>, DirectoryError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(path, Open::Read)?;
        let len = file.len()?;
        if len > len_max {
            return Err(io::Error::other(format!("{len} bytes are more than {len_max}")));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(DirectoryError::io(path))
}

#[derive(Debug, PartialEq, Eq)]
enum MetaError {
    Version(u32),
    Damaged(&'static str),
}

fn encode_meta(identity: &Identity) -> Vec<u8> {
    let body = postcard::to_allocvec(identity).expect("an identity always encodes");
    let length = u32::try_from(body.len()).expect("an identity is short");
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(body);
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// Magic, version and checksum have the same place in every version, so that a flipped bit is
/// reported as damage, and only a file of another version as an unknown version.
fn decode_meta(bytes: &[u8]) -> Result<Identity, MetaError> {
    if bytes.len() < 20 || bytes[..8] != MAGIC {
        return Err(MetaError::Damaged("it has the wrong magic number"));
    }
    let (checked, crc) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(checked).to_le_bytes() != crc {
        return Err(MetaError::Damaged("its checksum does not match"));
    }
    let version = u32::from_le_bytes(checked[8..12].try_into().expect("4 bytes"));
    if version != VERSION && version != VERSION_ALL_FIRST {
        return Err(MetaError::Version(version));
    }
    let length = u32::from_le_bytes(checked[12..16].try_into().expect("4 bytes"));
    let body = &checked[16..];
    if body.len() != length as usize {
        return Err(MetaError::Damaged("its length is not the one in its header"));
    }
    let damaged = |_| MetaError::Damaged("it cannot be decoded");
    if version == VERSION_ALL_FIRST {
        let FirstIdentity { cluster_id, broker_id, shards } =
            postcard::from_bytes(body).map_err(damaged)?;
        return Ok(Identity::first(cluster_id, broker_id, shards));
    }
    postcard::from_bytes(body).map_err(damaged)
}

#[cfg(test)]
mod tests;
