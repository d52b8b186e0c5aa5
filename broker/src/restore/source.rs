//! What the newest checkpoints say, by partition and by group.

use std::collections::BTreeMap;

use ropewalk_tier::{CatalogCheckpoint, GroupOffset, NewestCheckpoints, PartitionCheckpoint};
use uuid::Uuid;

/// What the newest readable checkpoints say.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) catalog: Option<CatalogCheckpoint>,
    /// When the checkpoint of the catalog was written, Unix milliseconds.
    pub(super) catalog_ms: Option<i64>,
    /// The partitions of all shards, each with the time of its checkpoint.
    pub(super) partitions: BTreeMap<(Uuid, i32), (PartitionCheckpoint, i64)>,
    /// The offsets of all groups.
    pub(super) groups: BTreeMap<String, Vec<GroupOffset>>,
    /// When the oldest checkpoint of a shard was written, Unix milliseconds.
    pub(super) oldest_ms: Option<i64>,
    /// Checkpoints that are damaged, with the reason.
    pub(super) damaged: Vec<String>,
}

impl From<NewestCheckpoints> for Source {
    fn from(newest: NewestCheckpoints) -> Self {
        let NewestCheckpoints { catalog, shards, damaged } = newest;
        let (catalog, catalog_ms) = catalog.unzip();
        let damaged = damaged.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        let oldest_ms = shards.iter().map(|(_, written_ms)| *written_ms).min();
        let mut source = Self { catalog, catalog_ms, oldest_ms, damaged, ..Self::default() };
        // Ascending by epoch: of two checkpoints that name a partition or a group the later counts.
        for (shard, written_ms) in shards {
            for partition in shard.partitions {
                let id = (partition.topic, partition.index);
                source.partitions.insert(id, (partition, written_ms));
            }
            for group in shard.groups {
                source.groups.insert(group.group, group.offsets);
            }
        }
        source
    }
}
