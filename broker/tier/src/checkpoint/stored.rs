//! Checkpoints in a bucket: which there are, and their contents.

use futures_util::TryStreamExt as _;

use super::Checkpoint;
use crate::bucket::Bucket;
use crate::error::{Operation, TierError};
use crate::limits;
use crate::names::CheckpointName;

/// A checkpoint in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCheckpoint {
    /// The name of the checkpoint.
    pub name: CheckpointName,
    /// Size of the checkpoint.
    pub size_bytes: u64,
}

/// The checkpoints below a folder, of each shard the newest one first. Other objects are skipped.
///
/// The folder is that of [`crate::CheckpointOf::folder`], or `CLUSTER/shards` for all shards.
///
/// # Errors
/// When the bucket cannot be listed.
pub async fn list_checkpoints(
    bucket: &Bucket,
    folder: &str,
) -> Result<Vec<ListedCheckpoint>, TierError> {
    let mut listed = bucket.list(folder);
    let mut found = Vec::new();
    while let Some(object) = listed.try_next().await? {
        if let Ok(name) = CheckpointName::parse(&object.name) {
            found.push(ListedCheckpoint { name, size_bytes: object.size_bytes });
        }
    }
    found.sort_unstable_by(|one, other| {
        let by_shard = one.name.of.cmp(&other.name.of);
        by_shard.then_with(|| other.name.cmp(&one.name))
    });
    Ok(found)
}

/// Reads a checkpoint.
///
/// # Errors
/// [`TierError::Missing`] when there is none, [`TierError::Damaged`] when it is damaged, of another
/// name, or of a newer version.
pub async fn read_checkpoint(
    bucket: &Bucket,
    name: &CheckpointName,
) -> Result<Checkpoint, TierError> {
    let text = name.to_string();
    let bytes = bucket.get(&text, limits::CHECKPOINT_BYTES_MAX).await?;
    let damaged = |error| bucket.context(Operation::Get, &text).damaged(error);
    Checkpoint::decode(&bytes, name).map_err(damaged)
}
