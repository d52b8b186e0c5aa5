//! `Queue`: a Kafka topic, its retention and the consumer groups that read it.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DeletionPolicy, ManagementState, Size, names};

mod consumer;
mod status;
mod tiering;

pub use consumer::{Consumer, LagScaling, Scaling, ScalingMode, StartPosition, TargetRef};
pub use status::{ConsumerStatus, QueueStatus};
pub use tiering::{LocalRetention, Tiering, TieringMode};

/// A durable queue: a Kafka topic in a BrokerCluster of the same namespace, and the groups of
/// consumers that read it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ropewalk.dev",
    version = "v1alpha1",
    kind = "Queue",
    plural = "queues",
    namespaced,
    status = "QueueStatus",
    derive = "PartialEq",
    shortname = "rwq",
    category = "ropewalk",
    doc = "A durable queue: a Kafka topic in a BrokerCluster of the same namespace, and the groups of consumers that read it.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.clusterName"),
    printcolumn(
        name = "Length",
        type_ = "integer",
        json_path = ".status.length",
        description = "Consumer lag: messages that the slowest group has not processed"
    ),
    printcolumn(
        name = "Delay",
        type_ = "string",
        json_path = ".status.delay",
        description = "Time from record timestamp to offset commit, 99th percentile"
    ),
    printcolumn(
        name = "Throughput",
        type_ = "string",
        json_path = ".status.throughput",
        description = "Messages processed per second"
    ),
    printcolumn(
        name = "Consumers",
        type_ = "string",
        json_path = ".status.consumerReplicas",
        description = "Replicas that consume / replicas that are wanted"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Topic ID", type_ = "string", priority = 1, json_path = ".status.topicId"),
    validation = Rule::new("has(self.spec.topicName) || size(self.metadata.name) <= 249")
        .message("without `topicName` the name of the Queue must have at most 249 characters")
)]
#[x_kube(
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)")
        .message("`topicName` is immutable: make another Queue"),
    validation = Rule::new("has(self.clusterRef) == has(oldSelf.clusterRef) && (!has(self.clusterRef) || self.clusterRef.name == oldSelf.clusterRef.name)")
        .message("`clusterRef` is immutable: make another Queue"),
    validation = Rule::new("self.partitions >= oldSelf.partitions")
        .message("`partitions` can only grow"),
    validation = Rule::new("!has(self.tiering) || self.tiering.mode == 'Discard' || self.cleanupPolicy == 'Delete'")
        .message("`tiering` needs `cleanupPolicy: Delete`: the messages of a compacted queue stay on the brokers"),
    validation = Rule::new("!has(self.tiering) || !has(self.tiering.localRetention) || !has(self.tiering.localRetention.maxAgeSeconds) || self.tiering.localRetention.maxAgeSeconds <= self.retention.maxAgeSeconds")
        .message("`tiering.localRetention.maxAgeSeconds` must not be above `retention.maxAgeSeconds`, the total"),
    validation = Rule::new("!has(self.tiering) || !has(self.tiering.localRetention) || !has(self.tiering.localRetention.maxSize) || !has(self.retention.maxSize) || quantity(self.tiering.localRetention.maxSize).compareTo(quantity(self.retention.maxSize)) <= 0")
        .message("`tiering.localRetention.maxSize` must not be above `retention.maxSize`, the total"),
    validation = Rule::new("!has(oldSelf.tiering) || has(self.tiering) || oldSelf.tiering.mode == 'Discard'")
        .message("`tiering` can be removed after `mode: Discard`, which deletes the messages in the bucket; `mode: Keep` ends uploads and keeps them")
)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// Name of the Kafka topic, 1 to 249 characters. Default: the name of the Queue. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    #[x_kube(validation = Rule::new("self != '.' && self != '..'")
        .message("`topicName` must not be `.` or `..`"))]
    pub topic_name: Option<String>,

    /// The BrokerCluster that holds the topic, in the same namespace. Default: the BrokerCluster
    /// called `default`, which the operator creates if it is missing. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<ClusterRef>,

    /// Number of partitions, 1 to 10000, default 12. It bounds how many members of a group can
    /// consume at once. It can only grow; growth changes which partition a key maps to.
    #[serde(default = "partitions")]
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: i32,

    /// `Delete` removes messages as `retention` says, `Compact` keeps the newest message of each
    /// key, `CompactAndDelete` does both. Default `Delete`.
    #[serde(default)]
    pub cleanup_policy: CleanupPolicy,

    /// How long messages are kept, whether or not they were processed.
    #[serde(default)]
    pub retention: Retention,

    /// Moves older messages to the bucket of the BrokerCluster, so that `retention` is not bounded
    /// by the volumes. Default: all messages stay on the volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiering: Option<Tiering>,

    /// Largest batch as the brokers store it, 1Ki to 32Mi, default 1Mi. Earlier releases allowed
    /// 64Mi: a Queue that was created with more than 32Mi can still be edited, and its topic gets
    /// 32Mi.
    // Before Kubernetes 1.30 the API server refuses every write of an object while any stored field
    // breaks a rule, also the write that removes a finalizer. So the bound of all releases is a
    // rule for every object, and the lower bound of today is a rule for changes.
    #[serde(default = "message_size")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('1Ki')) >= 0 && quantity(self).compareTo(quantity('64Mi')) <= 0")
        .message("`maxMessageSize` must be between 1Ki and 32Mi"))]
    #[x_kube(validation = Rule::new("self == oldSelf || quantity(self).compareTo(quantity('32Mi')) <= 0")
        .message("`maxMessageSize` must be between 1Ki and 32Mi"))]
    pub max_message_size: Size,

    /// Consumer groups of the queue, at most 16. Each group is bound: it starts at `startPosition`,
    /// its offsets never expire, and the operator scales its target, a Deployment or any object
    /// with a scale.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.all(c, !has(c.groupId) || self.exists_one(d, has(d.groupId) && d.groupId == c.groupId))")
        .message("two consumers must not share a `groupId`"))]
    pub consumers: Vec<Consumer>,

    /// Further settings of the topic under Kafka's names, such as `segment.bytes`; at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "config_schema")]
    #[x_kube(validation = Rule::new("self.all(k, !(k in ['cleanup.policy', 'retention.ms', 'retention.bytes', 'max.message.bytes', 'min.insync.replicas', 'remote.storage.enable', 'remote.log.copy.disable', 'remote.log.delete.on.disable', 'local.retention.ms', 'local.retention.bytes']))")
        .message("`config` must not hold what has a field of its own (`cleanupPolicy`, `retention`, `tiering`, `maxMessageSize`) or what the cluster decides"))]
    pub config: BTreeMap<String, String>,

    /// What happens to the topic and its messages when the Queue is deleted: `Retain` keeps them,
    /// `Delete` deletes them. Default `Retain`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// `Managed` or `Paused`. Under `Paused` the operator changes nothing and still updates the
    /// status; a deletion is carried out all the same. Default `Managed`.
    #[serde(default)]
    pub management_state: ManagementState,
}

