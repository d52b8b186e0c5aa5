//! What is watched of one group on one queue, second by second, partition by partition.
//!
//! Place in the walk: put together when the admin server's stream asks, from the same measurements as
//! the reports. May block on the disk.

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_node::Node;
use ropewalk_shard::{PartitionId, ShardId};
use ropewalk_store::PartitionLog;

use super::Figures;
use super::report::{GroupCommits, length, logs, next_of, rounded};
use crate::catalog::TopicView;

/// One group on one queue at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// How long the oldest unprocessed record has waited, milliseconds; 0 when there is none.
    pub oldest_ms: i64,
    /// Half of the records took no longer, milliseconds.
    pub delay_p50_ms: Option<i64>,
    /// 99 of 100 records took no longer, milliseconds.
    pub delay_p99_ms: Option<i64>,
    /// Records processed per second.
    pub processed_per_second: f64,
    /// Every partition.
    pub partitions: Vec<PartitionSignal>,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartitionSignal {
    /// Its number.
    pub partition: i32,
    /// Records not yet processed.
    pub length: i64,
    /// The offset of the next record that comes.
    pub end: i64,
    /// The offset of the next record to process.
    pub committed: i64,
    /// Records that arrive per second.
    pub arrivals_per_second: f64,
    /// Records processed per second.
    pub processed_per_second: f64,
}

impl Signal {
    /// Records not yet processed.
    #[must_use]
    pub fn length(&self) -> i64 {
        self.partitions.iter().map(|partition| partition.length).sum()
    }

    /// Records that arrive per second.
    #[must_use]
    pub fn arrivals_per_second(&self) -> f64 {
        rounded(self.partitions.iter().map(|partition| partition.arrivals_per_second).sum())
    }
}

impl Figures {
    /// What is to be watched of `group`, whose home is `home`. `None` when not all of it can be known: a
    /// part of the queue or the group is damaged or not led here.
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

    /// Both quantiles of the delay, and what is processed per second by partition.
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

/// What a group has committed of a topic; `None` when its shard does not lead here.
fn commits_of(node: &Node, topic: &TopicView, group: &str, home: ShardId) -> Option<GroupCommits> {
    let shard = node.shard(home).filter(|shard| shard.leading().is_some())?;
    let state = shard.state();
    let Some(group) = state.groups.get(group) else { return Some(GroupCommits::default()) };
    let offsets = group.offsets.iter().filter(|(id, _)| id.topic == topic.id);
    let offsets = offsets.map(|(id, committed)| (*id, committed.offset)).collect();
    Some(GroupCommits { members: group.members.len(), offsets })
}
