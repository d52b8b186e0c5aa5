//! Snapshots are loaded as they were written, and damage is detected (D3).

use ropewalk_disk::SimDisk;

use super::*;
use ropewalk_shard::manifest::{BucketClaim, ObjectRef, PageRef, RestoreState};
use ropewalk_shard::state::catalog::{BrokerInfo, Catalog, ShardInfo};
use ropewalk_shard::state::{Partition, Tier};
use ropewalk_shard::{HistoryId, TopicId};

fn snapshot(index: u64) -> Snapshot {
    let partition = PartitionId { topic: TopicId(uuid::Uuid::from_u128(9)), index: 3 };
    let run = SpillRun {
        file: 4,
        position_bytes: 16,
        length_bytes: 100,
        crc: 5,
        base_offset: 10,
        next_offset: 12,
        records: 2,
        max_timestamp_ms: -1,
        appended_ms: 77,
    };
    let end = SegmentsEnd { segment_base: 0, position_bytes: 900, blocks: 1, next_offset: 10 };
    let files = PartitionFiles {
        partition,
        incarnation: 2,
        local_start: 1,
        next_offset: 12,
        segments: Some(end),
        spill: vec![run],
    };
    Snapshot {
        shard: ShardId(3),
        replica: ReplicaId(8),
        index,
        term: 2,
        members: Members::lone(8),
        replicas: BTreeMap::from([(ReplicaId(8), BrokerId(1))]),
        state: State::default(),
        partitions: vec![files],
    }
}

fn snapshots(disk: &SimDisk) -> Snapshots {
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    data.create_dir(&data.snapshots()).unwrap();
    Snapshots::new(&data, ShardId(3))
}

#[test]
fn a_snapshot_survives_a_power_loss() {
    let disk = SimDisk::new(1);
    let snapshots = snapshots(&disk);
    snapshots.write(1, &snapshot(5)).unwrap();
    disk.power_cycle(2);
    assert_eq!(snapshots.numbers().unwrap(), [1]);
    assert_eq!(snapshots.load(1).unwrap(), snapshot(5));
}

#[test]
fn d6_a_crash_while_one_is_written_leaves_the_one_before_it() {
    for at in 1..20 {
        for seed in 0..8 {
            let disk = SimDisk::new(seed);
            let snapshots = snapshots(&disk);
            snapshots.write(1, &snapshot(5)).unwrap();
            disk.crash_at(disk.operations() + at);
            let written = snapshots.write(2, &snapshot(6)).is_ok();
            disk.power_cycle(seed);
            assert_eq!(snapshots.load(1).unwrap().index, 5);
            if snapshots.numbers().unwrap().contains(&2) {
                assert_eq!(snapshots.load(2).unwrap().index, 6);
            } else {
                assert!(!written, "it was said to be durable");
            }
        }
    }
}

#[test]
fn d3_every_flip_and_every_truncation_is_noticed() {
    let disk = SimDisk::new(1);
    let snapshots = snapshots(&disk);
    snapshots.write(1, &snapshot(5)).unwrap();
    let path = snapshots.path(1);
    let good = disk.content(&path).unwrap();
    for at in 0..good.len() as u64 {
        disk.corrupt(&path, at, 0x10);
        assert!(matches!(snapshots.load(1), Err(SnapshotError::Damaged { .. })), "byte {at}");
        disk.corrupt(&path, at, 0x10);
        disk.put(&path, good[..at as usize].to_vec());
        assert!(matches!(snapshots.load(1), Err(SnapshotError::Damaged { .. })), "cut at {at}");
        disk.put(&path, good.clone());
    }
}

#[test]
fn another_version_is_refused_and_not_taken_for_damage() {
    let disk = SimDisk::new(1);
    let snapshots = snapshots(&disk);
    snapshots.write(1, &snapshot(5)).unwrap();
    let path = snapshots.path(1);
    let mut newer = disk.content(&path).unwrap();
    newer[8] = 8;
    let end = newer.len() - 4;
    let crc = crc32c::crc32c(&newer[..end]).to_le_bytes();
    newer[end..].copy_from_slice(&crc);
    disk.put(&path, newer);
    assert!(matches!(snapshots.load(1), Err(SnapshotError::UnknownVersion { version: 8, .. })));
}

#[test]
fn only_what_is_kept_stays() {
    let disk = SimDisk::new(1);
    let snapshots = snapshots(&disk);
    for number in 1..=4 {
        snapshots.write(number, &snapshot(number)).unwrap();
    }
    snapshots.remove_all_but(&[3, 4]).unwrap();
    assert_eq!(snapshots.numbers().unwrap(), [3, 4]);
}

