//! From spec and observation to a [`ValidCluster`]: the later steps use it and do not read the
//! object again.
//!
//! - A broker id is used once. It comes from existing objects, from the status, or is one higher
//!   than any id before; never from an ordinal.
//! - A data directory is formatted once per id: `format` is set only for a broker that neither the
//!   status nor its volume claim records as formatted, or whose data loss was accepted.
//! - An acceptance of a data loss is used once, also when a deployment tool sets it repeatedly.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::cluster::{
    BrokerStatus, ObjectStorage, PodTemplate, Resources, RestoreFrom, Rollout, RunState,
};
use ropewalk_operator_api::{
    BrokerCluster, BrokerClusterStatus, DeletionPolicy, ManagementState, Size, names,
};
use serde_json::json;

use super::{Observed, applied, image, object_storage, volume};
use crate::intent;

/// Settings of the operator process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image of brokers whose BrokerCluster chooses none.
    pub broker_image: String,
}

/// A cluster as it should be, and the parts of the object that later steps need.
#[derive(Clone, Debug)]
pub struct ValidCluster {
    /// Name of the cluster.
    pub name: String,
    /// Namespace of the cluster.
    pub namespace: String,
    /// The owner reference of the objects that Kubernetes removes with the cluster; holds its uid.
    pub owner: OwnerReference,
    /// Reference to the object, for Events and status patches.
    pub reference: ObjectReference,
    /// The `metadata.generation` of the spec.
    pub generation: Option<i64>,
    /// The status that was written last.
    pub status: Option<BrokerClusterStatus>,
    /// The highest broker id that was ever used, including those of `brokers`.
    pub highest_broker_id: Option<i32>,
    /// Whether `spec.managementState` is Paused.
    pub is_paused: bool,
    /// Another operator that changes the same brokers, as a message for administrators.
    pub conflict: Option<String>,
    /// Whether volumes are deleted with the cluster.
    pub deletes_volumes: bool,
    /// How the operator restarts brokers.
    pub rollout: Rollout,
    /// The intent whose restart the user approved, as text.
    pub approved_restart: Option<String>,
    /// The data loss that the user accepted, whether used or not.
    pub accepted_loss: Option<String>,
    /// Consumers that have to be scaled down before the pods of a hibernating cluster stop; `None`
    /// if there are none to wait for. Empty until the scaling reports.
    pub awaited_consumers: Option<Vec<String>>,
    /// The brokers, in the order of their ids.
    pub brokers: Vec<Broker>,
    /// Whether pods run: `spec.runState` is Running, or consumers are awaited.
    pub running: bool,
    /// Whether the user chose the release.
    pub image_is_chosen: bool,
    /// Pull policy of the image.
    pub pull_policy: Option<&'static str>,
    /// Resources that a broker requests from its node.
    pub resources: Option<Resources>,
    /// Further fields of the pods.
    pub pod_template: PodTemplate,
    /// The value of the restart annotation, if it is set.
    pub restart: Option<String>,
    /// StorageClass of the volumes; `None` is the default class.
    pub storage_class: Option<String>,
    /// Size of the volumes.
    pub size: Size,
    /// Settings of the brokers by Kafka's names.
    pub config: std::collections::BTreeMap<String, String>,
    /// The bucket for older messages.
    pub object_storage: Option<ObjectStorage>,
    /// What the first broker begins with, if not with an empty volume.
    pub restore_from: Option<RestoreFrom>,
    /// Hashes of the user's intent.
    pub intent: Intent,
}

impl ValidCluster {
    /// Whether the operator may change anything: the cluster is not paused, and no other operator
    /// changes the same brokers.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        !self.is_paused && self.conflict.is_none()
    }

    /// The brokers of the status that was written last.
    pub fn brokers_before(&self) -> impl Iterator<Item = &BrokerStatus> {
        self.status.iter().flat_map(|status| &status.brokers)
    }

    /// The conditions of the status that was written last.
    #[must_use]
    pub fn conditions_before(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

/// Hashes of the user's intent, and of nothing else: a restart for any other reason waits for a
/// request. Recorded on a StatefulSet when its pod starts or restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Hash of the fields that are part of the pod.
    pub pod: String,
    /// Hash of the settings.
    pub config: String,
}

impl std::fmt::Display for Intent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.pod, self.config)
    }
}

impl Intent {
    /// Parses the recorded form `<pod>.<config>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (pod, config) = text.split_once('.')?;
        Some(Self { pod: pod.to_owned(), config: config.to_owned() })
    }
}

