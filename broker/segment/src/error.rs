//! Errors of this crate, split by what the caller does next.
//!
//! [`SegmentError::Damaged`] has the file and the position (D3). [`SegmentError::SyncFailed`] is
//! final (D2): the process must end. The caller maps errors to Kafka error codes and to `/ready`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes on disk that differ from what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {position_bytes}: {what}", path.display())]
pub struct Damage {
    /// Path of the file.
    pub path: PathBuf,
    /// Position in the file in bytes.
    pub position_bytes: u64,
    /// Description of the damage, for the operator.
    pub what: String,
}

impl Damage {
    pub(crate) fn new(path: &Path, position_bytes: u64, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), position_bytes, what: what.into() }
    }
}

/// An error of a partition's segments.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SegmentError {
    /// The requested offset is below the log start offset or above the end. The disk is intact.
    #[error("offset {offset} is outside of {start_offset}..{next_offset}")]
    OutOfRange {
        /// The requested offset.
        offset: i64,
        /// The log start offset.
        start_offset: i64,
        /// Offset behind the last record.
        next_offset: i64,
    },

    /// Damage (D3). Only these bytes are affected; a retry does not help.
    #[error(transparent)]
    Damaged(#[from] Damage),

    /// The batches do not continue the log, which is a bug of the caller. Nothing was written.
    #[error("batch at offset {found} does not continue the log, which ends at {expected}")]
    NotNext {
        /// Offset behind the last stored batch.
        expected: i64,
        /// Base offset of the refused batch.
        found: i64,
    },

    /// The disk is full. Readers see no change; the same call may succeed later.
    #[error("no space left for {}", path.display())]
    Full {
        /// Path of the file that could not be written.
        path: PathBuf,
    },

    /// The operating system returned an error. Readers see no change.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: Arc<io::Error>,
    },

    /// An fsync failed, so the kernel may have dropped unwritten data (D2): the process ends.
    #[error("fsync of {} failed: {source}", path.display())]
    SyncFailed {
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: Arc<io::Error>,
    },
}

impl SegmentError {
    /// The error of reading, writing, opening or renaming `path`.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        if ropewalk_disk::is_full(&source) {
            return Self::Full { path: path.to_owned() };
        }
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }

    /// The error of opening a file that must exist.
    pub(crate) fn open(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return Damage::new(path, 0, "the file is missing").into();
        }
        Self::io(path, source)
    }

    /// The error of reading `path` at `at`, where bytes must exist.
    pub(crate) fn read(path: &Path, at: u64, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return Damage::new(path, at, "the file ends before the bytes that belong here").into();
        }
        Self::io(path, source)
    }

    /// The error of an fsync of `path`.
    pub(crate) fn sync(path: &Path, source: io::Error) -> Self {
        Self::SyncFailed { path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Result of this crate's functions.
pub type Result<T, E = SegmentError> = std::result::Result<T, E>;
