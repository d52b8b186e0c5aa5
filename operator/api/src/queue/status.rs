//! What the operator saw of a `Queue`.
//!
//! Written by three parts, each with a field manager of its own: the queue controller (what exists),
//! the figures (length, delay, throughput) and the scaling (replicas). `length` is exact, rates are
//! rounded.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw of a Queue.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// The generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What holds, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::condition::schema")]
    pub conditions: Vec<Condition>,

    /// The BrokerCluster that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Where Kafka clients connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_servers: Option<String>,
    /// The Kafka topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Kafka's id of the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The id of the topic that held this queue before and is gone with its records, until the
    /// annotation `ropewalk.dev/accept-topic-loss` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_topic_id: Option<String>,
    /// How many partitions it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,

    /// When the figures below were last written. The operator removes them once the brokers have
    /// not confirmed them for a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures_time: Option<Time>,
    /// Messages that the slowest group has not yet processed; all there are, without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
    /// Half of the messages were processed within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p50_ms: Option<i64>,
    /// 99 of 100 messages were processed within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p99_ms: Option<i64>,
    /// `delayP99Ms`, as people read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
    /// How long the oldest unprocessed message has waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_seconds: Option<i64>,
    /// Thousandths of messages that arrive per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals_per_second_milli: Option<i64>,
    /// Thousandths of messages that are processed per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed_per_second_milli: Option<i64>,
    /// `processedPerSecondMilli`, as people read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<String>,
    /// When the backlog is gone if nothing changes; absent when it does not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_drain_seconds: Option<i64>,

    /// Replicas that consume, of those that are wanted, over all consumers: `3/6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_replicas: Option<String>,
    /// The same for each consumer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub consumers: Vec<ConsumerStatus>,
}

/// What the operator saw of one consumer of a Queue.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStatus {
    /// The consumer.
    pub name: String,
    /// Its Kafka group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,

    /// Messages it has not yet processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
    /// Half of the messages were processed within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p50_ms: Option<i64>,
    /// 99 of 100 messages were processed within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p99_ms: Option<i64>,
    /// How long the oldest unprocessed message has waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_seconds: Option<i64>,
    /// Thousandths of messages that arrive per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals_per_second_milli: Option<i64>,
    /// Thousandths of messages that are processed per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed_per_second_milli: Option<i64>,
    /// When the backlog is gone if nothing changes; absent when it does not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_drain_seconds: Option<i64>,

    /// Replicas there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Replicas that are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,
    /// Thousandths of messages that one busy replica processes per second, as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_replica_per_second_milli: Option<i64>,
    /// When the number was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
    /// Why it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_reason: Option<String>,
}
