//! What is found when a log is opened: what survived, or why it cannot be opened.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::files::Location;
use crate::record::{HardState, ReplicaKey};

/// One entry that is in the log, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryMeta {
    /// Its place in the replica's log.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// The Raft engine's kind of entry.
    pub kind: u8,
    /// The length of its payload.
    pub len_bytes: u32,
    /// Where the payload is.
    pub location: Location,
}

/// What the log knows of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveredReplica {
    /// The last one written.
    pub hard_state: HardState,
    /// The last one written.
    pub conf_state: Bytes,
    /// (index, term): the log starts after it.
    pub truncated: (u64, u64),
    /// The entries from `truncated.0 + 1` on, without a hole.
    pub entries: Vec<EntryMeta>,
    /// Something of this replica was durable and is lost: why. It must not vote, and nothing
    /// after [`RecoveredReplica::entries`] is known.
    pub damage: Option<String>,
}

/// What the log knows.
#[derive(Debug, Clone, Default)]
pub struct RecoveredLog {
    /// Every replica that was not destroyed.
    pub replicas: BTreeMap<ReplicaKey, RecoveredReplica>,
    /// The size of the incomplete round at the end, if its header was whole.
    pub torn_tail_bytes: u64,
    /// How many rounds were replayed.
    pub rounds: u64,
    /// What a person may want to know: damage, and copies of headers that did not check out.
    pub notes: Vec<String>,
}

/// Why a log could not be opened, split by what a person does next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another version of the program wrote it. Run that one, or a newer one.
    #[error("{} has log format version {found}; this program reads and writes version {supported}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// No space to begin a file. Free some and start again; nothing is lost.
    #[error("no space in {} to begin a log file", dir.display())]
    Full {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The disk failed or permissions are missing.
    #[error("cannot open the log in {}: {source}", dir.display())]
    Io {
        /// The log's directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
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
