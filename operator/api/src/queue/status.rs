//! The status of a `Queue`.
//!
//! Three field managers write it: the queue controller (conditions, topic), the metrics writer
//! (length, delay, throughput) and the scaling (replicas). `length` is exact, rates are rounded to
//! two digits.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Status of a Queue, written by the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// The `metadata.generation` that the conditions describe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::condition::schema")]
    pub conditions: Vec<Condition>,

    /// The BrokerCluster that holds the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Address for `bootstrap.servers` of Kafka clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_servers: Option<String>,
    /// Name of the Kafka topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Id of the topic, as Kafka clients see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Id of the topic that held this queue before and was deleted with its records. It stays until
    /// the annotation `ropewalk.dev/accept-topic-loss` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_topic_id: Option<String>,
    /// Number of partitions of the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,

    /// When the metrics of this status were last written. The operator removes them when the
    /// brokers have not confirmed them for a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures_time: Option<Time>,
    /// Consumer lag: messages that the slowest group has not processed. Without a group, all
    /// messages of the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
    /// Time from record timestamp to offset commit, median over the last minute, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p50_ms: Option<i64>,
    /// Time from record timestamp to offset commit, 99th percentile over the last minute,
    /// milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p99_ms: Option<i64>,
    /// `delayP99Ms` with a unit, such as `1.2s`; `-` if nothing was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
    /// Age of the oldest message that is not processed, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_seconds: Option<i64>,
    /// Messages that arrive, thousandths per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals_per_second_milli: Option<i64>,
    /// Messages that are processed, thousandths per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed_per_second_milli: Option<i64>,
    /// `processedPerSecondMilli` as messages per second with a unit, such as `12k/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<String>,
    /// Seconds until the backlog is drained at the present rates; absent while it does not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_drain_seconds: Option<i64>,

    /// Replicas that consume and replicas that are wanted, over all consumers, such as `3/6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_replicas: Option<String>,
    /// Status of each consumer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub consumers: Vec<ConsumerStatus>,
}

/// Status of one consumer of a Queue.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStatus {
    /// Name of the consumer.
    pub name: String,
    /// Id of its Kafka group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,

    /// Consumer lag: messages that the group has not processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
    /// Time from record timestamp to offset commit, median over the last minute, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p50_ms: Option<i64>,
    /// Time from record timestamp to offset commit, 99th percentile over the last minute,
    /// milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p99_ms: Option<i64>,
    /// Age of the oldest message that is not processed, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_seconds: Option<i64>,
    /// Messages that arrive, thousandths per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals_per_second_milli: Option<i64>,
    /// Messages that are processed, thousandths per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed_per_second_milli: Option<i64>,
    /// Seconds until the backlog is drained at the present rates; absent while it does not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_drain_seconds: Option<i64>,

    /// Replicas that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Replicas after the last decision, within `minReplicas`, `maxReplicas` and the partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,
    /// Messages that one busy replica processes, measured, thousandths per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_replica_per_second_milli: Option<i64>,
    /// When the operator last changed the number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
    /// Why the operator last changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_reason: Option<String>,
}
