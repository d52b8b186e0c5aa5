//! Frees the blocks of large removed files a piece at a time.
//!
//! A file system that is mounted with `discard` passes each freed range to the device, and the
//! device may need 60 ms for the 64 MiB of a segment, in which it ends no other write. So a large
//! file is unlinked at once, and a thread then shortens it by [`PIECE_BYTES`] after another, each
//! in a transaction of its own of the file system.
//!
//! A reader may still have the file open, and finds its content until it closes it: the file is
//! shortened only when no other handle of this disk is open. When the process ends, the file system
//! frees what is left.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// Bytes that are freed together: at the speed above, 4 ms.
const PIECE_BYTES: u64 = 4 << 20;
/// Pause after each piece: together 280 MB/s.
const PAUSE: Duration = Duration::from_millis(10);
/// Smaller files are freed at once.
const LARGE_BYTES: u64 = 16 << 20;
/// How often a file that is still open is checked again.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A file on its device.
type Inode = (u64, u64);

/// How many handles of each file are open.
#[derive(Debug, Default)]
struct Handles(Mutex<HashMap<Inode, usize>>);

/// An open handle, which is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    handles: Arc<Handles>,
    inode: Inode,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut handles = self.handles.0.lock();
        if let Some(count) = handles.get_mut(&self.inode) {
            *count -= 1;
            if *count == 0 {
                handles.remove(&self.inode);
            }
        }
    }
}

/// A large file without a name.
#[derive(Debug)]
struct Removed {
    file: fs::File,
    inode: Inode,
    bytes: u64,
}

/// Removes files. The thread starts with the first large one, and ends when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Reclaimer {
    handles: Arc<Handles>,
    queue: OnceLock<Option<mpsc::Sender<Removed>>>,
}

impl Reclaimer {
    /// Counts a handle of the file with this metadata.
    pub(crate) fn handle(&self, metadata: &fs::Metadata) -> Handle {
        let inode = (metadata.dev(), metadata.ino());
        *self.handles.0.lock().entry(inode).or_insert(0) += 1;
        Handle { handles: Arc::clone(&self.handles), inode }
    }

    /// Unlinks a file. The space of a large one becomes free in the next seconds.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        // An error here means only that the file is freed at once.
        let large = open_large(path).ok().flatten();
        fs::remove_file(path)?;
        if let (Some(removed), Some(queue)) = (large, self.queue()) {
            // Without a thread the file is closed, and freed at once.
            let _ = queue.send(removed);
        }
        Ok(())
    }

    fn queue(&self) -> Option<&mpsc::Sender<Removed>> {
        let start = || {
            let (queue, removed) = mpsc::channel();
            let handles = Arc::clone(&self.handles);
            let thread = thread::Builder::new().name("reclaim".to_owned());
            thread.spawn(move || run(&removed, &handles)).ok().map(|_| queue)
        };
        self.queue.get_or_init(start).as_ref()
    }
}

/// Opens a file if it is large and has no other name.
fn open_large(path: &Path) -> io::Result<Option<Removed>> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.len() < LARGE_BYTES || metadata.nlink() != 1 {
        return Ok(None);
    }
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let inode = (metadata.dev(), metadata.ino());
    Ok(Some(Removed { file, inode, bytes: metadata.len() }))
}

fn run(queue: &mpsc::Receiver<Removed>, handles: &Handles) {
    let mut waiting = Vec::new();
    loop {
        let next = if waiting.is_empty() {
            queue.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(CHECK_INTERVAL)
        };
        match next {
            Ok(removed) => waiting.push(removed),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let is_open = |removed: &Removed| handles.0.lock().contains_key(&removed.inode);
        let closed: Vec<Removed> = waiting.extract_if(.., |removed| !is_open(removed)).collect();
        closed.iter().for_each(shorten);
    }
}

/// Frees a file from its end. After an error closing it frees the rest.
fn shorten(removed: &Removed) {
    let mut left = removed.bytes;
    while left > PIECE_BYTES {
        left -= PIECE_BYTES;
        // The sync ends the transaction, with which the range is discarded.
        if removed.file.set_len(left).and_then(|()| removed.file.sync_all()).is_err() {
            return;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_large_file_loses_its_name_at_once_and_its_content_when_the_last_reader_is_gone() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("large");
        let content = vec![7; LARGE_BYTES as usize + 5];
        fs::write(&path, &content).unwrap();
        let reclaimer = Reclaimer::default();
        let file = fs::File::open(&path).unwrap();
        let first = reclaimer.handle(&file.metadata().unwrap());
        let second = reclaimer.handle(&file.metadata().unwrap());
        reclaimer.remove(&path).unwrap();
        assert!(!path.exists());

        drop(first);
        // Longer than it takes to check again.
        thread::sleep(2 * CHECK_INTERVAL);
        let mut read = vec![0; content.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == content, "a reader finds all of it");

        drop(second);
        let len = || file.metadata().unwrap().len();
        wait_until("it is shortened by pieces", || len() < PIECE_BYTES + 5);
        assert!(reclaimer.handles.0.lock().is_empty());
    }

    #[test]
    fn a_small_file_and_one_with_another_name_are_only_unlinked() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (small, linked) = (dir.path().join("small"), dir.path().join("linked"));
        fs::write(&small, [7; 100]).unwrap();
        fs::write(&linked, vec![7; LARGE_BYTES as usize]).unwrap();
        let other = dir.path().join("other");
        fs::hard_link(&linked, &other).unwrap();
        let reclaimer = Reclaimer::default();
        for path in [&small, &linked] {
            assert!(open_large(path).unwrap().is_none());
            reclaimer.remove(path).unwrap();
            assert!(!path.exists());
        }
        assert_eq!(fs::metadata(&other).unwrap().len(), LARGE_BYTES);
        let missing = reclaimer.remove(&small).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
