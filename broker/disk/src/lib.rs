//! The one seam to files: the real disk, and one that loses power.
//!
//! Everything that Ropewalk keeps passes through [`Disk`] and [`File`], so that a test can put a
//! disk underneath that forgets what was not synced. Nothing here knows what the bytes mean.
//!
//! # Place in the walk
//!
//! The lowest room of the broker: the write-ahead log, segments, snapshots and the tier's
//! cache stand on it. [`RealDisk`] is what the broker runs on; [`SimDisk`] is what the tests of
//! durability run on.
//!
//! # What a caller may rely on
//!
//! - **Durable has a name.** Only [`File::sync`], [`File::write_durable_at`],
//!   [`File::preallocate`], [`Disk::sync_dir`] and [`Disk::create_dir_all`] make anything
//!   durable. The first, second and fourth take `why`, a label that is counted
//!   ([`Disk::sync_counts`]) and that a test can switch off to prove that the sync was needed.
//! - **A name is durable apart from its content.** A created, renamed or removed file needs
//!   [`Disk::sync_dir`] on its directory; syncing the file is not enough.
//! - **A failed sync is final.** After an error the cache may show bytes that the disk never
//!   got, and a second sync may succeed without writing them. Callers stop; nothing here retries.
//!
//! # After a crash
//!
//! What was durable is there. What was not may be there, in whole, in part by 512-byte sectors
//! in any order, or not at all.

mod aligned;
mod counts;
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
/// Paths are the caller's; nothing is resolved against a root.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory and its missing parents, durably: it survives power loss once this
    /// has returned.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory in one that is there. Not durable before [`Disk::sync_dir`] on that one,
    /// and neither is then what is in it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// Whether a file or directory of this name is there.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The names in a directory, files and directories, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name, replacing what had it. Atomic, not durable before
    /// [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Unlinks a file. Not durable before [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path, why: &'static str) -> io::Result<()>;

    /// Gets what was written to files on the disk of `dir` on its way all at once, so that the many
    /// single syncs that follow have little left to do. It makes nothing durable that a caller may
    /// rely on, and what fails is told by those syncs.
    fn write_back(&self, dir: &Path);

    /// Takes the exclusive advisory lock on a file, creating it if need be. Held by somebody
    /// else: [`io::ErrorKind::WouldBlock`]. Released when the [`Lock`] is dropped or the
    /// process dies.
    fn lock(&self, path: &Path) -> io::Result<Lock>;

    /// How many more bytes an unprivileged process may write below `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// A number that nobody else can guess, another one each time: the salt of what is written. It comes from
    /// here, so that the operations of a simulated disk follow from its seed alone.
    fn draw(&self) -> u64;

    /// How often something was made durable, by reason, since the disk was opened.
    fn sync_counts(&self) -> BTreeMap<&'static str, u64>;
}

/// One open file. Positions are the caller's, so that one handle serves many threads.
pub trait File: Send + Sync + fmt::Debug {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from position `at`; [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes `buf` at position `at`, extending the file if need be.
    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()>;

    /// Writes the buffers one after another from position `at`.
    fn write_vectored_all_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()>;

    /// Cuts or extends (by zeroes that are not allocated) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable. An error is final.
    fn sync(&self, why: &'static str) -> io::Result<()>;

    /// Writes the whole of `buf` at `at`, durable when it returns. An error is final.
    ///
    /// Length and `at` must be multiples of [`ALIGN_BYTES`], and the file opened as
    /// [`Open::Durable`] if it is to bypass the cache.
    fn write_durable_at(&self, buf: &Aligned, at: u64, why: &'static str) -> io::Result<()>;

    /// Makes the file `len` bytes of really written zeroes, durably, so that later writes
    /// overwrite blocks that are already allocated: they cannot run out of space, and they
    /// cost the filesystem no metadata. Of a file opened as [`Open::Durable`] the zeroes may
    /// bypass the page cache.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// Tells the system that a range will not be read again soon. A hint.
    fn advise_dropped(&self, at: u64, len: u64) {
        let _ = (at, len);
    }
}

/// What [`Disk::open`] shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// To read; must exist.
    Read,
    /// To read and write; must exist.
    ReadWrite,
    /// To read and write; must not exist.
    CreateNew,
    /// To read and write; made if it is not there, emptied if it is.
    CreateOrTruncate,
    /// To read and write; must exist. [`File::write_durable_at`] may bypass the page cache.
    Durable,
}

/// An advisory lock on a file, until dropped.
pub struct Lock {
    _held: Box<dyn Any + Send + Sync>,
}

impl Lock {
    /// A lock that lasts as long as `held` lives.
    pub fn holding(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// Whether an error says that descriptors or memory are short for the moment: nothing was done, and the same call
/// may succeed later.
pub fn is_scarce(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let scarce = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    error.kind() == io::ErrorKind::OutOfMemory
        || scarce.iter().any(|scarce| code == Some(scarce.raw_os_error()))
}

/// Whether an error says that the disk, or our share of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
