//! The status of a `BrokerCluster`.
//!
//! - `highestBrokerId` never decreases: a used id is never given to another broker.
//! - `brokers[].formatted` never becomes false again: an empty volume later is lost data, not a new
//!   broker.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Status of a BrokerCluster, written by the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrokerClusterStatus {
    /// The `metadata.generation` that the conditions describe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::condition::schema")]
    pub conditions: Vec<Condition>,

    /// Number of brokers that have a pod.
    #[serde(default)]
    pub replicas: i32,
    /// Number of brokers that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Ready brokers and wanted brokers, such as `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brokers_ready: Option<String>,
    /// Label selector of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Release that the brokers run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Cluster id, as Kafka clients see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Address for `bootstrap.servers` of Kafka clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_servers: Option<String>,

    /// Bucket and prefix that the brokers use for older messages, as a URL. From then on they are
    /// immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384))]
    pub bucket: Option<String>,
    /// Upper bound of the age of messages of Queues with `tiering` that are not in the bucket yet,
    /// seconds: what the loss of all volumes would lose. Absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_loss_window_seconds: Option<i64>,

    /// Capacity of the largest broker volume: the lower bound of `storage.size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub storage_capacity: Option<String>,

    /// Highest broker id that was ever used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_broker_id: Option<i32>,
    /// Status of each broker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 99))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub brokers: Vec<BrokerStatus>,
}

/// Status of one broker.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Broker id; it is never reused.
    pub id: i32,
    /// Name of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Whether the broker serves clients.
    #[serde(default)]
    pub ready: bool,
    /// Whether the data directory was ever formatted.
    #[serde(default)]
    pub formatted: bool,
    /// Last accepted loss of data: a value of the annotation `ropewalk.dev/accept-data-loss` that
    /// was used and has no further effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_loss: Option<String>,
    /// Release that the broker runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Image of the pod template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Why the broker has to restart; absent if it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_reason: Option<String>,
    /// When the operator last restarted the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restart_time: Option<Time>,
}
