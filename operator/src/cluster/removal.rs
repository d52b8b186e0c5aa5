//! Deletion of a cluster.
//!
//! Kubernetes garbage-collects everything that the cluster owns. Volume claims have no owner; under
//! `deletionPolicy: Delete` this module deletes them, and only then is there a finalizer.
//!
//! # Invariants
//!
//! - **K4** the current policy counts: a cluster that is set to Retain while it is being deleted
//!   keeps its data.
//! - Only claims with the names of this cluster's brokers are deleted: labels can be copied.
//! - Deletion completes in any state of the brokers: no broker is called. Only a pause by the user
//!   delays it, which an Event reports; nothing delays a namespace that is being deleted.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::{BrokerCluster, DeletionPolicy, ManagementState, names};
use ropewalk_operator_plan::cluster::observed::broker_of;

use super::{RECHECK, discard, key, selector};
use crate::context::{Context, EventReason};
use crate::finalizer;
use crate::watch::Failure;

pub(super) async fn remove(
    context: &Context,
    api: &Api<BrokerCluster>,
    cluster: &BrokerCluster,
) -> Result<Action, Failure> {
    discard(context, &key(cluster));
    if !finalizer::is_on(cluster) {
        return Ok(Action::await_change());
    }
    // Kubernetes deletes the volume claims of a terminating namespace: a finalizer would only delay
    // the namespace.
    let namespace = cluster.namespace().unwrap_or_default();
    let is_paused = cluster.spec.management_state == ManagementState::Paused;
    if is_paused && !context.is_ending(&namespace).await {
        let note = "the cluster is paused: neither its volumes are deleted nor its finalizer is removed. Set `spec.managementState` to Managed; to keep the volumes, set `spec.deletionPolicy` to Retain before";
        let reason = EventReason { reason: "DeletionPaused", action: "Delete" };
        context
            .publish_event(&cluster.object_ref(&()), EventType::Warning, reason, note.to_owned())
            .await;
        return Ok(Action::requeue(RECHECK * 6));
    }
    if cluster.spec.deletion_policy == DeletionPolicy::Delete && !is_paused {
        delete_volumes(context, cluster).await?;
    }
    finalizer::keep(api, cluster, false).await?;
    Ok(Action::await_change())
}

/// Deletes the volume claims of this cluster's brokers, by name and uid.
async fn delete_volumes(context: &Context, cluster: &BrokerCluster) -> Result<(), Failure> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
    let parameters = ListParams::default().labels(&selector(cluster));
    let labelled = claims.list_metadata(&parameters).await?.items;
    let mut ids: BTreeSet<i32> = labelled.iter().filter_map(broker_of).collect();
    ids.extend(cluster.status.iter().flat_map(|status| &status.brokers).map(|broker| broker.id));
    for id in ids {
        let name = names::volume_claim(&name, id);
        let Some(claim) = claims.get_metadata_opt(&name).await? else { continue };
        if claim.metadata.deletion_timestamp.is_some() {
            continue;
        }
        context.leadership.check()?;
        let preconditions = Preconditions { uid: claim.uid(), resource_version: None };
        let parameters =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        // Kubernetes keeps the claim until the pod that uses it is gone.
        match claims.delete(&name, &parameters).await {
            Ok(_) => context.metrics.wrote("volume deletion"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
