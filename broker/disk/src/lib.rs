//! Access to files: traits, the real disk, and a simulated disk that loses power.
//!
//! The write-ahead log, segments, snapshots and all other files of the broker are read and written
//! through [`Disk`] and [`File`]. So a test can use a disk that loses everything that was not
//! synced. The broker runs on [`RealDisk`], the tests of durability on [`SimDisk`]. This crate does
//! not interpret the bytes.
//!
//! # Guarantees
//!
//! - **Durability is explicit.** Only [`File::sync`], [`File::write_durable_at`],
//!   [`File::preallocate`], [`Disk::sync_dir`] and [`Disk::create_dir_all`] make anything durable.
//!   The first, second and fourth take `why`, a label that is counted ([`Disk::sync_counts`]) and
//!   that a test can disable to prove that the sync is needed.
//! - **A name is durable separately from its content.** A created, renamed or removed file needs
//!   [`Disk::sync_dir`] on its directory; syncing the file is not enough.
//! - **A failed sync is final.** After an error the page cache may have bytes that are not on the
//!   disk, and a second sync may succeed without writing them. Callers stop; nothing here retries.
//! - **After a crash**, everything durable is there. Anything else may be there completely, in part
//!   (512-byte sectors in any order), or not at all.

mod aligned;
mod counts;
mod reclaim;
mod real;
mod sim;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

pub use aligned::{ALIGN_BYTES, Aligned};
pub use real::{Direct, Options, RealDisk};
pub use sim::{Dice, Fault, Operation, SimDisk};

/// The files under one or more directories.
///
/// Paths are used as given, not relative to a root.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory and its missing parents. They are durable when this returns.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory in an existing one. The directory, and everything in it, is not durable
    /// before [`Disk::sync_dir`] on the parent.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Opens a file in this mode.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// Whether there is a file or directory with this path.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The names of the files and directories in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file, and replaces a file at `to`. Atomic, not durable before [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Unlinks a file. Not durable before [`Disk::sync_dir`]. Handles that are open remain usable.
    /// The space of a large file becomes free in the next seconds, when they are closed.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path, why: &'static str) -> io::Result<()>;

    /// Starts writing all dirty pages of the file system of `dir`, so that the many single syncs
    /// that follow have little left to write. It guarantees no durability, and its errors are
    /// reported by those syncs.
    fn write_back(&self, dir: &Path);

    /// Takes the exclusive advisory lock on a file, and creates the file if needed. If another
    /// process has the lock: [`io::ErrorKind::WouldBlock`]. Released when the [`Lock`] is dropped
    /// or the process ends.
    fn lock(&self, path: &Path) -> io::Result<Lock>;

    /// Number of bytes that an unprivileged process can still write below `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// An unpredictable random number, used as the salt of files. It is a method of the disk, so
    /// that all operations of a simulated disk depend on its seed only.
    fn draw(&self) -> u64;

    /// Number of syncs per reason since the disk was opened.
    fn sync_counts(&self) -> BTreeMap<&'static str, u64>;
}

/// One open file. Positions are arguments, so that many threads can share a handle.
pub trait File: Send + Sync + fmt::Debug {
    /// The length of the file in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has a length of zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from position `at`. [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes `buf` at position `at`, and extends the file if needed.
    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()>;

    /// Writes the buffers one after another from position `at`.
    fn write_vectored_all_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()>;

    /// Truncates the file, or extends it with zeroes without allocating blocks.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable. An error is final: see the crate documentation.
    fn sync(&self, why: &'static str) -> io::Result<()>;

    /// Writes the whole of `buf` at `at`. It is durable when this returns. An error is final.
    ///
    /// The length of `buf` and `at` must be multiples of [`ALIGN_BYTES`]. To bypass the page cache,
    /// the file must be opened as [`Open::Durable`].
    fn write_durable_at(&self, buf: &Aligned, at: u64, why: &'static str) -> io::Result<()>;

    /// Sets the length of the file to `len` bytes and writes zeroes to all of it, durably. Later
    /// writes then overwrite allocated blocks: they cannot run out of space, and the file system
    /// writes no metadata for them. For a file opened as [`Open::Durable`] the zeroes may bypass
    /// the page cache.
    ///
    /// The zeroes are written in pieces and synced once. After each piece `pause` is called with
    /// its length in bytes, so that the caller can leave time for other writes.
    fn preallocate(&self, len: u64, pause: &mut dyn FnMut(u64)) -> io::Result<()>;

    /// Starts writing a range of the page cache to the disk, and does not wait for the end, so that
    /// the next [`File::sync`] has little left to write. It waits only while the queue of the disk
    /// is full. A hint: it makes nothing durable, and the sync reports its errors. Call it once
    /// for a range that was just written: written pages stay in the page cache, but a second call
    /// drops them.
    fn start_write_back(&self, at: u64, len: u64) {
        let _ = (at, len);
    }

    /// Advises the kernel that a range will not be read again soon. It has no effect on the
    /// content.
    fn advise_dropped(&self, at: u64, len: u64) {
        let _ = (at, len);
    }
}

/// Mode in which [`Disk::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Read only; the file must exist.
    Read,
    /// Read and write; the file must exist.
    ReadWrite,
    /// Read and write; the file must not exist.
    CreateNew,
    /// Read and write; creates the file or truncates an existing one.
    CreateOrTruncate,
    /// Read and write; the file must exist. [`File::write_durable_at`] may bypass the page cache.
    Durable,
}

/// An advisory lock on a file. Dropping it releases the lock.
pub struct Lock {
    _held: Box<dyn Any + Send + Sync>,
}

impl Lock {
    /// A lock that is held as long as `held` exists.
    pub fn holding(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// Whether the error is a temporary shortage of file descriptors or memory: the call had no effect
/// and may succeed later.
pub fn is_scarce(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let scarce = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    error.kind() == io::ErrorKind::OutOfMemory
        || scarce.iter().any(|scarce| code == Some(scarce.raw_os_error()))
}

/// Whether the error means that the disk or the quota is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
