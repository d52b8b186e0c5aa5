//! What a restore will do: decided before anything is changed.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_tier::rebuild::{KnownPartition, Rebuilt, rebuild};
use ropewalk_tier::{
    Bucket, CatalogCheckpoint, Claim, Configs, ConfigsOf, Folders, GroupOffset,
    PartitionCheckpoint, PartitionKey, TopicCheckpoint, current_claim, list_folders,
    newest_checkpoints,
};
use uuid::Uuid;

use super::RestoreError;
use super::source::Source;
use crate::limits;

/// What is planned for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Whether topics are made from the folders of objects if there is no catalog.
    pub without_catalog: bool,
}

/// What a restore will do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The claim of the lost cluster.
    pub claim: Claim,
    /// When the catalog's checkpoint was written, Unix milliseconds; `None` without a catalog.
    pub catalog_ms: Option<i64>,
    /// When the oldest checkpoint of a shard was written, Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// Checkpoints that are damaged; older ones are used.
    pub damaged: Vec<String>,
    /// The producer ids below this one are not used again.
    pub next_producer_id: i64,
    /// Configuration other than of topics.
    pub configs: Vec<(ConfigsOf, Configs)>,
    /// Deleted topics, whose objects are deleted later.
    pub deleted: Vec<Uuid>,
    /// The topics, with their partitions.
    pub topics: Vec<PlannedTopic>,
    /// The offsets of groups.
    pub groups: Vec<PlannedGroup>,
    /// Offsets that were behind what is restored.
    pub capped: Vec<CappedOffset>,
    /// Offsets of groups in topics that the catalog does not list.
    pub offsets_left_out: usize,
}

/// A topic that will be created.
#[derive(Debug, Clone)]
pub struct PlannedTopic {
    /// Id of the topic.
    pub id: Uuid,
    /// The topic's name.
    pub name: String,
    /// The uid of the object that declared it.
    pub owner: Option<String>,
    /// What was set for this topic.
    pub configs: Configs,
    /// Its partitions, by index.
    pub partitions: Vec<PlannedPartition>,
}

/// A partition that will be restored.
#[derive(Debug, Clone)]
pub struct PlannedPartition {
    /// What it continues from; with end 0 it begins empty.
    pub rebuilt: Rebuilt,
    /// Leader epochs begin above this one.
    pub epoch_base: i32,
    /// The next offset when its checkpoint was written; `None` if no checkpoint lists it.
    pub next_offset: Option<i64>,
    /// When that was, Unix milliseconds.
    pub written_ms: Option<i64>,
}

/// The offsets of a group that will be committed.
#[derive(Debug, Clone)]
pub struct PlannedGroup {
    /// The group's id.
    pub group: String,
    /// The offsets, at most the end of each partition.
    pub offsets: Vec<GroupOffset>,
}

/// An offset of a group that was behind what is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CappedOffset {
    /// The group's id.
    pub group: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// What the group had committed.
    pub from: i64,
    /// What is committed for it.
    pub to: i64,
}

impl Plan {
    /// Why offsets that manifests name are lost, with the partition.
    #[must_use]
    pub fn losses(&self) -> Vec<String> {
        let of_topic = |topic: &PlannedTopic| {
            let partitions = (0..).zip(&topic.partitions);
            let name = topic.name.clone();
            partitions
                .flat_map(|(index, partition): (i32, _)| {
                    partition.rebuilt.losses.iter().map(move |loss| (index, loss.clone()))
                })
                .map(|(index, loss)| format!("{name}-{index}: {loss}"))
                .collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of_topic).collect()
    }
}

impl PlannedPartition {
    /// Number of records that the lost cluster had at the time of the checkpoint, and that no
    /// object has; `None` if no checkpoint lists the partition.
    #[must_use]
    pub fn lost_records(&self) -> Option<i64> {
        self.next_offset.map(|next_offset| (next_offset - self.rebuilt.end).max(0))
    }
}

