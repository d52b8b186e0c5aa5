//! What the operator saw of a `BrokerCluster`.
//!
//! # Invariants
//!
//! - `highestBrokerId` never falls: an id that was used once is never given to another broker.
//! - `brokers[].formatted` never turns back: an empty volume later is lost data, not a new broker.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw of a BrokerCluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrokerClusterStatus {
    /// The generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What holds, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::condition::schema")]
    pub conditions: Vec<Condition>,

    /// Brokers that have a pod.
    #[serde(default)]
    pub replicas: i32,
    /// Brokers that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Brokers that are ready, of those that are wanted: `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brokers_ready: Option<String>,
    /// The labels of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// The release that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The id that Kafka clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Where Kafka clients connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_servers: Option<String>,

    /// What the largest volume of a broker has: `storage.size` cannot be less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub storage_capacity: Option<String>,

    /// The highest broker id that was ever given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_broker_id: Option<i32>,
    /// Every broker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 99))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub brokers: Vec<BrokerStatus>,
}

/// What the operator saw of one broker.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Its id, for ever.
    pub id: i32,
    /// Its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Whether it serves clients.
    #[serde(default)]
    pub ready: bool,
    /// Whether its data directory was formatted once.
    #[serde(default)]
    pub formatted: bool,
    /// The loss of data that a person accepted last: a value of the annotation
    /// `ropewalk.dev/accept-data-loss` that has been used and has no effect any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_loss: Option<String>,
    /// The release that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The image of its pod template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Why it has to restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_reason: Option<String>,
    /// When the operator last restarted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restart_time: Option<Time>,
}
