//! The files of a shard that are being received.
//!
//! # Layout
//!
//! ```text
//! transfers/<shard>/manifest            what is received, and how much of it is durable
//! transfers/<shard>/manifest.unfinished only while the manifest is written
//! transfers/<shard>/snapshot            the snapshot of the sender
//! transfers/<shard>/<n>.spill           a spill file of the sender
//! transfers/<shard>/install             only during the installation (see `install`)
//! transfers/<shard>/install.copy        a copy of it, before it has its final name
//! partitions/<topic id>-<index>.<n>/    segments, under an incarnation that no snapshot names
//! ```
//! An index that is not complete has the extension `index.fetched`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{File, Open, is_full};
use ropewalk_segment::{SegmentError, copy};
use ropewalk_shard::ShardId;

use super::manifest::{FormatError, Manifest, SegmentOf, SetFile};
use crate::directory::{DataDir, DirectoryError, read_whole};
use crate::limits;
use crate::work::WorkError;

const MANIFEST: &str = "manifest";
const UNFINISHED: &str = "manifest.unfinished";
const SNAPSHOT: &str = "snapshot";
const INSTALL: &str = "install";
/// Largest manifest that is read: the list, and 40 bytes for each of its files.
const MANIFEST_BYTES_MAX: u64 = 4 * limits::TRANSFER_LIST_BYTES_MAX;

/// Why a step of a reception failed.
#[derive(Debug)]
pub(super) enum ReceiveError {
    /// The disk is full.
    Full,
    /// The files of the sender are not what their list says.
    Damaged(String),
    /// Any other error of the disk.
    Work(WorkError),
}

impl From<SegmentError> for ReceiveError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Full { .. } => Self::Full,
            SegmentError::Damaged(damage) => Self::Damaged(damage.to_string()),
            SegmentError::OutOfRange { .. }
            | SegmentError::NotNext { .. }
            | SegmentError::Io { .. }
            | SegmentError::SyncFailed { .. } => Self::Work(error.into()),
        }
    }
}

impl From<DirectoryError> for ReceiveError {
    fn from(error: DirectoryError) -> Self {
        let is_full = matches!(&error, DirectoryError::Io { source, .. } if is_full(source));
        if is_full { Self::Full } else { Self::Work(error.into()) }
    }
}

/// The files of one shard that are being received.
#[derive(Debug)]
pub(super) struct IncomingFiles {
    data: DataDir,
    shard: ShardId,
    /// Files with unsynced bytes. They stay open until their sync, because the kernel reports a
    /// write-back error only to open file descriptors.
    unsynced: BTreeMap<PathBuf, Arc<dyn File>>,
    /// Directories with names that are not durable.
    dirs: BTreeSet<PathBuf>,
}

impl IncomingFiles {
    pub(super) fn new(data: &DataDir, shard: ShardId) -> Self {
        let data = data.clone();
        Self { data, shard, unsynced: BTreeMap::new(), dirs: BTreeSet::new() }
    }

    pub(super) fn data(&self) -> &DataDir {
        &self.data
    }

    fn dir(&self) -> PathBuf {
        self.data.transfer(self.shard)
    }

    /// The snapshot of the sender.
    pub(super) fn snapshot(&self) -> PathBuf {
        self.dir().join(SNAPSHOT)
    }

    /// A spill file of the sender.
    pub(super) fn spill(&self, number: u64) -> PathBuf {
        self.dir().join(format!("{number:020}.spill"))
    }

    /// The snapshot that is being installed.
    pub(super) fn install(&self) -> PathBuf {
        self.dir().join(INSTALL)
    }

    /// A copy of that file, on its way to the other snapshots.
    pub(super) fn copy(&self) -> PathBuf {
        self.dir().join("install.copy")
    }

    /// The directory of a received partition.
    pub(super) fn partition(&self, manifest: &Manifest, of: &SegmentOf) -> PathBuf {
        self.data.partition(of.partition, manifest.incarnations[&of.partition])
    }

    /// The path of a file, or of the log of a segment.
    pub(super) fn content(&self, manifest: &Manifest, file: &SetFile) -> PathBuf {
        match file {
            SetFile::Snapshot { .. } => self.snapshot(),
            SetFile::Spill { number, .. } => self.spill(*number),
            SetFile::Segment(of) => {
                let [log, _] = copy::paths(&self.partition(manifest, of), of.base_offset);
                log
            }
        }
    }

    /// The path of an index, and its path while it is incomplete.
    pub(super) fn index(&self, manifest: &Manifest, of: &SegmentOf) -> (PathBuf, PathBuf) {
        let [_, index] = copy::paths(&self.partition(manifest, of), of.base_offset);
        let mut fetched = index.clone().into_os_string();
        fetched.push(".fetched");
        (index, fetched.into())
    }

    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Writes bytes to a file, which is created if it is missing.
    pub(super) fn write(&mut self, path: &Path, bytes: &[u8], at: u64) -> Result<(), ReceiveError> {
        let file = self.open(path)?;
        file.write_all_at(bytes, at).map_err(DirectoryError::io(path))?;
        file.start_write_back(at, bytes.len() as u64);
        Ok(())
    }

