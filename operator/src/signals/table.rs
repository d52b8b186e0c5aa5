//! The table of the latest signals of all brokers.
//!
//! The time is an argument, so that tests control it.
//!
//! # Invariants
//!
//! - **K3** signals that are older than [`SILENCE_MAX`], or from a stream that has ended, are not
//!   returned.
//! - A cluster holds at most [`GROUPS_MAX`] groups; further ones are dropped and logged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::broadcast;

use super::line::{GroupState, Hello, Line};
use crate::cluster_key::ClusterKey;

/// Time without a tick after which all signals of a cluster are unknown. A broker that is short of
/// CPU ticks only every few seconds, and its consumers must be scaled just then.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Maximum number of groups of one cluster.
pub const GROUPS_MAX: usize = 200_000;
/// Capacity of the wake-up channel for a slow reader. A lost wake-up is repeated within a second.
const WAKES_MAX: usize = 4096;

/// A group without members has messages to process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeUp {
    /// Cluster that sent the wake-up.
    pub cluster: ClusterKey,
    /// Name of the topic.
    pub topic: String,
    /// Kafka id of the topic.
    pub topic_id: String,
    /// Id of the consumer group.
    pub group: String,
    /// Consumer lag of the group, messages.
    pub length: u64,
}

/// The signal of a group at a point in time.
#[derive(Clone, Debug)]
pub enum GroupSignal {
    /// The state is unknown: scaling keeps replicas as they are.
    Unknown(UnknownReason),
    /// The state in the last second.
    Known(GroupSnapshot),
}

/// Why the state of a group is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownReason {
    /// No stream from the cluster is open.
    NotConnected,
    /// The last tick is older than [`SILENCE_MAX`].
    Silent,
    /// The stream has just begun, and not all groups have been sent.
    Starting,
    /// The broker has no such binding of group and topic.
    NotBound,
    /// The broker reports the state as partly unknown: corruption, or a partition without a leader.
    Incomplete,
}

/// The state of a group in the last second.
#[derive(Clone, Debug)]
pub struct GroupSnapshot {
    /// The latest `state` line of the group.
    pub state: Arc<GroupState>,
    /// Lag from a wake-up of the group within [`SILENCE_MAX`], messages.
    pub wake_length: Option<u64>,
    /// Time of the last line that concerns the group.
    pub heard_at: Instant,
    /// The number of that line in its stream: the same number again means that nothing new was
    /// sent.
    pub line: u64,
    /// Time when the stream was opened. Rates that were learned before may be from another broker.
    pub since: Instant,
    /// Start time of the broker by its own clock, ms since 1970.
    pub broker_started_at_ms: i64,
}

/// The latest signals of all clusters. Shared; a read takes a read lock and two look-ups.
#[derive(Debug)]
pub struct Table {
    clusters: RwLock<HashMap<ClusterKey, Cluster>>,
    wakes: broadcast::Sender<WakeUp>,
}

/// When a line arrived, and its number in the stream.
#[derive(Clone, Copy, Debug)]
struct LineArrival {
    at: Instant,
    line: u64,
}

#[derive(Debug)]
struct Cluster {
    hello: Hello,
    since: Instant,
    /// Number of lines received.
    lines: u64,
    /// Arrival of the last tick.
    ticked: Option<LineArrival>,
    groups: HashMap<(String, String), Group>,
}

#[derive(Debug, Default)]
struct Group {
    state: Option<Arc<GroupState>>,
    wake: Option<(u64, Instant)>,
    is_unknown: bool,
    /// Arrival of the last line about the group.
    heard: Option<LineArrival>,
}

impl Default for Table {
    fn default() -> Self {
        Self { clusters: RwLock::default(), wakes: broadcast::channel(WAKES_MAX).0 }
    }
}

impl Table {
    /// The signal of a group of a topic in a cluster, as known at `now`.
    #[must_use]
    pub fn read(
        &self,
        cluster: &ClusterKey,
        topic: &str,
        group: &str,
        now: Instant,
    ) -> GroupSignal {
        let clusters = self.clusters.read();
        let Some(cluster) = clusters.get(cluster) else {
            return GroupSignal::Unknown(UnknownReason::NotConnected);
        };
        match cluster.read(topic, group, now) {
            Ok(known) => GroupSignal::Known(known),
            Err(unknown) => GroupSignal::Unknown(unknown),
        }
    }

    /// Whether a cluster's stream is open and its last tick is recent.
    #[must_use]
    pub fn is_live(&self, cluster: &ClusterKey, now: Instant) -> bool {
        self.clusters.read().get(cluster).is_some_and(|cluster| cluster.freshness(now).is_ok())
    }

