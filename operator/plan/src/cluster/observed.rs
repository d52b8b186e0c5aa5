//! Everything that was seen of a cluster at one moment. Read by `observe`, and by nobody else.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerStatus, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use ropewalk_operator_api::names;

/// The container of a broker's pod that the broker runs in.
pub const CONTAINER: &str = "broker";

/// A broker whose process ended so many times in one pod, and lately, does not mend by waiting.
const ENDS_MIN: i32 = 2;
/// How long ago the last end may be, in seconds: twice the longest pause that Kubernetes makes.
const ENDED_SECONDS_MAX: i64 = 600;

/// Everything that was seen of a cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By broker id.
    pub stateful_sets: BTreeMap<i32, StatefulSet>,
    /// By broker id.
    pub pods: BTreeMap<i32, Pod>,
    /// By broker id.
    pub claims: BTreeMap<i32, PersistentVolumeClaim>,
    /// By name.
    pub services: BTreeMap<String, Service>,
    /// By name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// With the token.
    pub secret: Option<Secret>,
    /// Of the brokers.
    pub service_account: Option<ServiceAccount>,
    /// Of the brokers.
    pub budget: Option<PodDisruptionBudget>,
    /// What each broker said of itself, by broker id; absent when it did not answer.
    pub answers: BTreeMap<i32, Answer>,
    /// Why a broker with a running pod did not answer, by broker id.
    pub unanswered: BTreeMap<i32, String>,
    /// The last warning about an object, by its name. Only asked for where something is missing.
    pub warnings: BTreeMap<String, String>,
    /// Another operator that changes the same brokers, in words for people.
    pub conflict: Option<String>,
    /// Consumers that a hibernating cluster waits for before its pods stop; `None` if it waits for
    /// nothing. Empty while scaling has not reported yet.
    pub awaited_consumers: Option<Vec<String>>,
    /// When all of this was seen, in seconds since 1970.
    pub at_second: i64,
}

/// What a broker said of itself.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// Its id.
    pub broker_id: i32,
    /// The id of its cluster, as Kafka clients see it.
    pub cluster_id: String,
    /// Its release.
    pub version: String,
    /// The newest epoch it knows of.
    pub epoch: u64,
    /// When it was started, by its clock.
    pub started_at_ms: i64,
    /// Whether it serves clients.
    pub ready: bool,
    /// Why it does not.
    pub reasons: Vec<String>,
    /// What holds besides: damage, a full volume. A broker that serves may have several.
    pub conditions: Vec<AnswerCondition>,
    /// Its settings.
    pub settings: AnswerSettings,
    /// Whether it still reads its write-ahead log.
    pub recovery: AnswerRecovery,
}

/// Something that holds for a broker besides its readiness.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerCondition {
    /// In one word; kinds that are not known here are for people only.
    pub kind: String,
    /// In words that may change at any time.
    pub message: String,
    /// How many shards or partitions.
    pub count: u64,
}

/// How far a broker is with its recovery.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerRecovery {
    /// It is over. A broker that does not say counts as recovered.
    pub done: bool,
}

impl Default for AnswerRecovery {
    fn default() -> Self {
        Self { done: true }
    }
}

/// What a broker said of its settings.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerSettings {
    /// Those that were changed and take effect after a restart.
    pub needs_restart: Vec<String>,
    /// The hash of the settings in the file that it started with; an older release does not say.
    pub started_hash: Option<String>,
    /// The hash of the settings that it was last told while it ran.
    pub last_hash: Option<String>,
    /// The hash of the settings that the operator told this start of the broker. Known by the operator
    /// itself, for brokers that do not say what they were told.
    #[serde(skip)]
    pub told_hash: Option<String>,
}

impl AnswerSettings {
    /// Whether the broker knows the settings with this hash, so that `needs_restart` speaks of them.
    #[must_use]
    pub fn are(&self, hash: &str) -> bool {
        let last = self.last_hash.as_ref().or(self.started_hash.as_ref());
        last.or(self.told_hash.as_ref()).is_some_and(|known| known == hash)
    }
}

impl Answer {
    /// What it says about a kind of condition.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&AnswerCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether its data directory is open: it was formatted.
    #[must_use]
    pub fn has_data_directory(&self) -> bool {
        self.recovery.done && !self.cluster_id.is_empty()
    }
}

impl Observed {
    /// The observation after brokers got their settings: what each of them says of its settings now, by
    /// broker id. Brokers that did not answer before are left out.
    #[must_use]
    pub fn with_settings(mut self, settings: BTreeMap<i32, AnswerSettings>) -> Self {
        for (id, settings) in settings {
            if let Some(answer) = self.answers.get_mut(&id) {
                answer.settings = settings;
            }
        }
        self
    }

    /// The ids of brokers that left something behind, in order.
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

/// The broker that an object belongs to, by its label.
#[must_use]
pub fn broker_of(object: &impl kube::Resource) -> Option<i32> {
    let id = object.labels().get(names::LABEL_BROKER)?;
    id.parse().ok().filter(|id| *id >= 0)
}

/// Whether a pod is ready, and stays.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod_condition(pod, "Ready").is_some_and(|(status, _)| status)
}

/// A condition of a pod: whether it holds, and its message.
#[must_use]
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<(bool, Option<&'a str>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((condition.status == "True", condition.message.as_deref()))
}

/// Since when a condition of a pod holds, in seconds since 1970.
#[must_use]
pub fn pod_condition_since(pod: &Pod, kind: &str) -> Option<i64> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|one| one.type_ == kind && one.status == "True")?;
    Some(condition.last_transition_time.as_ref()?.0.as_second())
}

/// The status of the container that the broker runs in.
#[must_use]
pub fn container_of(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

/// Whether the process of a broker runs, ready or not.
#[must_use]
pub fn is_running(pod: &Pod) -> bool {
    let state = container_of(pod).and_then(|status| status.state.as_ref());
    pod.metadata.deletion_timestamp.is_none() && state.is_some_and(|state| state.running.is_some())
}

/// Whether the process of a broker ends again and again: only a change helps it.
#[must_use]
pub fn keeps_ending(observed: &Observed, pod: &Pod) -> bool {
    let Some(container) = container_of(pod) else { return false };
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = last.and_then(|ended| ended.finished_at.as_ref());
    let is_late =
        ended.is_some_and(|at| observed.at_second - at.0.as_second() <= ENDED_SECONDS_MAX);
    container.restart_count >= ENDS_MIN && is_late
}
