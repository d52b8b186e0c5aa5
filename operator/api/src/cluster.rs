//! `BrokerCluster`: the brokers, their volumes and their settings.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DeletionPolicy, ManagementState, Size};

mod pod;
mod status;

pub use pod::{EnvVar, PodIds, PodTemplate, PullSecret, Resources};
pub use status::{BrokerClusterStatus, BrokerStatus};

/// Brokers that hold Queues.
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
        description = "Brokers that are ready, of those that are wanted"
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
        .message("`storage.size` can only grow; what no volume has grown to yet can be taken back, but not below `status.storageCapacity`")
)]
#[serde(rename_all = "camelCase")]
pub struct BrokerClusterSpec {
    /// The release of the brokers. If neither this nor `image` is set, brokers are made with the
    /// release that the operator came with, and keep it when the operator is upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$"))]
    pub version: Option<String>,

    /// Where the image of the brokers comes from, if not from where the operator's does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,

    /// How many brokers there are. One, until brokers replicate to each other.
    #[serde(default = "replicas")]
    #[schemars(range(min = 1, max = 1))]
    pub replicas: i32,

    /// The volume of each broker.
    #[serde(default)]
    pub storage: Storage,

    /// Settings of the brokers by Kafka's names, such as `log.retention.hours`. What a broker can
    /// change while it runs is changed at once, the rest when it restarts: see `rollout`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::queue::config_schema")]
    #[x_kube(validation = Rule::new("self.all(k, !(k in ['node.id', 'broker.id', 'broker.rack', 'log.dir', 'log.dirs', 'listeners', 'advertised.listeners', 'listener.security.protocol.map', 'controller.listener.names', 'ropewalk.admin.listener', 'admin.token.file', 'format.cluster.id']))")
        .message("`config` must not hold what the operator decides: ids, directories, listeners, the admin token"))]
    pub config: BTreeMap<String, String>,

    /// What a broker asks of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// What else may be said about the pods. There is no raw override: what is not here would let a
    /// pod be made that cannot be looked after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,

    /// How brokers are restarted when they have to be.
    #[serde(default)]
    pub rollout: Rollout,

    /// `Hibernated`: the pods stop; volumes, names and identity stay.
    #[serde(default)]
    pub run_state: RunState,

    /// Whether the volumes go when the BrokerCluster is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// `Paused`: nothing is changed, status is still shown.
    #[serde(default)]
    pub management_state: ManagementState,
}

/// Where an image comes from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("!(has(self.tag) && has(self.digest))")
        .message("`image` must have at most one of `tag` and `digest`")
)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Without tag and digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?$")
    )]
    pub repository: Option<String>,
    /// `version` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub tag: Option<String>,
    /// `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// When the node asks the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// When a node asks the registry for an image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Every time.
    Always,
    /// When it has none.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// As Kubernetes writes it.
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
    /// Can only grow; what no volume has grown to yet can be taken back, but not below
    /// `status.storageCapacity`. A volume that was made larger by hand is left as it is.
    #[serde(default = "volume_size")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('256Mi')) >= 0")
        .message("`storage.size` must be at least 256Mi"))]
    pub size: Size,
    /// The cluster's default class if absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: volume_size(), storage_class_name: None }
    }
}

/// How brokers are restarted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// `OneAtATime`: as soon as they have to be. `Supervised`: when a person approves it.
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// A restarted broker that is not ready within this time is reported; it is never given up.
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

/// When brokers are restarted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RolloutStrategy {
    /// As soon as they have to be, never two at once.
    #[default]
    OneAtATime,
    /// When a person approves it.
    Supervised,
}

/// Whether the brokers run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    /// They do.
    #[default]
    Running,
    /// Their pods are stopped; everything else stays.
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
