//! Every object that a cluster is made of.
//!
//! # Invariants
//!
//! - All but the volume claims are owned by the `BrokerCluster` and go with it. Claims are owned by
//!   nobody (K4): they are made here and not by the StatefulSet, so that they can grow without making
//!   it anew, and are found again by their name.
//! - Names are fixed; nothing is ever found by a generated one.
//! - Volume claims and the Secret carry what keeps deployment tools from removing them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use ropewalk_operator_api::names;
use serde_json::{Value, json};

use super::properties::{ADMIN_PORT, KAFKA_PORT};
use super::{Broker, Valid, labels, pod, properties};
use crate::intent;

/// A longer template is not recorded beside itself: all annotations of an object have 256 KiB.
const APPLIED_TEMPLATE_BYTES_MAX: usize = 96 << 10;

/// The settings file of a broker in its ConfigMap.
pub const SETTINGS_FILE: &str = "broker.properties";

/// Every object of a cluster but the Secret, whose token is drawn when it is missing.
#[derive(Clone, Debug)]
pub struct Children {
    /// Of the pods; it may do nothing.
    pub service_account: Value,
    /// The bootstrap Service and one per broker.
    pub services: Vec<Value>,
    /// How many brokers may be evicted at once.
    pub budget: Value,
    /// By broker id.
    pub config_maps: BTreeMap<i32, Value>,
    /// By broker id.
    pub claims: BTreeMap<i32, Value>,
    /// By broker id.
    pub stateful_sets: BTreeMap<i32, Value>,
}

/// Builds every object.
#[must_use]
pub fn children(cluster: &Valid) -> Children {
    let each = |build: fn(&Valid, &Broker) -> Value| {
        cluster.brokers.iter().map(|broker| (broker.id, build(cluster, broker))).collect()
    };
    let mut services = vec![bootstrap(cluster)];
    services.extend(cluster.brokers.iter().map(|broker| service(cluster, broker)));
    Children {
        service_account: service_account(cluster),
        services,
        budget: budget(cluster),
        config_maps: each(config_map),
        claims: each(claim),
        stateful_sets: each(stateful_set),
    }
}

/// The Secret with the token of the admin API.
#[must_use]
pub fn secret(cluster: &Valid, token: &str) -> Value {
    let name = names::admin_secret(&cluster.name);
    let body = json!({
        "metadata": {"ownerReferences": [cluster.owner], "annotations": keeping()},
        "stringData": {"token": token},
    });
    let labels = json!(labels::kept(&cluster.name, None));
    finished(cluster, ("v1", "Secret"), (&name, labels), body)
}

/// What has to change about a volume claim or Secret that an earlier release made, whose instance
/// label lets deployment tools take it for theirs; `None` if it is as it should be. An instance of
/// another name was set by somebody else, and stays.
#[must_use]
pub fn relabelled(cluster: &Valid, there: &impl kube::Resource) -> Option<Value> {
    let instance = there.meta().labels.as_ref().and_then(|labels| labels.get(labels::INSTANCE));
    (instance == Some(&cluster.name)).then(
        || json!({"metadata": {"labels": {labels::INSTANCE: null}, "annotations": keeping()}}),
    )
}

/// Annotations that keep deployment tools from removing an object that is in no repository, or from
/// calling an application out of sync because of it.
fn keeping() -> Value {
    json!({
        "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
        "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
        "helm.sh/resource-policy": "keep",
    })
}

fn service_account(cluster: &Valid) -> Value {
    let name = names::brokers(&cluster.name);
    let body = json!({"automountServiceAccountToken": false});
    owned(cluster, ("v1", "ServiceAccount"), &name, None, &body)
}

/// Where clients begin: every broker that is ready.
fn bootstrap(cluster: &Valid) -> Value {
    let body = json!({"spec": {
        "type": "ClusterIP",
        "ipFamilyPolicy": "PreferDualStack",
        "selector": labels::brokers(&cluster.name, None),
        "ports": [port("kafka", KAFKA_PORT, "tcp")],
    }});
    owned(cluster, ("v1", "Service"), &names::bootstrap(&cluster.name), None, &body)
}

