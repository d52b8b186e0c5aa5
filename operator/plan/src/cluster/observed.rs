//! The state of a cluster at one moment. Only `observe` in the operator reads it from the API
//! server and the brokers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerStatus, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use ropewalk_operator_api::names;

/// Name of the container that runs the broker.
pub const CONTAINER: &str = "broker";
/// Name of the init container that restores the first broker of a cluster with `restoreFrom`.
pub const RESTORE_CONTAINER: &str = "restore";

/// Restarts of the container after which a recent end counts as a crash loop.
const ENDS_MIN: i32 = 2;
/// Most seconds since the last end in a crash loop: twice the longest back-off of Kubernetes.
const ENDED_SECONDS_MAX: i64 = 600;

/// Every object and answer that was observed for a cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The StatefulSets by broker id.
    pub stateful_sets: BTreeMap<i32, StatefulSet>,
    /// The pods by broker id.
    pub pods: BTreeMap<i32, Pod>,
    /// The volume claims by broker id.
    pub claims: BTreeMap<i32, PersistentVolumeClaim>,
    /// The Services by name.
    pub services: BTreeMap<String, Service>,
    /// The ConfigMaps by name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// The Secret with the admin token.
    pub secret: Option<Secret>,
    /// The account of the brokers.
    pub service_account: Option<ServiceAccount>,
    /// The disruption budget of the brokers.
    pub budget: Option<PodDisruptionBudget>,
    /// The reply to `GET /v1/broker` by broker id; absent if the broker did not answer.
    pub answers: BTreeMap<i32, Answer>,
    /// Why a broker with a running pod did not answer, by broker id.
    pub unanswered: BTreeMap<i32, String>,
    /// The last warning Event about an object, by its name. Read only for objects that are not
    /// ready.
    pub warnings: BTreeMap<String, String>,
    /// What a new pod would wait for: a Secret or ConfigMap that the bucket needs, as a message for
    /// administrators.
    pub missing_input: Option<String>,
    /// Another operator that changes the same brokers, as a message for administrators.
    pub conflict: Option<String>,
    /// Consumers that have to be scaled down before the pods of a hibernating cluster stop; `None`
    /// if there are none to wait for. Empty until the scaling reports.
    pub awaited_consumers: Option<Vec<String>>,
    /// Time of the observation, Unix seconds.
    pub at_second: i64,
}

/// The reply of a broker to `GET /v1/broker`.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// The broker id.
    pub broker_id: i32,
    /// The cluster id, as Kafka clients see it.
    pub cluster_id: String,
    /// The release of the broker.
    pub version: String,
    /// The newest fencing epoch that the broker knows.
    pub epoch: u64,
    /// Start time of the process, by the broker's clock.
    pub started_at_ms: i64,
    /// Whether the broker serves clients.
    pub ready: bool,
    /// Why it does not serve; empty if it does.
    pub reasons: Vec<String>,
    /// Further conditions, such as damage or a full volume. A broker that serves may have several.
    pub conditions: Vec<AnswerCondition>,
    /// State of its settings.
    pub settings: AnswerSettings,
    /// State of its recovery.
    pub recovery: AnswerRecovery,
    /// State of its bucket; absent without one, and in older releases.
    pub tier: Option<AnswerTier>,
}

/// The bucket of a broker, as it reports it.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerTier {
    /// Bucket and prefix as a URL.
    pub url: String,
    /// The broker examined the bucket and claimed it for its cluster.
    pub claimed: bool,
    /// The last failure; absent while the bucket works.
    pub failure: Option<AnswerFailure>,
    /// How long the oldest record waits that is to be uploaded, seconds.
    pub not_uploaded_seconds: i64,
    /// After how long the broker uploads a record at the latest, seconds.
    pub upload_max_age_seconds: i64,
}

/// A failure of a bucket.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerFailure {
    /// Kind of the failure, one word; the operator has no advice for unknown kinds.
    pub kind: String,
    /// What the broker wanted to do, one word; absent if it is not about a request.
    pub operation: Option<String>,
    /// A text for people: the answer of the store, and what to do.
    pub message: String,
}

/// A condition of a broker besides its readiness.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerCondition {
    /// Kind of the condition; the operator ignores unknown kinds.
    pub kind: String,
    /// A text for people that may change between releases.
    pub message: String,
    /// The number of shards or partitions concerned.
    pub count: u64,
}