    /// Sets the length of a file, which is created if it is missing.
    pub(super) fn set_len(&mut self, path: &Path, bytes: u64) -> Result<(), ReceiveError> {
        let file = self.open(path)?;
        if file.len().map_err(DirectoryError::io(path))? != bytes {
            file.set_len(bytes).map_err(DirectoryError::io(path))?;
        }
        Ok(())
    }

    /// Renames a file, whose content is durable when this returns. Its new name is durable after
    /// [`Self::sync`].
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), ReceiveError> {
        self.open(from)?.sync("transfer").map_err(DirectoryError::sync(from))?;
        self.unsynced.remove(from);
        self.data.disk().rename(from, to).map_err(DirectoryError::io(to))?;
        self.dirs.extend(to.parent().map(Path::to_owned));
        Ok(())
    }

    fn open(&mut self, path: &Path) -> Result<Arc<dyn File>, ReceiveError> {
        if let Some(file) = self.unsynced.get(path) {
            return Ok(Arc::clone(file));
        }
        let disk = self.data.disk();
        let file = match disk.open(path, Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = path.parent().unwrap_or(Path::new("."));
                copy::make_dir(&**disk, dir)?;
                self.dirs.extend(dir.parent().map(Path::to_owned));
                self.dirs.insert(dir.to_owned());
                disk.open(path, Open::CreateOrTruncate)
            }
            opened => opened,
        };
        let file = file.map_err(DirectoryError::io(path))?;
        self.unsynced.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    /// Makes everything that was received durable, and then the manifest that says so.
    pub(super) fn save(&mut self, manifest: &Manifest) -> Result<(), ReceiveError> {
        self.sync()?;
        let (dir, disk) = (self.dir(), Arc::clone(self.data.disk()));
        self.data.create_dir(&dir)?;
        let (unfinished, path) = (dir.join(UNFINISHED), dir.join(MANIFEST));
        self.put(&unfinished, &manifest.encode())?;
        disk.rename(&unfinished, &path).map_err(DirectoryError::io(&path))?;
        let synced = disk.sync_dir(&dir, "transfer-manifest-directory");
        Ok(synced.map_err(DirectoryError::sync(&dir))?)
    }

    /// Writes a whole file, durably. Its name is not durable.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
        let file = self.data.disk().open(path, Open::CreateOrTruncate);
        let file = file.map_err(DirectoryError::io(path))?;
        file.write_all_at(bytes, 0).map_err(DirectoryError::io(path))?;
        file.sync("transfer-manifest").map_err(DirectoryError::sync(path))
    }

    /// Makes everything that was received durable.
    fn sync(&mut self) -> Result<(), DirectoryError> {
        for (path, file) in &self.unsynced {
            file.sync("transfer").map_err(DirectoryError::sync(path))?;
        }
        self.unsynced.clear();
        for dir in &self.dirs {
            let synced = self.data.disk().sync_dir(dir, "transfer-directory");
            synced.map_err(DirectoryError::sync(dir))?;
        }
        self.dirs.clear();
        Ok(())
    }

    /// The manifest; `None` if there is none that can be used.
    pub(super) fn load(&self) -> Result<Option<Manifest>, DirectoryError> {
        let path = self.dir().join(MANIFEST);
        if !self.data.disk().exists(&path).map_err(DirectoryError::io(&path))? {
            return Ok(None);
        }
        let bytes = read_whole(&**self.data.disk(), &path, MANIFEST_BYTES_MAX)?;
        match Manifest::decode(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(FormatError::Version(version)) => {
                Err(DirectoryError::UnknownVersion { path, version })
            }
            Err(error @ FormatError::Damaged(_)) => {
                tracing::warn!(path = %path.display(), %error, "a transfer begins again");
                Ok(None)
            }
        }
    }

    /// Removes all traces of the transfer except the received partitions; first, durably, the
    /// manifest that keeps those.
    pub(super) fn forget(&mut self) -> Result<(), DirectoryError> {
        self.unsynced.clear();
        self.dirs.clear();
        let (dir, disk) = (self.dir(), Arc::clone(self.data.disk()));
        let names = self.data.names(&dir)?;
        for name in [MANIFEST, INSTALL] {
            if names.iter().any(|there| there == name) {
                let path = dir.join(name);
                disk.remove(&path).map_err(DirectoryError::io(&path))?;
            }
        }
        if !names.is_empty() {
            let synced = disk.sync_dir(&dir, "transfer-manifest-directory");
            synced.map_err(DirectoryError::sync(&dir))?;
        }
        self.data.remove_all_in(&dir)
    }

    /// Removes all traces of the transfer.
    pub(super) fn abandon(&mut self, manifest: Option<&Manifest>) -> Result<(), DirectoryError> {
        self.forget()?;
        for (partition, incarnation) in manifest.iter().flat_map(|found| &found.incarnations) {
            self.data.remove_all_in(&self.data.partition(*partition, *incarnation))?;
        }
        Ok(())
    }
}
