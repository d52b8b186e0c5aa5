//! `BrokerCluster`: the brokers, their volumes and their settings.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DeletionPolicy, ManagementState, Size};

mod object_storage;
mod pod;
mod status;

pub use object_storage::{
    AccessKeySecret, CertificateAuthority, KeyRef, ObjectStorage, RestoreFrom, RestoreSource,
    StorageCredentials, WebIdentity,
};
pub use pod::{EnvVar, PodIds, PodTemplate, PullSecret, Resources};
pub use status::{BrokerClusterStatus, BrokerStatus};

/// The brokers that hold Queues.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "ropewalk.dev",
    version = "v1alpha1",
    kind = "BrokerCluster",
    plural = "brokerclusters",
    namespaced,
    status = "BrokerClusterStatus",
    derive = "PartialEq",
    shortname = "rwc",
    category = "ropewalk",
    doc = "Brokers that hold Queues: their pods, volumes and settings.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "Replicas",
        type_ = "string",
        json_path = ".status.brokersReady",
        description = "Ready brokers / wanted brokers"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#
    ),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("the name of a BrokerCluster must have at most 40 characters, because the names of its pods and Services begin with it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name of a BrokerCluster must begin with a letter and hold only lower-case letters, digits and `-`, because its Services are named after it"),
    validation = Rule::new("quantity(self.spec.storage.size).compareTo(quantity(oldSelf.spec.storage.size)) >= 0 || (has(self.status) && has(self.status.storageCapacity) && quantity(self.spec.storage.size).compareTo(quantity(self.status.storageCapacity)) >= 0)")
        .message("`storage.size` can only grow; what no volume has grown to yet can be taken back, but not below `status.storageCapacity`"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.bucket) || !has(oldSelf.spec.objectStorage) || (has(self.spec.objectStorage) && self.spec.objectStorage.bucket == oldSelf.spec.objectStorage.bucket && has(self.spec.objectStorage.prefix) == has(oldSelf.spec.objectStorage.prefix) && (!has(self.spec.objectStorage.prefix) || self.spec.objectStorage.prefix == oldSelf.spec.objectStorage.prefix))")
        .message("`objectStorage` cannot be removed, and its `bucket` and `prefix` are immutable, because older messages are there: see `status.bucket`")
)]
#[x_kube(
    validation = Rule::new("!has(self.restoreFrom) || has(self.objectStorage)")
        .message("`restoreFrom` needs `objectStorage`: the cluster is restored from this bucket, and continues to use it"),
    validation = Rule::new("has(self.restoreFrom) == has(oldSelf.restoreFrom)")
        .message("`restoreFrom` cannot be added or removed: it applies to a new BrokerCluster only")
)]
#[serde(rename_all = "camelCase")]
pub struct BrokerClusterSpec {
    /// Release of the brokers, such as `1.2.3`. A change restarts the brokers, as `rollout` says.
    /// Default: the release of the operator that created the brokers; an upgrade of the operator
    /// does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$"))]
    pub version: Option<String>,

    /// Image of the brokers. Default: the broker image that the operator was installed with, with
    /// `version` as tag if that is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,

    /// Number of brokers, 1 to 1: brokers do not replicate to each other yet. Default 1.
    #[serde(default = "replicas")]
    #[schemars(range(min = 1, max = 1))]
    pub replicas: i32,

    /// The volume of each broker.
    #[serde(default)]
    pub storage: Storage,

