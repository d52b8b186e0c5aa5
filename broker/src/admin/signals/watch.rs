//! Decides which lines a signal stream sends next, by comparison with those it has sent. Pure:
//! samples in, lines out.
//!
//! # Invariants
//!
//! - **K3** an unknown value is sent as unknown, never as a number; and a state is sent again when
//!   it is known again.
//! - A group without a line is unchanged since its last line.
//! - A group with records and no member gets a wake line with every tick, until a member joins.

use std::collections::BTreeMap;

use ropewalk_shard::TopicId;
use serde::Serialize;

use crate::group::coordinator::snapshot::GroupSnapshot;
use crate::queue_metrics::Signal;

/// A sample of a bound group.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// The name of the queue.
    pub(super) topic: String,
    /// The topic id of the queue.
    pub(super) id: TopicId,
    /// The name of the group.
    pub(super) group: String,
    /// The state of the group; `None` when part of it is unknown.
    pub(super) known: Option<(GroupSnapshot, Signal)>,
}

/// Identifies a group of a queue.
type Key = (TopicId, String);

/// The state of the groups that one stream has sent.
#[derive(Debug, Default)]
pub(super) struct Watch {
    sent: BTreeMap<Key, SentState>,
}

#[derive(Debug)]
struct SentState {
    topic: String,
    /// The last state line; empty if the group was sent as unknown.
    line: String,
    /// Whether a wake line was sent and no member joined since.
    is_awake: bool,
    /// The end offset of each partition at the last tick.
    ends: BTreeMap<i32, i64>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", rename_all_fields = "camelCase")]
enum Line<'a> {
    State(Box<State<'a>>),
    Wake { topic: &'a str, topic_id: String, group: &'a str, length: i64 },
    Gone { topic: &'a str, topic_id: String, group: &'a str },
    Unknown { topic: &'a str, topic_id: String, group: &'a str },
    Tick { time_ms: i64 },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    topic: &'a str,
    topic_id: String,
    group: &'a str,
    group_state: &'static str,
    rebalancing: bool,
    last_rebalance_ms: Option<i64>,
    length: i64,
    oldest_age_ms: i64,
    delay_p50_ms: Option<i64>,
    delay_p99_ms: Option<i64>,
    processed_per_second: f64,
    arrivals_per_second: f64,
    partitions: Vec<Partition>,
    members: Vec<Member<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    partition: i32,
    length: i64,
    end: i64,
    committed: i64,
    arrivals_per_second: f64,
    processed_per_second: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member<'a> {
    member_id: &'a str,
    client_host: &'a str,
    partitions: &'a [i32],
    processed_per_second: f64,
    backlogged: bool,
}

impl Watch {
    /// The lines of one second: changed states, wakes, removed groups, the tick. `samples` holds
    /// all bound groups.
    pub(super) fn tick(&mut self, samples: &[Sample], now_ms: i64) -> String {
        let mut out = String::new();
        let before = std::mem::take(&mut self.sent);
        for sample in samples {
            let key = (sample.id, sample.group.clone());
            let sent = self.append_state(sample, before.get(&key), &mut out);
            self.sent.insert(key, sent);
        }
        for ((id, group), sent) in &before {
            if !self.sent.contains_key(&(*id, group.clone())) {
                push(&mut out, &Line::Gone { topic: &sent.topic, topic_id: id.to_string(), group });
            }
        }
        push(&mut out, &Line::Tick { time_ms: now_ms });
        out
    }

    /// The lines between two ticks: new wakes only.
    pub(super) fn edge(&mut self, samples: &[Sample]) -> String {
        let mut out = String::new();
        for sample in samples {
            let Some(sent) = self.sent.get_mut(&(sample.id, sample.group.clone())) else {
                continue;
            };
            if !sent.is_awake {
                sent.is_awake = wake(sample, &mut out);
            }
        }
        out
    }

    fn append_state(
        &self,
        sample: &Sample,
        before: Option<&SentState>,
        out: &mut String,
    ) -> SentState {
        let mut line = String::new();
        let mut ends = BTreeMap::new();
        if let Some((snapshot, signal)) = &sample.known {
            let known = before.map(|before| &before.ends);
            push(&mut line, &Line::State(Box::new(state(sample, snapshot, signal, known))));
            ends = signal.partitions.iter().map(|p| (p.partition, p.end)).collect();
        }
        if before.is_none_or(|before| before.line != line) {
            if sample.known.is_some() {
                out.push_str(&line);
            } else {
                let (topic, group) = (&sample.topic, &sample.group);
                push(out, &Line::Unknown { topic, topic_id: sample.id.to_string(), group });
            }
        }
        let is_awake = wake(sample, out);
        SentState { topic: sample.topic.clone(), line, is_awake, ends }
    }
}

/// Appends a wake line if the group needs one. Returns whether it did.
fn wake(sample: &Sample, out: &mut String) -> bool {
    let Some((snapshot, signal)) = &sample.known else { return false };
    let length = signal.length();
    let is_needed = snapshot.members.is_empty() && length > 0;
    if is_needed {
        let (topic, group) = (&sample.topic, &sample.group);
        push(out, &Line::Wake { topic, topic_id: sample.id.to_string(), group, length });
    }
    is_needed
}

fn state<'a>(
    sample: &'a Sample,
    snapshot: &'a GroupSnapshot,
    signal: &Signal,
    ends: Option<&BTreeMap<i32, i64>>,
) -> State<'a> {
    let of_partition = |index: &i32| signal.partitions.iter().find(|p| p.partition == *index);
    // The records that were there a second ago are not committed yet, so the group was behind all
    // the time.
    let is_behind = |index: &i32| {
        let end_before = ends.and_then(|ends| ends.get(index));
        of_partition(index).zip(end_before).is_some_and(|(now, end)| now.committed < *end)
    };
    let members = snapshot.members.iter().map(|member| {
        let rates = member.partitions.iter().filter_map(of_partition);
        let rate: f64 = rates.map(|partition| partition.processed_per_second).sum();
        Member {
            member_id: &member.member_id,
            client_host: &member.client_host,
            partitions: &member.partitions,
            processed_per_second: (rate * 1000.0).round() / 1000.0 + 0.0,
            backlogged: !member.partitions.is_empty() && member.partitions.iter().all(is_behind),
        }
    });
    let partition = |p: &crate::queue_metrics::PartitionSignal| Partition {
        partition: p.partition,
        length: p.length,
        end: p.end,
        committed: p.committed,
        arrivals_per_second: p.arrivals_per_second,
        processed_per_second: p.processed_per_second,
    };
    State {
        topic: &sample.topic,
        topic_id: sample.id.to_string(),
        group: &sample.group,
        group_state: snapshot.state,
        rebalancing: snapshot.is_rebalancing,
        last_rebalance_ms: snapshot.last_rebalance_ms,
        length: signal.length(),
        oldest_age_ms: signal.oldest_ms,
        delay_p50_ms: signal.delay_p50_ms,
        delay_p99_ms: signal.delay_p99_ms,
        processed_per_second: signal.processed_per_second,
        arrivals_per_second: signal.arrivals_per_second(),
        partitions: signal.partitions.iter().map(partition).collect(),
        members: members.collect(),
    }
}

fn push(out: &mut String, line: &Line<'_>) {
    out.push_str(&serde_json::to_string(line).expect("lines always encode"));
    out.push('\n');
}

#[cfg(test)]
mod tests;
