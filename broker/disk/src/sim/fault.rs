//! Errors that a test injects.

use std::io;
use std::path::Path;

/// The operation that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading a file.
    Read,
    /// Writing a file or changing its length. A durable write is a write and then a sync.
    Write,
    /// Making the content of a file durable.
    Sync,
    /// Making the names of a directory durable.
    SyncDir,
    /// Creating a file or directory.
    Create,
    /// Renaming a file.
    Rename,
    /// Unlinking a file.
    Remove,
}

/// One injected error. It happens once.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The operation that fails.
    pub operation: Operation,
    /// Only on paths that contain this; empty matches all.
    pub path_contains: String,
    /// Only syncs with this reason; empty matches all.
    pub why: &'static str,
    /// Number of matching operations that succeed before it.
    pub skip: u64,
    /// The kind of the error that is returned.
    pub kind: io::ErrorKind,
}

impl Fault {
    /// Makes the next operation of this kind fail with `io::ErrorKind::Other`.
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
