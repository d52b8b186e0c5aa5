//! Which shard a new partition lives in. Pure.

use ropewalk_shard::command::PartitionHome;
use ropewalk_shard::{ShardId, TopicId};

/// Homes for `count` partitions of `topic`, from partition `first` on, over `shards` data shards.
///
/// Neighbouring partitions of a topic fall into different shards, and topics start at different
/// shards, so that both one big topic and many small ones spread. The same input gives the same
/// answer: a repeated proposal does not move anything.
#[must_use]
pub fn homes(topic: TopicId, first: usize, count: usize, shards: u32) -> Vec<PartitionHome> {
    let start = topic.0.as_u128() % u128::from(shards.max(1));
    let start = usize::try_from(start).expect("a remainder of a u32");
    (first..first + count)
        .map(|index| {
            let shard = (start + index) % shards.max(1) as usize;
            let shard = u32::try_from(shard).expect("below a u32") + ShardId::CATALOG.0 + 1;
            PartitionHome { shard: ShardId(shard), epoch_base: 0 }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_partitions_live_in_twelve_shards() {
        let homes = homes(TopicId::random(), 0, 12, 24);
        let distinct: std::collections::BTreeSet<_> = homes.iter().map(|h| h.shard).collect();
        assert_eq!(distinct.len(), 12);
        assert!(homes.iter().all(|h| (1..=24).contains(&h.shard.0)));
    }

    #[test]
    fn a_thousand_topics_of_one_partition_spread_evenly() {
        let mut count = [0_u32; 24];
        for _ in 0..2400 {
            let home = homes(TopicId::random(), 0, 1, 24)[0];
            count[home.shard.0 as usize - 1] += 1;
        }
        assert!(count.iter().all(|n| (50..=160).contains(n)), "{count:?}");
    }

    #[test]
    fn growing_a_topic_continues_where_it_ended() {
        let topic = TopicId::random();
        let all = homes(topic, 0, 10, 24);
        assert_eq!(homes(topic, 6, 4, 24), all[6..]);
    }
}