/// Where one broker is, ready or not: the operator has to reach one that is not. It has an address of
/// its own, so that clients find a restarted pod without waiting for a name to expire.
fn service(cluster: &Valid, broker: &Broker) -> Value {
    let body = json!({"spec": {
        "type": "ClusterIP",
        "ipFamilyPolicy": "PreferDualStack",
        "publishNotReadyAddresses": true,
        "selector": labels::brokers(&cluster.name, Some(broker.id)),
        "ports": [port("kafka", KAFKA_PORT, "tcp"), port("admin", ADMIN_PORT, "http")],
    }});
    let name = names::broker(&cluster.name, broker.id);
    owned(cluster, ("v1", "Service"), &name, Some(broker.id), &body)
}

/// With the protocol inside said: a service mesh would guess it from the name.
fn port(name: &str, number: i32, protocol: &str) -> Value {
    json!({
        "name": name,
        "port": number,
        "targetPort": name,
        "protocol": "TCP",
        "appProtocol": protocol,
    })
}

/// One broker may be evicted at a time. With one broker that is the only one: a budget that kept it
/// would keep the node from ever being drained, and the broker is back where its volume can go. One
/// that is not ready anyway never holds up a node.
fn budget(cluster: &Valid) -> Value {
    let body = json!({"spec": {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": labels::brokers(&cluster.name, None)},
    }});
    let name = names::brokers(&cluster.name);
    owned(cluster, ("policy/v1", "PodDisruptionBudget"), &name, None, &body)
}

fn config_map(cluster: &Valid, broker: &Broker) -> Value {
    config_map_with(cluster, broker, &properties::file(cluster, broker))
}

/// The ConfigMap of a broker with this settings file.
#[must_use]
pub fn config_map_with(cluster: &Valid, broker: &Broker, file: &str) -> Value {
    let body = json!({"data": {SETTINGS_FILE: file}});
    let name = names::broker(&cluster.name, broker.id);
    owned(cluster, ("v1", "ConfigMap"), &name, Some(broker.id), &body)
}

fn claim(cluster: &Valid, broker: &Broker) -> Value {
    let mut body = json!({"spec": {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": broker.size}},
    }});
    if let Some(class) = &cluster.storage_class {
        body["spec"]["storageClassName"] = json!(class);
    }
    body["metadata"] = json!({ "annotations": keeping() });
    body["metadata"]["annotations"][names::ANNOTATION_SIZE] = json!(cluster.size);
    if broker.formatted {
        body["metadata"]["annotations"][names::ANNOTATION_FORMATTED] = json!("true");
    }
    let name = names::volume_claim(&cluster.name, broker.id);
    let labels = json!(labels::kept(&cluster.name, Some(broker.id)));
    finished(cluster, ("v1", "PersistentVolumeClaim"), (&name, labels), body)
}

/// One StatefulSet for each broker: any of them can be taken away, and a pod comes back also while the
/// operator is not there. It never restarts a pod because its template changed.
fn stateful_set(cluster: &Valid, broker: &Broker) -> Value {
    let template = pod::template(cluster, broker);
    let body = json!({
        "metadata": {"annotations": {
            names::ANNOTATION_INTENT: cluster.intent.to_string(),
            names::ANNOTATION_TEMPLATE_INTENT: cluster.intent.to_string(),
            names::ANNOTATION_TEMPLATE: intent::hash(&template),
            names::ANNOTATION_APPLIED_TEMPLATE: recorded(&template),
            names::ANNOTATION_IMAGE_CHOSEN: cluster.image_is_chosen.to_string(),
        }},
        "spec": {
            "replicas": i32::from(cluster.running),
            "serviceName": names::broker(&cluster.name, broker.id),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": labels::selector(&cluster.name, Some(broker.id))},
            "template": template,
        },
    });
    let name = names::broker(&cluster.name, broker.id);
    owned(cluster, ("apps/v1", "StatefulSet"), &name, Some(broker.id), &body)
}

/// The template as JSON, unless it is so long that it would not fit beside the user's own annotations.
fn recorded(template: &Value) -> String {
    let text = template.to_string();
    if text.len() <= APPLIED_TEMPLATE_BYTES_MAX { text } else { String::new() }
}

