//! The figures put together, when somebody asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ropewalk_node::Node;
use ropewalk_shard::{PartitionId, TopicId};
use ropewalk_store::PartitionLog;
use serde::Serialize;

use super::Figures;
use crate::catalog::{TopicView, View};
use crate::group::subscription::{Sent, Subscribed};

/// Every queue's figures at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// In the order of their names.
    pub queues: Vec<QueueReport>,
}

/// One queue.
#[derive(Debug, Clone, Serialize)]
pub struct QueueReport {
    /// Its name.
    pub name: String,
    /// Its topic id.
    pub id: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// Records not yet processed by its slowest group; all there are, if it has none.
    pub length: i64,
    /// The delay of its slowest group.
    pub delay: DelayReport,
    /// Records per second.
    pub throughput: Throughput,
    /// Bytes on disk and in memory.
    pub size_bytes: u64,
    /// Every group that reads it: that committed something, or whose members subscribe to it.
    pub groups: Vec<GroupReport>,
}

/// One group of a queue.
#[derive(Debug, Clone, Serialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// How many members it has.
    pub members: usize,
    /// Records not yet processed.
    pub length: i64,
    /// How long records take.
    pub delay: DelayReport,
    /// Records per second.
    pub throughput: Throughput,
}

/// How long records take.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DelayReport {
    /// Half of them took no longer, milliseconds; null before anything was processed.
    pub p50_ms: Option<i64>,
    /// 99 of 100 took no longer, milliseconds.
    pub p99_ms: Option<i64>,
    /// How long the oldest unprocessed record has waited, milliseconds; 0 when there is none.
    pub oldest_ms: i64,
}

/// Records per second.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Throughput {
    /// Arriving.
    pub in_per_second: f64,
    /// Processed.
    pub processed_per_second: f64,
}

/// What the groups of the whole broker committed, by topic.
type Commits = HashMap<TopicId, BTreeMap<String, GroupCommits>>;

/// One group's commits of one topic.
#[derive(Debug, Default)]
pub(super) struct GroupCommits {
    pub(super) members: usize,
    pub(super) offsets: HashMap<PartitionId, i64>,
}

/// A queue as it is looked at for a report.
#[derive(Debug)]
struct Looked {
    topic: TopicId,
    logs: Vec<(PartitionId, Arc<PartitionLog>)>,
    /// Records that arrive per second.
    arrivals: f64,
    now_ms: i64,
}

impl Figures {
    /// Every queue's figures at `now_ms`.
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

    /// One queue's figures at `now_ms`.
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
        let looked = Looked { topic: topic.id, logs, arrivals, now_ms };
        let groups: Vec<GroupReport> =
            groups.into_iter().map(|(name, commits)| self.group(&looked, name, &commits)).collect();
        let logs = looked.logs;
        let nobody = GroupCommits::default();
        let slowest = groups.iter().max_by_key(|group| (group.delay.p99_ms, group.delay.oldest_ms));
        QueueReport {
            name: topic.name.to_string(),
            id: topic.id.to_string(),
            partitions: topic.partitions.len(),
            length: match groups.iter().map(|group| group.length).max() {
                Some(length) => length,
                None => logs.iter().map(|(id, log)| length(log, *id, &nobody)).sum(),
            },
            delay: match slowest {
                Some(group) => group.delay,
                None => DelayReport {
                    oldest_ms: self.oldest_ms(&logs, &nobody, now_ms),
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

    fn group(&self, looked: &Looked, name: String, commits: &GroupCommits) -> GroupReport {
        let Looked { topic, logs, arrivals, now_ms } = looked;
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

    /// The longest wait of a record that is not committed.
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

/// Where a group goes on: its commit, or the log start if that is later or there is none. A commit beyond
/// the end is of another queue with the same name, or of records that were lost: nothing of what is there
/// was processed.
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
    // Offsets that cannot be looked at are counted as records: too long is better than too short.
    let count = log.visible_count(next, end).ok().and_then(|count| i64::try_from(count).ok());
    count.unwrap_or(end - next)
}

/// The logs of a queue's partitions. Those of a shard that does not lead are left out: while it replays, its
/// end of the log is one of the past, and nothing can be said of what is beyond.
pub(super) fn logs(node: &Node, topic: &TopicView) -> Vec<(PartitionId, Arc<PartitionLog>)> {
    let log = |(index, home): (i32, &ropewalk_shard::command::PartitionPlacement)| {
        let id = PartitionId { topic: topic.id, index };
        let shard = node.shard(home.shard).filter(|shard| shard.leading().is_some())?;
        Some((id, shard.log(&id)?))
    };
    (0..).zip(&topic.partitions).filter_map(log).collect()
}

/// The groups of the topics that are `wanted`: those that committed something there, and those whose members
/// subscribe to it, committed or not. `id_of` finds wanted topics by name.
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
            match Sent::of(group) {
                Sent::ByConsumers(sent) if sent.is_empty() => {}
                sent @ Sent::ByConsumers(_) => {
                    readers.push((name.clone(), group.members.len(), sent));
                }
                Sent::ByOthers => {}
            }
        }
    }
    // No shard's state is held any more: apply does not wait for what the members sent to be read.
    for (name, members, sent) in readers {
        let Subscribed::To(topics) = sent.read() else { continue };
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

/// A rate to a thousandth: more digits would only pretend.
pub(super) fn rounded(per_second: f64) -> f64 {
    // The sum of nothing is -0; adding 0 makes it what people expect.
    (per_second * 1000.0).round() / 1000.0 + 0.0
}
