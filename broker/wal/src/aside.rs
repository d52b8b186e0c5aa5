//! Files beside the log with entries of damaged replicas: their names and their contents. The log
//! writes them, recovery reads them; [`Wal::set_aside`](crate::Wal::set_aside) defines their
//! format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::File;

use crate::layout::SEQUENCE_MAX;
use crate::record::ReplicaKey;

const SUFFIX: &str = ".aside";

/// The first sequence of files with entries that were set aside. The log's own files never reach
/// it.
pub(crate) const ASIDE_SEQUENCE_MIN: u64 = SEQUENCE_MAX / 2 + 1;

/// Entries of one replica that were copied to a file beside the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Path of the file.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Index of the first entry in it.
    pub first: u64,
    /// Index of the last entry in it.
    pub last: u64,
}

/// A file beside the log with entries of one replica.
#[derive(Debug)]
pub(crate) struct Aside {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn File>,
    /// Its `last` is 0 if no entry can be read.
    pub(crate) what: SetAside,
}

impl Aside {
    pub(crate) fn is_readable(&self) -> bool {
        self.what.last > 0
    }
}

/// The files beside the log, by replica.
pub(crate) type Asides = BTreeMap<ReplicaKey, Aside>;

pub(crate) fn path_of(dir: &Path, key: ReplicaKey) -> PathBuf {
    dir.join(format!("{:08x}-{:016x}{SUFFIX}", key.shard, key.replica))
}

/// The replica in the name of such a file; `None` for any other name.
pub(crate) fn parse_name(name: &str) -> Option<ReplicaKey> {
    let (shard, replica) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let shard = u32::from_str_radix(shard, 16).ok()?;
    let key = ReplicaKey { shard, replica: u64::from_str_radix(replica, 16).ok()? };
    (path_of(Path::new(""), key) == Path::new(name)).then_some(key)
}
