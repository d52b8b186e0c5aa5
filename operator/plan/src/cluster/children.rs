//! Builds every Kubernetes object of a cluster.
//!
//! - The `BrokerCluster` owns all objects but the volume claims, so that Kubernetes removes them
//!   with it. Claims have no owner (K4): the operator creates them, not the StatefulSet, so that
//!   they can grow while the StatefulSet is unchanged, and finds them by name.
//! - Names are fixed; no object is found by a generated name.
//! - Volume claims and the Secret carry annotations that keep deployment tools from removing them.
//! - **K5** an object serializes to the same bytes in every release: their hash is recorded on it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, Secret, Service,
    ServiceAccount, ServicePort, ServiceSpec, VolumeResourceRequirements,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_api::names;
use serde::Serialize;
use serde_json::{Value, json};

use super::labels::Labels;
use super::properties::{ADMIN_PORT, KAFKA_PORT};
use super::{Broker, ValidCluster, applied, labels, object_storage, pod, properties};
use crate::intent;

/// Longest pod template that is recorded as an annotation, bytes: all annotations of an object have
/// 256 KiB.
const APPLIED_TEMPLATE_BYTES_MAX: usize = 96 << 10;

/// Key of the settings file in a broker's ConfigMap.
pub const SETTINGS_FILE: &str = "broker.properties";

/// Every object of a cluster but the Secret, whose token is generated only if the Secret is
/// missing.
#[derive(Clone, Debug)]
pub struct Children {
    /// The account of the pods; it has no rights.
    pub service_account: ServiceAccount,
    /// The bootstrap Service and one Service per broker.
    pub services: Vec<Service>,
    /// Limits how many brokers may be evicted at once.
    pub budget: PodDisruptionBudget,
    /// One settings file per broker id.
    pub config_maps: BTreeMap<i32, ConfigMap>,
    /// One volume claim per broker id.
    pub claims: BTreeMap<i32, PersistentVolumeClaim>,
    /// One StatefulSet per broker id.
    pub stateful_sets: BTreeMap<i32, StatefulSet>,
}

/// Builds every object of [`Children`].
#[must_use]
pub fn children(cluster: &ValidCluster) -> Children {
    let mut services = vec![bootstrap(cluster)];
    services.extend(cluster.brokers.iter().map(|broker| service(cluster, broker)));
    Children {
        service_account: service_account(cluster),
        services,
        budget: budget(cluster),
        config_maps: each(cluster, config_map),
        claims: each(cluster, claim),
        stateful_sets: each(cluster, stateful_set),
    }
}

fn each<K>(cluster: &ValidCluster, build: fn(&ValidCluster, &Broker) -> K) -> BTreeMap<i32, K> {
    cluster.brokers.iter().map(|broker| (broker.id, build(cluster, broker))).collect()
}

/// Builds the Secret with the token of the admin API.
#[must_use]
pub fn secret(cluster: &ValidCluster, token: &str) -> Secret {
    let labels = labels::kept(&cluster.name, None);
    let metadata = ObjectMeta {
        owner_references: Some(vec![cluster.owner.clone()]),
        annotations: Some(keeping()),
        ..metadata(cluster, names::admin_secret(&cluster.name), labels)
    };
    let data = BTreeMap::from([("token".to_owned(), token.to_owned())]);
    hashed(Secret { metadata, string_data: Some(data), ..Secret::default() })
}

/// A merge patch that removes the instance label from a volume claim or Secret of an earlier
/// release, so that deployment tools do not take it for theirs. `None` if nothing has to change: an
/// instance label with another value was set by another writer and is kept.
#[must_use]
pub fn relabelled(cluster: &ValidCluster, there: &impl Resource) -> Option<Value> {
    let instance = there.meta().labels.as_ref().and_then(|labels| labels.get(labels::INSTANCE));
    (instance == Some(&cluster.name)).then(
        || json!({"metadata": {"labels": {labels::INSTANCE: null}, "annotations": keeping()}}),
    )
}

