//! Everything that was seen of a cluster at one moment. Read by `observe`, and by nobody else.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use ropewalk_operator_api::names;

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
    /// The last warning about an object, by its name. Only asked for where something is missing.
    pub warnings: BTreeMap<String, String>,
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
    /// Its settings.
    pub settings: AnswerSettings,
}

/// What a broker said of its settings.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerSettings {
    /// Those that were changed and take effect after a restart.
    pub needs_restart: Vec<String>,
}

impl Observed {
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