/// One broker as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Broker id; it is never reused.
    pub id: i32,
    /// Image of the pod.
    pub image: String,
    /// The cluster id with which an empty data directory is formatted; `None` if it must not be
    /// empty.
    pub format: Option<String>,
    /// The size that the volume claim requests, never less than the volume has.
    pub size: String,
    /// Whether the data directory is known to have been formatted.
    pub formatted: bool,
    /// Whether a pod that starts now has the files that the settings of the bucket name; also true
    /// if there is no StatefulSet yet.
    pub has_storage_files: bool,
    /// The accepted data loss, if no earlier format has used it.
    pub accepts_loss: Option<String>,
    /// The image of a new broker, if the user chose none and this broker runs another.
    pub newer_default: Option<String>,
}

/// Why a cluster cannot be reconciled until the object changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field that the API server always sets is missing.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
}

/// Builds the valid cluster.
///
/// # Errors
///
/// [`Refusal`] if only a change of the object helps.
pub fn validate(
    cluster: &BrokerCluster,
    observed: &Observed,
    settings: &Settings,
) -> Result<ValidCluster, Refusal> {
    let name = cluster.metadata.name.clone().ok_or(Refusal::Incomplete("name"))?;
    let namespace = cluster.namespace().ok_or(Refusal::Incomplete("namespace"))?;
    let owner = cluster.controller_owner_ref(&()).ok_or(Refusal::Incomplete("uid"))?;
    let spec = &cluster.spec;
    let annotation = |key: &str| cluster.annotations().get(key).cloned();
    let ids = broker_ids(cluster, observed);
    let awaited_consumers = observed.awaited_consumers.clone();
    Ok(ValidCluster {
        name,
        namespace,
        owner,
        reference: cluster.object_ref(&()),
        generation: cluster.metadata.generation,
        status: cluster.status.clone(),
        highest_broker_id: ids.iter().copied().chain(highest_id(cluster, observed)).max(),
        is_paused: spec.management_state == ManagementState::Paused,
        conflict: observed.conflict.clone(),
        deletes_volumes: spec.deletion_policy == DeletionPolicy::Delete,
        rollout: spec.rollout.clone(),
        approved_restart: annotation(names::ANNOTATION_APPROVE_RESTART),
        accepted_loss: annotation(names::ANNOTATION_ACCEPT_DATA_LOSS),
        running: spec.run_state == RunState::Running || awaited_consumers.is_some(),
        awaited_consumers,
        brokers: ids.into_iter().map(|id| broker(cluster, observed, settings, id)).collect(),
        image_is_chosen: image::is_chosen(spec),
        pull_policy: spec.image.as_ref().and_then(|image| image.pull_policy).map(|p| p.as_str()),
        resources: spec.resources.clone(),
        pod_template: spec.pod_template.clone().unwrap_or_default(),
        restart: annotation(names::ANNOTATION_RESTART),
        storage_class: spec.storage.storage_class_name.clone(),
        size: spec.storage.size.clone(),
        config: spec.config.clone(),
        object_storage: spec.object_storage.clone(),
        restore_from: spec.restore_from.clone(),
        intent: intent_of(cluster),
    })
}

/// The ids of the brokers that should exist, ascending.
#[must_use]
pub fn broker_ids(cluster: &BrokerCluster, observed: &Observed) -> Vec<i32> {
    let status = cluster.status.as_ref();
    let mut ids: Vec<i32> = observed.ids().collect();
    ids.extend(status.iter().flat_map(|status| status.brokers.iter().map(|broker| broker.id)));
    ids.sort_unstable();
    ids.dedup();
    let highest = highest_id(cluster, observed);
    let wanted = usize::try_from(cluster.spec.replicas.max(1)).unwrap_or(1);
    ids.truncate(wanted);
    let missing = i32::try_from(wanted - ids.len()).unwrap_or(0);
    ids.extend((1..=missing).map(|more| highest.map_or(more - 1, |highest| highest + more)));
    ids
}

/// The highest broker id that was ever used.
#[must_use]
pub fn highest_id(cluster: &BrokerCluster, observed: &Observed) -> Option<i32> {
    let status = cluster.status.as_ref();
    let recorded = status.and_then(|status| status.highest_broker_id);
    let listed = status.iter().flat_map(|status| status.brokers.iter().map(|broker| broker.id));
    observed.ids().chain(listed).chain(recorded).max()
}

