//! The lines of a broker's signal stream, as specified by the admin HTTP API.
//!
//! Unknown kinds of lines and unknown fields are ignored: a newer broker may send more.

use serde::Deserialize;

/// One line of the stream, by its field `kind`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// The first line of every stream.
    Hello(Hello),
    /// The complete state of a bound group.
    State(GroupState),
    /// A group without members has messages to process.
    Wake(Wake),
    /// The state of a group is partly unknown to the broker until its next `state` line.
    Unknown(GroupName),
    /// A group is no longer bound.
    Gone(GroupName),
    /// A second has passed, and all changes in it have been sent.
    Tick(Tick),
    /// A kind of line that this release does not know.
    #[serde(other)]
    Other,
}

/// Identifies the broker at the other end of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Id of the broker in its cluster.
    pub broker_id: i32,
    /// Kafka id of the cluster.
    pub cluster_id: String,
    /// Release of the broker.
    pub version: String,
    /// Start time of the broker by its own clock, ms since 1970.
    pub started_at_ms: i64,
}

/// The complete state of a bound group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupState {
    /// The topic it is bound to.
    pub topic: String,
    /// Kafka id of the topic.
    pub topic_id: String,
    /// Id of the consumer group.
    pub group: String,
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable`, `Dead`.
    pub group_state: String,
    /// Whether a rebalance is in progress.
    pub rebalancing: bool,
    /// Duration of the last rebalance in ms.
    pub last_rebalance_ms: Option<u64>,
    /// Consumer lag: visible messages that are not yet committed.
    pub length: u64,
    /// Age in ms of the oldest message in the lag.
    pub oldest_age_ms: Option<u64>,
    /// Median time from record timestamp to offset commit, last minute, ms.
    #[serde(rename = "delayP50Ms")]
    pub delay_p50_ms: Option<i64>,
    /// 99th percentile of the time from record timestamp to offset commit, last minute, ms.
    #[serde(rename = "delayP99Ms")]
    pub delay_p99_ms: Option<i64>,
    /// Rate of committed messages per second.
    pub processed_per_second: f64,
    /// Rate of arriving messages per second.
    pub arrivals_per_second: f64,
    /// Messages that were fetched and are not yet committed, if the broker can measure it.
    pub in_flight: Option<u64>,
    /// Every partition of the topic.
    pub partitions: Vec<Partition>,
    /// Every member of the group.
    pub members: Vec<Member>,
}

/// State of one partition for a group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Partition {
    /// Number of the partition in the topic.
    pub partition: i32,
    /// Visible messages that are not yet committed.
    pub length: u64,
    /// Offset of the next message to be written.
    pub end: i64,
    /// Committed offset of the group; absent before its first commit.
    pub committed: Option<i64>,
    /// Rate of arriving messages per second.
    pub arrivals_per_second: f64,
    /// Rate of committed messages per second.
    pub processed_per_second: f64,
}

/// One member of a group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    /// Member id in the group.
    pub member_id: String,
    /// Host that the member connects from.
    pub client_host: String,
    /// Partitions that are assigned to the member.
    pub partitions: Vec<i32>,
    /// Rate of messages that the member commits per second.
    pub processed_per_second: f64,
    /// Whether each of its partitions had a lag during the whole last second.
    pub backlogged: bool,
}

/// A group without members has messages to process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wake {
    /// Name of the topic.
    pub topic: String,
    /// Kafka id of the topic.
    pub topic_id: String,
    /// Id of the consumer group.
    pub group: String,
    /// Consumer lag of the group, messages.
    pub length: u64,
}

/// A group that is no longer bound, or whose state is partly unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupName {
    /// Name of the topic.
    pub topic: String,
    /// Kafka id of the topic.
    pub topic_id: String,
    /// Id of the consumer group.
    pub group: String,
}

/// A second has passed on the broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tick {
    /// Time of the broker's clock, ms since 1970.
    pub time_ms: i64,
}

/// Parses one line of a stream.
///
/// # Errors
///
/// When the text is not a line of a signal stream.
pub fn parse(line: &[u8]) -> Result<Line, serde_json::Error> {
    serde_json::from_slice(line)
}
