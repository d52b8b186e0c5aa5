//! File names of a partition, and the bounded cache of open files.
//!
//! Reads get their files from the segment's own [`Slot`], which [`FileCache`] empties when too many
//! are filled. Writers open a file themselves and keep it open until its fsync, because the kernel
//! reports a write-back error only to file descriptors that were open at the time.
//!
//! Invariants:
//! - At most `open_files_max` files are kept open, for all partitions together. A reader holds an
//!   `Arc`, so an eviction does not affect it.
//! - A slot belongs to one segment of the view and is filled under the view's lock, so it has the
//!   files that the view describes. A segment that replaces another has a slot of its own.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ropewalk_disk::{Disk, File};

use crate::error::Result;
use crate::index::search::IndexFile;

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

/// The open files of a segment.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    pub(crate) log: Arc<dyn File>,
    pub(crate) log_path: Arc<Path>,
    /// Without a block: how many may be read depends on when the segment is opened.
    pub(crate) index: IndexFile,
}

/// The place of a segment for its open files. It is empty until the first read, and again when the
/// cache closes the files. It ends with the segment in the view, so a reader never gets the files
/// of another segment.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    files: Mutex<Option<Arc<OpenFiles>>>,
    /// Whether the files were read since the cache last looked.
    is_used: AtomicBool,
}

/// Closes the files of the segments that are read least, of all partitions together.
///
/// The files themselves are in the segments' own places, so that a read looks up no path. The cache
/// has a queue of the places that are filled; a place whose files were read since it was queued is
/// queued again instead of emptied.
#[derive(Debug)]
pub struct FileCache {
    segments_max: usize,
    filled: Mutex<VecDeque<Weak<Slot>>>,
}

impl FileCache {
    /// A cache that keeps at most `open_files_max` files open, but at least the two of one segment.
    #[must_use]
    pub fn new(open_files_max: usize) -> Self {
        Self { segments_max: (open_files_max / 2).max(1), filled: Mutex::default() }
    }

    /// Returns the files in `slot`, and opens them if there are none.
    pub(crate) fn files(
        &self,
        slot: &Arc<Slot>,
        open: impl FnOnce() -> Result<OpenFiles>,
    ) -> Result<Arc<OpenFiles>> {
        slot.is_used.store(true, Ordering::Relaxed);
        let files = {
            let mut place = slot.files.lock();
            if let Some(files) = &*place {
                return Ok(Arc::clone(files));
            }
            Arc::clone(place.insert(Arc::new(open()?)))
        };
        // Without the lock of a slot, because an eviction takes it under this one.
        let mut filled = self.filled.lock();
        filled.push_back(Arc::downgrade(slot));
        while filled.len() > self.segments_max {
            let Some(oldest) = filled.pop_front() else { break };
            // The place of a segment that was removed is gone.
            let Some(slot) = oldest.upgrade() else { continue };
            if slot.is_used.swap(false, Ordering::Relaxed) {
                filled.push_back(oldest);
            } else {
                *slot.files.lock() = None;
            }
        }
        Ok(files)
    }

    /// Closes the files, and releases the index entries, of segments that were not read since the
    /// last call.
    pub fn close_idle(&self) {
        self.filled.lock().retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            let stays = slot.is_used.swap(false, Ordering::Relaxed);
            if !stays {
                *slot.files.lock() = None;
            }
            stays
        });
    }

    /// Number of files that are kept open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        2 * self.filled.lock().iter().filter(|slot| slot.strong_count() > 0).count()
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
