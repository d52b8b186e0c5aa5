//! The lines of a broker's signal stream, as they stand in the admin HTTP API.
//!
//! A kind of line that is not known is passed over, and so is a field: a newer broker may say more.

use serde::Deserialize;

/// One line.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// The first of every stream.
    Hello(Hello),
    /// A bound group, complete.
    State(GroupState),
    /// A group has something to do and no member.
    Wake(Wake),
    /// Not all of a group can be known, until its next state.
    Unknown(Gone),
    /// A group is bound no longer.
    Gone(Gone),
    /// A second has passed; all that was to say about it has been said.
    Tick(Tick),
    /// Something this release does not know.
    #[serde(other)]
    Other,
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The broker.
    pub broker_id: i32,
    /// Its cluster.
    pub cluster_id: String,
    /// Its release.
    pub version: String,
    /// When it was started, by its clock.
    pub started_at_ms: i64,
}

/// A bound group, complete.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupState {
    /// The topic it is bound to.
    pub topic: String,
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// The group.
    pub group: String,
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable`, `Dead`.
    pub group_state: String,
    /// Whether partitions are being given out anew.
    pub rebalancing: bool,
    /// How long the last rebalance took.
    pub last_rebalance_ms: Option<u64>,
    /// Visible messages that are not yet committed.
    pub length: u64,
    /// How long the oldest of them has waited.
    pub oldest_age_ms: Option<u64>,
    /// Half of the messages were processed within this time.
    #[serde(rename = "delayP50Ms")]
    pub delay_p50_ms: Option<i64>,
    /// 99 of 100 messages were processed within this time.
    #[serde(rename = "delayP99Ms")]
    pub delay_p99_ms: Option<i64>,
    /// Messages that are processed per second.
    pub processed_per_second: f64,
    /// Messages that arrive per second.
    pub arrivals_per_second: f64,
    /// Messages that were fetched and are not yet committed, if the broker can say.
    pub in_flight: Option<u64>,
    /// Every partition of the topic.
    pub partitions: Vec<Partition>,
    /// Every member of the group.
    pub members: Vec<Member>,
}

/// One partition as a group sees it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Partition {
    /// Its number.
    pub partition: i32,
    /// Visible messages that are not yet committed.
    pub length: u64,
    /// Where the next message goes.
    pub end: i64,
    /// Where the group stands; absent before it ever committed.
    pub committed: Option<i64>,
    /// Messages that arrive per second.
    pub arrivals_per_second: f64,
    /// Messages that are processed per second.
    pub processed_per_second: f64,
}

/// One member of a group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    /// Its id in the group.
    pub member_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// The partitions it was given.
    pub partitions: Vec<i32>,
    /// Messages that it processes per second.
    pub processed_per_second: f64,
    /// Whether each of its partitions had something waiting during the whole last second.
    pub backlogged: bool,
}

/// A group has something to do and no member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wake {
    /// The topic.
    pub topic: String,
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// The group.
    pub group: String,
    /// Messages that wait.
    pub length: u64,
}

/// A group that is bound no longer, or of which not all can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gone {
    /// The topic.
    pub topic: String,
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// The group.
    pub group: String,
}

/// A second has passed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tick {
    /// The broker's clock.
    pub time_ms: i64,
}

/// Reads a line.
///
/// # Errors
///
/// When it is no line of a signal stream.
pub fn parse(line: &[u8]) -> Result<Line, serde_json::Error> {
    serde_json::from_slice(line)
}
