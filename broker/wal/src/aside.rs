//! Files beside the log with entries of replicas that are not started: their names, and what is known of
//! each. The log writes them, recovery reads them; their form stands with
//! [`Wal::set_aside`](crate::Wal::set_aside).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::File;

use crate::layout::SEQUENCE_MAX;
use crate::record::ReplicaKey;

const SUFFIX: &str = ".aside";

/// The first sequence of a file that is set aside; the log's own files never get there.
pub(crate) const ASIDE_SEQUENCE_MIN: u64 = SEQUENCE_MAX / 2 + 1;

/// Entries that lie outside of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The first entry in it.
    pub first: u64,
    /// The last entry in it.
    pub last: u64,
}

/// A file with entries of one replica.
#[derive(Debug)]
pub(crate) struct Aside {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn File>,
    /// Nothing in it can be read if this names no entry.
    pub(crate) what: SetAside,
}

impl Aside {
    pub(crate) fn is_readable(&self) -> bool {
        self.what.last > 0
    }
}

/// All such files.
pub(crate) type Asides = BTreeMap<ReplicaKey, Aside>;

pub(crate) fn path_of(dir: &Path, key: ReplicaKey) -> PathBuf {
    dir.join(format!("{:08x}-{:016x}{SUFFIX}", key.shard, key.replica))
}

/// The replica in the name of such a file; `None` for another name.
pub(crate) fn parse_name(name: &str) -> Option<ReplicaKey> {
    let (shard, replica) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let shard = u32::from_str_radix(shard, 16).ok()?;
    let key = ReplicaKey { shard, replica: u64::from_str_radix(replica, 16).ok()? };
    (path_of(Path::new(""), key) == Path::new(name)).then_some(key)
}