/// Plans a restore. Nothing is changed. `progress` is called with the number of partitions that
/// were examined, and of all.
///
/// # Errors
/// When the bucket cannot be read, no cluster has used it, or its catalog is lost.
pub async fn plan(
    bucket: &Bucket,
    options: PlanOptions,
    progress: impl Fn(usize, usize),
) -> Result<Plan, RestoreError> {
    let claim = current_claim(bucket).await?;
    let claim = claim.ok_or_else(|| RestoreError::NoClaim(bucket.url().to_owned()))?;
    let mut source = Source::from(newest_checkpoints(bucket, &claim.cluster).await?);
    let folders = list_folders(bucket, &claim.cluster).await?;
    let catalog = match source.catalog.take() {
        Some(catalog) => catalog,
        None if options.without_catalog => catalog_of(&folders, &source),
        None => {
            let why = source.damaged.iter().map(|why| format!("; {why}")).collect();
            return Err(RestoreError::NoCatalog { bucket: bucket.url().to_owned(), why });
        }
    };
    let count = catalog.topics.iter().map(|topic| topic.partitions.len()).sum();
    let mut done = 0;
    let mut topics = Vec::with_capacity(catalog.topics.len());
    for TopicCheckpoint { id, name, owner, configs, partitions, .. } in catalog.topics {
        let mut planned = Vec::with_capacity(partitions.len());
        for (index, home) in (0..).zip(&partitions) {
            let key = PartitionKey { cluster: claim.cluster.clone(), topic: id, index };
            let known = source.partitions.get(&(id, index));
            let partition = plan_partition(bucket, &key, &folders, known).await?;
            planned.push(partition.above(home.epoch_base));
            done += 1;
            progress(done, count);
        }
        topics.push(PlannedTopic { id, name, owner, configs, partitions: planned });
    }
    let offsets = plan_offsets(&topics, source.groups);
    let next_producer_id = catalog.next_producer_id.max(behind_producers(&topics));
    Ok(Plan {
        claim,
        catalog_ms: source.catalog_ms,
        oldest_ms: source.oldest_ms,
        damaged: source.damaged,
        next_producer_id,
        configs: catalog.configs,
        deleted: catalog.deleted,
        topics,
        groups: offsets.groups,
        capped: offsets.capped,
        offsets_left_out: offsets.left_out,
    })
}

/// A catalog of the topics that have objects, or that a checkpoint of a shard names.
fn catalog_of(folders: &Folders, source: &Source) -> CatalogCheckpoint {
    let listed = folders.partitions.keys().map(|key| (key.topic, key.index));
    let mut counts: BTreeMap<Uuid, i32> = BTreeMap::new();
    for (topic, index) in listed.chain(source.partitions.keys().copied()) {
        let count = counts.entry(topic).or_default();
        *count = (*count).max(index.saturating_add(1));
    }
    let home = ropewalk_tier::PartitionHome { shard: 0, epoch_base: 0 };
    let topic = |(id, count): (Uuid, i32)| TopicCheckpoint {
        id,
        name: format!("restored-{id}"),
        created_ms: -1,
        owner: None,
        configs: vec![("remote.storage.enable".to_owned(), "true".to_owned())],
        partitions: vec![home; usize::try_from(count).unwrap_or(0)],
    };
    let fits = |(_, count): &(Uuid, i32)| *count as usize <= limits::TOPIC_PARTITIONS_MAX;
    CatalogCheckpoint {
        topics: counts.into_iter().filter(fits).map(topic).collect(),
        ..CatalogCheckpoint::default()
    }
}

async fn plan_partition(
    bucket: &Bucket,
    key: &PartitionKey,
    folders: &Folders,
    known: Option<&(PartitionCheckpoint, i64)>,
) -> Result<PlannedPartition, RestoreError> {
    let folder = folders.partitions.get(key).cloned().unwrap_or_default();
    let of_checkpoint = known.map(|(known, _)| known_partition(known));
    let rebuilt = rebuild(bucket, key, &folder, of_checkpoint.as_ref()).await?;
    let epoch = known.map(|(known, _)| known.leader_epoch).max(rebuilt.highest_epoch);
    Ok(PlannedPartition {
        rebuilt,
        epoch_base: epoch.unwrap_or(0),
        next_offset: known.map(|(known, _)| known.next_offset),
        written_ms: known.map(|(_, written_ms)| *written_ms),
    })
}

/// What a checkpoint says of a partition. Without a tier nothing of it is in the bucket, unless it
/// got one afterwards.
fn known_partition(known: &PartitionCheckpoint) -> KnownPartition {
    let PartitionCheckpoint { log_start, epochs, .. } = known;
    KnownPartition { log_start: *log_start, epochs: epochs.clone(), manifest: known.manifest() }
}

impl PlannedPartition {
    /// Leaves out leader epochs that leaders may have had after the checkpoint.
    fn above(self, epoch_base: i32) -> Self {
        let highest = self.epoch_base.max(epoch_base);
        Self { epoch_base: highest.saturating_add(limits::EPOCHS_LEFT_OUT), ..self }
    }
}