/// A snapshot of version 1: three partitions, a configured topic, no bindings.
#[test]
fn a_snapshot_of_version_1_is_read_and_written_again_as_5() {
    let disk = SimDisk::new(1);
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    data.create_dir(&data.snapshots()).unwrap();
    let snapshots = Snapshots::new(&data, ShardId::CATALOG);
    let old = include_bytes!("version-1.snapshot");
    assert_eq!(old[8], 1, "the fixture is of version 1");
    disk.put(&snapshots.path(1), old.to_vec());
    let snapshot = snapshots.load(1).unwrap();
    let catalog = snapshot.state.catalog.as_ref().unwrap();
    let (id, topic) = catalog.topic("orders").unwrap();
    assert_eq!(topic.partitions.len(), 3);
    assert_eq!(catalog.slots.len(), ropewalk_shard::id::SLOTS);
    let resource = ropewalk_shard::command::ConfigResource::Topic(id);
    assert_eq!(catalog.configs(&resource).next(), Some(("retention.ms", "86400000")));
    assert!(catalog.bindings.is_empty());
    snapshots.write(2, &snapshot).unwrap();
    assert_eq!(snapshots.load(2).unwrap(), snapshot);
}

/// A snapshot of version 2: a topic with a bound group, a record of a producer, a commit.
#[test]
fn a_snapshot_of_version_2_is_read_and_written_again_as_5() {
    let disk = SimDisk::new(1);
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    data.create_dir(&data.snapshots()).unwrap();
    let snapshots = Snapshots::new(&data, ShardId::CATALOG);
    let old = include_bytes!("version-2.snapshot");
    assert_eq!(old[8], 2, "the fixture is of version 2");
    disk.put(&snapshots.path(1), old.to_vec());
    let snapshot = snapshots.load(1).unwrap();
    assert_eq!((snapshot.index, snapshot.term), (9, 2));
    assert_eq!(snapshot.members, Members::lone(1));
    let state = &snapshot.state;
    let catalog = state.catalog.as_ref().unwrap();
    let (id, topic) = catalog.topic("orders").unwrap();
    assert_eq!((topic.partitions.len(), topic.owner.as_deref()), (3, Some("owner-1")));
    assert!(catalog.bindings[&id].contains_key("billing"));
    assert_eq!((catalog.revision, catalog.tombstones.len()), (2, 0));
    let partition = PartitionId { topic: id, index: 0 };
    assert!(state.partitions[&partition].has_producer(7));
    assert_eq!(state.groups["billing"].offsets[&partition].offset, 1);
    snapshots.write(2, &snapshot).unwrap();
    assert_eq!(disk.content(&snapshots.path(2)).unwrap()[8], 5);
    assert_eq!(snapshots.load(2).unwrap(), snapshot);
}

/// A snapshot of version 3: a topic with a bound group, a deleted one, a record of a producer, a
/// commit, a fence, and members of a history that a repair founded.
#[test]
fn a_snapshot_of_version_3_is_read_and_written_again_as_5() {
    let disk = SimDisk::new(1);
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    data.create_dir(&data.snapshots()).unwrap();
    let snapshots = Snapshots::new(&data, ShardId::CATALOG);
    let old = include_bytes!("version-3.snapshot");
    assert_eq!(old[8], 3, "the fixture is of version 3");
    disk.put(&snapshots.path(1), old.to_vec());
    let snapshot = snapshots.load(1).unwrap();
    assert_eq!((snapshot.index, snapshot.term), (9, 2));
    assert_eq!((&snapshot.members.voters[..], snapshot.members.history.0), (&[1][..], 5));
    let state = &snapshot.state;
    let catalog = state.catalog.as_ref().unwrap();
    let (id, topic) = catalog.topic("orders").unwrap();
    assert_eq!((topic.partitions.len(), topic.owner.as_deref()), (3, Some("owner-1")));
    assert!(catalog.bindings[&id].contains_key("billing"));
    assert_eq!((catalog.revision, catalog.tombstones.len(), catalog.epoch()), (4, 1, 1));
    assert_eq!((catalog.level, catalog.levels.len()), (0, 0), "no broker has reported");
    let partition = PartitionId { topic: id, index: 0 };
    assert!(state.partitions[&partition].has_producer(7));
    assert_eq!(state.groups["billing"].offsets[&partition].offset, 1);
    assert_eq!((state.clock_ms, state.log_sum), (16, None));
    snapshots.write(2, &snapshot).unwrap();
    assert_eq!(disk.content(&snapshots.path(2)).unwrap()[8], 5);
    assert_eq!(snapshots.load(2).unwrap(), snapshot);
}

