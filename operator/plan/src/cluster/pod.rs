//! The pod template of a broker.
//!
//! - **K5** it depends neither on the operator's release nor on what may change without a restart:
//!   settings and token are files that follow their ConfigMap and Secret.
//! - It passes the restricted pod security standard: no root, no capabilities, and only the volume
//!   is writable.
//! - It stops within [`STOP_SECONDS`], whatever the broker is doing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, ContainerPort, EnvVar, HTTPGetAction, KeyToPath,
    LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile,
    SecretProjection, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;
use ropewalk_operator_api::cluster::PodIds;
use ropewalk_operator_api::names;

use super::observed::{CONTAINER, RESTORE_CONTAINER};
use super::properties::{ADMIN_PORT, CONFIG_PATH, KAFKA_PORT, VOLUME_PATH};
use super::{Broker, ValidCluster, labels, object_storage};

/// Grace period, seconds. Kubernetes kills a broker that takes longer; it then recovers as after
/// any crash.
pub const STOP_SECONDS: i64 = 60;
/// User and group id of the image.
const USER: i64 = 65_532;

/// Builds the pod template of a broker.
#[must_use]
pub fn template(cluster: &ValidCluster, broker: &Broker) -> PodTemplateSpec {
    let extra = &cluster.pod_template;
    let mut labels = extra.labels.clone();
    labels.extend(labels::all(&cluster.name, Some(broker.id)));
    let mut annotations = extra.annotations.clone();
    if let Some(restart) = &cluster.restart {
        // A pod with another value was created before the restart was requested.
        annotations.insert(names::ANNOTATION_RESTART.to_owned(), restart.clone());
    }
    let metadata = ObjectMeta {
        labels: Some(labels),
        annotations: unless_empty(annotations),
        ..ObjectMeta::default()
    };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec(cluster, broker)) }
}

/// Leaves an empty map out of the object and of its hash.
fn unless_empty<V>(map: BTreeMap<String, V>) -> Option<BTreeMap<String, V>> {
    (!map.is_empty()).then_some(map)
}

