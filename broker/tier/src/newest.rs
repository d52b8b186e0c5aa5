//! The newest checkpoints of a cluster: what a check and a restore begin with.

use crate::bucket::Bucket;
use crate::checkpoint::{
    CatalogCheckpoint, Checkpoint, Contents, ListedCheckpoint, PartitionCheckpoint,
    ShardCheckpoint, list_checkpoints, read_checkpoint,
};
use crate::error::TierError;
use crate::manifest::Manifest;
use crate::names::{CheckpointName, CheckpointOf, ClusterId};

/// The newest checkpoint of the catalog and of each shard that can be read.
#[derive(Debug, Default)]
pub struct NewestCheckpoints {
    /// The catalog, and when that was written, Unix milliseconds.
    pub catalog: Option<(CatalogCheckpoint, i64)>,
    /// The shards, and when each was written, Unix milliseconds. Ascending by the epoch of the
    /// claim: after a restore a partition or a group may be in two of them, and the later one
    /// counts.
    pub shards: Vec<(ShardCheckpoint, i64)>,
    /// Newer checkpoints that are damaged, with what is wrong.
    pub damaged: Vec<(CheckpointName, String)>,
}

/// Reads the newest checkpoints of a cluster.
///
/// # Errors
/// When the bucket does not answer. A damaged checkpoint is skipped and listed.
pub async fn newest_checkpoints(
    bucket: &Bucket,
    cluster: &ClusterId,
) -> Result<NewestCheckpoints, TierError> {
    let mut newest = NewestCheckpoints::default();
    let listed = list_checkpoints(bucket, &CheckpointOf::Catalog.folder(cluster)).await?;
    if let Some(Checkpoint { contents: Contents::Catalog(catalog), written_ms, .. }) =
        newest.read(bucket, &listed).await?
    {
        newest.catalog = Some((catalog, written_ms));
    }
    let listed = list_checkpoints(bucket, &format!("{cluster}/shards")).await?;
    let mut shards = Vec::new();
    for of_shard in listed.chunk_by(|one, next| one.name.of == next.name.of) {
        if let Some(Checkpoint { contents: Contents::Shard(_, shard), origin, written_ms }) =
            newest.read(bucket, of_shard).await?
        {
            shards.push((origin.epoch, shard, written_ms));
        }
    }
    shards.sort_by_key(|(epoch, ..)| *epoch);
    newest.shards = shards.into_iter().map(|(_, shard, written_ms)| (shard, written_ms)).collect();
    Ok(newest)
}

impl NewestCheckpoints {
    /// Reads the first one of a list, newest first, that is not damaged.
    async fn read(
        &mut self,
        bucket: &Bucket,
        listed: &[ListedCheckpoint],
    ) -> Result<Option<Checkpoint>, TierError> {
        for ListedCheckpoint { name, .. } in listed {
            match read_checkpoint(bucket, name).await {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(TierError::Damaged { source, .. }) => {
                    tracing::warn!(%name, %source, "checkpoint skipped: it is damaged");
                    self.damaged.push((name.clone(), source.to_string()));
                }
                // A running cluster has deleted it.
                Err(TierError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl PartitionCheckpoint {
    /// The manifest of the partition; `None` without a tier.
    #[must_use]
    pub fn manifest(&self) -> Option<Manifest> {
        let tier = self.tier.as_ref()?;
        Some(Manifest {
            log_start: self.log_start,
            end: tier.end,
            pages: tier.pages.clone(),
            objects: tier.objects.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::checkpoint::{CheckpointOrigin, GroupOffsets};
    use crate::content::Content;

    /// A checkpoint of a shard with one group.
    fn of_shard(shard: u32, epoch: u32, index: u64, group: &str) -> Checkpoint {
        let cluster = ClusterId::new("newest-tests").unwrap();
        let groups = vec![GroupOffsets { group: group.to_owned(), offsets: Vec::new() }];
        Checkpoint {
            origin: CheckpointOrigin { cluster, epoch, history: 1, term: 2, index },
            written_ms: 5,
            contents: Contents::Shard(shard, ShardCheckpoint { groups, partitions: Vec::new() }),
        }
    }

    #[tokio::test]
    async fn t2_of_each_shard_the_newest_readable_one_counts_and_later_claims_come_last() {
        let bucket = Bucket::memory();
        let all = [(1, 1, 9, "old"), (1, 2, 1, "restored"), (2, 1, 7, "other"), (2, 1, 8, "cut")];
        for (shard, epoch, index, group) in all {
            let encoded = of_shard(shard, epoch, index, group).encode().unwrap();
            let bytes = encoded.content.to_bytes();
            let kept = if group == "cut" { bytes.slice(..40) } else { bytes };
            let name = encoded.name.to_string();
            bucket.put_if_absent(&name, &Content::from(kept)).await.unwrap();
        }
        let cluster = ClusterId::new("newest-tests").unwrap();
        let newest = newest_checkpoints(&bucket, &cluster).await.unwrap();
        let groups: Vec<&str> =
            newest.shards.iter().map(|(shard, _)| shard.groups[0].group.as_str()).collect();
        assert_eq!(groups, ["other", "restored"]);
        assert_eq!(newest.damaged.len(), 1);
        assert!(newest.catalog.is_none());
    }

    #[test]
    fn a_partition_without_a_tier_has_no_manifest() {
        let partition = PartitionCheckpoint {
            topic: Uuid::from_u128(1),
            index: 0,
            log_start: 3,
            next_offset: 9,
            leader_epoch: 1,
            max_timestamp_ms: -1,
            epochs: Vec::new(),
            tier: None,
        };
        assert_eq!(partition.manifest(), None);
    }
}