/// The value that accepts the loss of the data on a claim's volume: the uid of the claim, followed
/// by a number if the loss of this volume was accepted before. `used`: the value that was used
/// last.
#[must_use]
pub fn acceptance(uid: &str, used: Option<&str>) -> Option<String> {
    let Some(rest) = used.and_then(|used| used.strip_prefix(uid)) else {
        return Some(uid.to_owned());
    };
    let times: u32 = rest.strip_prefix('.').map_or(Some(1), |number| number.parse().ok())?;
    Some(format!("{uid}.{}", times.checked_add(1)?))
}

fn broker(cluster: &BrokerCluster, observed: &Observed, settings: &Settings, id: i32) -> Broker {
    let status = cluster.status.as_ref();
    let recorded = status.and_then(|s| s.brokers.iter().find(|broker| broker.id == id));
    let claim = observed.claims.get(&id);
    let current = match observed.stateful_sets.get(&id) {
        // An image that the user chose once and no longer does is not kept.
        Some(set) if is_chosen(set) => None,
        Some(set) => applied::image(set),
        None => recorded.and_then(|broker| broker.image.clone()),
    };
    let formatted = recorded.is_some_and(|broker| broker.formatted)
        || claim.is_some_and(|claim| claim.annotations().contains_key(names::ANNOTATION_FORMATTED));
    let accepted = cluster.annotations().get(names::ANNOTATION_ACCEPT_DATA_LOSS);
    let used = recorded.and_then(|broker| broker.accepted_loss.as_deref());
    let expected = claim.and_then(|claim| acceptance(claim.metadata.uid.as_deref()?, used));
    let accepts_loss = expected.filter(|expected| accepted == Some(expected));
    let known_id = status.and_then(|status| status.cluster_id.clone());
    let format = (!formatted || accepts_loss.is_some())
        .then(|| known_id.or_else(|| cluster.metadata.uid.clone()))
        .flatten();
    let wanted = &cluster.spec.storage.size;
    let image = image::wanted(&cluster.spec, &settings.broker_image, current.as_deref());
    let default = image::wanted(&cluster.spec, &settings.broker_image, None);
    let newer_default = (!image::is_chosen(&cluster.spec) && default != image).then_some(default);
    let template = observed.stateful_sets.get(&id).and_then(applied::template);
    let has_storage_files = match (&cluster.spec.object_storage, template) {
        (Some(storage), Some(template)) => object_storage::are_mounted(storage, &template),
        (Some(_) | None, _) => true,
    };
    Broker {
        id,
        image,
        newer_default,
        format,
        size: claim.map_or_else(|| wanted.to_string(), |claim| volume::request(claim, wanted)),
        formatted,
        has_storage_files,
        accepts_loss,
    }
}

/// Whether the user chose the image that a StatefulSet runs.
fn is_chosen(set: &StatefulSet) -> bool {
    set.annotations().get(names::ANNOTATION_IMAGE_CHOSEN).is_some_and(|chosen| chosen == "true")
}