fn spec(cluster: &ValidCluster, broker: &Broker) -> PodSpec {
    let extra = &cluster.pod_template;
    let secrets = extra.image_pull_secrets.iter();
    let secrets = secrets.map(|secret| LocalObjectReference { name: secret.name.clone() });
    let secrets: Vec<_> = secrets.collect();
    PodSpec {
        service_account_name: Some(names::brokers(&cluster.name)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(STOP_SECONDS),
        security_context: Some(security_context(extra.security_context.as_ref())),
        topology_spread_constraints: Some(spread(&cluster.name)),
        init_containers: restore(cluster, broker).map(|container| vec![container]),
        containers: vec![container(cluster, broker)],
        volumes: Some(volumes(cluster, broker)),
        node_selector: unless_empty(extra.node_selector.clone()),
        tolerations: (!extra.tolerations.is_empty()).then(|| extra.tolerations.clone()),
        affinity: extra.affinity.clone(),
        priority_class_name: extra.priority_class_name.clone(),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        ..PodSpec::default()
    }
}

/// Uses the ids of the image unless the cluster sets its own. Ids that the cluster then leaves out
/// are for the platform to choose.
fn security_context(ids: Option<&PodIds>) -> PodSecurityContext {
    let image = PodIds { run_as_user: Some(USER), run_as_group: Some(USER), fs_group: Some(USER) };
    let ids = ids.unwrap_or(&image);
    PodSecurityContext {
        run_as_user: ids.run_as_user,
        run_as_group: ids.run_as_group,
        fs_group: ids.fs_group,
        run_as_non_root: Some(true),
        // The default policy would change the owner of every file of a large volume before each
        // start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

fn container(cluster: &ValidCluster, broker: &Broker) -> Container {
    let config = format!("{CONFIG_PATH}/broker.properties");
    let args = ["run", "--config", &config, "--log-format", "json"].map(str::to_owned);
    let env = environment(cluster);
    Container {
        name: CONTAINER.to_owned(),
        image: Some(broker.image.clone()),
        args: Some(args.into()),
        ports: Some(vec![port("kafka", KAFKA_PORT), port("admin", ADMIN_PORT)]),
        resources: Some(resources(cluster)),
        security_context: Some(restricted()),
        // Alive as soon as the process answers: a long recovery is no reason to kill it.
        startup_probe: Some(probe("/live", 1, 120)),
        liveness_probe: Some(probe("/live", 10, 3)),
        readiness_probe: Some(probe("/ready", 2, 2)),
        volume_mounts: Some(mounts(cluster)),
        image_pull_policy: cluster.pull_policy.map(str::to_owned),
        env: (!env.is_empty()).then_some(env),
        ..Container::default()
    }
}

fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        ..SecurityContext::default()
    }
}

/// Fills the empty volume of the first broker from the bucket. It runs before each start of the
/// broker, and ends at once when the volume is restored. A volume that was filled before and is
/// empty is restored only with the permission that an empty volume needs (D4).
fn restore(cluster: &ValidCluster, broker: &Broker) -> Option<Container> {
    let (from, storage) = (cluster.restore_from.as_ref()?, cluster.object_storage.as_ref()?);
    let is_first = cluster.brokers.first().is_some_and(|first| first.id == broker.id);
    let config = format!("{CONFIG_PATH}/broker.properties");
    let (url, data) = (storage.url(), format!("{VOLUME_PATH}/data"));
    let args = ["--log-format", "json", "restore", "--from", &url, "--data-dir", &data];
    let mut args: Vec<&str> = args.into();
    args.extend(["--config", &config, "--if-format-allowed"]);
    args.extend(from.without_catalog.then_some("--without-catalog"));
    args.extend(from.accept_loss.then_some("--accept-loss"));
    let env = environment(cluster);
    is_first.then(|| Container {
        name: RESTORE_CONTAINER.to_owned(),
        image: Some(broker.image.clone()),
        args: Some(args.into_iter().map(str::to_owned).collect()),
        resources: Some(resources(cluster)),
        security_context: Some(restricted()),
        volume_mounts: Some(mounts(cluster)),
        image_pull_policy: cluster.pull_policy.map(str::to_owned),
        env: (!env.is_empty()).then_some(env),
        ..Container::default()
    })
}

/// The variables of the user come last, so that they override those of the operator.
fn environment(cluster: &ValidCluster) -> Vec<EnvVar> {
    let users = &cluster.pod_template.env;
    let is_users = |name: &str| users.iter().any(|variable| variable.name == name);
    let storage = cluster.object_storage.iter().flat_map(object_storage::environment);
    let storage = storage.filter(|variable| !is_users(&variable.name));
    let users = users.iter().map(|variable| EnvVar {
        name: variable.name.clone(),
        value: Some(variable.value.clone()),
        value_from: None,
    });
    storage.chain(users).collect()
}

fn volumes(cluster: &ValidCluster, broker: &Broker) -> Vec<Volume> {
    let mut volumes = vec![data_volume(cluster, broker), config_volume(cluster, broker)];
    volumes.extend(cluster.object_storage.as_ref().and_then(object_storage::volume));
    volumes
}

fn mounts(cluster: &ValidCluster) -> Vec<VolumeMount> {
    let mut mounts =
        vec![mount("data", VOLUME_PATH, None), mount("config", CONFIG_PATH, Some(true))];
    if cluster.object_storage.as_ref().and_then(object_storage::volume).is_some() {
        mounts.push(mount(object_storage::VOLUME, object_storage::PATH, Some(true)));
    }
    mounts
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn mount(name: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    }
}

fn resources(cluster: &ValidCluster) -> ResourceRequirements {
    let (requests, limits) = match &cluster.resources {
        Some(resources) => (resources.requests.clone(), resources.limits.clone()),
        None => {
            let least = [("cpu", "100m"), ("memory", "256Mi")];
            let least = least.map(|(of, amount)| (of.to_owned(), Quantity(amount.to_owned())));
            (least.into(), BTreeMap::new())
        }
    };
    ResourceRequirements {
        requests: unless_empty(requests),
        limits: unless_empty(limits),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Prefers different zones, then different nodes; a cluster with one zone or node still runs.
fn spread(cluster: &str) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels::selector(cluster, None)),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    };
    vec![over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")]
}

fn data_volume(cluster: &ValidCluster, broker: &Broker) -> Volume {
    Volume {
        name: "data".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: names::volume_claim(&cluster.name, broker.id),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// Settings and token are in one volume, because not every runtime can mount one inside the other.
fn config_volume(cluster: &ValidCluster, broker: &Broker) -> Volume {
    let item = |key: &str, path: &str| {
        let (key, path) = (key.to_owned(), path.to_owned());
        Some(vec![KeyToPath { key, path, mode: None }])
    };
    let settings = ConfigMapProjection {
        name: names::broker(&cluster.name, broker.id),
        items: item("broker.properties", "broker.properties"),
        optional: None,
    };
    let token = SecretProjection {
        name: names::admin_secret(&cluster.name),
        items: item("token", "admin/token"),
        optional: None,
    };
    let sources = vec![
        VolumeProjection { config_map: Some(settings), ..VolumeProjection::default() },
        VolumeProjection { secret: Some(token), ..VolumeProjection::default() },
    ];
    let projected = ProjectedVolumeSource { sources: Some(sources), default_mode: None };
    Volume { name: "config".to_owned(), projected: Some(projected), ..Volume::default() }
}
