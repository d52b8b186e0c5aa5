//! The result of opening a log: the recovered state, or the reason why it cannot be opened.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::files::Location;
use crate::record::{HardState, LogId, ReplicaKey};

/// One entry of the log, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryMeta {
    /// Index of the entry in the replica's log.
    pub index: u64,
    /// Raft term in which it was proposed.
    pub term: u64,
    /// The Raft engine's kind of entry.
    pub kind: u8,
    /// Length of the payload in bytes.
    pub len_bytes: u32,
    /// Location of the payload, for [`Wal::read`](crate::Wal::read).
    pub location: Location,
}

/// The recovered state of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveredReplica {
    /// The last one written.
    pub hard_state: HardState,
    /// The last one written.
    pub conf_state: Bytes,
    /// The log starts after this entry.
    pub truncated: LogId,
    /// The entries after `truncated`, without a gap.
    pub entries: Vec<EntryMeta>,
    /// The reason, if durable records of this replica are lost. The replica must not vote then, and
    /// nothing is known about the log after [`RecoveredReplica::entries`].
    pub damage: Option<String>,
}

/// The recovered state of all replicas.
#[derive(Debug, Clone, Default)]
pub struct RecoveredLog {
    /// All replicas that were not destroyed.
    pub replicas: BTreeMap<ReplicaKey, RecoveredReplica>,
    /// Size in bytes of the incomplete round at the end, if its header is valid.
    pub torn_tail_bytes: u64,
    /// Number of rounds that were replayed.
    pub rounds: u64,
    /// Messages for the operator: damage, and damaged copies of headers.
    pub notes: Vec<String>,
}

/// Reasons why a log cannot be opened, split by what the operator does next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log was written by another version of the program. Run that version or a newer one; no
    /// program reads version 1 any more.
    #[error("{} has log format version {found}; this program reads and writes version {supported}: {}", path.display(), what_to_do(*found))]
    Version {
        /// Path of the file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// The version that this program supports.
        supported: u32,
    },
    /// No space for a new file. Free some space and start again; nothing is lost.
    #[error("no space in {} to begin a log file", dir.display())]
    Full {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The disk failed, or permissions are missing.
    #[error("cannot open the log in {}: {source}", dir.display())]
    Io {
        /// The log's directory.
        dir: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

fn what_to_do(found: u32) -> &'static str {
    match found {
        1 => "start the program that wrote it, or format a new data directory",
        _ => "start a newer program",
    }
}

impl OpenError {
    pub(crate) fn in_dir(dir: &Path) -> impl Fn(io::Error) -> Self {
        move |source| {
            let dir = dir.to_owned();
            if ropewalk_disk::is_full(&source) {
                Self::Full { dir }
            } else {
                Self::Io { dir, source }
            }
        }
    }
}
