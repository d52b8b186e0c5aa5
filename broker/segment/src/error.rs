//! Why the segments of a partition could not do what was asked.
//!
//! Place in the walk: every module of this crate ends here; the shard turns these into what its
//! callers and `/ready` are told. No Kafka error code is known here.
//!
//! Invariants: variants are split by what the caller does next. [`SegmentError::Damaged`] names the
//! file and the position (D3), [`SegmentError::SyncFailed`] is final (D2): the process must end.
//!
//! A crash leaves nothing of this behind: a condition that lasts is found again when the files are.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes on disk that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {position_bytes}: {what}", path.display())]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in the file.
    pub position_bytes: u64,
    /// What is wrong there, for a person.
    pub what: String,
}

impl Damage {
    pub(crate) fn new(path: &Path, position_bytes: u64, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), position_bytes, what: what.into() }
    }
}

/// What went wrong, by what the caller does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SegmentError {
    /// The asked offset is below the log's start or above its end. Nothing is wrong with the disk.
    #[error("offset {offset} is outside of {start_offset}..{next_offset}")]
    OutOfRange {
        /// What was asked for.
        offset: i64,
        /// The first offset that is kept.
        start_offset: i64,
        /// The offset after the last.
        next_offset: i64,
    },

    /// Checked and found wrong (D3). Only what touches these bytes is lost; asking again does not help.
    #[error(transparent)]
    Damaged(#[from] Damage),

    /// The batches do not continue the log: a mistake of the caller. Nothing was written.
    #[error("batch at offset {found} does not continue the log, which ends at {expected}")]
    NotNext {
        /// The offset after the last one stored.
        expected: i64,
        /// The base offset that came.
        found: i64,
    },

    /// The disk is full. Nothing that was visible has changed; the same call may succeed later.
    #[error("no space left for {}", path.display())]
    Full {
        /// What did not fit.
        path: PathBuf,
    },

    /// The operating system refused. Nothing that was visible has changed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: Arc<io::Error>,
    },

    /// An fsync failed, so the kernel may have dropped what it could not write (D2): the process ends.
    #[error("fsync of {} failed: {source}", path.display())]
    SyncFailed {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
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

    /// The error of opening a file that must be there.
    pub(crate) fn open(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return Damage::new(path, 0, "the file is missing").into();
        }
        Self::io(path, source)
    }

    /// The error of reading `path` at `at`, where there must be bytes.
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

/// What this crate's functions return.
pub type Result<T, E = SegmentError> = std::result::Result<T, E>;
