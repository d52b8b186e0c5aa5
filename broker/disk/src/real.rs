//! The real disk: ordinary files, with writes that bypass the page cache where possible.
//!
//! A file opened as [`Open::Durable`] has two descriptors. Reads and ordinary writes use the cached
//! one. [`File::write_durable_at`] uses one opened with `O_DIRECT|O_DSYNC`: it needs one system
//! call, and leaves the page cache to the segments. Where a file system does not support this
//! (tmpfs, some network mounts), the same call is a cached write followed by `fdatasync`.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use crate::counts::SyncCounts;
use crate::reclaim::{Handle, Reclaimer};
use crate::{ALIGN_BYTES, Aligned, Disk, File, Lock, Open};

/// Largest number of buffers of one `pwritev` on Linux.
const VECTORS_MAX: usize = 1024;
const ZEROES_BYTES: usize = 1 << 20;
const WHY_DIRECTORY: &str = "directory";
/// How long opening a directory for a sync waits for a file descriptor, and the pause between two
/// attempts.
const SCARCE_WAIT_MAX: Duration = Duration::from_secs(10);
const SCARCE_PAUSE: Duration = Duration::from_millis(20);
const WHY_PREALLOCATE: &str = "preallocate";
/// Flags of a descriptor whose writes bypass the page cache and are durable when they return. The
/// constant `OFlags::DSYNC` of rustix 1.1 is `O_SYNC`, with which a write also waits for the new
/// modification time: every 4 ms, another commit of the file system's journal.
const DIRECT_DURABLE: i32 = libc::O_DIRECT | libc::O_DSYNC;

/// Whether durable writes bypass the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direct {
    /// If the file system supports it.
    #[default]
    Auto,
    /// Always. Opening a file on a file system without support is an error.
    On,
    /// Never: all writes use the page cache.
    Off,
}

/// Options of a [`RealDisk`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether durable writes bypass the page cache.
    pub direct: Direct,
}

/// The machine's files.
#[derive(Debug)]
pub struct RealDisk {
    options: Options,
    counts: Arc<SyncCounts>,
    reclaimer: Reclaimer,
}

impl RealDisk {
    /// The files of this machine, accessed according to `options`.
    pub fn new(options: Options) -> Self {
        Self { options, counts: Arc::default(), reclaimer: Reclaimer::default() }
    }

