//! Round trips of both kinds, damage, bounds, and the checkpoints in a bucket.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::bucket::Bucket;
use crate::error::TierError;
use crate::names::{Level, ObjectRef, PageRef};
use crate::object::EpochStart;

fn cluster() -> ClusterId {
    ClusterId::new("checkpoint-tests").unwrap()
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé.]{0,6}"
}

fn configs() -> impl Strategy<Value = Configs> {
    vec((text(), text()), 0..3)
}

fn topic() -> impl Strategy<Value = TopicCheckpoint> {
    let partitions = vec(any::<(u32, i32)>(), 0..4);
    (uuid(), text(), any::<i64>(), option::of(text()), configs(), partitions).prop_map(
        |(id, name, created_ms, owner, configs, partitions)| {
            let home = |(shard, epoch_base)| PartitionHome { shard, epoch_base };
            let partitions = partitions.into_iter().map(home).collect();
            TopicCheckpoint { id, name, created_ms, owner, configs, partitions }
        },
    )
}

fn configs_of() -> impl Strategy<Value = ConfigsOf> {
    prop_oneof![
        Just(ConfigsOf::AllBrokers),
        any::<i32>().prop_map(ConfigsOf::Broker),
        text().prop_map(ConfigsOf::Group),
    ]
}

fn catalog() -> impl Strategy<Value = CatalogCheckpoint> {
    let topics = vec(topic(), 0..4);
    let others = vec((configs_of(), configs()), 0..4);
    (any::<u32>(), any::<i64>(), topics, others, vec(uuid(), 0..4)).prop_map(
        |(shards, next_producer_id, topics, configs, deleted)| CatalogCheckpoint {
            shards,
            next_producer_id,
            topics,
            configs,
            deleted,
        },
    )
}

fn offset() -> impl Strategy<Value = GroupOffset> {
    (uuid(), any::<(i32, i64, i32, i64, Option<i64>)>(), text()).prop_map(
        |(topic, (index, offset, leader_epoch, committed_ms, expires_ms), metadata)| GroupOffset {
            topic,
            index,
            offset,
            leader_epoch,
            committed_ms,
            expires_ms,
            metadata,
        },
    )
}

/// References one behind the other, some with a gap before them: pages, then objects.
fn tier() -> impl Strategy<Value = TierCheckpoint> {
    let refs = vec((0..3_i64, 1..1_000_i64, any::<[u64; 3]>()), 0..6);
    (refs, 0..6_usize, any::<(bool, i64, u32)>()).prop_map(
        |(refs, pages_count, (is_enabled, dropped, count))| {
            let (mut pages, mut objects, mut end) = (Vec::new(), Vec::new(), 0);
            for (gap, length, [history, term, digest]) in refs {
                let base = end + gap;
                end = base + length;
                if pages.len() < pages_count {
                    let level = if digest % 2 == 0 { Level::Objects } else { Level::Pages };
                    pages.push(PageRef {
                        level,
                        base,
                        end,
                        history,
                        term,
                        size_bytes: count,
                        digest,
                        max_timestamp_ms: dropped,
                        count,
                        objects_bytes: term,
                    });
                } else {
                    objects.push(ObjectRef {
                        base,
                        end,
                        history,
                        term,
                        size_bytes: digest,
                        digest,
                        max_timestamp_ms: dropped,
                        first_epoch: 4,
                    });
                }
            }
            let replaced = pages.first().copied().into_iter().collect();
            TierCheckpoint { is_enabled, end, dropped, pages, objects, replaced }
        },
    )
}

fn partition() -> impl Strategy<Value = PartitionCheckpoint> {
    let epochs = vec(any::<(i32, i64)>(), 0..3);
    let offsets = (0..1_i64 << 40, 0..1_i64 << 40, any::<i64>());
    (uuid(), 0..=i32::MAX, offsets, any::<i32>(), epochs, option::of(tier())).prop_map(
        |(topic, index, (log_start, length, max_timestamp_ms), leader_epoch, epochs, tier)| {
            let start = |(epoch, start_offset)| EpochStart { epoch, start_offset };
            PartitionCheckpoint {
                topic,
                index,
                log_start,
                next_offset: log_start + length,
                leader_epoch,
                max_timestamp_ms,
                epochs: epochs.into_iter().map(start).collect(),
                tier,
            }
        },
    )
}

fn shard() -> impl Strategy<Value = ShardCheckpoint> {
    let group = (text(), vec(offset(), 0..4));
    let group = group.prop_map(|(group, offsets)| GroupOffsets { group, offsets });
    (vec(group, 0..4), vec(partition(), 0..4))
        .prop_map(|(groups, partitions)| ShardCheckpoint { groups, partitions })
}

fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    let contents = prop_oneof![
        catalog().prop_map(Contents::Catalog),
        (any::<u32>(), shard()).prop_map(|(number, shard)| Contents::Shard(number, shard)),
    ];
    (any::<(u32, u64, u64, u64, i64)>(), contents).prop_map(
        |((epoch, history, term, index, written_ms), contents)| {
            let cluster = cluster();
            let origin = CheckpointOrigin { cluster, epoch, history, term, index };
            Checkpoint { origin, written_ms, contents }
        },
    )
}

/// A checkpoint of the catalog, which differs by its name of a topic.
fn small(epoch: u32, term: u64, index: u64) -> Checkpoint {
    let topic = TopicCheckpoint {
        id: Uuid::from_u128(1),
        name: "orders".to_owned(),
        created_ms: 5,
        owner: None,
        configs: vec![("retention.ms".to_owned(), "1000".to_owned())],
        partitions: vec![PartitionHome { shard: 3, epoch_base: 0 }],
    };
    let catalog =
        CatalogCheckpoint { shards: 24, topics: vec![topic], ..CatalogCheckpoint::default() };
    let origin = CheckpointOrigin { cluster: cluster(), epoch, history: 9, term, index };
    Checkpoint { origin, written_ms: 7, contents: Contents::Catalog(catalog) }
}

