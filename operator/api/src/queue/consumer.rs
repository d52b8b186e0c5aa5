//! One consumer group of a `Queue`, and how its replicas follow the load.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A group of consumers of a queue.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.groupId) == has(oldSelf.groupId) && (!has(self.groupId) || self.groupId == oldSelf.groupId)")
        .message("`groupId` is immutable: add another consumer"),
    validation = Rule::new("self.startPosition == oldSelf.startPosition")
        .message("`startPosition` is immutable: it was used when the group was bound")
)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// What the consumer is called within the Queue.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The Kafka group; `<namespace>.<queue>.<consumer>` if absent, shortened if that is longer than 249
    /// characters. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[!-~]+$"))]
    pub group_id: Option<String>,

    /// Where the group begins if it never committed: with the oldest message, or with the next.
    /// Immutable.
    #[serde(default)]
    pub start_position: StartPosition,

    /// What runs the consumers: anything in the namespace that has a scale, such as a Deployment.
    /// If absent the group is bound and measured, and nothing is scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,

    /// How its replicas follow the load.
    #[serde(default)]
    pub scaling: Scaling,
}

/// Where a group begins.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartPosition {
    /// With the oldest message there is.
    #[default]
    Earliest,
    /// With the next message that arrives.
    Latest,
}

/// An object of the same namespace that has a scale.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Such as `apps/v1`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^([a-z0-9.-]+/)?v[a-z0-9]+$"))]
    pub api_version: String,
    /// Such as `Deployment`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How the replicas of a consumer follow the load.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("`minReplicas` must be less than or equal to `maxReplicas`"),
    validation = Rule::new("(self.mode == 'Lag') == has(self.lag)")
        .message("`lag` must be set if and only if `mode` is Lag")
)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// `Rate`: by arrival rate, backlog and measured service rate. `Lag`: by backlog alone.
    /// `Disabled`: not at all.
    #[serde(default)]
    pub mode: ScalingMode,

    /// Never fewer than this. 0 lets the consumers go when the queue is idle; the first message
    /// wakes them.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,

    /// Never more than this; the number of partitions if absent, 1000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<i32>,

    /// A backlog should be gone within this time.
    #[serde(default = "target_drain_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub target_drain_seconds: i32,

    /// How busy the replicas should be.
    #[serde(default = "target_utilization_percent")]
    #[schemars(range(min = 50, max = 95))]
    pub target_utilization_percent: i32,

    /// How many messages one replica processes per second, until it has been measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub expected_per_replica_per_second: Option<i32>,

    /// Needed with mode `Lag`, and only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagScaling>,

    /// The queue must have been idle for so long before the consumers go to zero.
    #[serde(default = "idle_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub idle_seconds: i32,

    /// Fewer replicas only when fewer were enough during this time.
    #[serde(default = "scale_down_stabilization_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub scale_down_stabilization_seconds: i32,
}

/// Scaling by backlog alone.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LagScaling {
    /// One replica for so many messages of backlog.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub messages_per_replica: i64,
}

/// What the replicas of a consumer follow.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScalingMode {
    /// Arrival rate, backlog and measured service rate.
    #[default]
    Rate,
    /// The backlog alone.
    Lag,
    /// Nothing.
    Disabled,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::Rate,
            min_replicas: 0,
            max_replicas: None,
            target_drain_seconds: target_drain_seconds(),
            target_utilization_percent: target_utilization_percent(),
            expected_per_replica_per_second: None,
            lag: None,
            idle_seconds: idle_seconds(),
            scale_down_stabilization_seconds: scale_down_stabilization_seconds(),
        }
    }
}

fn target_drain_seconds() -> i32 {
    60
}

fn target_utilization_percent() -> i32 {
    85
}

fn idle_seconds() -> i32 {
    300
}

fn scale_down_stabilization_seconds() -> i32 {
    300
}
