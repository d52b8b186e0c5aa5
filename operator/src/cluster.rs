//! The cluster controller: reconciles a `BrokerCluster` into pods, volumes, Services and rollouts.
//!
//! `observe` does all the reading, by live requests, so that no decision is based on a stale
//! cache. `operator/plan` computes the wanted state without I/O. `converge` does the writing, in
//! steps that do not depend on each other; `restart` is the one disruptive action; `removal`
//! handles deletion.
//!
//! # Invariants
//!
//! - **K1** a converged cluster is read every minute and never written.
//! - **K2** a pod is evicted only after live reads, under the Lease, with the newest epoch of the
//!   brokers, and only if it is still the pod that was read.
//! - **K4** no pod is stopped while its volume would be lost with it.
//! - A paused cluster gets a status and no other change, also while it is being deleted.
//! - Volumes are written first: a full disk must not prevent a volume from growing.
//! - A step that fails becomes a condition; the other steps continue.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use ropewalk_operator_api::{BrokerCluster, BrokerClusterStatus, condition, names};
use ropewalk_operator_plan::cluster::rollout::decide;
use ropewalk_operator_plan::cluster::verdict::{Concern, Facts, Problem};
use ropewalk_operator_plan::cluster::{ValidCluster, children, validate};
use tokio::sync::watch as channel;

use crate::admin::CONFLICTING_OPERATOR;
use crate::cluster_key::ClusterKey;
use crate::context::Context;
use crate::finalizer;
use crate::watch::{self, Failure, Guarded};
use converge::ApplyReport;
use rollout::RolloutReport;

// In the order in which a reconcile calls them.
mod observe;
mod hibernation;
mod settings;
mod converge;
mod restart;
mod rollout;
mod status;
mod removal;

/// Field manager of everything that this controller writes.
const MANAGER: &str = "ropewalk-operator/cluster";
/// The interval at which a settled cluster is reconciled.
const RESYNC: Duration = Duration::from_secs(60);
/// The delay after a status that requires another reconcile at once.
const AT_ONCE: Duration = Duration::from_millis(300);
/// The interval for a cluster that is not settled, in addition to the watches.
const RECHECK: Duration = Duration::from_secs(10);

/// Runs the controller in a scope until `stopping` turns true.
pub async fn run(
    context: Arc<Context>,
    scope: Option<String>,
    mut stopping: channel::Receiver<bool>,
) {
    let scope = scope.as_deref();
    let client = context.client.clone();
    let (store, stream) = watch::own(watch::api::<Guarded<BrokerCluster>>(&client, scope));
    let stop = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let controller = Controller::for_stream(stream, store)
        .with_config(watch::config())
        .watches_stream(watch::children::<StatefulSet>(&client, scope), of)
        .watches_stream(watch::children::<Pod>(&client, scope), of)
        .watches_stream(watch::children::<PersistentVolumeClaim>(&client, scope), of)
        .watches_stream(watch::children::<Service>(&client, scope), of)
        .watches_stream(watch::children::<ConfigMap>(&client, scope), of)
        .graceful_shutdown_on(stop);
    let gone = context.clone();
    let reconcile = |object, context| watch::reconcile_guarded(object, context, reconcile);
    let outcomes = controller.run(reconcile, watch::error_policy, context);
    // Without a finalizer a cluster that is deleted is never reconciled again.
    watch::drive(outcomes.inspect(|outcome| {
        if let Err(controller::Error::ObjectNotFound(object)) = outcome {
            let namespace = object.namespace.clone().unwrap_or_default();
            discard(&gone, &ClusterKey::new(namespace, object.name.clone()));
        }
    }))
    .await;
}

/// Discards the in-memory state of a cluster that is gone or is being deleted.
fn discard(context: &Context, cluster: &ClusterKey) {
    context.brokers.discard(cluster);
    context.hibernations.end(cluster);
    context.settings_log.discard(cluster);
    context.contested.discard(&cluster.namespace, &cluster.name);
}

fn of<K>(child: PartialObjectMeta<K>) -> Option<ObjectRef<Guarded<BrokerCluster>>> {
    watch::cluster_of(&child)
}

