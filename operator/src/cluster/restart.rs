//! Restart of a broker, the one disruptive action: its pod is evicted and recreated from the new
//! template.
//!
//! An eviction instead of a deletion respects the PodDisruptionBudget, which also counts evictions
//! by others, such as a node drain: two brokers never stop at once.
//!
//! # Invariants
//!
//! - **K2** the Lease is held, the brokers report no newer leader, and cluster, volume claim,
//!   StatefulSet and pod are read live. The pod is evicted only if it is still the one that was
//!   read.
//! - **K4** a pod whose volume would be lost with it is not evicted.
//! - The template is written right before the eviction and at no other time, so that an unrelated
//!   eviction never starts a new version. A restart whose eviction a dry run refuses is not begun.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::runtime::events::EventType;
use ropewalk_operator_api::{BrokerCluster, ManagementState, names};
use ropewalk_operator_plan::cluster::{ValidCluster, volume};
use serde_json::Value;

use super::MANAGER;
use crate::admin::Target;
use crate::cluster_key::ClusterKey;
use crate::context::{Context, EventReason};
use crate::watch::Failure;

/// Result of a restart attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RestartOutcome {
    /// The pod was evicted, or there was none.
    Restarted,
    /// The objects have changed since the decision; the next reconcile decides again.
    Outdated,
    /// Kubernetes refuses the eviction, with its message.
    Refused(String),
}

/// The broker to restart.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestartTarget<'a> {
    /// Id of the broker.
    pub(super) broker: i32,
    /// Its StatefulSet as it should be.
    pub(super) stateful_set: &'a StatefulSet,
    /// Its settings, if those of the present pod differ.
    pub(super) config_map: Option<&'a ConfigMap>,
}

/// Restarts a broker with the template of `target`.
pub(super) async fn restart(
    context: &Context,
    valid: &ValidCluster,
    target: RestartTarget<'_>,
    reason: &str,
) -> Result<RestartOutcome, Failure> {
    let id = target.broker;
    let key = ClusterKey::new(valid.namespace.clone(), valid.name.clone());
    context.brokers.assure_epoch(&Target { cluster: key, broker: id }).await?;
    let clusters: Api<BrokerCluster> = Api::namespaced(context.client.clone(), &valid.namespace);
    let live = clusters.get(&valid.name).await?;
    let is_same = live.metadata.uid.as_ref() == Some(&valid.owner.uid)
        && live.metadata.generation == valid.generation
        && live.metadata.deletion_timestamp.is_none()
        && live.spec.management_state == ManagementState::Managed;
    if !is_same {
        return Ok(RestartOutcome::Outdated);
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &valid.namespace);
    let pod_name = names::pod(&valid.name, id);
    let pod = pods.get_opt(&pod_name).await?;
    if pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()) {
        return Ok(RestartOutcome::Outdated);
    }
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &valid.namespace);
    let claim = claims.get_opt(&names::volume_claim(&valid.name, id)).await?;
    if claim.is_some_and(|claim| volume::threat_to(&claim, pod.as_ref()).is_some()) {
        return Ok(RestartOutcome::Outdated);
    }
    if let Some(pod) = &pod
        && let Some(refusal) = evict(&pods, pod, true).await?
    {
        return Ok(RestartOutcome::Refused(refusal));
    }
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &valid.namespace);
    let set = sets.get(&names::broker(&valid.name, id)).await?;
    // The intent is recorded after the restart. Until then the old annotation marks it as due.
    let mut wanted = target.stateful_set.clone();
    if let Some(recorded) = set.annotations().get(names::ANNOTATION_INTENT) {
        wanted.annotations_mut().insert(names::ANNOTATION_INTENT.to_owned(), recorded.clone());
    }
    context.leadership.check()?;
    let parameters = PatchParams::apply(MANAGER).force();
    sets.patch(&names::broker(&valid.name, id), &parameters, &Patch::Apply(&wanted)).await?;
    context.metrics.wrote("cluster child");
    if let Some(map) = target.config_map {
        let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &valid.namespace);
        maps.patch(&map.name_any(), &parameters, &Patch::Apply(map)).await?;
        context.metrics.wrote("cluster child");
    }
    let Some(pod) = pod else { return Ok(RestartOutcome::Restarted) };
    if let Some(refusal) = evict(&pods, &pod, false).await? {
        return Ok(RestartOutcome::Refused(refusal));
    }
    context.metrics.wrote("broker restart");
    context.metrics.restarted();
    tracing::info!(broker = id, reason, "broker restarted");
    let note = format!("broker {id} is restarted: {reason}");
    context
        .publish_event(
            &valid.reference,
            EventType::Normal,
            EventReason { reason: "BrokerRestarted", action: "Restart" },
            note,
        )
        .await;
    Ok(RestartOutcome::Restarted)
}

/// Evicts exactly this pod, or only checks with a dry run whether that is allowed. Returns the
/// message of a refusal.
async fn evict(pods: &Api<Pod>, pod: &Pod, is_dry: bool) -> Result<Option<String>, kube::Error> {
    let name = pod.name_any();
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    // Built here because kube's own call names the options so that no API server reads them.
    let eviction = Eviction {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        delete_options: Some(DeleteOptions {
            preconditions: Some(preconditions),
            ..DeleteOptions::default()
        }),
    };
    let parameters = PostParams { dry_run: is_dry, ..PostParams::default() };
    match pods.create_subresource::<_, Value>("eviction", &name, &parameters, &eviction).await {
        // With several budgets for one pod the refusal is the body of a 201.
        Ok(answer) if answer["status"] == "Failure" => {
            let message = answer["message"].as_str();
            Ok(Some(message.unwrap_or("the eviction failed without a message").to_owned()))
        }
        Ok(_) => Ok(None),
        // The pod is gone already. Another pod of that name is a conflict, which the next reconcile
        // handles.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        // A budget refuses the eviction for now, or the API server failed.
        Err(kube::Error::Api(status)) if matches!(status.code, 429 | 500) => {
            Ok(Some(status.message.clone()))
        }
        Err(error) => Err(error),
    }
}