    /// The `hello` line of a cluster's current stream.
    #[must_use]
    pub fn hello(&self, cluster: &ClusterKey) -> Option<Hello> {
        self.clusters.read().get(cluster).map(|cluster| cluster.hello.clone())
    }

    /// Subscribes to the wake-ups of all clusters.
    #[must_use]
    pub fn wakes(&self) -> broadcast::Receiver<WakeUp> {
        self.wakes.subscribe()
    }

    /// Stores a line that was received from `cluster` at `now`.
    pub fn take(&self, cluster: &ClusterKey, line: Line, now: Instant) {
        let mut clusters = self.clusters.write();
        if let Line::Hello(hello) = line {
            let groups = HashMap::new();
            let fresh = Cluster { hello, since: now, lines: 0, ticked: None, groups };
            clusters.insert(cluster.clone(), fresh);
            return;
        }
        let Some(known) = clusters.get_mut(cluster) else { return }; // A line before `hello` is ignored.
        known.lines += 1;
        let heard = Some(LineArrival { at: now, line: known.lines });
        match line {
            Line::Hello(_) | Line::Other => {}
            Line::Tick(_) => known.ticked = heard,
            Line::State(state) => {
                if let Some(group) = known.group(&state.topic, &state.group) {
                    group.state = Some(Arc::new(state));
                    group.is_unknown = false;
                    group.heard = heard;
                }
            }
            Line::Unknown(group) => {
                if let Some(group) = known.group(&group.topic, &group.group) {
                    *group = Group { is_unknown: true, ..Group::default() };
                }
            }
            Line::Gone(gone) => {
                known.groups.remove(&(gone.topic, gone.group));
            }
            Line::Wake(wake) => {
                if let Some(group) = known.group(&wake.topic, &wake.group) {
                    group.wake = Some((wake.length, now));
                    group.heard = heard;
                }
                // Without a subscriber the send fails, which is harmless: the broker repeats the
                // wake-up.
                let _ = self.wakes.send(WakeUp {
                    cluster: cluster.clone(),
                    topic: wake.topic,
                    topic_id: wake.topic_id,
                    group: wake.group,
                    length: wake.length,
                });
            }
        }
    }

    /// Discards the signals of a cluster whose stream has ended.
    pub fn discard(&self, cluster: &ClusterKey) {
        self.clusters.write().remove(cluster);
    }
}