/// Names a BrokerCluster of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct ClusterRef {
    /// Name of the BrokerCluster, at most 40 characters.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
}

/// How the brokers remove old messages.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanupPolicy {
    /// By age and size, as `retention` says.
    #[default]
    Delete,
    /// All but the newest message of each key.
    Compact,
    /// By age and size, and all but the newest message of each key.
    CompactAndDelete,
}

/// How long messages are kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Messages older than this number of seconds are deleted, 60 to 3150000000, default 604800 (a
    /// week).
    #[serde(default = "max_age_seconds")]
    #[schemars(range(min = 60, max = 3_150_000_000_i64))]
    pub max_age_seconds: i64,
    /// Bytes of the whole queue above which its oldest messages are deleted. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_age_seconds: max_age_seconds(), max_size: None }
    }
}

fn partitions() -> i32 {
    12
}

fn message_size() -> Size {
    "1Mi".into()
}

fn max_age_seconds() -> i64 {
    604_800
}

pub(crate) fn config_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 1024},
    })
}

impl Queue {
    /// The name of its Kafka topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.topic_name.as_deref().unwrap_or(name)
    }

    /// The name of its BrokerCluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.spec.cluster_ref.as_ref().map_or(names::DEFAULT_CLUSTER, |cluster| &cluster.name)
    }

    /// The Kafka group id of one of its consumers.
    #[must_use]
    pub fn group(&self, consumer: &Consumer) -> String {
        consumer.group_id.clone().unwrap_or_else(|| {
            let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
            let name = self.metadata.name.as_deref().unwrap_or_default();
            names::consumer_group(namespace, name, &consumer.name)
        })
    }
}
