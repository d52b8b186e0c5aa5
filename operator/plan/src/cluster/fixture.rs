//! Test fixtures: objects written as YAML.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use ropewalk_operator_api::{BrokerCluster, BrokerClusterStatus};

use super::validate::Settings;
use super::{Observed, ValidCluster};

/// The cluster `shop/prod` with this spec.
pub(crate) fn cluster(spec: &str) -> BrokerCluster {
    let text = format!(
        "{{apiVersion: ropewalk.dev/v1alpha1, kind: BrokerCluster, metadata: {{name: prod, namespace: shop, uid: uid-1, generation: 1}}, spec: {spec}}}"
    );
    serde_yaml_ng::from_str(&text).expect("a BrokerCluster")
}

/// Parses a BrokerClusterStatus.
pub(crate) fn status(text: &str) -> BrokerClusterStatus {
    serde_yaml_ng::from_str(text).expect("a status")
}

/// Validates a cluster with a fixed broker image.
pub(crate) fn valid(cluster: &BrokerCluster, observed: &Observed) -> ValidCluster {
    let settings = Settings { broker_image: "ghcr.io/ropewalk/ropewalk-broker:0.1.0".into() };
    super::validate::validate(cluster, observed, &settings).expect("a valid cluster")
}

/// An observation with the volume claim of one broker.
pub(crate) fn observed_claim(id: i32, size: &str, formatted: bool) -> Observed {
    let annotations = if formatted { "{ropewalk.dev/formatted: 'true'}" } else { "{}" };
    let text = format!(
        "{{metadata: {{name: data-prod-broker-{id}, uid: claim-{id}, annotations: {annotations}, labels: {{ropewalk.dev/broker-id: '{id}'}}}}, spec: {{resources: {{requests: {{storage: {size}}}}}}}, status: {{phase: Bound, capacity: {{storage: {size}}}}}}}"
    );
    let claim: PersistentVolumeClaim = serde_yaml_ng::from_str(&text).expect("a claim");
    Observed { claims: [(id, claim)].into(), ..Observed::default() }
}

/// A pod with the given status.
pub(crate) fn pod(status: &str) -> Pod {
    let text = format!("{{metadata: {{name: prod-broker-0-0, uid: pod-1}}, status: {status}}}");
    serde_yaml_ng::from_str(&text).expect("a pod")
}

/// The status of a ready pod.
pub(crate) const READY: &str =
    "{phase: Running, conditions: [{type: Ready, status: 'True'}], containerStatuses: []}";