/// Annotations that keep deployment tools from removing an object that is in no repository, and
/// from reporting an application as out of sync because of it.
fn keeping() -> BTreeMap<String, String> {
    let pairs = [
        ("argocd.argoproj.io/sync-options", "Prune=false,Delete=false"),
        ("argocd.argoproj.io/compare-options", "IgnoreExtraneous"),
        ("helm.sh/resource-policy", "keep"),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn service_account(cluster: &ValidCluster) -> ServiceAccount {
    let storage = cluster.object_storage.as_ref();
    let annotations = storage.and_then(object_storage::web_identity).map(|of| &of.annotations);
    hashed(ServiceAccount {
        metadata: ObjectMeta {
            annotations: annotations.filter(|of| !of.is_empty()).cloned(),
            ..owned(cluster, names::brokers(&cluster.name), None)
        },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
}

/// The Service for `bootstrap.servers`: every broker that is ready.
fn bootstrap(cluster: &ValidCluster) -> Service {
    let spec = ServiceSpec {
        selector: Some(labels::brokers(&cluster.name, None)),
        ports: Some(vec![port("kafka", KAFKA_PORT, "tcp")]),
        ..cluster_ip()
    };
    let metadata = owned(cluster, names::bootstrap(&cluster.name), None);
    hashed(Service { metadata, spec: Some(spec), ..Service::default() })
}

/// The Service of one broker, ready or not: the operator has to reach a broker that is not ready.
/// It has a cluster IP, so that clients reach a restarted pod without waiting for a DNS entry to
/// expire.
fn service(cluster: &ValidCluster, broker: &Broker) -> Service {
    let spec = ServiceSpec {
        publish_not_ready_addresses: Some(true),
        selector: Some(labels::brokers(&cluster.name, Some(broker.id))),
        ports: Some(vec![port("kafka", KAFKA_PORT, "tcp"), port("admin", ADMIN_PORT, "http")]),
        ..cluster_ip()
    };
    let name = names::broker(&cluster.name, broker.id);
    let metadata = owned(cluster, name, Some(broker.id));
    hashed(Service { metadata, spec: Some(spec), ..Service::default() })
}

fn cluster_ip() -> ServiceSpec {
    ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        ip_family_policy: Some("PreferDualStack".to_owned()),
        ..ServiceSpec::default()
    }
}

/// The port declares its protocol, because a service mesh would guess it from the name.
fn port(name: &str, number: i32, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    }
}

/// One broker may be evicted at a time. With one broker that is the only one: a budget that forbade
/// it would block the drain of its node for ever, and the broker restarts where its volume can be
/// attached. A broker that is not ready never blocks a drain.
fn budget(cluster: &ValidCluster) -> PodDisruptionBudget {
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(1)),
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        selector: Some(matching(labels::brokers(&cluster.name, None))),
        ..PodDisruptionBudgetSpec::default()
    };
    let metadata = owned(cluster, names::brokers(&cluster.name), None);
    hashed(PodDisruptionBudget { metadata, spec: Some(spec), ..PodDisruptionBudget::default() })
}

