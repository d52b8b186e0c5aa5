//! Metrics of every queue and group: consumer lag (length), delay, throughput.
//!
//! The broker measures them from applied commands: an append counts arrivals and leaves a time
//! sample; a commit counts processed records and, by the samples it passes, their delay. No segment
//! is read for a commit. [`QueueMetrics`] listens on the shards' own loops and does little work
//! there; reports are computed on request.
//!
//! - **length** (consumer lag): visible records between a group's committed offset and the end;
//!   before a group's first commit, all records. A group is listed from its first commit, or from
//!   the first generation in which a member subscribes to the queue, so that a group that reads and
//!   never commits does not look empty. The length of a queue is its slowest group's, or all
//!   records when no group reads it.
//! - **delay**: commit time minus record timestamp, at least 0, of the commits in the last minute
//!   (or in the last minute with commits); and the age, by append time, of the oldest record not
//!   yet committed.
//! - **throughput**: records per second over the last half minute, appended and processed.
//!
//! Rates and delays are counted by the leader of a shard only, and not while it replays its log, so
//! that the sum over all brokers and restarts is what happened. Samples are taken by every replica,
//! because the next leader needs them. All of them are volatile.

mod meter;
mod delay;
mod sample;
mod report;
mod signal;
mod shard_load;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_shard::{Effect, PartitionId, TopicId};

pub use delay::Delay;
pub use meter::Meter;
pub use report::{DelayReport, GroupReport, QueueReport, Report, Throughput};
pub use sample::Sample;
pub use shard_load::ShardLoad;
pub use signal::{PartitionSignal, Signal};

/// Stripes of the partition table, so that shards do not contend for one lock.
const STRIPES: usize = 64;

/// The measured values of the whole broker.
#[derive(Debug)]
pub struct QueueMetrics {
    partitions: Vec<Mutex<HashMap<PartitionId, Arrivals>>>,
    groups: Mutex<HashMap<Arc<str>, HashMap<TopicId, Processed>>>,
}

/// Arrivals of a partition.
#[derive(Debug, Default)]
struct Arrivals {
    rate: Meter,
    sample: Sample,
}

/// Processed records of a topic by one group.
#[derive(Debug, Default)]
struct Processed {
    rate: Meter,
    delay: Delay,
    /// The same as `rate`, by partition.
    partitions: HashMap<i32, Meter>,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            partitions: (0..STRIPES).map(|_| Mutex::default()).collect(),
            groups: Mutex::default(),
        }
    }
}

impl QueueMetrics {
    /// Processes applied effects; `is_leader` is whether this replica leads the shard, and so
    /// counts them. Called on the shard's loop.
    pub fn applied(&self, effects: &[Effect], is_leader: bool) {
        for effect in effects {
            match effect {
                Effect::Appended { partition, batch, time_ms } => {
                    let mut stripe = self.stripe(*partition).lock();
                    let arrivals = stripe.entry(*partition).or_default();
                    if is_leader {
                        let count = u64::try_from(batch.count).unwrap_or(0);
                        arrivals.rate.add(*time_ms, count);
                    }
                    arrivals.sample.push(batch.base_offset, *time_ms, batch.max_timestamp_ms);
                }
                Effect::Committed { group, partition, before, after, time_ms } if is_leader => {
                    self.committed(group, *partition, before.unwrap_or(0)..*after, *time_ms);
                }
                Effect::Closed(partition) => {
                    self.stripe(*partition).lock().remove(partition);
                }
                Effect::Committed { .. }
                | Effect::Opened(_)
                | Effect::LogStart { .. }
                | Effect::LocalStart { .. }
                | Effect::TierChanged(_)
                | Effect::Restored { .. }
                | Effect::GroupChanged(_)
                | Effect::CatalogChanged(_) => {}
            }
        }
    }