proptest! {
    #[test]
    fn a_checkpoint_is_read_as_it_was_written(checkpoint in checkpoint()) {
        let encoded = checkpoint.encode().unwrap();
        let bytes = encoded.content.to_bytes();
        prop_assert_eq!(encoded.name.of, checkpoint.contents.of());
        prop_assert_eq!(Checkpoint::decode(&bytes, &encoded.name), Ok(checkpoint));
    }

    #[test]
    fn the_digest_of_the_contents_changes_with_them_only(
        one in checkpoint(),
        other in checkpoint(),
    ) {
        let digest = |checkpoint: &Checkpoint| checkpoint.encode().unwrap().contents_digest;
        let moved = Checkpoint { contents: one.contents.clone(), ..other.clone() };
        prop_assert_eq!(digest(&moved), digest(&one));
        if one.contents.of() == other.contents.of() {
            prop_assert_eq!(digest(&one) == digest(&other), one.contents == other.contents);
        }
    }

    #[test]
    fn d3_a_flipped_bit_or_a_missing_end_is_seen(
        checkpoint in checkpoint(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let encoded = checkpoint.encode().unwrap();
        let mut bytes = encoded.content.to_bytes().to_vec();
        let at = at.index(bytes.len());
        prop_assert!(Checkpoint::decode(&bytes[..at], &encoded.name).is_err());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(Checkpoint::decode(&bytes, &encoded.name).is_err());
    }

    /// As if the checksum had been computed after the damage.
    #[test]
    fn damage_behind_a_valid_checksum_is_an_error_or_a_valid_checkpoint(
        checkpoint in checkpoint(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0..40_usize,
    ) {
        let mut bytes = checkpoint.encode().unwrap().content.to_bytes().to_vec();
        bytes.truncate((bytes.len() - 4).saturating_sub(cut));
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.extend(ropewalk_crc::of(&bytes).to_le_bytes());
        if let Ok(read) = Checkpoint::read(&bytes) {
            prop_assert_eq!(&read.encode().unwrap().content.to_bytes()[..], &bytes[..]);
        }
    }

    #[test]
    fn any_bytes_give_a_checkpoint_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        let mut behind_magic = MAGIC.to_vec();
        behind_magic.extend(&bytes);
        prop_assert!(Checkpoint::read(&bytes).is_err());
        prop_assert!(Checkpoint::read(&behind_magic).is_err());
    }
}

#[test]
fn a_checkpoint_is_accepted_only_under_its_own_name() {
    let encoded = small(1, 2, 3).encode().unwrap();
    let bytes = encoded.content.to_bytes();
    let name = encoded.name;
    assert!(Checkpoint::decode(&bytes, &name).is_ok());
    for wrong in [
        CheckpointName { cluster: ClusterId::new("other").unwrap(), ..name.clone() },
        CheckpointName { of: CheckpointOf::Shard(0), ..name.clone() },
        CheckpointName { epoch: 2, ..name.clone() },
        CheckpointName { term: 3, ..name.clone() },
        CheckpointName { index: 4, ..name.clone() },
        CheckpointName { digest: 1, ..name.clone() },
    ] {
        let refused = Checkpoint::decode(&bytes, &wrong);
        assert!(matches!(refused, Err(FormatError::Invalid { .. })), "{wrong}: {refused:?}");
    }
}

#[test]
fn a_newer_version_is_named_and_is_no_damage() {
    let encoded = small(1, 2, 3).encode().unwrap();
    let mut bytes = encoded.content.to_bytes().to_vec();
    bytes[8] = 2;
    let refused = Checkpoint::decode(&bytes, &encoded.name).unwrap_err();
    assert_eq!(refused, FormatError::Version { what: WHAT, found: 2, newest: 1 });
}

#[test]
fn r1_a_checkpoint_that_is_too_large_is_refused_and_not_shortened() {
    let mut large = small(1, 2, 3);
    let value = "x".repeat(limits::CHECKPOINT_BYTES_MAX as usize);
    let Contents::Catalog(catalog) = &mut large.contents else { unreachable!("it is a catalog") };
    catalog.topics[0].configs[0].1 = value;
    let refused = large.encode().unwrap_err();
    assert!(matches!(refused, FormatError::Bound { limit, .. } if limit == 64 << 20), "{refused}");
}

#[test]
fn references_overlap_nowhere_and_end_with_the_tier() {
    let object = |base, end| ObjectRef {
        base,
        end,
        history: 0,
        term: 1,
        size_bytes: 1,
        digest: 0,
        max_timestamp_ms: 0,
        first_epoch: 0,
    };
    let read = |objects: Vec<ObjectRef>, end| {
        let (pages, replaced) = (Vec::new(), Vec::new());
        let tier = TierCheckpoint { is_enabled: true, end, dropped: 0, pages, objects, replaced };
        let partition = PartitionCheckpoint {
            topic: Uuid::from_u128(1),
            index: 0,
            log_start: 0,
            next_offset: 100,
            leader_epoch: 1,
            max_timestamp_ms: -1,
            epochs: Vec::new(),
            tier: Some(tier),
        };
        let shard = ShardCheckpoint { groups: Vec::new(), partitions: vec![partition] };
        let checkpoint = Checkpoint { contents: Contents::Shard(1, shard), ..small(1, 2, 3) };
        Checkpoint::read(&checkpoint.encode().unwrap().content.to_bytes()).map(drop)
    };
    assert_eq!(read(vec![object(0, 10), object(10, 20)], 20), Ok(()));
    assert_eq!(read(vec![object(0, 10), object(15, 20)], 20), Ok(()), "below the log start");
    for (objects, end) in [
        (vec![object(0, 10), object(9, 20)], 20),
        (vec![object(10, 20), object(0, 10)], 20),
        (vec![object(0, 0)], 20),
        (vec![object(-1, 5)], 20),
        (vec![object(0, 10), object(10, 21)], 20),
    ] {
        let refused = read(objects.clone(), end);
        assert!(matches!(refused, Err(FormatError::Invalid { .. })), "{objects:?}: {refused:?}");
    }
}

#[tokio::test]
async fn the_newest_checkpoint_in_a_bucket_is_that_of_the_last_claim_and_term() {
    let bucket = Bucket::memory();
    // A restored cluster begins with small indexes, and so does a shard after a repair.
    let ages = [(2, 8, 20), (2, 7, 90), (1, 40, 500), (1, 39, 900)];
    for (epoch, term, index) in ages.into_iter().rev() {
        let encoded = small(epoch, term, index).encode().unwrap();
        bucket.put_if_absent(&encoded.name.to_string(), &encoded.content).await.unwrap();
    }
    let other = Content::from(Bytes::from("other"));
    bucket.put_if_absent("checkpoint-tests/catalog/other", &other).await.unwrap();
    let folder = CheckpointOf::Catalog.folder(&cluster());
    let listed = list_checkpoints(&bucket, &folder).await.unwrap();
    let found: Vec<_> = listed.iter().map(|c| (c.name.epoch, c.name.term, c.name.index)).collect();
    assert_eq!(found, ages);
    let newest = read_checkpoint(&bucket, &listed[0].name).await.unwrap();
    assert_eq!(newest, small(2, 8, 20));
    assert_eq!(list_checkpoints(&bucket, "checkpoint-tests/shards").await.unwrap(), []);

    let name = CheckpointName { index: 21, ..listed[0].name.clone() };
    assert!(read_checkpoint(&bucket, &name).await.unwrap_err().is_missing());
    bucket.put_if_absent(&name.to_string(), &other).await.unwrap();
    let damaged = read_checkpoint(&bucket, &name).await.unwrap_err();
    assert!(matches!(damaged, TierError::Damaged { .. }), "{damaged}");
}
