//! The one disruptive act: a broker's pod is deleted, so that it comes back from its new template.
//!
//! # Invariants
//!
//! - **K2** the Lease is held, the brokers know of no newer leader, and cluster, StatefulSet and pod are
//!   read again, live. The pod is deleted only if it is still the one that was read.
//! - The template is written at this moment and at no other: an eviction never starts a new version by
//!   chance.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::EventType;
use ropewalk_operator_api::{BrokerCluster, ManagementState, names};
use ropewalk_operator_plan::cluster::{Valid, children};
use serde_json::json;

use super::{MANAGER, Work};
use crate::admin::Target;
use crate::signals::ClusterKey;
use crate::watch::Failure;

/// Restarts a broker. `false` when something has changed since it was decided: look again.
pub(super) async fn restart(
    work: &Work,
    cluster: &BrokerCluster,
    valid: &Valid,
    id: i32,
    reason: &str,
) -> Result<bool, Failure> {
    let context = &work.context;
    let key = ClusterKey::new(valid.namespace.clone(), valid.name.clone());
    context.brokers.assure_epoch(&Target { cluster: key, broker: id }).await?;
    let clusters: Api<BrokerCluster> = Api::namespaced(context.client.clone(), &valid.namespace);
    let live = clusters.get(&valid.name).await?;
    let is_same = live.metadata.uid == cluster.metadata.uid
        && live.metadata.generation == cluster.metadata.generation
        && live.metadata.deletion_timestamp.is_none()
        && live.spec.management_state == ManagementState::Managed;
    if !is_same {
        return Ok(false);
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &valid.namespace);
    let pod_name = names::pod(&valid.name, id);
    let pod = pods.get_opt(&pod_name).await?;
    if pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()) {
        return Ok(false);
    }
    let Some(mut wanted) = children::children(valid).stateful_sets.remove(&id) else {
        return Ok(false);
    };
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &valid.namespace);
    let set = sets.get(&names::broker(&valid.name, id)).await?;
    // The intent is recorded when the pod is gone. Until then it says that a restart is still due.
    if let Some(recorded) = set.annotations().get(names::ANNOTATION_INTENT) {
        wanted["metadata"]["annotations"][names::ANNOTATION_INTENT] = json!(recorded);
    }
    context.leadership.check()?;
    let parameters = PatchParams::apply(MANAGER).force();
    sets.patch(&names::broker(&valid.name, id), &parameters, &Patch::Apply(&wanted)).await?;
    context.metrics.wrote("cluster child");
    let Some(pod) = pod else { return Ok(true) };
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match pods.delete(&pod_name, &parameters).await {
        Ok(_) => {}
        // Gone already. Another pod of that name is a conflict, and is looked at again.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error.into()),
    }
    context.metrics.wrote("broker restart");
    context.metrics.restarted();
    tracing::info!(broker = id, reason, "restarted");
    let note = format!("broker {id} is restarted: {reason}");
    context.tell(cluster, EventType::Normal, ("BrokerRestarted", "Restart"), note).await;
    Ok(true)
}
