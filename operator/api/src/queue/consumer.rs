//! One consumer group of a `Queue`, and the settings of its scaling.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A consumer group of a queue.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.groupId) == has(oldSelf.groupId) && (!has(self.groupId) || self.groupId == oldSelf.groupId)")
        .message("`groupId` is immutable: add another consumer"),
    validation = Rule::new("self.startPosition == oldSelf.startPosition")
        .message("`startPosition` is immutable: it was used when the group was bound")
)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// Name of the consumer within the Queue, 1 to 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Kafka group id, 1 to 249 characters. Default: `<namespace>.<queue>.<consumer>`, shortened to
    /// 249 characters if it is longer. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[!-~]+$"))]
    pub group_id: Option<String>,

    /// Where the group starts if it has no committed offset: `Earliest` is the oldest message,
    /// `Latest` the next one that arrives. Default `Earliest`. Immutable.
    #[serde(default)]
    pub start_position: StartPosition,

    /// The object that runs the consumers: any object of the namespace with a scale, such as a
    /// Deployment. If absent, the group is bound and measured, and the operator scales nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,

    /// How the operator scales the target.
    #[serde(default)]
    pub scaling: Scaling,
}

/// Where a group without a committed offset starts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartPosition {
    /// At the oldest message of the queue.
    #[default]
    Earliest,
    /// With the next message that arrives.
    Latest,
}

/// Names an object of the same namespace that has a scale.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group and version, such as `apps/v1`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^([a-z0-9.-]+/)?v[a-z0-9]+$"))]
    pub api_version: String,
    /// Kind of the object, such as `Deployment`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Name of the object, at most 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How the operator scales the replicas of a consumer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("`minReplicas` must be less than or equal to `maxReplicas`"),
    validation = Rule::new("(self.mode == 'Lag') == has(self.lag)")
        .message("`lag` must be set if and only if `mode` is Lag")
)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// `Rate` scales by arrival rate, backlog and measured service rate, `Lag` by the backlog
    /// alone, `Disabled` not at all. Default `Rate`.
    #[serde(default)]
    pub mode: ScalingMode,

    /// Fewest replicas, 0 to 1000, default 0. With 0 the consumers are scaled to zero while the
    /// queue is idle, and back when a message arrives.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,

    /// Most replicas, 1 to 1000. Default: the number of partitions, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<i32>,

    /// Seconds within which a backlog should be drained, 1 to 86400, default 60.
    #[serde(default = "target_drain_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub target_drain_seconds: i32,

    /// Share of their capacity that the replicas should use, percent, 50 to 95, default 85.
    #[serde(default = "target_utilization_percent")]
    #[schemars(range(min = 50, max = 95))]
    pub target_utilization_percent: i32,

    /// Messages per second that one replica processes, 1 to 10000000, used until the operator has
    /// measured it. Default: unknown, the operator then doubles the replicas while a backlog stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub expected_per_replica_per_second: Option<i32>,

    /// Settings of mode `Lag`; required with that mode, and not allowed with any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagScaling>,

    /// Seconds without messages after which the consumers are scaled to zero, 0 to 86400, default
    /// 300.
    #[serde(default = "idle_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub idle_seconds: i32,

    /// Replicas are reduced only to a number that sufficed for this many seconds, 0 to 86400,
    /// default 300.
    #[serde(default = "scale_down_stabilization_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub scale_down_stabilization_seconds: i32,
}

/// Settings of scaling by the backlog alone.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LagScaling {
    /// Messages of backlog (consumer lag) per replica, 1 to 1000000000.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub messages_per_replica: i64,
}

/// The signals that decide the number of replicas.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScalingMode {
    /// Arrival rate, backlog and measured service rate.
    #[default]
    Rate,
    /// The backlog (consumer lag) alone.
    Lag,
    /// None: the operator does not scale.
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