fn matching(labels: Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

fn config_map(cluster: &ValidCluster, broker: &Broker) -> ConfigMap {
    config_map_with(cluster, broker, &properties::file(cluster, broker))
}

/// The ConfigMap of a broker as the pod of the next template reads it, if it differs from the one
/// that the present pod may read: written together with the template.
#[must_use]
pub fn next_config_map(cluster: &ValidCluster, broker: &Broker) -> Option<ConfigMap> {
    let next = Broker { has_storage_files: true, ..broker.clone() };
    (!broker.has_storage_files).then(|| config_map(cluster, &next))
}

/// The ConfigMap of a broker with the given settings file.
#[must_use]
pub fn config_map_with(cluster: &ValidCluster, broker: &Broker, file: &str) -> ConfigMap {
    let data = BTreeMap::from([(SETTINGS_FILE.to_owned(), file.to_owned())]);
    let name = names::broker(&cluster.name, broker.id);
    let metadata = owned(cluster, name, Some(broker.id));
    hashed(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
}

fn claim(cluster: &ValidCluster, broker: &Broker) -> PersistentVolumeClaim {
    let requests = BTreeMap::from([("storage".to_owned(), Quantity(broker.size.clone()))]);
    let resources = VolumeResourceRequirements {
        requests: Some(requests),
        ..VolumeResourceRequirements::default()
    };
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        resources: Some(resources),
        storage_class_name: cluster.storage_class.clone(),
        ..PersistentVolumeClaimSpec::default()
    };
    let mut annotations = keeping();
    annotations.insert(names::ANNOTATION_SIZE.to_owned(), cluster.size.to_string());
    if broker.formatted {
        annotations.insert(names::ANNOTATION_FORMATTED.to_owned(), "true".to_owned());
    }
    let name = names::volume_claim(&cluster.name, broker.id);
    let labels = labels::kept(&cluster.name, Some(broker.id));
    let metadata = ObjectMeta { annotations: Some(annotations), ..metadata(cluster, name, labels) };
    hashed(PersistentVolumeClaim { metadata, spec: Some(spec), status: None })
}

/// One StatefulSet per broker: each broker can be removed separately, and Kubernetes restarts its
/// pod while the operator is down. With `OnDelete` a changed template restarts no pod.
fn stateful_set(cluster: &ValidCluster, broker: &Broker) -> StatefulSet {
    let template = pod::template(cluster, broker);
    let annotations = [
        (names::ANNOTATION_INTENT, cluster.intent.to_string()),
        (names::ANNOTATION_TEMPLATE_INTENT, cluster.intent.to_string()),
        (names::ANNOTATION_TEMPLATE, intent::hash(&template)),
        (names::ANNOTATION_APPLIED_TEMPLATE, recorded(&template)),
        (names::ANNOTATION_IMAGE_CHOSEN, cluster.image_is_chosen.to_string()),
    ];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value));
    let strategy = StatefulSetUpdateStrategy {
        type_: Some("OnDelete".to_owned()),
        ..StatefulSetUpdateStrategy::default()
    };
    let name = names::broker(&cluster.name, broker.id);
    let spec = StatefulSetSpec {
        replicas: Some(i32::from(cluster.running)),
        service_name: Some(name.clone()),
        pod_management_policy: Some("Parallel".to_owned()),
        update_strategy: Some(strategy),
        revision_history_limit: Some(2),
        selector: matching(labels::selector(&cluster.name, Some(broker.id))),
        template,
        ..StatefulSetSpec::default()
    };
    let metadata = ObjectMeta {
        annotations: Some(annotations.into()),
        ..owned(cluster, name, Some(broker.id))
    };
    hashed(StatefulSet { metadata, spec: Some(spec), status: None })
}

/// The template as JSON, or nothing if it would leave no room for the user's own annotations.
fn recorded(template: &PodTemplateSpec) -> String {
    let text = json!(template).to_string();
    if text.len() <= APPLIED_TEMPLATE_BYTES_MAX { text } else { String::new() }
}

/// A StatefulSet as it was last applied, with the present replica count: applying it reverts the
/// changes of other writers. `None` if the last applied template is not known.
#[must_use]
pub fn as_applied(
    cluster: &ValidCluster,
    broker: &Broker,
    there: &StatefulSet,
) -> Option<StatefulSet> {
    let mut wanted = stateful_set(cluster, broker);
    let recorded = there.metadata.annotations.as_ref()?;
    let key = names::ANNOTATION_TEMPLATE;
    let is_newest = recorded.get(key) == wanted.annotations().get(key);
    match (applied::template(there), wanted.spec.as_mut()) {
        (Some(template), Some(spec)) => spec.template = template,
        (None | Some(_), _) if is_newest => {}
        (None | Some(_), _) => return None,
    }
    let annotations = wanted.annotations_mut();
    // An earlier release did not record this intent, and only a restart clarifies it.
    annotations.remove(names::ANNOTATION_TEMPLATE_INTENT);
    for key in [
        names::ANNOTATION_INTENT,
        names::ANNOTATION_TEMPLATE_INTENT,
        names::ANNOTATION_TEMPLATE,
        names::ANNOTATION_APPLIED_TEMPLATE,
        names::ANNOTATION_IMAGE_CHOSEN,
        names::ANNOTATION_APPLIED,
    ] {
        if let Some(value) = recorded.get(key) {
            annotations.insert(key.to_owned(), value.clone());
        }
    }
    Some(wanted)
}

/// Metadata of an object that Kubernetes removes with its cluster.
fn owned(cluster: &ValidCluster, name: String, broker: Option<i32>) -> ObjectMeta {
    ObjectMeta {
        owner_references: Some(vec![cluster.owner.clone()]),
        ..metadata(cluster, name, labels::all(&cluster.name, broker))
    }
}

fn metadata(cluster: &ValidCluster, name: String, labels: Labels) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// Adds the hash of the whole object as an annotation.
fn hashed<K: Resource + Serialize>(mut object: K) -> K {
    let hash = intent::hash(&object);
    object.annotations_mut().insert(names::ANNOTATION_APPLIED.to_owned(), hash);
    object
}

#[cfg(test)]
mod tests;
