//! What a checkpoint in the bucket has of a shard's state. Pure.

use ropewalk_shard::command::ConfigResource;
use ropewalk_shard::state::{Catalog, Group, Partition, State, Tier};
use ropewalk_shard::{PartitionId, ShardId, TopicId};
use ropewalk_tier::{
    CatalogCheckpoint, Configs, ConfigsOf, Contents, EpochStart, GroupOffset, GroupOffsets,
    PartitionCheckpoint, PartitionHome, ShardCheckpoint, TierCheckpoint, TopicCheckpoint,
};

use super::convert;

/// The contents of a checkpoint of the shard, as its leader of this term writes them.
/// `youngest_ms` is the largest timestamp on the disk of a partition.
pub(super) fn contents(
    shard: ShardId,
    term: u64,
    state: &State,
    youngest_ms: impl Fn(PartitionId) -> Option<i64>,
) -> Contents {
    if let Some(catalog) = &state.catalog {
        return Contents::Catalog(of_catalog(catalog));
    }
    let partitions = state.partitions.iter();
    let partitions = partitions.map(|(id, p)| of_partition(*id, p, term, youngest_ms(*id)));
    let groups = state.groups.iter().filter(|(_, group)| !group.offsets.is_empty());
    let groups = groups.map(|(id, group)| of_group(id, group)).collect();
    Contents::Shard(shard.0, ShardCheckpoint { groups, partitions: partitions.collect() })
}

/// Whether a restore would find nothing in it.
pub(super) fn is_empty(contents: &Contents) -> bool {
    match contents {
        Contents::Catalog(catalog) => catalog.topics.is_empty() && catalog.deleted.is_empty(),
        Contents::Shard(_, shard) => shard.groups.is_empty() && shard.partitions.is_empty(),
    }
}

fn of_catalog(catalog: &Catalog) -> CatalogCheckpoint {
    let topics = catalog.topics.iter().map(|(id, topic)| TopicCheckpoint {
        id: id.0,
        name: topic.name.clone(),
        created_ms: topic.created_ms,
        owner: topic.owner.clone(),
        configs: configs(catalog, &ConfigResource::Topic(*id)),
        partitions: topic
            .partitions
            .iter()
            .map(|home| PartitionHome { shard: home.shard.0, epoch_base: home.epoch_base })
            .collect(),
    });
    let others = catalog.configs.keys().filter_map(|resource| {
        let of = match resource {
            ConfigResource::Topic(_) => return None,
            ConfigResource::Broker(None) => ConfigsOf::AllBrokers,
            ConfigResource::Broker(Some(id)) => ConfigsOf::Broker(id.0),
            ConfigResource::Group(group) => ConfigsOf::Group(group.clone()),
        };
        Some((of, configs(catalog, resource)))
    });
    CatalogCheckpoint {
        shards: (catalog.shards.len() as u32).saturating_sub(1),
        next_producer_id: catalog.next_producer_id,
        topics: topics.collect(),
        configs: others.collect(),
        deleted: catalog.tombstones.keys().map(|TopicId(id)| *id).collect(),
    }
}

