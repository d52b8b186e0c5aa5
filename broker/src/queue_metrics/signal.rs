//! The metrics of one group on one queue by partition, for the signal stream. May block on the
//! disk.

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_node::Node;
use ropewalk_shard::{PartitionId, ShardId};
use ropewalk_store::PartitionLog;

use super::QueueMetrics;
use super::report::{GroupCommits, length, logs, next_of, rounded};
use crate::catalog::TopicView;

/// The metrics of one group on one queue at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Age of the oldest unprocessed record, milliseconds; 0 when there is none.
    pub oldest_ms: i64,
    /// Median time from record timestamp to offset commit, milliseconds.
    pub delay_p50_ms: Option<i64>,
    /// 99th percentile of the time from record timestamp to offset commit, milliseconds.
    pub delay_p99_ms: Option<i64>,
    /// Records processed per second.
    pub processed_per_second: f64,
    /// The metrics of every partition.
    pub partitions: Vec<PartitionSignal>,
}

/// The metrics of one partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartitionSignal {
    /// The partition index.
    pub partition: i32,
    /// Consumer lag, records.
    pub length: i64,
    /// The log end offset.
    pub end: i64,
    /// The next offset to process.
    pub committed: i64,
    /// Records appended per second.
    pub arrivals_per_second: f64,
    /// Records processed per second.
    pub processed_per_second: f64,
}

impl Signal {
    /// Consumer lag of all partitions, records.
    #[must_use]
    pub fn length(&self) -> i64 {
        self.partitions.iter().map(|partition| partition.length).sum()
    }

    /// Records appended per second, all partitions.
    #[must_use]
    pub fn arrivals_per_second(&self) -> f64 {
        rounded(self.partitions.iter().map(|partition| partition.arrivals_per_second).sum())
    }
}

impl QueueMetrics {
    /// The metrics of `group`, whose shard is `home`. `None` when part of it is unknown: a part of
    /// the queue or the group is damaged or not led here.
    #[must_use]
    pub fn signal(
        &self,
        node: &Node,
        topic: &TopicView,
        (group, home): (&str, ShardId),
        now_ms: i64,
    ) -> Option<Signal> {
        let logs = logs(node, topic);
        if logs.len() < topic.partitions.len() {
            return None;
        }
        let commits = commits_of(node, topic, group, home)?;
        let (delay_p50_ms, delay_p99_ms, rates) = self.processed(group, topic, now_ms);
        let of_partition = |(id, log): &(PartitionId, Arc<PartitionLog>)| PartitionSignal {
            partition: id.index,
            length: length(log, *id, &commits),
            end: log.high_watermark(),
            committed: next_of(log, *id, &commits),
            arrivals_per_second: rounded(self.arrivals_per_second(*id, now_ms)),
            processed_per_second: rates.get(&id.index).copied().unwrap_or(0.0),
        };
        Some(Signal {
            oldest_ms: self.oldest_ms(&logs, &commits, now_ms),
            delay_p50_ms,
            delay_p99_ms,
            processed_per_second: rounded(rates.values().sum()),
            partitions: logs.iter().map(of_partition).collect(),
        })
    }

    /// Both quantiles of the delay, and the processed records per second by partition.
    fn processed(
        &self,
        group: &str,
        topic: &TopicView,
        now_ms: i64,
    ) -> (Option<i64>, Option<i64>, HashMap<i32, f64>) {
        let groups = self.groups.lock();
        let Some(processed) = groups.get(group).and_then(|topics| topics.get(&topic.id)) else {
            return (None, None, HashMap::new());
        };
        let rates = processed.partitions.iter();
        let rates = rates.map(|(index, rate)| (*index, rounded(rate.per_second(now_ms))));
        let (p50, p99) = (processed.delay.quantile_ms(0.5), processed.delay.quantile_ms(0.99));
        (p50, p99, rates.collect())
    }
}

/// A group's committed offsets of a topic; `None` when its shard does not lead here.
fn commits_of(node: &Node, topic: &TopicView, group: &str, home: ShardId) -> Option<GroupCommits> {
    let shard = node.shard(home).filter(|shard| shard.leading().is_some())?;
    let state = shard.state();
    let Some(group) = state.groups.get(group) else { return Some(GroupCommits::default()) };
    let offsets = group.offsets.iter().filter(|(id, _)| id.topic == topic.id);
    let offsets = offsets.map(|(id, committed)| (*id, committed.offset)).collect();
    Some(GroupCommits { members: group.members.len(), offsets })
}
