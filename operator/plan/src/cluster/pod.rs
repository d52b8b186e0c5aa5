//! The pod of a broker.
//!
//! # Invariants
//!
//! - **K5** nothing of the operator's release is in it, and nothing that may change without a restart:
//!   settings and token are files that follow their ConfigMap and Secret.
//! - It passes the restricted pod security standard: no root, no capabilities, nothing writable but the
//!   volume.
//! - It stops within [`STOP_SECONDS`], whatever the broker is doing.

use k8s_openapi::api::apps::v1::StatefulSet;
use ropewalk_operator_api::cluster::PodIds;
use ropewalk_operator_api::names;
use serde_json::{Value, json};

use super::observed::CONTAINER;
use super::properties::{ADMIN_PORT, CONFIG_PATH, KAFKA_PORT, VOLUME_PATH};
use super::{Broker, Valid, labels};

/// A broker that does not stop within this is killed; it recovers, as after any crash.
pub const STOP_SECONDS: i64 = 60;
/// The user that the image is made for.
const USER: i64 = 65_532;

/// The template of a broker's pod.
#[must_use]
pub fn template(cluster: &Valid, broker: &Broker) -> Value {
    let extra = &cluster.pod_template;
    let mut pod_labels = json!(extra.labels);
    for (key, value) in labels::all(&cluster.name, Some(broker.id)) {
        pod_labels[key] = json!(value);
    }
    let mut metadata = json!({ "labels": pod_labels });
    if !extra.annotations.is_empty() {
        metadata["annotations"] = json!(extra.annotations);
    }
    if let Some(restart) = &cluster.restart {
        // A pod that has another value was made before the restart was asked for.
        metadata["annotations"][names::ANNOTATION_RESTART] = json!(restart);
    }
    json!({ "metadata": metadata, "spec": spec(cluster, broker) })
}

fn spec(cluster: &Valid, broker: &Broker) -> Value {
    let extra = &cluster.pod_template;
    let mut spec = json!({
        "serviceAccountName": names::brokers(&cluster.name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "securityContext": security_context(extra.security_context.as_ref()),
        "topologySpreadConstraints": spread(&cluster.name),
        "containers": [container(cluster, broker)],
        "volumes": volumes(cluster, broker),
    });
    let optional = [
        ("nodeSelector", json!(extra.node_selector), extra.node_selector.is_empty()),
        ("tolerations", json!(extra.tolerations), extra.tolerations.is_empty()),
        ("affinity", json!(extra.affinity), extra.affinity.is_none()),
        (
            "priorityClassName",
            json!(extra.priority_class_name),
            extra.priority_class_name.is_none(),
        ),
        ("imagePullSecrets", json!(extra.image_pull_secrets), extra.image_pull_secrets.is_empty()),
    ];
    for (key, value, is_absent) in optional {
        if !is_absent {
            spec[key] = value;
        }
    }
    spec
}

/// With the user that the image is made for, unless the cluster says otherwise. What it then leaves out
/// is for the platform to decide.
fn security_context(ids: Option<&PodIds>) -> Value {
    let image = PodIds { run_as_user: Some(USER), run_as_group: Some(USER), fs_group: Some(USER) };
    let mut context = json!(ids.unwrap_or(&image));
    context["runAsNonRoot"] = json!(true);
    // Without this a large volume is walked before every start.
    context["fsGroupChangePolicy"] = json!("OnRootMismatch");
    context["seccompProfile"] = json!({"type": "RuntimeDefault"});
    context
}

fn container(cluster: &Valid, broker: &Broker) -> Value {
    let config = format!("{CONFIG_PATH}/broker.properties");
    let mut container = json!({
        "name": CONTAINER,
        "image": broker.image,
        "args": ["run", "--config", config, "--log-format", "json"],
        "ports": [
            {"name": "kafka", "containerPort": KAFKA_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": resources(cluster),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        // Alive as soon as the process answers: a long recovery is no reason to kill it.
        "startupProbe": probe("/live", 1, 120),
        "livenessProbe": probe("/live", 10, 3),
        "readinessProbe": probe("/ready", 2, 2),
        "volumeMounts": [
            {"name": "data", "mountPath": VOLUME_PATH},
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": true},
        ],
    });
    if let Some(policy) = cluster.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if !cluster.pod_template.env.is_empty() {
        container["env"] = json!(cluster.pod_template.env);
    }
    container
}

fn resources(cluster: &Valid) -> Value {
    match &cluster.resources {
        Some(resources) => json!(resources),
        None => json!({"requests": {"cpu": "100m", "memory": "256Mi"}}),
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "admin"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}

/// Rather in different zones, then on different nodes; a cluster with one of either still runs.
fn spread(cluster: &str) -> Value {
    let over = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels::selector(cluster, None)},
        })
    };
    json!([over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")])
}

/// Settings and token come in one volume, because one cannot be mounted inside the other everywhere.
fn volumes(cluster: &Valid, broker: &Broker) -> Value {
    json!([
        {
            "name": "data",
            "persistentVolumeClaim": {"claimName": names::volume_claim(&cluster.name, broker.id)},
        },
        {
            "name": "config",
            "projected": {"sources": [
                {"configMap": {
                    "name": names::broker(&cluster.name, broker.id),
                    "items": [{"key": "broker.properties", "path": "broker.properties"}],
                }},
                {"secret": {
                    "name": names::admin_secret(&cluster.name),
                    "items": [{"key": "token", "path": "admin/token"}],
                }},
            ]},
        },
    ])
}

/// The pod template of a StatefulSet as it was last applied; `None` when that was not recorded.
#[must_use]
pub fn applied_template(set: &StatefulSet) -> Option<Value> {
    let annotations = set.metadata.annotations.as_ref()?;
    serde_json::from_str(annotations.get(names::ANNOTATION_APPLIED_TEMPLATE)?).ok()
}

/// The image that was last applied to a StatefulSet's pods; what somebody else wrote there since is
/// nothing to hold on to.
#[must_use]
pub fn image_of(set: &StatefulSet) -> Option<String> {
    let applied = applied_template(set).and_then(|template| {
        let containers = template["spec"]["containers"].as_array()?.clone();
        let broker = containers.into_iter().find(|container| container["name"] == CONTAINER)?;
        broker["image"].as_str().map(str::to_owned)
    });
    applied.or_else(|| {
        let pod = set.spec.as_ref()?.template.spec.as_ref()?;
        pod.containers.iter().find(|container| container.name == CONTAINER)?.image.clone()
    })
}
