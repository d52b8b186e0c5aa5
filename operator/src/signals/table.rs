//! The table that holds what the brokers said last.
//!
//! Pure but for its lock and its channel of wake-ups: the time comes from outside.
//!
//! # Invariants
//!
//! - **K3** what is older than [`SILENCE_MAX`], or of a stream that has ended, is not handed out.
//! - Bounded: a cluster holds at most [`GROUPS_MAX`] groups; one more is left out and logged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::broadcast;

use super::line::{GroupState, Hello, Line};
use crate::cluster_key::ClusterKey;

/// After so long without a tick nothing is known any more. A broker that is short of CPU ticks every few
/// seconds: just then its consumers have to be scaled.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The most groups of one cluster.
pub const GROUPS_MAX: usize = 200_000;
/// Wake-ups that a slow reader may leave unread. A lost one is repeated within a second.
const WAKES_MAX: usize = 4096;

/// A group without members has something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeUp {
    /// The cluster that says so.
    pub cluster: ClusterKey,
    /// The topic.
    pub topic: String,
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// The group.
    pub group: String,
    /// Messages that wait.
    pub length: u64,
}

/// What is known about a group.
#[derive(Clone, Debug)]
pub enum Reading {
    /// Nothing, and why: whoever scales holds still.
    Unknown(Unknown),
    /// What it did in the last second.
    Known(Known),
}

/// Why nothing is known about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// There is no stream from the cluster.
    NotConnected,
    /// The cluster has been silent for too long.
    Silent,
    /// The stream is so young that not all groups have been told of.
    Starting,
    /// The broker does not know the group as bound to that topic.
    NotBound,
    /// The broker itself does not know all of it: damage, or no leader.
    NotTold,
}

/// What a group did in the last second.
#[derive(Clone, Debug)]
pub struct Known {
    /// The group, complete.
    pub state: Arc<GroupState>,
    /// Messages that wait while it has no members, if the broker said so within [`SILENCE_MAX`].
    pub wake_length: Option<u64>,
    /// When the broker last said something that concerns the group.
    pub heard_at: Instant,
    /// The number of that line in its stream: who sees the same number again has heard nothing new.
    pub line: u64,
    /// When the stream was opened: rates that were learned before may speak of another broker.
    pub since: Instant,
    /// When the broker was started, by its clock.
    pub broker_started_at_ms: i64,
}

/// What all clusters said last. Shared; cheap to read.
#[derive(Debug)]
pub struct Table {
    clusters: RwLock<HashMap<ClusterKey, Cluster>>,
    wakes: broadcast::Sender<WakeUp>,
}

#[derive(Debug)]
struct Cluster {
    hello: Hello,
    since: Instant,
    /// How many lines have come.
    lines: u64,
    /// When the last tick came, and its number among the lines.
    ticked: Option<(Instant, u64)>,
    groups: HashMap<(String, String), Group>,
}

#[derive(Debug, Default)]
struct Group {
    state: Option<Arc<GroupState>>,
    wake: Option<(u64, Instant)>,
    is_unknown: bool,
    /// When a line about it last came, and the number of the line.
    heard: Option<(Instant, u64)>,
}

impl Default for Table {
    fn default() -> Self {
        Self { clusters: RwLock::default(), wakes: broadcast::channel(WAKES_MAX).0 }
    }
}

impl Table {
    /// What is known at `now` about a group of a topic in a cluster.
    #[must_use]
    pub fn read(&self, cluster: &ClusterKey, topic: &str, group: &str, now: Instant) -> Reading {
        let clusters = self.clusters.read();
        let Some(cluster) = clusters.get(cluster) else {
            return Reading::Unknown(Unknown::NotConnected);
        };
        match cluster.read(topic, group, now) {
            Ok(known) => Reading::Known(known),
            Err(unknown) => Reading::Unknown(unknown),
        }
    }

    /// Whether a cluster's stream is open and ticks.
    #[must_use]
    pub fn is_live(&self, cluster: &ClusterKey, now: Instant) -> bool {
        self.clusters.read().get(cluster).is_some_and(|cluster| cluster.freshness(now).is_ok())
    }

    /// Who spoke last for a cluster.
    #[must_use]
    pub fn hello(&self, cluster: &ClusterKey) -> Option<Hello> {
        self.clusters.read().get(cluster).map(|cluster| cluster.hello.clone())
    }

    /// Wake-ups from now on, of all clusters.
    #[must_use]
    pub fn wakes(&self) -> broadcast::Receiver<WakeUp> {
        self.wakes.subscribe()
    }

    /// Takes in a line that came from `cluster` at `now`.
    pub fn take(&self, cluster: &ClusterKey, line: Line, now: Instant) {
        let mut clusters = self.clusters.write();
        if let Line::Hello(hello) = line {
            let groups = HashMap::new();
            let fresh = Cluster { hello, since: now, lines: 0, ticked: None, groups };
            clusters.insert(cluster.clone(), fresh);
            return;
        }
        let Some(known) = clusters.get_mut(cluster) else { return }; // Before its hello.
        known.lines += 1;
        let heard = Some((now, known.lines));
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
                // Nobody listening is fine: the broker says it again.
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

    /// Forgets a cluster: its stream has ended.
    pub fn forget(&self, cluster: &ClusterKey) {
        self.clusters.write().remove(cluster);
    }
}

impl Cluster {
    fn group(&mut self, topic: &str, group: &str) -> Option<&mut Group> {
        let key = (topic.to_owned(), group.to_owned());
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            tracing::warn!(topic, group, "left out: the cluster has more groups than fit");
            return None;
        }
        Some(self.groups.entry(key).or_default())
    }

