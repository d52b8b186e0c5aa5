//! Placement of new partitions in shards. Pure.

use std::ops::Range;

use ropewalk_shard::command::PartitionPlacement;
use ropewalk_shard::{ShardId, TopicId};

/// The shards for the partitions of `topic` with these indexes.
///
/// `listed` are the data shards of the catalog, `sound` those of them that are not damaged.
/// Consecutive partitions are placed in different shards, and topics start at different shards, so
/// that one large topic and many small ones spread. The placement depends on the index and on
/// `listed` only, so a repeated proposal and a later growth continue it; only a partition whose
/// shard is damaged is placed in a sound one. Without any sound shard the listed ones are used.
/// Empty if there are no shards.
#[must_use]
pub fn homes(
    topic: TopicId,
    indexes: Range<usize>,
    listed: &[ShardId],
    sound: &[ShardId],
) -> Vec<PartitionPlacement> {
    if listed.is_empty() {
        return Vec::new();
    }
    let sound = if sound.is_empty() { listed } else { sound };
    let start = topic.0.as_u128() % listed.len() as u128;
    let start = usize::try_from(start).expect("a remainder of a usize");
    let place = |index: usize| {
        let preferred = listed[(start + index) % listed.len()];
        let shard = match sound.contains(&preferred) {
            true => preferred,
            false => sound[(start + index) % sound.len()],
        };
        PartitionPlacement { shard, epoch_base: 0 }
    };
    indexes.map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::catalog::random_topic_id;

    fn shards() -> Vec<ShardId> {
        (1..=24).map(ShardId).collect()
    }

    fn without(damaged: &[u32]) -> Vec<ShardId> {
        shards().into_iter().filter(|shard| !damaged.contains(&shard.0)).collect()
    }

    #[test]
    fn twelve_partitions_live_in_twelve_shards() {
        let homes = homes(random_topic_id(), 0..12, &shards(), &shards());
        let distinct: std::collections::BTreeSet<_> = homes.iter().map(|h| h.shard).collect();
        assert_eq!(distinct.len(), 12);
        assert!(homes.iter().all(|h| (1..=24).contains(&h.shard.0)));
    }

    #[test]
    fn a_thousand_topics_of_one_partition_spread_evenly() {
        let mut count = [0_u32; 24];
        for _ in 0..2400 {
            let home = homes(random_topic_id(), 0..1, &shards(), &shards())[0];
            count[home.shard.0 as usize - 1] += 1;
        }
        assert!(count.iter().all(|n| (50..=160).contains(n)), "{count:?}");
    }

    #[test]
    fn growing_a_topic_continues_where_it_ended() {
        let topic = random_topic_id();
        let all = homes(topic, 0..10, &shards(), &shards());
        assert_eq!(homes(topic, 6..10, &shards(), &shards()), all[6..]);
        // Also when a shard became damaged meanwhile: it gets no partition, and no other placement
        // changes.
        let lost = all[8].shard;
        let grown = homes(topic, 6..10, &shards(), &without(&[lost.0]));
        assert_ne!(grown[2].shard, lost);
        for at in [0, 1, 3] {
            assert_eq!(grown[at], all[6 + at]);
        }
    }

    #[test]
    fn a_damaged_shard_gets_no_partition_and_all_others_do() {
        for damaged in [&[5][..], &[24], &[1, 2, 3, 4]] {
            for _ in 0..100 {
                let mut count = BTreeMap::new();
                for home in homes(random_topic_id(), 0..48, &shards(), &without(damaged)) {
                    *count.entry(home.shard).or_insert(0) += 1;
                }
                assert!(count.keys().copied().eq(without(damaged)), "{damaged:?}: {count:?}");
            }
        }
    }

    #[test]
    fn without_any_sound_shard_the_listed_ones_are_taken() {
        assert_eq!(homes(random_topic_id(), 0..3, &shards(), &[]).len(), 3);
        assert_eq!(homes(random_topic_id(), 0..3, &[], &[]), []);
    }
}