    /// Settings of the brokers under Kafka's names, such as `log.retention.hours`; at most 64.
    /// Settings that a broker can change while it runs take effect at once, the others with the
    /// next restart: see `rollout`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::queue::config_schema")]
    #[x_kube(validation = Rule::new("self.all(k, !(k in ['node.id', 'broker.id', 'broker.rack', 'log.dir', 'log.dirs', 'listeners', 'advertised.listeners', 'listener.security.protocol.map', 'controller.listener.names', 'ropewalk.admin.listener', 'admin.token.file', 'format.cluster.id', 'ropewalk.cluster.join'] || k.startsWith('ropewalk.peer.') || k.startsWith('ropewalk.tier.')))")
        .message("`config` must not hold what the operator decides: ids, directories, listeners, peers, the admin token, and the bucket, which is in `objectStorage`"))]
    pub config: BTreeMap<String, String>,

    /// The bucket for older messages of Queues with `tiering`. A change restarts the brokers, as
    /// `rollout` says. Default: none, all messages stay on the volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_storage: Option<ObjectStorage>,

    /// Begin with the topics, offsets and messages that a lost cluster left in the bucket. The
    /// volume of the first broker has to be empty. It cannot be added or removed, and has no effect
    /// once the cluster is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,

    /// CPU, memory and other resources that a broker requests from its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Further fields of the pods: an allow-list. There is no raw override, because the operator
    /// could not manage a pod that differs in other fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,

    /// How the operator restarts brokers.
    #[serde(default)]
    pub rollout: Rollout,

    /// `Running` or `Hibernated`. `Hibernated` stops the pods and keeps volumes, Services and ids.
    /// Default `Running`.
    #[serde(default)]
    pub run_state: RunState,

    /// What happens to the volumes when the BrokerCluster is deleted: `Retain` keeps them, `Delete`
    /// deletes them. Default `Retain`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// `Managed` or `Paused`. Under `Paused` the operator changes nothing and still updates the
    /// status; a deletion with `deletionPolicy: Delete` waits. Default `Managed`.
    #[serde(default)]
    pub management_state: ManagementState,
}

/// Repository, tag or digest, and pull policy of an image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("!(has(self.tag) && has(self.digest))")
        .message("`image` must have at most one of `tag` and `digest`")
)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Registry and path, without tag and digest, at most 255 characters. Default: those of the
    /// broker image that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?$")
    )]
    pub repository: Option<String>,
    /// Tag, at most 128 characters; not together with `digest`. Default: `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub tag: Option<String>,
    /// Digest, `sha256:` and 64 hexadecimal digits; not together with `tag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// When the node pulls the image: `Always`, `IfNotPresent` or `Never`. Default: that of
    /// Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// When a node pulls an image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every start of the pod.
    Always,
    /// When the node does not have the image.
    IfNotPresent,
    /// Never: the image must be on the node already.
    Never,
}

impl PullPolicy {
    /// The value as Kubernetes spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The volume of each broker.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("`storageClassName` is immutable")
)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, at least 256Mi, default 20Gi. It can only grow; a larger size that no
    /// volume has reached yet can be taken back, but not below `status.storageCapacity`. The
    /// operator keeps a volume that was enlarged by hand.
    #[serde(default = "volume_size")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('256Mi')) >= 0")
        .message("`storage.size` must be at least 256Mi"))]
    pub size: Size,
    /// StorageClass of the volume. Default: the default class of the Kubernetes cluster. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: volume_size(), storage_class_name: None }
    }
}

/// How the operator restarts brokers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// `OneAtATime` restarts a broker as soon as a change needs it. `Supervised` waits until the
    /// annotation `ropewalk.dev/approve-restart` approves the restart. Default `OneAtATime`.
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// Seconds after which a restarted broker that is not ready is reported in the conditions, 30
    /// to 86400, default 1800. The operator keeps waiting for it afterwards.
    #[serde(default = "broker_deadline_seconds")]
    #[schemars(range(min = 30, max = 86_400))]
    pub broker_deadline_seconds: i32,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            strategy: RolloutStrategy::default(),
            broker_deadline_seconds: broker_deadline_seconds(),
        }
    }
}

/// When the operator restarts brokers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RolloutStrategy {
    /// As soon as a change needs it, one broker at a time.
    #[default]
    OneAtATime,
    /// After the annotation `ropewalk.dev/approve-restart` approves it.
    Supervised,
}

/// Whether the brokers run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    /// The brokers have pods.
    #[default]
    Running,
    /// The pods are stopped; everything else is kept.
    Hibernated,
}

fn replicas() -> i32 {
    1
}

fn volume_size() -> Size {
    "20Gi".into()
}

fn broker_deadline_seconds() -> i32 {
    1800
}