/// Reconciles a cluster with its spec and writes its status.
///
/// 1. `observe` does all the reading.
/// 2. `validate` is pure. Later steps read its result and not the object.
/// 3. `children` is pure: every object as it should be.
/// 4. `converge` writes what differs, volumes first, and sends brokers their settings.
/// 5. `decide` is pure: which broker may restart. `rollout` carries it out.
/// 6. The status is written also when a step failed.
async fn reconcile(seen: BrokerCluster, context: Arc<Context>) -> Result<Action, Failure> {
    let namespace = seen.namespace().unwrap_or_default();
    let api: Api<BrokerCluster> = Api::namespaced(context.client.clone(), &namespace);
    let Some(cluster) = api.get_opt(&seen.name_any()).await? else {
        discard(&context, &key(&seen));
        return Ok(Action::await_change());
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return removal::remove(&context, &api, &cluster).await;
    }
    let observed = observe::observe(&context, &cluster).await?;
    let valid = match validate::validate(&cluster, &observed, &context.settings) {
        Ok(valid) => valid,
        Err(refusal) => {
            tracing::warn!(%refusal, "cluster skipped until it changes");
            return Ok(Action::await_change());
        }
    };
    hibernation::report(&context, &valid).await;
    let children = children::children(&valid);
    let mut problems: Vec<Problem> = valid.conflict.clone().map(conflict).into_iter().collect();
    let mut applied = ApplyReport::default();
    if valid.is_managed() {
        finalizer::keep(&api, &cluster, valid.deletes_volumes).await?;
        applied = converge::apply(&context, &valid, &observed, &children).await;
    }
    let observed = observed.with_settings(applied.settings);
    let decisions = decide(&valid, &observed, &applied.refused);
    let mut restarts = RolloutReport::default();
    if valid.is_managed() {
        restarts = rollout::carry_out(&context, &valid, &children, &decisions).await;
    }
    problems.extend(applied.problems);
    problems.extend(restarts.problems);
    let facts = Facts {
        valid: &valid,
        observed: &observed,
        decisions: &decisions,
        problems: &problems,
        restarted: &restarts.restarted,
        now: &Time(Timestamp::now()),
    };
    let status = facts.status();
    status::write(&context, &api, &valid, &status).await?;
    status::end_acceptance(&api, &valid, &status).await?;
    next(&context, &valid, &status, &problems)
}

fn conflict(message: String) -> Problem {
    Problem { reason: CONFLICTING_OPERATOR, message, concerns: Concern::Other }
}

/// When the cluster is reconciled again if no watch triggers it earlier.
fn next(
    context: &Context,
    valid: &ValidCluster,
    status: &BrokerClusterStatus,
    problems: &[Problem],
) -> Result<Action, Failure> {
    // The permission to format must be revoked before anything can happen to the volume.
    let is_formatted =
        |id: i32| status.brokers.iter().any(|broker| broker.id == id && broker.formatted);
    if valid.brokers.iter().any(|broker| !broker.formatted && is_formatted(broker.id)) {
        return Ok(Action::requeue(AT_ONCE));
    }
    if valid.awaited_consumers.is_some() {
        return Ok(Action::requeue(hibernation::RECHECK));
    }
    if let Some(problem) = problems.first() {
        return Err(Failure::Incomplete(format!("{}: {}", problem.reason, problem.message)));
    }
    let is_true = |kind: &str| condition::is_true(&status.conditions, kind);
    let is_settled = is_true(condition::READY)
        && is_true(condition::cluster::ADMIN_REACHABLE)
        && !is_true(condition::cluster::PROGRESSING);
    if is_settled {
        return Ok(Action::requeue(RESYNC));
    }
    // A cluster that is new or was created again issues its own epochs and tokens.
    if valid.status.as_ref().is_none_or(|status| status.cluster_id.is_none()) {
        let cluster = ClusterKey::new(valid.namespace.clone(), valid.name.clone());
        context.brokers.discard(&cluster);
    }
    Ok(Action::requeue(RECHECK))
}

/// The key of a cluster in the in-memory tables.
fn key(cluster: &BrokerCluster) -> ClusterKey {
    ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any())
}

/// Selector for everything that was created for a cluster. Labels can be copied, so callers also
/// compare names.
fn selector(cluster: &BrokerCluster) -> String {
    let (cluster, by) = (cluster.name_any(), names::MANAGED_BY);
    format!("{}={cluster},{}={by}", names::LABEL_CLUSTER, names::LABEL_MANAGED_BY)
}

#[cfg(test)]
mod tests;