/// A StatefulSet as it was last applied, with the replicas of now: what somebody else changed since is
/// put back by applying it. `None` when it is not known what was applied last.
#[must_use]
pub fn as_applied(cluster: &Valid, broker: &Broker, there: &StatefulSet) -> Option<Value> {
    let mut wanted = stateful_set(cluster, broker);
    let annotations = there.metadata.annotations.as_ref()?;
    let is_newest = annotations.get(names::ANNOTATION_TEMPLATE).map(String::as_str)
        == wanted["metadata"]["annotations"][names::ANNOTATION_TEMPLATE].as_str();
    match pod::applied_template(there) {
        Some(template) => wanted["spec"]["template"] = template,
        None if is_newest => {}
        None => return None,
    }
    // An earlier release did not say what its template came from, and only a restart settles it.
    if let Some(all) = wanted["metadata"]["annotations"].as_object_mut() {
        all.remove(names::ANNOTATION_TEMPLATE_INTENT);
    }
    for key in [
        names::ANNOTATION_INTENT,
        names::ANNOTATION_TEMPLATE_INTENT,
        names::ANNOTATION_TEMPLATE,
        names::ANNOTATION_APPLIED_TEMPLATE,
        names::ANNOTATION_IMAGE_CHOSEN,
        names::ANNOTATION_APPLIED,
    ] {
        if let Some(value) = annotations.get(key) {
            wanted["metadata"]["annotations"][key] = json!(value);
        }
    }
    Some(wanted)
}

/// An object that goes with its cluster.
fn owned(
    cluster: &Valid,
    kind: (&str, &str),
    name: &str,
    broker: Option<i32>,
    body: &Value,
) -> Value {
    let mut body = body.clone();
    let owner = json!([cluster.owner]);
    match body.get_mut("metadata") {
        Some(metadata) => metadata["ownerReferences"] = owner,
        None => body["metadata"] = json!({ "ownerReferences": owner }),
    }
    let labels = json!(labels::all(&cluster.name, broker));
    finished(cluster, kind, (name, labels), body)
}

