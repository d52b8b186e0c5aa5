//! The one disruptive act: a broker's pod is evicted, so that it comes back from its new template.
//!
//! It is an eviction and no deletion, so that the disruption budget counts it together with those of
//! others: two brokers never stop at once because two ways of stopping did not know of each other.
//!
//! # Invariants
//!
//! - **K2** the Lease is held, the brokers know of no newer leader, and cluster, volume claim, StatefulSet
//!   and pod are read again, live. The pod is evicted only if it is still the one that was read.
//! - **K4** a pod whose volume would go with it is not evicted.
//! - The template is written at this moment and at no other: an eviction never starts a new version by
//!   chance. One that would be refused is not begun.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
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
use crate::context::Context;
use crate::watch::Failure;

/// What came of a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RestartOutcome {
    /// The pod stops, or there was none.
    Restarted,
    /// Something has changed since it was decided; the next reconcile decides again.
    Outdated,
    /// Kubernetes does not allow the eviction now, in its words.
    Refused(String),
}

/// Restarts a broker into its StatefulSet as it should be.
pub(super) async fn restart(
    context: &Context,
    valid: &ValidCluster,
    (id, wanted): (i32, &StatefulSet),
    reason: &str,
) -> Result<RestartOutcome, Failure> {
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
        && let Some(words) = evict(&pods, pod, true).await?
    {
        return Ok(RestartOutcome::Refused(words));
    }
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &valid.namespace);
    let set = sets.get(&names::broker(&valid.name, id)).await?;
    // The intent is recorded when the pod is gone. Until then it says that a restart is still due.
    let mut wanted = wanted.clone();
    if let Some(recorded) = set.annotations().get(names::ANNOTATION_INTENT) {
        wanted.annotations_mut().insert(names::ANNOTATION_INTENT.to_owned(), recorded.clone());
    }
    context.leadership.check()?;
    let parameters = PatchParams::apply(MANAGER).force();
    sets.patch(&names::broker(&valid.name, id), &parameters, &Patch::Apply(&wanted)).await?;
    context.metrics.wrote("cluster child");
    let Some(pod) = pod else { return Ok(RestartOutcome::Restarted) };
    if let Some(words) = evict(&pods, &pod, false).await? {
        return Ok(RestartOutcome::Refused(words));
    }
    context.metrics.wrote("broker restart");
    context.metrics.restarted();
    tracing::info!(broker = id, reason, "broker restarted");
    let note = format!("broker {id} is restarted: {reason}");
    context.tell(&valid.reference, EventType::Normal, ("BrokerRestarted", "Restart"), note).await;
    Ok(RestartOutcome::Restarted)
}

/// Evicts this very pod, or only asks whether that is allowed. The words of a refusal.
async fn evict(pods: &Api<Pod>, pod: &Pod, is_dry: bool) -> Result<Option<String>, kube::Error> {
    let name = pod.name_any();
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    // By hand: kube's own call names the options so that no API server reads them.
    let eviction = Eviction {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        delete_options: Some(DeleteOptions {
            preconditions: Some(preconditions),
            ..DeleteOptions::default()
        }),
    };
    let parameters = PostParams { dry_run: is_dry, ..PostParams::default() };
    match pods.create_subresource::<_, Value>("eviction", &name, &parameters, &eviction).await {
        // With several budgets about one pod the refusal is the body of a 201.
        Ok(answer) if answer["status"] == "Failure" => {
            let words = answer["message"].as_str();
            Ok(Some(words.unwrap_or("the eviction failed without a message").to_owned()))
        }
        Ok(_) => Ok(None),
        // Gone already. Another pod of that name is a conflict, and is looked at again.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        // A budget forbids it now, or the API server failed.
        Err(kube::Error::Api(status)) if matches!(status.code, 429 | 500) => {
            Ok(Some(status.message.clone()))
        }
        Err(error) => Err(error),
    }
}