    /// Removes the metrics of groups and topics that no longer exist (R1).
    pub fn retain(
        &self,
        group_exists: impl Fn(&str) -> bool,
        topic_exists: impl Fn(TopicId) -> bool,
    ) {
        self.groups.lock().retain(|group, topics| {
            topics.retain(|topic, _| topic_exists(*topic));
            !topics.is_empty() && group_exists(group)
        });
    }

    /// The groups with metrics.
    #[cfg(test)]
    pub(crate) fn groups(&self) -> Vec<String> {
        self.groups.lock().keys().map(|name| name.to_string()).collect()
    }

    fn committed(
        &self,
        group: &str,
        partition: PartitionId,
        passed: std::ops::Range<i64>,
        now_ms: i64,
    ) {
        // A commit that moves an offset back processes nothing, and clients may commit any number.
        let count =
            passed.end.checked_sub(passed.start).and_then(|count| u64::try_from(count).ok());
        let Some(count) = count else { return };
        let delays = {
            let stripe = self.stripe(partition).lock();
            stripe.get(&partition).map(|a| a.sample.delays(&passed, now_ms)).unwrap_or_default()
        };
        let mut groups = self.groups.lock();
        if !groups.contains_key(group) {
            groups.insert(group.into(), HashMap::new());
        }
        let topics = groups.get_mut(group).expect("it is there now");
        let processed = topics.entry(partition.topic).or_default();
        processed.rate.add(now_ms, count);
        processed.partitions.entry(partition.index).or_default().add(now_ms, count);
        for (delay_ms, weight) in delays {
            processed.delay.add(now_ms, delay_ms, weight);
        }
    }

    fn stripe(&self, partition: PartitionId) -> &Mutex<HashMap<PartitionId, Arrivals>> {
        let low = partition.topic.0.as_u128() as usize;
        let index = usize::try_from(partition.index).unwrap_or(0);
        &self.partitions[low.wrapping_add(index) % STRIPES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::random_topic_id;

    #[test]
    fn a_replica_that_does_not_lead_takes_samples_and_counts_nothing() {
        let partition = PartitionId { topic: random_topic_id(), index: 0 };
        let batch = ropewalk_batch::Builder::new().record(0, None, Some(b"v")).build();
        let batch = ropewalk_batch::StampedBatch::new(batch, 0, 0).expect("a batch");
        let group = "g".to_owned();
        let effects = [
            Effect::Appended { partition, batch, time_ms: 1_000 },
            Effect::Committed { group, partition, before: None, after: 1, time_ms: 3_000 },
        ];
        let queue_metrics = QueueMetrics::default();
        queue_metrics.applied(&effects, false);
        assert_eq!(queue_metrics.arrivals_per_second(partition, 3_000), 0.0);
        assert_eq!(queue_metrics.groups(), [""; 0]);
        // The next leader knows when the record came.
        queue_metrics.applied(&effects[1..], true);
        assert_eq!(queue_metrics.groups(), ["g"]);
        let groups = queue_metrics.groups.lock();
        assert!(groups["g"][&partition.topic].delay.quantile_ms(0.5).is_some());
        drop(groups);
        queue_metrics.applied(&effects[..1], true);
        assert!(queue_metrics.arrivals_per_second(partition, 3_000) > 0.0);
    }

    #[test]
    fn r1_what_no_longer_exists_is_not_remembered() {
        let queue_metrics = QueueMetrics::default();
        let (orders, refunds) = (random_topic_id(), random_topic_id());
        for (group, topic) in [("a", orders), ("a", refunds), ("b", orders), ("c", refunds)] {
            let partition = PartitionId { topic, index: 0 };
            let group = group.to_owned();
            let committed =
                Effect::Committed { group, partition, before: None, after: 3, time_ms: 1_000 };
            queue_metrics.applied(&[committed], true);
        }
        queue_metrics.retain(|group| group != "b", |topic| topic == orders);
        let groups = queue_metrics.groups.lock();
        assert_eq!(groups.keys().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
        assert_eq!(groups["a"].keys().collect::<Vec<_>>(), [&orders]);
    }
}