    fn freshness(&self, now: Instant) -> Result<(Instant, u64), Unknown> {
        let Some((ticked_at, line)) = self.ticked else {
            let young = now.saturating_duration_since(self.since) <= SILENCE_MAX;
            return Err(if young { Unknown::Starting } else { Unknown::Silent });
        };
        if now.saturating_duration_since(ticked_at) > SILENCE_MAX {
            return Err(Unknown::Silent);
        }
        Ok((ticked_at, line))
    }

    fn read(&self, topic: &str, group: &str, now: Instant) -> Result<Known, Unknown> {
        let ticked = self.freshness(now)?;
        let group =
            self.groups.get(&(topic.to_owned(), group.to_owned())).ok_or(Unknown::NotBound)?;
        if group.is_unknown {
            return Err(Unknown::NotTold);
        }
        let state = group.state.clone().ok_or(Unknown::NotBound)?;
        let wake_length = group
            .wake
            .filter(|(_, at)| now.saturating_duration_since(*at) <= SILENCE_MAX)
            .map(|(length, _)| length);
        let (heard_at, line) =
            group.heard.map_or(ticked, |heard| (heard.0.max(ticked.0), heard.1.max(ticked.1)));
        Ok(Known {
            state,
            wake_length,
            heard_at,
            line,
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

    fn told(table: &Table, lines: &[&str], now: Instant) {
        for text in lines {
            table.take(&cluster(), line::parse(text.as_bytes()).expect("a line"), now);
        }
    }

    fn unknown(reading: &Reading) -> Option<Unknown> {
        match reading {
            Reading::Unknown(why) => Some(*why),
            Reading::Known(_) => None,
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
        assert_eq!(unknown(&read(0)), Some(Unknown::NotConnected));
        told(&table, &[HELLO, STATE], start);
        assert_eq!(unknown(&read(0)), Some(Unknown::Starting));
        told(&table, &[TICK], start);
        let Reading::Known(known) = read(2) else { panic!("known") };
        assert_eq!((known.state.length, known.state.delay_p99_ms), (5, Some(80)));
        assert_eq!(unknown(&read(11)), Some(Unknown::Silent));
        told(&table, &[TICK], start + Duration::from_secs(19));
        assert_eq!(unknown(&read(20)), None, "no line means unchanged");
        table.forget(&cluster());
        assert_eq!(unknown(&read(20)), Some(Unknown::NotConnected));
    }

    #[test]
    fn a_broker_that_is_slow_to_tick_is_still_known_and_says_nothing_new_in_between() {
        let (table, start) = (Table::default(), Instant::now());
        let read = |seconds| match table.read(
            &cluster(),
            "orders",
            "g",
            start + Duration::from_secs(seconds),
        ) {
            Reading::Known(known) => (known.line, known.heard_at - start),
            Reading::Unknown(why) => panic!("unknown after {seconds} s: {why:?}"),
        };
        told(&table, &[HELLO, STATE, TICK], start);
        let first = read(1);
        assert_eq!((first, read(4)), (read(9), (first.0, Duration::ZERO)));
        told(&table, &[TICK], start + Duration::from_secs(9));
        assert!(read(9).0 > first.0);
        assert_eq!(read(12).1, Duration::from_secs(9));
    }

    #[test]
    fn k3_a_new_stream_knows_nothing_of_the_old_one() {
        let (table, start) = (Table::default(), Instant::now());
        told(&table, &[HELLO, STATE, TICK, HELLO, TICK], start);
        let reading = table.read(&cluster(), "orders", "g", start);
        assert_eq!(unknown(&reading), Some(Unknown::NotBound));
    }

    #[test]
    fn k3_what_a_broker_does_not_know_is_unknown_until_it_does() {
        let (table, start) = (Table::default(), Instant::now());
        let lost = r#"{"kind":"unknown","topic":"orders","topicId":"t","group":"g"}"#;
        told(&table, &[HELLO, STATE, TICK, lost, TICK], start);
        let read = || unknown(&table.read(&cluster(), "orders", "g", start));
        assert_eq!(read(), Some(Unknown::NotTold));
        told(&table, &[STATE, TICK], start);
        assert_eq!(read(), None);
    }

    #[test]
    fn a_wake_up_reaches_who_listens_and_those_who_read_later() {
        let (table, start) = (Table::default(), Instant::now());
        let mut wakes = table.wakes();
        let wake = r#"{"kind":"wake","topic":"orders","topicId":"t","group":"g","length":1}"#;
        told(&table, &[HELLO, STATE, TICK, wake], start);
        assert_eq!(wakes.try_recv().map(|wake| wake.length), Ok(1));
        let Reading::Known(known) = table.read(&cluster(), "orders", "g", start) else {
            panic!("known")
        };
        assert_eq!(known.wake_length, Some(1));
    }

    #[test]
    fn lines_of_a_newer_broker_are_passed_over() {
        let (table, start) = (Table::default(), Instant::now());
        told(&table, &[HELLO, r#"{"kind":"forecast","sun":true}"#, STATE, TICK], start);
        assert_eq!(unknown(&table.read(&cluster(), "orders", "g", start)), None);
    }
}