/// With its name, and the hash of all of it.
fn finished(
    cluster: &Valid,
    (api_version, kind): (&str, &str),
    (name, labels): (&str, Value),
    mut body: Value,
) -> Value {
    body["apiVersion"] = json!(api_version);
    body["kind"] = json!(kind);
    body["metadata"]["name"] = json!(name);
    body["metadata"]["namespace"] = json!(cluster.namespace);
    body["metadata"]["labels"] = labels;
    let hash = intent::hash(&body);
    body["metadata"]["annotations"][names::ANNOTATION_APPLIED] = json!(hash);
    body
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    use super::super::{Observed, fixture};
    use super::*;

    fn built(spec: &str) -> Children {
        let cluster = fixture::cluster(spec);
        children(&fixture::valid(&cluster, &Observed::default()))
    }

    #[test]
    fn k1_the_same_cluster_gives_the_same_bytes() {
        let (one, other) = (built("{config: {a: b, c: d}}"), built("{config: {c: d, a: b}}"));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }

    #[test]
    fn k4_everything_is_owned_but_the_volumes() {
        let children = built("{}");
        let mut owned = vec![&children.service_account, &children.budget];
        owned.extend(&children.services);
        owned.extend(children.config_maps.values());
        owned.extend(children.stateful_sets.values());
        for child in owned {
            let owner = &child["metadata"]["ownerReferences"][0];
            assert_eq!(owner["uid"], "uid-1", "{child}");
        }
        assert!(children.claims[&0]["metadata"].get("ownerReferences").is_none());
    }

    #[test]
    fn deployment_tools_are_kept_from_volumes_and_secrets() {
        let cluster = fixture::cluster("{}");
        let valid = fixture::valid(&cluster, &Observed::default());
        for kept in [secret(&valid, "t"), children(&valid).claims[&0].clone()] {
            let metadata = &kept["metadata"];
            assert!(metadata["labels"].get("app.kubernetes.io/instance").is_none(), "{kept}");
            assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "ropewalk-operator");
            let annotations = &metadata["annotations"];
            let options = annotations["argocd.argoproj.io/sync-options"].as_str();
            assert!(options.is_some_and(|options| options.contains("Prune=false")), "{kept}");
            assert_eq!(annotations["argocd.argoproj.io/compare-options"], "IgnoreExtraneous");
            assert_eq!(annotations["helm.sh/resource-policy"], "keep");
        }
    }

    #[test]
    fn services_and_the_budget_find_brokers_only_in_both_families_of_addresses() {
        let children = built("{}");
        for service in &children.services {
            assert_eq!(service["spec"]["selector"]["app.kubernetes.io/component"], "broker");
            assert_eq!(service["spec"]["ipFamilyPolicy"], "PreferDualStack");
            assert_eq!(service["spec"]["ports"][0]["appProtocol"], "tcp");
        }
        let found = &children.budget["spec"]["selector"]["matchLabels"];
        let set = &children.stateful_sets[&0]["spec"];
        let pod = &set["template"]["metadata"]["labels"];
        for (key, value) in found.as_object().expect("labels") {
            assert_eq!(&pod[key], value);
        }
        // The selector of a StatefulSet cannot be changed any more.
        assert_eq!(
            set["selector"]["matchLabels"],
            json!({"ropewalk.dev/cluster": "prod", "ropewalk.dev/broker-id": "0"})
        );
    }

    #[test]
    fn user_and_groups_can_be_left_to_the_platform() {
        let context = |spec: &str| {
            let set = built(spec).stateful_sets[&0].clone();
            set["spec"]["template"]["spec"]["securityContext"].clone()
        };
        let plain = context("{}");
        let ids = (&plain["runAsUser"], &plain["runAsGroup"], &plain["fsGroup"]);
        assert_eq!(ids, (&json!(65_532), &json!(65_532), &json!(65_532)));
        let left_out = context("{podTemplate: {securityContext: {}}}");
        for key in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert!(left_out.get(key).is_none(), "{left_out}");
        }
        assert_eq!(left_out["runAsNonRoot"], true);
        let own = context("{podTemplate: {securityContext: {fsGroup: 7}}}");
        assert_eq!((&own["fsGroup"], own.get("runAsUser")), (&json!(7), None));
    }

    #[test]
    fn k5_settings_and_sizes_are_not_in_the_pod() {
        let template = |spec: &str| built(spec).stateful_sets[&0]["spec"]["template"].clone();
        let plain = template("{}");
        assert_eq!(
            plain,
            template("{config: {a: b}, storage: {size: 99Gi}, runState: Hibernated}")
        );
        assert!(!plain.to_string().contains("0.0.0-operator"), "nothing of the operator's release");
    }

    #[test]
    fn what_is_built_is_what_kubernetes_understands() {
        let spec = "{resources: {requests: {cpu: '1'}}, podTemplate: {env: [{name: A, value: b}],
            tolerations: [{key: a, operator: Exists}], labels: {team: x}}}";
        let children = built(spec);
        let set: StatefulSet =
            serde_json::from_value(children.stateful_sets[&0].clone()).expect("a StatefulSet");
        let spec = set.spec.expect("a spec");
        let pod = spec.template.spec.expect("a pod");
        assert_eq!(spec.update_strategy.and_then(|s| s.type_).as_deref(), Some("OnDelete"));
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(
            pod.containers[0].security_context.as_ref().and_then(|c| c.read_only_root_filesystem),
            Some(true)
        );
        assert_eq!(pod.tolerations.map(|all| all.len()), Some(1));
        let selector = spec.selector.match_labels.expect("labels");
        let labels = spec.template.metadata.and_then(|m| m.labels).expect("labels");
        assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
        assert_eq!(labels.get("team").map(String::as_str), Some("x"));
        let claim: PersistentVolumeClaim =
            serde_json::from_value(children.claims[&0].clone()).expect("a claim");
        assert_eq!(claim.metadata.name.as_deref(), Some("data-prod-broker-0"));
    }

    #[test]
    fn a_hibernated_cluster_keeps_everything_but_its_pods() {
        let children = built("{runState: Hibernated}");
        assert_eq!(children.stateful_sets[&0]["spec"]["replicas"], 0);
        assert_eq!(children.claims.len(), 1);
    }
}
