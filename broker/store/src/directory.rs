//! The data directory of a broker: what lies where, whose it is, and how it comes to be.
//!
//! # Layout
//!
//! ```text
//! meta                                    whose directory this is, in which format
//! meta.forming                            only while it is being formatted
//! meta.mended                             only while a damaged meta is written anew
//! lock                                    held by the one broker that uses the directory
//! wal/                                    the write-ahead log of all shards
//! shards/<shard>/snapshots/<n>.snapshot   the newest two snapshots (see `snapshot`)
//! shards/<shard>/spill/<n>.spill          small tails of many partitions, one file a checkpoint
//! partitions/<topic id>-<index>.<n>/      segments of a partition in its n-th incarnation
//! ```
//!
//! `meta` is `[magic "RWMETA\0\0"][version u32 LE][length u32 LE][postcard of Identity][CRC-32C u32 LE
//! over all before]`. A version that is not ours is refused before anything else is read.
//!
//! A partition that is closed and opened again is another one to the disk: its incarnation has a number that no
//! directory has had, so that files which an older snapshot still names are never written again.
//!
//! # After a crash
//!
//! `meta.forming` is made durable before anything else and becomes `meta` after everything else. A
//! directory with only the former is half formatted: it never served, and is formatted anew. A
//! directory with `meta` is never formatted, whatever else is missing from it (D4).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Disk, Lock, Open};
use ropewalk_shard::{BrokerId, PartitionId, ShardId};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"RWMETA\0\0";
/// The one layout this broker knows.
const VERSION: u32 = 1;
const META_BYTES_MAX: u64 = 64 * 1024;
const META: &str = "meta";
const FORMING: &str = "meta.forming";
const MENDED: &str = "meta.mended";
const LOCK: &str = "lock";
const WAL: &str = "wal";
const SHARDS: &str = "shards";
const PARTITIONS: &str = "partitions";
/// What a filesystem may put into its root by itself.
const NOT_OURS: [&str; 1] = ["lost+found"];

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The broker in it.
    pub broker_id: BrokerId,
    /// How many shards the cluster was born with, the catalog not counted.
    pub shards: u32,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process uses it.
    #[error("{} is in use by another broker", .0.display())]
    InUse(PathBuf),
    /// There is nothing in it: it has to be formatted first.
    #[error("{} is empty: it has to be formatted before a broker can run on it", .0.display())]
    Empty(PathBuf),
    /// It holds something, but not a broker's data.
    #[error("{} holds '{stranger}' and is not a data directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something found there.
        stranger: String,
    },
    /// It is formatted already, and is not formatted again.
    #[error("{} belongs to broker {} of cluster {} already", path.display(), identity.broker_id.0, identity.cluster_id)]
    Formatted {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        identity: Identity,
    },
    /// Written by another version of the broker.
    #[error("{} has format version {version}; this broker knows version {VERSION}", path.display())]
    UnknownVersion {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
    /// What is in it is not what was written (D3).
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A sync failed: what was written may be lost, although it can be read (D2). The process ends.
    #[error("sync of {} failed: {source}", path.display())]
    SyncFailed {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
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

/// What a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirContents {
    /// Nothing is there, or not even the directory.
    Empty,
    /// A formatting of it was begun and not finished.
    HalfFormatted,
    /// It is a broker's.
    Formatted(Identity),
}

/// A data directory and the names in it.
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
    /// The directory at `root`, whatever is there.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, root: PathBuf) -> Self {
        Self { disk, root }
    }

    /// The disk it is on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The write-ahead log.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.root.join(WAL)
    }

    pub(crate) fn snapshots(&self, shard: ShardId) -> PathBuf {
        self.shard(shard).join("snapshots")
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

    fn shard(&self, shard: ShardId) -> PathBuf {
        self.root.join(SHARDS).join(shard.0.to_string())
    }

    /// Takes the lock that keeps a second broker out, making the directory if it is missing. A directory
    /// that holds other things is refused before a file is made in it.
    ///
    /// # Errors
    /// When another process has it, or the directory is not a broker's.
    pub fn lock(&self) -> Result<Lock, DirectoryError> {
        if let Err(error @ DirectoryError::Foreign { .. }) = self.look() {
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

    /// What the directory is.
    ///
    /// # Errors
    /// When it is neither empty nor a data directory of a version that this broker knows.
    pub fn look(&self) -> Result<DataDirContents, DirectoryError> {
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

    /// Begins to format: what is done until [`Self::finish_formatting`] never counts unless that
    /// is reached. What an earlier attempt left is removed.
    ///
    /// # Errors
    /// When the directory is not empty, or the disk fails.
    pub(crate) fn begin_formatting(&self, identity: &Identity) -> Result<(), DirectoryError> {
        match self.look()? {
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
        let shards = self.root.join(SHARDS);
        for shard in self.names(&shards)? {
            for kind in ["snapshots", "spill"] {
                self.remove_all_in(&shards.join(&shard).join(kind))?;
            }
        }
        Ok(())
    }

    /// Writes `meta` anew over one that is damaged.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn mend_meta(&self, identity: &Identity) -> Result<(), DirectoryError> {
        let (mended, meta) = (self.root.join(MENDED), self.root.join(META));
        let write = || -> io::Result<()> {
            let file = self.disk.open(&mended, Open::CreateOrTruncate)?;
            file.write_all_at(&encode_meta(identity), 0)?;
            file.sync("meta")?;
            self.disk.rename(&mended, &meta)
        };
        write().map_err(DirectoryError::io(&meta))?;
        self.settle()
    }

    /// The directory is whole from here on.
    ///
    /// # Errors
    /// When the disk fails; whether it is formatted is then known after the next start.
    pub(crate) fn finish_formatting(&self) -> Result<(), DirectoryError> {
        let (from, to) = (self.root.join(FORMING), self.root.join(META));
        self.disk.rename(&from, &to).map_err(DirectoryError::io(&to))?;
        self.settle()
    }

    /// What [`Self::look`] found stays so. A process that could not make it durable may have died of that
    /// before it served, and left it in the page cache.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn settle(&self) -> Result<(), DirectoryError> {
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

    /// The names in a directory; none if it is not there.
    pub(crate) fn names(&self, dir: &Path) -> Result<Vec<String>, DirectoryError> {
        match self.disk.list(dir) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(DirectoryError::Io { path: dir.to_owned(), source }),
        }
    }

    /// Gets what was written on its way to the disk, all at once. See [`Disk::write_back`].
    pub(crate) fn write_back(&self) {
        self.disk.write_back(&self.root);
    }

    /// Makes a directory, durably.
    pub(crate) fn create_dir(&self, dir: &Path) -> Result<(), DirectoryError> {
        self.disk.create_dir_all(dir).map_err(DirectoryError::io(dir))
    }

    /// Removes every file in a directory, not durably.
    pub(crate) fn remove_all_in(&self, dir: &Path) -> Result<(), DirectoryError> {
        for name in self.names(dir)? {
            let path = dir.join(name);
            self.disk.remove(&path).map_err(DirectoryError::io(&path))?;
        }
        Ok(())
    }
}

/// Reads a file that may be as long as `len_max`.
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

/// Magic, version and checksum stay where they are in every version to come: a flipped bit is
/// damage, whichever it hits, and only what another version wrote is refused as that.
fn decode_meta(bytes: &[u8]) -> Result<Identity, MetaError> {
    if bytes.len() < 20 || bytes[..8] != MAGIC {
        return Err(MetaError::Damaged("it does not begin like one of ours"));
    }
    let (checked, crc) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(checked).to_le_bytes() != crc {
        return Err(MetaError::Damaged("its checksum does not hold"));
    }
    let version = u32::from_le_bytes(checked[8..12].try_into().expect("4 bytes"));
    if version != VERSION {
        return Err(MetaError::Version(version));
    }
    let length = u32::from_le_bytes(checked[12..16].try_into().expect("4 bytes"));
    let body = &checked[16..];
    if body.len() != length as usize {
        return Err(MetaError::Damaged("its length is not the one it names"));
    }
    postcard::from_bytes(body).map_err(|_| MetaError::Damaged("it does not decode"))
}

#[cfg(test)]
mod tests;
