//! Reports of the metrics, computed on request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ropewalk_node::Node;
use ropewalk_shard::{PartitionId, TopicId};
use ropewalk_store::PartitionLog;
use serde::Serialize;

use super::QueueMetrics;
use crate::catalog::{TopicView, View};
use crate::group::subscription::{MemberMetadata, SubscribedTopics};

/// The metrics of all queues at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The queues, ordered by name.
    pub queues: Vec<QueueReport>,
}

/// The metrics of one queue.
#[derive(Debug, Clone, Serialize)]
pub struct QueueReport {
    /// The name of the queue.
    pub name: String,
    /// The topic id of the queue.
    pub id: String,
    /// Number of partitions.
    pub partitions: usize,
    /// Consumer lag of the slowest group, records; all records if there is no group.
    pub length: i64,
    /// The delay of the slowest group.
    pub delay: DelayReport,
    /// The throughput of the queue.
    pub throughput: Throughput,
    /// Size on disk and in memory, bytes.
    pub size_bytes: u64,
    /// Every group that has committed offsets of the queue, or whose members subscribe to it.
    pub groups: Vec<GroupReport>,
}

/// The metrics of one group on one queue.
#[derive(Debug, Clone, Serialize)]
pub struct GroupReport {
    /// The name of the group.
    pub name: String,
    /// Number of members.
    pub members: usize,
    /// Consumer lag, records.
    pub length: i64,
    /// The delay of the group.
    pub delay: DelayReport,
    /// The throughput of the group.
    pub throughput: Throughput,
}

/// Time from record timestamp to offset commit.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DelayReport {
    /// Median over the last minute, milliseconds; null before the first commit.
    pub p50_ms: Option<i64>,
    /// 99th percentile over the last minute, milliseconds; null before the first commit.
    pub p99_ms: Option<i64>,
    /// Age of the oldest unprocessed record, milliseconds; 0 when there is none.
    pub oldest_ms: i64,
}

/// Rates over the last half minute.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Throughput {
    /// Records appended per second.
    pub in_per_second: f64,
    /// Records processed per second.
    pub processed_per_second: f64,
}

/// The committed offsets of all groups of the broker, by topic.
type Commits = HashMap<TopicId, BTreeMap<String, GroupCommits>>;

/// One group's committed offsets of one topic.
#[derive(Debug, Default)]
pub(super) struct GroupCommits {
    pub(super) members: usize,
    pub(super) offsets: HashMap<PartitionId, i64>,
}

/// The parts of a queue from which a report is computed.
#[derive(Debug)]
struct QueueState {
    topic: TopicId,
    logs: Vec<(PartitionId, Arc<PartitionLog>)>,
    /// Records appended per second.
    arrivals: f64,
    now_ms: i64,
}

impl QueueMetrics {
    /// The metrics of all queues at `now_ms`.
    #[must_use]
    pub fn report(&self, node: &Node, view: &View, now_ms: i64) -> Report {
        let id_of = |name: &str| view.by_name(name).map(|topic| topic.id);
        let mut commits = commits(node, id_of, |_| true);
        let queue = |topic: Arc<TopicView>| {
            let groups = commits.remove(&topic.id).unwrap_or_default();
            self.queue(node, &topic, groups, now_ms)
        };
        Report { queues: view.all().into_iter().map(queue).collect() }
    }

    /// The metrics of one queue at `now_ms`.
    #[must_use]
    pub fn report_one(&self, node: &Node, topic: &TopicView, now_ms: i64) -> QueueReport {
        let id_of = |name: &str| (name == &*topic.name).then_some(topic.id);
        let mut commits = commits(node, id_of, |id| id == topic.id);
        let groups = commits.remove(&topic.id).unwrap_or_default();
        self.queue(node, topic, groups, now_ms)
    }

    fn queue(
        &self,
        node: &Node,
        topic: &TopicView,
        groups: BTreeMap<String, GroupCommits>,
        now_ms: i64,
    ) -> QueueReport {
        let logs = logs(node, topic);
        let arrivals = logs.iter().map(|(id, _)| self.arrivals_per_second(*id, now_ms)).sum();
        let state = QueueState { topic: topic.id, logs, arrivals, now_ms };
        let groups: Vec<GroupReport> =
            groups.into_iter().map(|(name, commits)| self.group(&state, name, &commits)).collect();
        let logs = state.logs;
        let no_group = GroupCommits::default();
        let slowest = groups.iter().max_by_key(|group| (group.delay.p99_ms, group.delay.oldest_ms));
        QueueReport {
            name: topic.name.to_string(),
            id: topic.id.to_string(),
            partitions: topic.partitions.len(),
            length: match groups.iter().map(|group| group.length).max() {
                Some(length) => length,
                None => logs.iter().map(|(id, log)| length(log, *id, &no_group)).sum(),
            },
            delay: match slowest {
                Some(group) => group.delay,
                None => DelayReport {
                    oldest_ms: self.oldest_ms(&logs, &no_group, now_ms),
                    ..DelayReport::default()
                },
            },
            throughput: Throughput {
                in_per_second: rounded(arrivals),
                processed_per_second: rounded(
                    groups.iter().map(|group| group.throughput.processed_per_second).sum(),
                ),
            },
            size_bytes: logs.iter().map(|(_, log)| log.size_bytes()).sum(),
            groups,
        }
    }