/// The producer id behind all that are in objects.
fn behind_producers(topics: &[PlannedTopic]) -> i64 {
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    let producers = partitions.flat_map(|partition| &partition.rebuilt.producers);
    producers.map(|producer| producer.id.saturating_add(1)).max().unwrap_or(0)
}

#[derive(Debug, Default)]
struct PlannedOffsets {
    groups: Vec<PlannedGroup>,
    capped: Vec<CappedOffset>,
    left_out: usize,
}

/// Offsets of groups, each at most the restored end.
fn plan_offsets(
    topics: &[PlannedTopic],
    groups: BTreeMap<String, Vec<GroupOffset>>,
) -> PlannedOffsets {
    let by_id: BTreeMap<Uuid, &PlannedTopic> =
        topics.iter().map(|topic| (topic.id, topic)).collect();
    let mut planned = PlannedOffsets::default();
    for (group, offsets) in groups {
        let mut kept = Vec::with_capacity(offsets.len());
        let mut seen = BTreeSet::new();
        for mut offset in offsets {
            let topic = by_id.get(&offset.topic);
            let index = usize::try_from(offset.index).unwrap_or(usize::MAX);
            let found = topic.and_then(|topic| Some((topic, topic.partitions.get(index)?)));
            let Some((topic, partition)) = found else {
                planned.left_out += 1;
                continue;
            };
            if !seen.insert((offset.topic, offset.index)) {
                continue;
            }
            let end = partition.rebuilt.end;
            if offset.offset > end {
                planned.capped.push(CappedOffset {
                    group: group.clone(),
                    topic: topic.name.clone(),
                    partition: offset.index,
                    from: offset.offset,
                    to: end,
                });
                (offset.offset, offset.leader_epoch) = (end, -1);
            }
            kept.push(offset);
        }
        if !kept.is_empty() {
            planned.groups.push(PlannedGroup { group, offsets: kept });
        }
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(id: u128, ends: &[i64]) -> PlannedTopic {
        let partition = |end: &i64| PlannedPartition {
            rebuilt: Rebuilt { end: *end, ..Rebuilt::default() },
            epoch_base: 0,
            next_offset: Some(50),
            written_ms: None,
        };
        PlannedTopic {
            id: Uuid::from_u128(id),
            name: format!("t{id}"),
            owner: None,
            configs: Vec::new(),
            partitions: ends.iter().map(partition).collect(),
        }
    }

    fn offset(topic: u128, index: i32, offset: i64) -> GroupOffset {
        GroupOffset {
            topic: Uuid::from_u128(topic),
            index,
            offset,
            leader_epoch: 4,
            committed_ms: 0,
            expires_ms: None,
            metadata: "m".to_owned(),
        }
    }

    #[test]
    fn t2_group_offsets_are_at_most_the_restored_end() {
        let topics = [topic(1, &[10, 0]), topic(2, &[60])];
        let offsets = vec![
            offset(1, 0, 10),
            offset(1, 1, 7),
            offset(2, 0, 61),
            offset(2, 1, 1),
            offset(3, 0, 1),
        ];
        let planned = plan_offsets(&topics, BTreeMap::from([("g".to_owned(), offsets)]));
        assert_eq!(planned.left_out, 2);
        let kept: Vec<(i64, i32)> =
            planned.groups[0].offsets.iter().map(|o| (o.offset, o.leader_epoch)).collect();
        assert_eq!(kept, [(10, 4), (0, -1), (60, -1)]);
        let capped: Vec<(&str, i32, i64, i64)> =
            planned.capped.iter().map(|c| (&*c.topic, c.partition, c.from, c.to)).collect();
        assert_eq!(capped, [("t1", 1, 7, 0), ("t2", 0, 61, 60)]);
    }

    #[test]
    fn t2_lost_records_are_those_behind_the_last_object() {
        let topic = topic(1, &[10, 60]);
        let lost: Vec<Option<i64>> =
            topic.partitions.iter().map(PlannedPartition::lost_records).collect();
        assert_eq!(lost, [Some(40), Some(0)]);
        let unknown = PlannedPartition { next_offset: None, ..topic.partitions[0].clone() };
        assert_eq!(unknown.lost_records(), None);
    }

    #[test]
    fn t2_leader_epochs_begin_above_those_of_the_lost_cluster() {
        let partition = topic(1, &[10]).partitions.remove(0);
        let of =
            |known, base| PlannedPartition { epoch_base: known, ..partition.clone() }.above(base);
        assert_eq!(of(7, 3).epoch_base, 7 + limits::EPOCHS_LEFT_OUT);
        assert_eq!(of(3, 7).epoch_base, 7 + limits::EPOCHS_LEFT_OUT);
    }
}