/// The recovery of a broker after its start.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerRecovery {
    /// The broker has replayed its write-ahead log. True if the broker does not report it.
    pub done: bool,
}

impl Default for AnswerRecovery {
    fn default() -> Self {
        Self { done: true }
    }
}

/// The settings of a broker, as it reports them.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerSettings {
    /// Changed settings that take effect after a restart.
    pub needs_restart: Vec<String>,
    /// Hash of the settings file at the start of the process; absent in older releases.
    pub started_hash: Option<String>,
    /// Hash of the settings that were last applied to the running process.
    pub last_hash: Option<String>,
    /// Hash of the settings that the operator sent to this process. The operator stores it itself,
    /// for brokers that do not report `last_hash`.
    #[serde(skip)]
    pub sent_hash: Option<String>,
}

impl AnswerSettings {
    /// Whether the broker has the settings with this hash, so that `needs_restart` refers to them.
    #[must_use]
    pub fn are(&self, hash: &str) -> bool {
        let last = self.last_hash.as_ref().or(self.started_hash.as_ref());
        last.or(self.sent_hash.as_ref()).is_some_and(|known| known == hash)
    }
}

impl Answer {
    /// The condition of a kind, if the broker reports it.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&AnswerCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether the data directory is open, and so was formatted.
    #[must_use]
    pub fn has_data_directory(&self) -> bool {
        self.recovery.done && !self.cluster_id.is_empty()
    }
}

impl Observed {
    /// The observation after settings were sent: replaces the settings state of the brokers with
    /// the given ids. Brokers that did not answer before are left out.
    #[must_use]
    pub fn with_settings(mut self, settings: BTreeMap<i32, AnswerSettings>) -> Self {
        for (id, settings) in settings {
            if let Some(answer) = self.answers.get_mut(&id) {
                answer.settings = settings;
            }
        }
        self
    }

    /// The ids of brokers that have a StatefulSet or a claim, in ascending order.
    pub fn ids(&self) -> impl Iterator<Item = i32> {
        let mut ids: Vec<i32> =
            self.stateful_sets.keys().chain(self.claims.keys()).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
    }

    /// The warning about an object, if there is one.
    #[must_use]
    pub fn warning(&self, name: &str) -> Option<&str> {
        self.warnings.get(name).map(String::as_str)
    }
}

/// The broker id in the label of an object.
#[must_use]
pub fn broker_of(object: &impl kube::Resource) -> Option<i32> {
    let id = object.labels().get(names::LABEL_BROKER)?;
    id.parse().ok().filter(|id| *id >= 0)
}

/// Whether a pod is ready and is not being deleted.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod_condition(pod, "Ready").is_some_and(|(status, _)| status)
}

/// A condition of a pod: whether its status is True, and its message.
#[must_use]
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<(bool, Option<&'a str>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((condition.status == "True", condition.message.as_deref()))
}

/// Since when a condition of a pod is True, Unix seconds.
#[must_use]
pub fn pod_condition_since(pod: &Pod, kind: &str) -> Option<i64> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|one| one.type_ == kind && one.status == "True")?;
    Some(condition.last_transition_time.as_ref()?.0.as_second())
}

/// The status of the broker's container.
#[must_use]
pub fn container_of(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

/// The status of the container that restores a broker.
#[must_use]
pub fn restore_container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == RESTORE_CONTAINER)
}

/// Whether the process of a broker runs, ready or not.
#[must_use]
pub fn is_running(pod: &Pod) -> bool {
    let state = container_of(pod).and_then(|status| status.state.as_ref());
    pod.metadata.deletion_timestamp.is_none() && state.is_some_and(|state| state.running.is_some())
}

/// Whether the process of a broker is in a crash loop, so that only a change can help.
#[must_use]
pub fn keeps_ending(observed: &Observed, pod: &Pod) -> bool {
    let Some(container) = container_of(pod) else { return false };
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = last.and_then(|ended| ended.finished_at.as_ref());
    let is_late =
        ended.is_some_and(|at| observed.at_second - at.0.as_second() <= ENDED_SECONDS_MAX);
    container.restart_count >= ENDS_MIN && is_late
}
