//! What comes of a piece of background work: whether there is more, or why it was not done.

use ropewalk_segment::SegmentError;

use crate::directory::DirectoryError;

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// Not before something changes or time passes.
    Wait,
}

/// Why a piece of work was not done, by what happens next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WorkError {
    /// Nothing that was durable can be relied on to be so: the process ends (D2).
    #[error("{0}")]
    Final(String),
    /// Nothing is lost, it may work later: no space, a file that cannot be opened.
    #[error("{0}")]
    Later(String),
}

impl WorkError {
    /// Whether the process has to end.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Final(_) => true,
            Self::Later(_) => false,
        }
    }
}

impl From<SegmentError> for WorkError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::SyncFailed { .. } => Self::Final(error.to_string()),
            SegmentError::OutOfRange { .. }
            | SegmentError::Damaged(_)
            | SegmentError::NotNext { .. }
            | SegmentError::Full { .. }
            | SegmentError::Io { .. } => Self::Later(error.to_string()),
        }
    }
}

impl From<DirectoryError> for WorkError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::SyncFailed { .. } => Self::Final(error.to_string()),
            DirectoryError::InUse(_)
            | DirectoryError::Empty(_)
            | DirectoryError::Foreign { .. }
            | DirectoryError::Formatted { .. }
            | DirectoryError::UnknownVersion { .. }
            | DirectoryError::Damaged { .. }
            | DirectoryError::Io { .. } => Self::Later(error.to_string()),
        }
    }
}
