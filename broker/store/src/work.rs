//! Results of one step of background work.

use ropewalk_segment::SegmentError;

use crate::directory::DirectoryError;

/// When the caller has to call the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once: there is more work.
    Now,
    /// After a change or some time: no work is due.
    Wait,
}

/// Why a step failed, split by what the caller does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WorkError {
    /// A sync failed, so written data may not be durable: the process has to end (D2).
    #[error("{0}")]
    Final(String),
    /// No data is lost and a retry may succeed: no space, a file that cannot be opened.
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

/// The first error of several independent pieces of work.
#[derive(Debug, Default)]
pub(crate) struct FirstError(Option<WorkError>);

impl FirstError {
    /// The result of a piece of work; `None` if it failed and has to be retried. A final error is
    /// returned at once.
    pub(crate) fn note<T>(&mut self, done: Result<T, WorkError>) -> Result<Option<T>, WorkError> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_final() => Err(error),
            Err(error) => {
                self.0.get_or_insert(error);
                Ok(None)
            }
        }
    }

    pub(crate) fn first(self) -> Result<(), WorkError> {
        self.0.map_or(Ok(()), Err)
    }
}
