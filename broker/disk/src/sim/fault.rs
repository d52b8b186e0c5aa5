//! Errors that a test asks for.

use std::io;
use std::path::Path;

/// The operation that shall fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading a file.
    Read,
    /// Writing a file or changing its length. A durable write is a write and then a sync.
    Write,
    /// Making a file durable.
    Sync,
    /// Making names durable.
    SyncDir,
    /// Creating a file or directory.
    Create,
    /// Renaming.
    Rename,
    /// Unlinking.
    Remove,
}

/// One error to come. It happens once.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What fails.
    pub operation: Operation,
    /// Only on paths that contain this; empty is any.
    pub path_contains: String,
    /// Only syncs with this reason; empty is any.
    pub why: &'static str,
    /// How many matching operations succeed before.
    pub skip: u64,
    /// The error.
    pub kind: io::ErrorKind,
}

impl Fault {
    /// The next operation of this kind fails with an I/O error of no particular kind.
    pub fn next(operation: Operation) -> Self {
        let kind = io::ErrorKind::Other;
        Self { operation, path_contains: String::new(), why: "", skip: 0, kind }
    }

    pub(super) fn matches(&self, operation: Operation, path: &Path, why: &str) -> bool {
        self.operation == operation
            && (self.why.is_empty() || self.why == why)
            && (self.path_contains.is_empty()
                || path.to_string_lossy().contains(&self.path_contains))
    }
}