/// A snapshot of version 4: that of version 3, and the report of a feature level, and a check of
/// the state.
#[test]
fn a_snapshot_of_version_4_is_read_and_written_again_as_5() {
    let disk = SimDisk::new(1);
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    data.create_dir(&data.snapshots()).unwrap();
    let snapshots = Snapshots::new(&data, ShardId::CATALOG);
    let old = include_bytes!("version-4.snapshot");
    assert_eq!(old[8], 4, "the fixture is of version 4");
    disk.put(&snapshots.path(1), old.to_vec());
    let snapshot = snapshots.load(1).unwrap();
    assert_eq!((snapshot.index, snapshot.term), (11, 2));
    let state = &snapshot.state;
    let catalog = state.catalog.as_ref().unwrap();
    assert_eq!((catalog.level, &catalog.levels), (5, &BTreeMap::from([(BrokerId(1), 5)])));
    assert_eq!((catalog.revision, catalog.tombstones.len(), catalog.epoch()), (5, 1, 1));
    assert_eq!((state.clock_ms, state.log_sum), (17, Some(0)));
    let brokers: Vec<_> = catalog.brokers.iter().collect();
    assert_eq!(brokers, [(&BrokerId(1), &BrokerInfo::default())]);
    assert!(catalog.removed_brokers.is_empty());
    let lone = |shard: u32| ShardInfo::lone(ReplicaId(u64::from(shard) + 1), BrokerId(1));
    let shards: BTreeMap<_, _> = (0..4).map(|shard| (ShardId(shard), lone(shard))).collect();
    assert_eq!((&catalog.shards, catalog.next_replica_id), (&shards, 5));
    snapshots.write(2, &snapshot).unwrap();
    assert_eq!(disk.content(&snapshots.path(2)).unwrap()[8], 5);
    assert_eq!(snapshots.load(2).unwrap(), snapshot);
}

/// Snapshots of version 5 that an earlier broker wrote: of the catalog, and of a shard with a
/// partition with two idempotent producers. They are written with the same bytes again, so that the
/// earlier broker reads what this one writes.
#[test]
fn a_snapshot_of_version_5_is_read_and_written_with_the_same_bytes_again() {
    let disk = SimDisk::new(1);
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    data.create_dir(&data.snapshots()).unwrap();
    for (shard, old) in [
        (ShardId::CATALOG, &include_bytes!("version-5-catalog.snapshot")[..]),
        (ShardId(2), &include_bytes!("version-5.snapshot")[..]),
    ] {
        assert_eq!(old[8], 5, "the fixture is of version 5");
        let snapshots = Snapshots::new(&data, shard);
        disk.put(&snapshots.path(1), old.to_vec());
        let snapshot = snapshots.load(1).unwrap();
        snapshots.write(2, &snapshot).unwrap();
        assert_eq!(disk.content(&snapshots.path(2)).unwrap(), old, "{shard}");
        assert_eq!(snapshot.state.catalog.is_some(), shard == ShardId::CATALOG);
        let partitions: Vec<_> = snapshot.state.partitions.values().collect();
        assert_eq!(partitions.len(), usize::from(shard != ShardId::CATALOG));
        for partition in partitions {
            assert_eq!((partition.log_start, partition.next_offset), (0, 2));
            assert_eq!((partition.producers.as_ref().unwrap().len(), &partition.tier), (2, &None));
        }
    }
}

/// A snapshot of a shard that has something of a tier.
fn tiered(index: u64) -> Snapshot {
    let mut snapshot = snapshot(index);
    let object = |base: i64, end: i64| ObjectRef {
        base,
        end,
        history: HistoryId(5),
        term: 2,
        size_bytes: 1 << 20,
        digest: u64::MAX,
        max_timestamp_ms: 7,
        first_epoch: 2,
    };
    let page = PageRef {
        level: 0,
        base: 0,
        end: 3,
        count: 2,
        objects_bytes: 2 << 20,
        max_timestamp_ms: 7,
        history: HistoryId(5),
        term: 2,
        size_bytes: 100,
        digest: 1,
    };
    let tier = Tier {
        is_enabled: true,
        local_start: 1,
        end: 8,
        dropped: 0,
        dropped_ms: 5,
        deleted: 0,
        pages: [page].into(),
        objects: [object(3, 5), object(5, 8)].into(),
        replaced: vec![PageRef { count: 1, ..page }],
    };
    let partition = Partition { next_offset: 12, tier: Some(Box::new(tier)), ..Partition::new(1) };
    let id = snapshot.partitions[0].partition;
    snapshot.state.partitions.insert(id, partition.into());
    snapshot
}