    fn group(&self, state: &QueueState, name: String, commits: &GroupCommits) -> GroupReport {
        let QueueState { topic, logs, arrivals, now_ms } = state;
        let (rate, p50_ms, p99_ms) = {
            let groups = self.groups.lock();
            let processed = groups.get(name.as_str()).and_then(|topics| topics.get(topic));
            processed.map_or((0.0, None, None), |p| {
                let (p50, p99) = (p.delay.quantile_ms(0.5), p.delay.quantile_ms(0.99));
                (p.rate.per_second(*now_ms), p50, p99)
            })
        };
        GroupReport {
            name,
            members: commits.members,
            length: logs.iter().map(|(id, log)| length(log, *id, commits)).sum(),
            delay: DelayReport {
                p50_ms,
                p99_ms,
                oldest_ms: self.oldest_ms(logs, commits, *now_ms),
            },
            throughput: Throughput {
                in_per_second: rounded(*arrivals),
                processed_per_second: rounded(rate),
            },
        }
    }

    pub(super) fn arrivals_per_second(&self, partition: PartitionId, now_ms: i64) -> f64 {
        let stripe = self.stripe(partition).lock();
        stripe.get(&partition).map_or(0.0, |arrivals| arrivals.rate.per_second(now_ms))
    }

    /// Age of the oldest record that is not committed, milliseconds.
    pub(super) fn oldest_ms(
        &self,
        logs: &[(PartitionId, Arc<PartitionLog>)],
        commits: &GroupCommits,
        now_ms: i64,
    ) -> i64 {
        let wait = |(id, log): &(PartitionId, Arc<PartitionLog>)| {
            let next = next_of(log, *id, commits);
            if next >= log.high_watermark() {
                return None;
            }
            let sampled = || {
                let stripe = self.stripe(*id).lock();
                stripe.get(id).and_then(|arrivals| arrivals.sample.appended_ms(next))
            };
            log.appended_ms(next).or_else(sampled).map(|appended_ms| now_ms - appended_ms)
        };
        logs.iter().filter_map(wait).max().unwrap_or(0).max(0)
    }
}

/// The next offset of a group: its commit, or the log start if that is later or there is no commit.
/// A commit beyond the end belongs to an older queue of the same name or to lost records, so no
/// record of this log counts as processed.
pub(super) fn next_of(log: &PartitionLog, id: PartitionId, commits: &GroupCommits) -> i64 {
    let committed = commits.offsets.get(&id).copied().unwrap_or(0);
    if committed > log.high_watermark() {
        return log.log_start();
    }
    committed.max(log.log_start())
}

pub(super) fn length(log: &PartitionLog, id: PartitionId, commits: &GroupCommits) -> i64 {
    let (next, end) = (next_of(log, id, commits), log.high_watermark());
    if next >= end {
        return 0;
    }
    // Offsets that cannot be counted are assumed to be records: an overestimate is safer.
    let count = log.visible_count(next, end).ok().and_then(|count| i64::try_from(count).ok());
    count.unwrap_or(end - next)
}

/// The logs of a queue's partitions. Shards that do not lead are skipped: during replay the end of
/// their log is outdated.
pub(super) fn logs(node: &Node, topic: &TopicView) -> Vec<(PartitionId, Arc<PartitionLog>)> {
    let log = |(index, home): (i32, &ropewalk_shard::command::PartitionPlacement)| {
        let id = PartitionId { topic: topic.id, index };
        let shard = node.shard(home.shard).filter(|shard| shard.leading().is_some())?;
        Some((id, shard.log(&id)?))
    };
    (0..).zip(&topic.partitions).filter_map(log).collect()
}

/// The groups of the `wanted` topics: those with commits, and those whose members subscribe, with
/// or without commits. `id_of` looks up wanted topics by name.
fn commits(
    node: &Node,
    id_of: impl Fn(&str) -> Option<TopicId>,
    wanted: impl Fn(TopicId) -> bool,
) -> Commits {
    let mut commits = Commits::new();
    let mut readers = Vec::new();
    for shard in node.shards() {
        for (name, group) in &shard.state().groups {
            for (id, committed) in group.offsets.iter().filter(|(id, _)| wanted(id.topic)) {
                let of_group = of_group(&mut commits, id.topic, name);
                of_group.members = group.members.len();
                of_group.offsets.insert(*id, committed.offset);
            }
            match MemberMetadata::of(group) {
                MemberMetadata::ByConsumers(sent) if sent.is_empty() => {}
                sent @ MemberMetadata::ByConsumers(_) => {
                    readers.push((name.clone(), group.members.len(), sent));
                }
                MemberMetadata::ByOthers => {}
            }
        }
    }
    // No shard's state is locked any more, so apply does not wait for the decoding of the metadata.
    for (name, members, sent) in readers {
        let SubscribedTopics::To(topics) = sent.read() else { continue };
        for topic in topics.iter().filter_map(|topic| id_of(topic)) {
            of_group(&mut commits, topic, &name).members = members;
        }
    }
    commits
}

fn of_group<'a>(commits: &'a mut Commits, topic: TopicId, name: &str) -> &'a mut GroupCommits {
    let groups = commits.entry(topic).or_default();
    if !groups.contains_key(name) {
        groups.insert(name.to_owned(), GroupCommits::default());
    }
    groups.get_mut(name).expect("it is there now")
}

/// A rate rounded to thousandths; it is not more precise than that.
pub(super) fn rounded(per_second: f64) -> f64 {
    // An empty sum is -0; adding 0 makes it 0.
    (per_second * 1000.0).round() / 1000.0 + 0.0
}