fn intent_of(cluster: &BrokerCluster) -> Intent {
    let spec = &cluster.spec;
    let mut pod = json!({
        "version": spec.version,
        "image": spec.image,
        "resources": spec.resources,
        "podTemplate": spec.pod_template,
        "restart": cluster.annotations().get(names::ANNOTATION_RESTART),
    });
    let Some(storage) = &spec.object_storage else {
        return Intent { pod: intent::hash(&pod), config: intent::hash(&spec.config) };
    };
    // Fields that this cluster does not have are in no hash, as in releases without them (K5).
    pod["credentials"] = json!(storage.credentials);
    pod["ca"] = json!(storage.ca);
    if let Some(restore) = &spec.restore_from {
        pod["restoreFrom"] = json!(restore);
    }
    let config = json!({"config": spec.config, "objectStorage": storage});
    Intent { pod: intent::hash(&pod), config: intent::hash(&config) }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_first_broker_is_0_and_is_formatted() {
        let cluster = fixture::cluster("{}");
        let valid = fixture::valid(&cluster, &Observed::default());
        assert_eq!(valid.brokers[0].id, 0);
        assert_eq!(valid.brokers[0].format.as_deref(), Some("uid-1"));
    }

    #[test]
    fn an_id_is_never_used_twice() {
        let mut cluster = fixture::cluster("{}");
        cluster.status =
            Some(fixture::status("{highestBrokerId: 7, replicas: 0, readyReplicas: 0}"));
        assert_eq!(broker_ids(&cluster, &Observed::default()), [8]);
        let observed = fixture::observed_claim(3, "20Gi", false);
        assert_eq!(broker_ids(&cluster, &observed), [3], "what is there comes first");
        assert_eq!(highest_id(&cluster, &observed), Some(7));
    }

    #[test]
    fn k4_the_volume_of_an_earlier_cluster_is_taken_over_and_never_formatted() {
        let cluster = fixture::cluster("{}");
        let valid = fixture::valid(&cluster, &fixture::observed_claim(0, "20Gi", true));
        assert_eq!((valid.brokers[0].id, &valid.brokers[0].format), (0, &None));
    }

    #[test]
    fn a_lost_disk_is_formatted_only_when_a_person_accepts_the_loss_of_that_volume() {
        let mut cluster = fixture::cluster("{}");
        cluster.status = Some(fixture::status(
            "{replicas: 1, readyReplicas: 0, brokers: [{id: 0, ready: false, formatted: true}]}",
        ));
        let observed = fixture::observed_claim(0, "20Gi", false);
        assert_eq!(fixture::valid(&cluster, &observed).brokers[0].format, None);
        let accept = |uid: &str| {
            let mut cluster = cluster.clone();
            let annotation = (names::ANNOTATION_ACCEPT_DATA_LOSS.into(), uid.into());
            cluster.metadata.annotations = Some([annotation].into());
            fixture::valid(&cluster, &observed).brokers[0].format.clone()
        };
        assert_eq!(accept("claim-0").as_deref(), Some("uid-1"));
        assert_eq!(accept("another"), None);
    }

    #[test]
    fn an_acceptance_that_a_deployment_tool_sets_again_has_no_effect() {
        let mut cluster = fixture::cluster("{}");
        cluster.status = Some(fixture::status(
            "{replicas: 1, readyReplicas: 0, brokers: [{id: 0, ready: false, formatted: true, acceptedLoss: claim-0}]}",
        ));
        let format = |value: &str| {
            let mut cluster = cluster.clone();
            let annotation = (names::ANNOTATION_ACCEPT_DATA_LOSS.into(), value.into());
            cluster.metadata.annotations = Some([annotation].into());
            let observed = fixture::observed_claim(0, "20Gi", false);
            fixture::valid(&cluster, &observed).brokers[0].format.clone()
        };
        assert_eq!(format("claim-0"), None);
        assert_eq!(format("claim-0.2").as_deref(), Some("uid-1"));
        assert_eq!(acceptance("c", Some("c.2")).as_deref(), Some("c.3"));
        assert_eq!(acceptance("d", Some("c.2")).as_deref(), Some("d"), "another volume");
    }

    #[test]
    fn a_volume_made_larger_by_hand_stays_larger() {
        let cluster = fixture::cluster("{storage: {size: 20Gi}}");
        let size = |claimed: &str| {
            fixture::valid(&cluster, &fixture::observed_claim(0, claimed, true)).brokers[0]
                .size
                .clone()
        };
        assert_eq!(size("50Gi"), "50Gi");
        assert_eq!(size("10Gi"), "20Gi");
    }

    #[test]
    fn k5_the_intent_of_a_pod_holds_nothing_of_the_operator() {
        let cluster = fixture::cluster("{}");
        let observed = Observed::default();
        let with = |image: &str| {
            let settings = Settings { broker_image: image.into() };
            validate(&cluster, &observed, &settings).expect("valid").intent
        };
        assert_eq!(with("a:1"), with("b:2"));
        let other = fixture::cluster("{config: {log.retention.hours: '1'}}");
        assert_ne!(intent_of(&cluster).config, intent_of(&other).config);
        assert_eq!(intent_of(&cluster).pod, intent_of(&other).pod);
        let same = fixture::cluster("{storage: {size: 30Gi}, runState: Hibernated}");
        assert_eq!(intent_of(&cluster), intent_of(&same));
        let intent = intent_of(&cluster);
        assert_eq!(Intent::parse(&intent.to_string()), Some(intent));
    }

    #[test]
    fn a_bucket_is_a_setting_and_its_keys_are_in_the_pod_as_well() {
        let intent =
            |storage: &str| intent_of(&fixture::cluster(&format!("{{objectStorage: {storage}}}")));
        let (none, bucket) = (intent_of(&fixture::cluster("{}")), intent("{bucket: abc}"));
        assert_ne!(none.config, bucket.config);
        let faster = intent("{bucket: abc, uploadMaxAgeSeconds: 60}");
        assert_eq!(faster.pod, bucket.pod);
        assert_ne!(faster.config, bucket.config);
        let keys = intent("{bucket: abc, credentials: {secret: {name: keys}}}");
        assert_ne!(keys.pod, bucket.pod);
    }
}