fn configs(catalog: &Catalog, resource: &ConfigResource) -> Configs {
    catalog.configs(resource).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn of_group(id: &str, group: &Group) -> GroupOffsets {
    let offsets = group.offsets.iter().map(|(partition, committed)| GroupOffset {
        topic: partition.topic.0,
        index: partition.index,
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        committed_ms: committed.time_ms,
        expires_ms: committed.expires_ms,
        metadata: committed.metadata.clone(),
    });
    GroupOffsets { group: id.to_owned(), offsets: offsets.collect() }
}

fn of_partition(
    id: PartitionId,
    partition: &Partition,
    term: u64,
    youngest_ms: Option<i64>,
) -> PartitionCheckpoint {
    let tier = partition.tier.as_deref();
    let in_bucket_ms = tier.and_then(|tier| {
        let pages = tier.pages.iter().map(|page| page.max_timestamp_ms);
        pages.chain(tier.objects.iter().map(|object| object.max_timestamp_ms)).max()
    });
    // A partition without a tier begins again: its epochs are of no use.
    let epochs = partition.epochs.iter().filter(|_| tier.is_some());
    PartitionCheckpoint {
        topic: id.topic.0,
        index: id.index,
        log_start: partition.log_start,
        next_offset: partition.next_offset,
        leader_epoch: partition.leader_epoch(term),
        max_timestamp_ms: youngest_ms.max(in_bucket_ms).unwrap_or(-1),
        epochs: epochs
            .map(|start| EpochStart { epoch: start.epoch, start_offset: start.start_offset })
            .collect(),
        tier: tier.map(of_tier),
    }
}

fn of_tier(tier: &Tier) -> TierCheckpoint {
    TierCheckpoint {
        is_enabled: tier.is_enabled,
        end: tier.end,
        dropped: tier.dropped,
        pages: tier.pages.iter().map(convert::page).collect(),
        objects: tier.objects.iter().map(convert::object).collect(),
        replaced: tier.replaced.iter().map(convert::page).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ropewalk_shard::HistoryId;
    use ropewalk_shard::command::PartitionPlacement;
    use ropewalk_shard::manifest::ObjectRef;
    use ropewalk_shard::state::catalog::Topic;
    use ropewalk_shard::state::group::CommittedOffset;
    use ropewalk_shard::state::partition;
    use uuid::Uuid;

    use super::*;

    fn topic(n: u128) -> TopicId {
        TopicId(Uuid::from_u128(n))
    }

    #[test]
    fn t2_the_catalog_is_there_with_its_topics_and_what_was_configured() {
        let mut catalog = Catalog::first("cluster".into(), ropewalk_shard::BrokerId(1), 24);
        let orders = Topic {
            name: "orders".into(),
            partitions: vec![PartitionPlacement { shard: ShardId(3), epoch_base: 7 }],
            owner: Some("uid".into()),
            created_ms: 5,
        };
        catalog.topics.insert(topic(1), orders);
        let set = |key: &str| BTreeMap::from([(key.to_owned(), "1".to_owned())]);
        let group = ConfigResource::Group("g".into());
        for (resource, key) in [
            (ConfigResource::Topic(topic(1)), "retention.ms"),
            (ConfigResource::Broker(None), "log.retention.ms"),
            (ConfigResource::Broker(Some(ropewalk_shard::BrokerId(2))), "k"),
            (group, "consumer.session.timeout.ms"),
        ] {
            catalog.configs.insert(resource, set(key));
        }
        catalog.tombstones.insert(topic(9), 3);
        catalog.next_producer_id = 2_000;
        let state = State { catalog: Some(Box::new(catalog)), ..State::default() };
        let contents = contents(ShardId::CATALOG, 2, &state, |_| None);
        let configs = |key: &str| vec![(key.to_owned(), "1".to_owned())];
        let expected = CatalogCheckpoint {
            shards: 24,
            next_producer_id: 2_000,
            topics: vec![TopicCheckpoint {
                id: topic(1).0,
                name: "orders".into(),
                created_ms: 5,
                owner: Some("uid".into()),
                configs: configs("retention.ms"),
                partitions: vec![PartitionHome { shard: 3, epoch_base: 7 }],
            }],
            configs: vec![
                (ConfigsOf::AllBrokers, configs("log.retention.ms")),
                (ConfigsOf::Broker(2), configs("k")),
                (ConfigsOf::Group("g".into()), configs("consumer.session.timeout.ms")),
            ],
            deleted: vec![topic(9).0],
        };
        assert!(!is_empty(&contents));
        assert_eq!(contents, Contents::Catalog(expected));
    }

    #[test]
    fn t2_a_shard_is_there_with_its_offsets_and_manifests() {
        let object = ObjectRef {
            base: 10,
            end: 20,
            history: HistoryId(5),
            term: 2,
            size_bytes: 100,
            digest: 7,
            max_timestamp_ms: 1_000,
            first_epoch: 3,
        };
        let tier = Tier {
            is_enabled: true,
            local_start: 15,
            end: 20,
            dropped: 10,
            dropped_ms: 0,
            deleted: 10,
            pages: [].into(),
            objects: [object].into(),
            replaced: Vec::new(),
        };
        let tiered = Partition {
            log_start: 10,
            next_offset: 25,
            epochs: vec![partition::EpochStart { epoch: 4, start_offset: 10 }],
            tier: Some(Box::new(tier)),
            ..Partition::new(3)
        };
        let local = Partition { tier: None, ..tiered.clone() };
        let id = |n| PartitionId { topic: topic(n), index: 0 };
        let committed = CommittedOffset {
            offset: 12,
            leader_epoch: 4,
            metadata: "m".into(),
            time_ms: 99,
            expires_ms: None,
        };
        let offsets = BTreeMap::from([(id(8), committed)]);
        let group = Group { offsets, ..Group::default() };
        let mut state = State::default();
        state.partitions.insert(id(1), tiered.into());
        state.partitions.insert(id(2), local.into());
        state.groups.insert("g".into(), group.into());
        state.groups.insert("only members".into(), Group::default().into());
        let Contents::Shard(6, found) = contents(ShardId(6), 9, &state, |_| Some(900)) else {
            panic!("it is shard 6");
        };
        let [with, without] = &found.partitions[..] else { panic!("two partitions") };
        assert_eq!((with.log_start, with.next_offset, with.leader_epoch), (10, 25, 12));
        assert_eq!(with.max_timestamp_ms, 1_000, "the object is younger");
        assert_eq!(with.epochs, [EpochStart { epoch: 4, start_offset: 10 }]);
        let tier = with.tier.as_ref().expect("it has one");
        assert_eq!((tier.is_enabled, tier.end, tier.dropped), (true, 20, 10));
        assert_eq!(tier.objects, [convert::object(&object)]);
        assert_eq!((without.max_timestamp_ms, &without.tier), (900, &None));
        assert_eq!((without.next_offset, without.epochs.len()), (25, 0));
        let [group] = &found.groups[..] else { panic!("one group has offsets") };
        assert_eq!((group.group.as_str(), group.offsets.len()), ("g", 1));
        let offset = &group.offsets[0];
        assert_eq!((offset.topic, offset.offset, offset.committed_ms), (topic(8).0, 12, 99));
        assert!(is_empty(&contents(ShardId(6), 9, &State::default(), |_| None)));
    }
}
