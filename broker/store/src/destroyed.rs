//! Marks of replicas that were destroyed, because the catalog has removed them from this broker.
//!
//! The mark of a replica is an empty file `shards/<shard>/destroyed-<replica>`. It says that this
//! broker no longer holds the shard, so that the missing files are no damage. It is removed once
//! another replica of the shard is installed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ropewalk_disk::{File, Open};
use ropewalk_shard::ShardId;

use crate::directory::{DataDir, DirectoryError};

const PREFIX: &str = "destroyed-";
/// The reason of the syncs, for metrics.
const WHY: &str = "destroyed";

/// Marks a replica as destroyed, durably: from here on recovery completes its destruction.
///
/// # Errors
/// When the disk fails. A failed sync is final (D2).
pub fn mark(data: &DataDir, shard: ShardId, replica: u64) -> Result<(), DirectoryError> {
    // There is none yet for a replica that is only being received.
    data.create_dir(&data.shard(shard))?;
    let path = path_of(data, shard, replica);
    let create =
        || -> io::Result<Arc<dyn File>> { data.disk().open(&path, Open::CreateOrTruncate) };
    create().map_err(DirectoryError::io(&path))?.sync(WHY).map_err(DirectoryError::sync(&path))?;
    sync(data, shard)
}

/// The replicas of a shard that are marked, sorted.
pub(crate) fn marks(data: &DataDir, shard: ShardId) -> Result<Vec<u64>, DirectoryError> {
    let names = data.names(&data.shard(shard))?;
    let mut marked: Vec<u64> =
        names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect();
    marked.sort_unstable();
    Ok(marked)
}

/// Removes the marks of a shard, durably: another replica of it is installed.
pub(crate) fn lift(data: &DataDir, shard: ShardId) -> Result<(), DirectoryError> {
    let marked = marks(data, shard)?;
    for replica in &marked {
        let path = path_of(data, shard, *replica);
        data.disk().remove(&path).map_err(DirectoryError::io(&path))?;
    }
    if marked.is_empty() { Ok(()) } else { sync(data, shard) }
}

/// Makes the marks of a shard durable, or their removal.
pub(crate) fn sync(data: &DataDir, shard: ShardId) -> Result<(), DirectoryError> {
    let dir = data.shard(shard);
    data.disk().sync_dir(&dir, WHY).map_err(DirectoryError::sync(&dir))
}

fn path_of(data: &DataDir, shard: ShardId, replica: u64) -> PathBuf {
    data.shard(shard).join(format!("{PREFIX}{replica}"))
}