impl Cluster {
    fn group(&mut self, topic: &str, group: &str) -> Option<&mut Group> {
        let key = (topic.to_owned(), group.to_owned());
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            tracing::warn!(
                topic,
                group,
                groups_max = GROUPS_MAX,
                "group is not scaled: the cluster has too many groups"
            );
            return None;
        }
        Some(self.groups.entry(key).or_default())
    }

    fn freshness(&self, now: Instant) -> Result<LineArrival, UnknownReason> {
        let Some(tick) = self.ticked else {
            let young = now.saturating_duration_since(self.since) <= SILENCE_MAX;
            return Err(if young { UnknownReason::Starting } else { UnknownReason::Silent });
        };
        if now.saturating_duration_since(tick.at) > SILENCE_MAX {
            return Err(UnknownReason::Silent);
        }
        Ok(tick)
    }

    fn read(&self, topic: &str, group: &str, now: Instant) -> Result<GroupSnapshot, UnknownReason> {
        let tick = self.freshness(now)?;
        let group = self
            .groups
            .get(&(topic.to_owned(), group.to_owned()))
            .ok_or(UnknownReason::NotBound)?;
        if group.is_unknown {
            return Err(UnknownReason::Incomplete);
        }
        let state = group.state.clone().ok_or(UnknownReason::NotBound)?;
        let wake_length = group
            .wake
            .filter(|(_, at)| now.saturating_duration_since(*at) <= SILENCE_MAX)
            .map(|(length, _)| length);
        let heard = group.heard.unwrap_or(tick);
        Ok(GroupSnapshot {
            state,
            wake_length,
            heard_at: heard.at.max(tick.at),
            line: heard.line.max(tick.line),
            since: self.since,
            broker_started_at_ms: self.hello.started_at_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::line;

    fn cluster() -> ClusterKey {
        ClusterKey::new("shop", "default")
    }

    fn receive(table: &Table, lines: &[&str], now: Instant) {
        for text in lines {
            table.take(&cluster(), line::parse(text.as_bytes()).expect("a line"), now);
        }
    }

    fn unknown(reading: &GroupSignal) -> Option<UnknownReason> {
        match reading {
            GroupSignal::Unknown(why) => Some(*why),
            GroupSignal::Known(_) => None,
        }
    }

    const HELLO: &str =
        r#"{"kind":"hello","brokerId":0,"clusterId":"c","version":"0.1.0","startedAtMs":7}"#;
    const STATE: &str = r#"{"kind":"state","topic":"orders","topicId":"t","group":"g","length":5,
        "groupState":"Stable","delayP99Ms":80,"arrivalsPerSecond":1.5,
        "partitions":[{"partition":0,"length":5,"end":9,"committed":4}],"new":1}"#;
    const TICK: &str = r#"{"kind":"tick","timeMs":1}"#;

    #[test]
    fn k3_a_silent_broker_makes_everything_unknown() {
        let (table, start) = (Table::default(), Instant::now());
        let read =
            |seconds| table.read(&cluster(), "orders", "g", start + Duration::from_secs(seconds));
        assert_eq!(unknown(&read(0)), Some(UnknownReason::NotConnected));
        receive(&table, &[HELLO, STATE], start);
        assert_eq!(unknown(&read(0)), Some(UnknownReason::Starting));
        receive(&table, &[TICK], start);
        let GroupSignal::Known(known) = read(2) else { panic!("known") };
        assert_eq!((known.state.length, known.state.delay_p99_ms), (5, Some(80)));
        assert_eq!(unknown(&read(11)), Some(UnknownReason::Silent));
        receive(&table, &[TICK], start + Duration::from_secs(19));
        assert_eq!(unknown(&read(20)), None, "no line means unchanged");
        table.discard(&cluster());
        assert_eq!(unknown(&read(20)), Some(UnknownReason::NotConnected));
    }

    #[test]
    fn a_broker_that_is_slow_to_tick_is_still_known_and_nothing_is_new_in_between() {
        let (table, start) = (Table::default(), Instant::now());
        let read = |seconds| match table.read(
            &cluster(),
            "orders",
            "g",
            start + Duration::from_secs(seconds),
        ) {
            GroupSignal::Known(known) => (known.line, known.heard_at - start),
            GroupSignal::Unknown(why) => panic!("unknown after {seconds} s: {why:?}"),
        };
        receive(&table, &[HELLO, STATE, TICK], start);
        let first = read(1);
        assert_eq!((first, read(4)), (read(9), (first.0, Duration::ZERO)));
        receive(&table, &[TICK], start + Duration::from_secs(9));
        assert!(read(9).0 > first.0);
        assert_eq!(read(12).1, Duration::from_secs(9));
    }

    #[test]
    fn k3_a_new_stream_starts_without_the_state_of_the_old_one() {
        let (table, start) = (Table::default(), Instant::now());
        receive(&table, &[HELLO, STATE, TICK, HELLO, TICK], start);
        let reading = table.read(&cluster(), "orders", "g", start);
        assert_eq!(unknown(&reading), Some(UnknownReason::NotBound));
    }

    #[test]
    fn k3_what_a_broker_does_not_know_is_unknown_until_it_does() {
        let (table, start) = (Table::default(), Instant::now());
        let lost = r#"{"kind":"unknown","topic":"orders","topicId":"t","group":"g"}"#;
        receive(&table, &[HELLO, STATE, TICK, lost, TICK], start);
        let read = || unknown(&table.read(&cluster(), "orders", "g", start));
        assert_eq!(read(), Some(UnknownReason::Incomplete));
        receive(&table, &[STATE, TICK], start);
        assert_eq!(read(), None);
    }

    #[test]
    fn a_wake_up_reaches_subscribers_and_later_reads() {
        let (table, start) = (Table::default(), Instant::now());
        let mut wakes = table.wakes();
        let wake = r#"{"kind":"wake","topic":"orders","topicId":"t","group":"g","length":1}"#;
        receive(&table, &[HELLO, STATE, TICK, wake], start);
        assert_eq!(wakes.try_recv().map(|wake| wake.length), Ok(1));
        let GroupSignal::Known(known) = table.read(&cluster(), "orders", "g", start) else {
            panic!("known")
        };
        assert_eq!(known.wake_length, Some(1));
    }

    #[test]
    fn unknown_lines_of_a_newer_broker_are_ignored() {
        let (table, start) = (Table::default(), Instant::now());
        receive(&table, &[HELLO, r#"{"kind":"forecast","sun":true}"#, STATE, TICK], start);
        assert_eq!(unknown(&table.read(&cluster(), "orders", "g", start)), None);
    }
}
