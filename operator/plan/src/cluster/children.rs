//! Every object that a cluster is made of.
//!
//! # Invariants
//!
//! - All but the volume claims are owned by the `BrokerCluster` and go with it. Claims are owned by
//!   nobody (K4): they are made here and not by the StatefulSet, so that they can grow without making
//!   it anew, and are found again by their name.
//! - Names are fixed; nothing is ever found by a generated one.

use std::collections::BTreeMap;

use ropewalk_operator_api::names;
use serde_json::{Value, json};

use super::properties::{ADMIN_PORT, KAFKA_PORT};
use super::{Broker, Valid, pod, properties};
use crate::intent;

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

/// The labels that find the pods of a cluster, or of one broker. They never change.
#[must_use]
pub fn selector(cluster: &str, broker: Option<i32>) -> BTreeMap<&'static str, String> {
    let mut labels = BTreeMap::from([(names::LABEL_CLUSTER, cluster.to_owned())]);
    if let Some(id) = broker {
        labels.insert(names::LABEL_BROKER, id.to_string());
    }
    labels
}

/// The labels of everything that belongs to a cluster, or to one broker.
#[must_use]
pub fn labels(cluster: &str, broker: Option<i32>) -> BTreeMap<&'static str, String> {
    let mut labels = selector(cluster, broker);
    labels.insert("app.kubernetes.io/name", "ropewalk".to_owned());
    labels.insert("app.kubernetes.io/instance", cluster.to_owned());
    labels.insert("app.kubernetes.io/component", "broker".to_owned());
    labels.insert(names::LABEL_MANAGED_BY, names::MANAGED_BY.to_owned());
    labels
}

/// The Secret with the token of the admin API.
#[must_use]
pub fn secret(cluster: &Valid, token: &str) -> Value {
    let name = names::admin_secret(&cluster.name);
    owned(cluster, ("v1", "Secret"), &name, None, &json!({"stringData": {"token": token}}))
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
        "selector": selector(&cluster.name, None),
        "ports": [port("kafka", KAFKA_PORT)],
    }});
    owned(cluster, ("v1", "Service"), &names::bootstrap(&cluster.name), None, &body)
}

/// Where one broker is, ready or not: the operator has to reach one that is not. It has an address of
/// its own, so that clients find a restarted pod without waiting for a name to expire.
fn service(cluster: &Valid, broker: &Broker) -> Value {
    let body = json!({"spec": {
        "type": "ClusterIP",
        "publishNotReadyAddresses": true,
        "selector": selector(&cluster.name, Some(broker.id)),
        "ports": [port("kafka", KAFKA_PORT), port("admin", ADMIN_PORT)],
    }});
    let name = names::broker(&cluster.name, broker.id);
    owned(cluster, ("v1", "Service"), &name, Some(broker.id), &body)
}

fn port(name: &str, number: i32) -> Value {
    json!({"name": name, "port": number, "targetPort": name, "protocol": "TCP"})
}

/// One broker may be evicted at a time. With one broker that is the only one: a budget that kept it
/// would keep the node from ever being drained, and the broker is back where its volume can go. One
/// that is not ready anyway never holds up a node.
fn budget(cluster: &Valid) -> Value {
    let body = json!({"spec": {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector(&cluster.name, None)},
    }});
    let name = names::brokers(&cluster.name);
    owned(cluster, ("policy/v1", "PodDisruptionBudget"), &name, None, &body)
}

fn config_map(cluster: &Valid, broker: &Broker) -> Value {
    let body = json!({"data": {"broker.properties": properties::file(cluster, broker)}});
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
    if broker.formatted {
        body["metadata"] = json!({"annotations": {names::ANNOTATION_FORMATTED: "true"}});
    }
    let name = names::volume_claim(&cluster.name, broker.id);
    let labels = labels(&cluster.name, Some(broker.id));
    finished(cluster, ("v1", "PersistentVolumeClaim"), (&name, json!(labels)), body)
}

/// One StatefulSet for each broker: any of them can be taken away, and a pod comes back also while the
/// operator is not there. It never restarts a pod because its template changed.
fn stateful_set(cluster: &Valid, broker: &Broker) -> Value {
    let template = pod::template(cluster, broker);
    let body = json!({
        "metadata": {"annotations": {
            names::ANNOTATION_INTENT: cluster.intent.to_string(),
            names::ANNOTATION_TEMPLATE: intent::hash(&template),
            names::ANNOTATION_IMAGE_CHOSEN: cluster.image_is_chosen.to_string(),
        }},
        "spec": {
            "replicas": i32::from(cluster.running),
            "serviceName": names::broker(&cluster.name, broker.id),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector(&cluster.name, Some(broker.id))},
            "template": template,
        },
    });
    let name = names::broker(&cluster.name, broker.id);
    owned(cluster, ("apps/v1", "StatefulSet"), &name, Some(broker.id), &body)
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
    let labels = json!(labels(&cluster.name, broker));
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