#[test]
fn a_snapshot_of_a_shard_with_a_tier_is_written_as_6() {
    let disk = SimDisk::new(1);
    let snapshots = snapshots(&disk);
    snapshots.write(1, &tiered(5)).unwrap();
    let written = disk.content(&snapshots.path(1)).unwrap();
    assert_eq!(written[8], 6);
    assert_eq!(snapshots.load(1).unwrap(), tiered(5));
    // If this fails, the encoding has changed: another version is needed.
    assert_eq!((written.len(), crc32c::crc32c(&written)), (183, 1_214_729_159));
}

/// Of the catalog, before and after the cluster has recorded its claim.
#[test]
fn a_snapshot_of_a_catalog_with_a_claim_is_written_as_7() {
    let disk = SimDisk::new(1);
    let snapshots = snapshots(&disk);
    let mut with = tiered(5);
    with.state.catalog = Some(Box::new(Catalog::first("cluster".into(), BrokerId(1), 2)));
    snapshots.write(1, &with).unwrap();
    assert_eq!(disk.content(&snapshots.path(1)).unwrap()[8], 6);
    assert_eq!(snapshots.load(1).unwrap(), with);
    let claim = BucketClaim { epoch: 3, holder: 9, restore: RestoreState::Finished };
    with.state.catalog.as_mut().unwrap().claim = Some(claim);
    for partition in with.state.partitions.values_mut() {
        partition.tier = None;
    }
    snapshots.write(2, &with).unwrap();
    let written = disk.content(&snapshots.path(2)).unwrap();
    assert_eq!(written[8], 7);
    assert_eq!(snapshots.load(2).unwrap(), with);
    with.state.catalog.as_mut().unwrap().claim = None;
    snapshots.write(3, &with).unwrap();
    let earlier = disk.content(&snapshots.path(3)).unwrap();
    assert_eq!(earlier[8], 5, "an older broker reads it");
    assert_eq!(snapshots.load(3).unwrap(), with);
}

#[test]
fn t1_a_recovered_log_starts_in_the_bucket_only_if_the_partition_has_a_tier() {
    let (mut without, with) = (snapshot(5), tiered(5));
    without.state = with.state.clone();
    let id = without.partitions[0].partition;
    without.state.partitions.get_mut(&id).unwrap().tier = None;
    assert_eq!(without.log_start(&without.partitions[0]), 1, "the files start there");
    assert_eq!(with.log_start(&with.partitions[0]), 0);
}

#[test]
fn equal_snapshots_have_equal_bytes() {
    let mut snapshots = [snapshot(5), snapshot(5)];
    for (at, snapshot) in snapshots.iter_mut().enumerate() {
        let brokers = [(ReplicaId(9), BrokerId(2)), (ReplicaId(3), BrokerId(4))];
        // In another order each.
        snapshot.replicas.extend([brokers[at], brokers[1 - at]]);
        let groups = ["a", "b"];
        for group in [groups[at], groups[1 - at]] {
            snapshot.state.groups.insert(group.to_owned(), Default::default());
        }
    }
    let [one, other] = snapshots.each_ref().map(super::encode);
    assert_eq!(one, other);
    let written = Snapshot { state: State { log_sum: Some(1), ..State::default() }, ..snapshot(5) };
    assert_ne!(super::encode(&written), super::encode(&snapshot(5)));
}

#[test]
fn the_snapshots_of_other_shards_are_left_alone() {
    let disk = SimDisk::new(1);
    let snapshots = snapshots(&disk);
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    let others = [ShardId(33), ShardId(13)].map(|shard| Snapshots::new(&data, shard));
    for of in &others {
        of.write(1, &Snapshot { shard: of.shard, ..snapshot(5) }).unwrap();
    }
    snapshots.write(4, &snapshot(5)).unwrap();
    snapshots.remove_all_but(&[]).unwrap();
    assert_eq!(snapshots.numbers().unwrap(), [0; 0]);
    for of in &others {
        assert_eq!(of.numbers().unwrap(), [1]);
    }
}
