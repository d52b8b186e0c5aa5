//! File names of a partition, and the bounded cache of open files.
//!
//! Reads get their files from [`FileCache`]. Writers open a file themselves and keep it open until
//! its fsync, because the kernel reports a write-back error only to file descriptors that were open
//! at the time.
//!
//! Invariants:
//! - The cache has at most `open_files_max` files, for all partitions together. A reader holds an
//!   `Arc`, so an eviction does not affect it.
//! - When a file is removed or replaced, it is also removed from the cache, under the lock of the
//!   partition's view, so that no reader gets the old file by the path.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_disk::{Disk, File, Open};

/// Record batches, nothing else.
pub(crate) const LOG: &str = "log";
/// Index of the `.log` with the same base offset.
pub(crate) const INDEX: &str = "index";
/// An index that is being rebuilt from its log.
pub(crate) const REBUILT_INDEX: &str = "index.rebuilt";
/// A compacted log before its index is complete.
pub(crate) const CLEANED_LOG: &str = "log.cleaned";
/// The index of a compacted log before the replacement is committed.
pub(crate) const CLEANED_INDEX: &str = "index.cleaned";
/// The same index after the commit: recovery completes the replacement.
pub(crate) const SWAP_INDEX: &str = "index.swap";

/// The path of a file of the segment with this base offset.
pub(crate) fn path(dir: &Path, base_offset: i64, extension: &str) -> PathBuf {
    dir.join(format!("{base_offset:020}.{extension}"))
}

/// Creates the directory of a partition, which is durable after the next sync. Its parent directory
/// is durable at once.
pub(crate) fn make_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    if disk.exists(dir)? {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        disk.create_dir_all(parent)?;
    }
    disk.create_dir(dir)
}

/// The base offset and the extension in a file name; `None` for any other name.
pub(crate) fn parse(name: &str) -> Option<(i64, &str)> {
    let (digits, extension) = name.split_once('.')?;
    let ours = [LOG, INDEX, REBUILT_INDEX, CLEANED_LOG, CLEANED_INDEX, SWAP_INDEX];
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && ours.contains(&extension)).then_some(())?;
    Some((digits.parse().ok()?, extension))
}

/// Cache of the open files of all partitions. The least recently used one is evicted first.
#[derive(Debug)]
pub struct FileCache {
    open_files_max: usize,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    clock: u64,
    by_path: HashMap<PathBuf, (Arc<dyn File>, u64)>,
    by_use: BTreeMap<u64, PathBuf>,
}

impl FileCache {
    /// A cache that keeps at most `open_files_max` files open.
    #[must_use]
    pub fn new(open_files_max: usize) -> Self {
        Self { open_files_max, open: Mutex::default() }
    }

    /// Returns the file at `path`, and opens it for reading if it is not in the cache.
    pub(crate) fn read(&self, disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.open.lock().touch(path) {
            return Ok(file);
        }
        let file = disk.open(path, Open::Read)?;
        let mut open = self.open.lock();
        open.insert(path.to_owned(), file.clone());
        while open.by_path.len() > self.open_files_max {
            open.evict();
        }
        Ok(file)
    }

    /// Removes `path` from the cache, because it is removed or replaced.
    pub(crate) fn remove(&self, path: &Path) {
        let mut open = self.open.lock();
        if let Some((_, used)) = open.by_path.remove(path) {
            open.by_use.remove(&used);
        }
    }

    /// Removes all files in `dir` from the cache, because they change.
    pub(crate) fn remove_dir(&self, dir: &Path) {
        let mut open = self.open.lock();
        let OpenFiles { by_path, by_use, .. } = &mut *open;
        by_path.retain(|path, (_, used)| {
            let stays = path.parent() != Some(dir);
            if !stays {
                by_use.remove(used);
            }
            stays
        });
    }

    /// Number of files in the cache, for the metrics.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.open.lock().by_path.len()
    }
}

impl OpenFiles {
    fn touch(&mut self, path: &Path) -> Option<Arc<dyn File>> {
        let (file, used) = self.by_path.get_mut(path)?;
        self.clock += 1;
        let path = self.by_use.remove(used).expect("both maps hold the same files");
        self.by_use.insert(self.clock, path);
        *used = self.clock;
        Some(file.clone())
    }

    fn insert(&mut self, path: PathBuf, file: Arc<dyn File>) {
        self.clock += 1;
        if let Some((_, used)) = self.by_path.insert(path.clone(), (file, self.clock)) {
            self.by_use.remove(&used); // Two readers opened it concurrently.
        }
        self.by_use.insert(self.clock, path);
    }

    fn evict(&mut self) {
        if let Some((_, path)) = self.by_use.pop_first() {
            self.by_path.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_strangers_are_left_alone() {
        let dir = Path::new("d");
        assert_eq!(path(dir, 42, LOG), Path::new("d/00000000000000000042.log"));
        assert_eq!(parse("00000000000000000042.index.swap"), Some((42, SWAP_INDEX)));
        for stranger in ["42.log", "0000000000000000004x.log", "lost+found", "meta.log", ""] {
            assert_eq!(parse(stranger), None, "{stranger}");
        }
        assert_eq!(parse("99999999999999999999.log"), None, "does not fit an offset");
    }
}