    /// Opens another descriptor of a durable file, for direct writes, if it is wanted and
    /// supported.
    fn open_direct(&self, path: &Path, flags: i32) -> io::Result<Option<fs::File>> {
        if self.options.direct == Direct::Off {
            return Ok(None);
        }
        match fs::OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if self.options.direct == Direct::Auto && refuses_direct(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Opens a directory to sync it. Callers treat a failed sync as a failure of the disk, so a
/// shortage of descriptors is retried for up to [`SCARCE_WAIT_MAX`].
fn open_dir(dir: &Path) -> io::Result<fs::File> {
    let began = Instant::now();
    loop {
        match fs::File::open(dir) {
            Err(error) if crate::is_scarce(&error) && began.elapsed() < SCARCE_WAIT_MAX => {
                thread::sleep(SCARCE_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Whether the error means that direct I/O is not supported, rather than that the write failed.
fn refuses_direct(error: &io::Error) -> bool {
    let code = Errno::from_io_error(error);
    code == Some(Errno::INVAL) || code == Some(Errno::OPNOTSUPP)
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => {
                    self.sync_dir(parent, WHY_DIRECTORY)
                }
                _ => self.sync_dir(Path::new("."), WHY_DIRECTORY),
            },
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::ReadWrite | Open::Durable => {
                options.write(true);
            }
            Open::CreateNew => {
                options.write(true).create_new(true);
            }
            Open::CreateOrTruncate => {
                options.write(true).create(true).truncate(true);
            }
        }
        let cached = options.open(path)?;
        let is_durable = how == Open::Durable;
        let direct = if is_durable { self.open_direct(path, DIRECT_DURABLE)? } else { None };
        let direct_usable = AtomicBool::new(direct.is_some());
        let metadata = cached.metadata()?;
        // Only an empty file is going to be filled with zeroes.
        let filled = direct.is_some() && metadata.len() == 0;
        let filler = if filled { self.open_direct(path, libc::O_DIRECT)? } else { None };
        Ok(Arc::new(RealFile {
            cached,
            direct,
            direct_usable,
            filler: Mutex::new(filler),
            may_fall_back: self.options.direct == Direct::Auto,
            counts: Arc::clone(&self.counts),
            _handle: self.reclaimer.handle(&metadata),
        }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // The broker creates only names that are UTF-8.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.reclaimer.remove(path)
    }

    fn sync_dir(&self, dir: &Path, why: &'static str) -> io::Result<()> {
        self.counts.count(why);
        open_dir(dir)?.sync_all()
    }

    fn write_back(&self, dir: &Path) {
        // The later sync of each file reports its errors.
        let _ = fs::File::open(dir).map(rustix::fs::syncfs);
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.try_lock()?;
        Ok(Lock::holding(file))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Uses the keys of the standard library's hasher, which are random numbers of the system.
    fn draw(&self) -> u64 {
        RandomState::new().hash_one(std::process::id())
    }

    fn sync_counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.snapshot()
    }
}

#[derive(Debug)]
struct RealFile {
    cached: fs::File,
    /// Opened with `O_DIRECT|O_DSYNC`.
    direct: Option<fs::File>,
    /// Some file systems accept `O_DIRECT` when opening and refuse it when writing.
    direct_usable: AtomicBool,
    may_fall_back: bool,
    /// Opened with `O_DIRECT` alone, until the file is preallocated.
    filler: Mutex<Option<fs::File>>,
    counts: Arc<SyncCounts>,
    _handle: Handle,
}

impl RealFile {
    /// Writes without the page cache. `Ok(false)`: nothing was written, because this file does not
    /// support direct writes.
    fn write_direct_at(
        &self,
        direct: Option<&fs::File>,
        bytes: &[u8],
        at: u64,
    ) -> io::Result<bool> {
        let Some(direct) = direct else { return Ok(false) };
        if !bytes.len().is_multiple_of(ALIGN_BYTES) || !self.direct_usable.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match direct.write_all_at(bytes, at) {
            Ok(()) => Ok(true),
            // EINVAL means that the request is not supported: nothing was written.
            Err(error) if self.may_fall_back && refuses_direct(&error) => {
                self.direct_usable.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes and syncs, without the page cache if the file and the length allow it.
    fn write_synced_at(&self, bytes: &[u8], at: u64, why: &'static str) -> io::Result<()> {
        self.counts.count(why);
        if self.write_direct_at(self.direct.as_ref(), bytes, at)? {
            return Ok(());
        }
        self.cached.write_all_at(bytes, at)?;
        self.cached.sync_data()
    }

    /// Writes zeroes in pieces, which the caller syncs. Each piece is handed to the disk at once,
    /// so that the sync has little to wait for.
    fn write_zeroes(&self, len: u64, pause: &mut dyn FnMut(u64)) -> io::Result<()> {
        let filler = self.filler.lock().take();
        let mut zeroes = Aligned::with_capacity(ZEROES_BYTES);
        zeroes.resize(ZEROES_BYTES);
        let mut at = 0;
        while at < len {
            let more = zeroes.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
            if !self.write_direct_at(filler.as_ref(), &zeroes[..more], at)? {
                self.cached.write_all_at(&zeroes[..more], at)?;
                self.advise_dropped(at, more as u64);
            }
            at += more as u64;
            pause(more as u64);
        }
        Ok(())
    }
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.cached.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.cached.read_exact_at(buf, at)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.cached.write_all_at(buf, at)
    }

    fn write_vectored_all_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut at = at;
        for some in bufs.chunks(VECTORS_MAX) {
            at = write_vectors(&self.cached, some, at)?;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.cached.set_len(len)
    }

    fn sync(&self, why: &'static str) -> io::Result<()> {
        self.counts.count(why);
        self.cached.sync_data()
    }

    fn write_durable_at(&self, buf: &Aligned, at: u64, why: &'static str) -> io::Result<()> {
        debug_assert!(buf.len().is_multiple_of(ALIGN_BYTES));
        debug_assert!(at.is_multiple_of(ALIGN_BYTES as u64));
        self.write_synced_at(buf, at, why)
    }

    fn preallocate(&self, len: u64, pause: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.cached.set_len(0)?;
        if len > 0 {
            match rustix::fs::fallocate(&self.cached, FallocateFlags::empty(), 0, len) {
                // Without fallocate, writing the zeroes reports a full disk.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.write_zeroes(len, pause)?;
        // The content and the length.
        self.sync(WHY_PREALLOCATE)
    }

    fn start_write_back(&self, at: u64, len: u64) {
        // For dirty pages, "not needed" starts the write-back, and pages under write-back stay. A
        // length of 0 would mean the rest of the file.
        if len > 0 {
            self.advise_dropped(at, len);
        }
    }

    fn advise_dropped(&self, at: u64, len: u64) {
        // Advice only: an error has no consequence.
        let _ = rustix::fs::fadvise(&self.cached, at, NonZeroU64::new(len), Advice::DontNeed);
    }
}

/// Writes at most [`VECTORS_MAX`] buffers completely and returns the position after them.
fn write_vectors(file: impl AsFd, bufs: &[IoSlice<'_>], at: u64) -> io::Result<u64> {
    let mut at = at;
    let mut slices = bufs.to_vec();
    let mut left = &mut slices[..];
    // Without this, empty buffers in front would look like a write without progress.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match rustix::io::pwritev(&file, left, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut left, written);
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_of_descriptors_or_memory_is_told_from_a_failure() {
        for (code, scarce) in [(24, true), (23, true), (12, true), (5, false), (28, false)] {
            assert_eq!(crate::is_scarce(&io::Error::from_raw_os_error(code)), scarce, "{code}");
        }
    }

    #[test]
    fn a_durable_write_does_not_wait_for_the_modification_time() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        fs::write(&path, []).unwrap();
        let disk = RealDisk::new(Options::default());
        // Without O_DIRECT there is `fdatasync`, which does not wait for it either.
        let Some(file) = disk.open_direct(&path, DIRECT_DURABLE).unwrap() else { return };
        let flags = rustix::fs::fcntl_getfl(&file).unwrap().bits() as i32;
        assert_eq!(flags & libc::O_SYNC, libc::O_DSYNC, "O_SYNC has a bit that O_DSYNC lacks");
    }

    #[test]
    fn auto_falls_back_where_direct_is_refused() {
        // On most machines /dev/shm is a tmpfs; if it supports O_DIRECT, the test still passes.
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
        let disk = RealDisk::new(Options::default());
        let path = dir.path().join("file");
        disk.open(&path, Open::CreateNew).unwrap().preallocate(8192, &mut |_| {}).unwrap();
        let file = disk.open(&path, Open::Durable).unwrap();
        let mut block = Aligned::with_capacity(4096);
        block.extend_from_slice(&[7; 4096]);
        file.write_durable_at(&block, 4096, "test").unwrap();
        let mut read = [0; 4096];
        file.read_exact_at(&mut read, 4096).unwrap();
        assert_eq!(read, [7; 4096]);
    }

    #[test]
    fn a_started_write_back_changes_nothing() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = RealDisk::new(Options::default());
        let file = disk.open(&dir.path().join("file"), Open::CreateNew).unwrap();
        file.start_write_back(0, 0);
        for at in 0..4_u8 {
            let at_bytes = u64::from(at) * 100_000;
            file.write_all_at(&[at; 100_000], at_bytes).unwrap();
            file.start_write_back(at_bytes, 100_000);
        }
        file.start_write_back(1 << 40, 1 << 20);
        file.sync("test").unwrap();
        let mut read = vec![0; 400_000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read.chunks(100_000).zip(0..).all(|(chunk, at)| chunk.iter().all(|b| *b == at)));
    }

    #[test]
    fn a_file_is_preallocated_with_one_sync_and_a_pause_after_each_piece() {
        for direct in [Direct::Auto, Direct::Off] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let disk = RealDisk::new(Options { direct });
            let path = dir.path().join("file");
            drop(disk.open(&path, Open::CreateNew).unwrap());
            let mut pauses = Vec::new();
            let file = disk.open(&path, Open::Durable).unwrap();
            file.preallocate(5 << 19, &mut |bytes| pauses.push(bytes)).unwrap();
            assert_eq!(pauses, [1 << 20, 1 << 20, 1 << 19]);
            assert_eq!(disk.sync_counts()[WHY_PREALLOCATE], 1);
            assert_eq!(fs::read(&path).unwrap(), vec![0; 5 << 19]);
        }
    }

    #[test]
    fn direct_on_and_off_give_the_same_file() {
        for direct in [Direct::Auto, Direct::Off] {
            // The temporary directory may be in memory; files in /var/tmp survive a restart (FHS
            // 3.0, 5.15).
            //
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let disk = RealDisk::new(Options { direct });
            let path = dir.path().join("file");
            disk.open(&path, Open::CreateNew).unwrap().preallocate(65_536, &mut |_| {}).unwrap();
            let file = disk.open(&path, Open::Durable).unwrap();
            let mut block = Aligned::with_capacity(4096);
            for at in 0..16_u8 {
                block.clear();
                block.extend_from_slice(&[at; 4096]);
                file.write_durable_at(&block, u64::from(at) * 4096, "test").unwrap();
            }
            let all = fs::read(&path).unwrap();
            assert!(all.chunks(4096).zip(0_u8..).all(|(chunk, at)| chunk == [at; 4096]));
            assert_eq!(disk.sync_counts()["test"], 16);
        }
    }
}
