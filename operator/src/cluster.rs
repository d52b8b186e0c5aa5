//! The cluster controller: from a `BrokerCluster` to pods, volumes, Services and rollouts.
//!
//! # Place in the walk
//!
//! [`observe`] does all the reading, by live requests, so that no decision rests on an old state. The
//! pure part (`operator/plan`) says what should be. [`converge`] does the writing, in steps that do not
//! wait for each other; [`restart`] is the one disruptive act; [`removal`] handles deletion.
//!
//! # Invariants
//!
//! - **K1** a converged cluster is read every minute and never written.
//! - **K2** a pod is evicted only after live reads, under the Lease, with the brokers' newest epoch,
//!   and only if it is still the pod that was read.
//! - **K4** nothing is stopped while a volume would be lost with its pod.
//! - A paused cluster is shown and not touched, also while it is being deleted.
//! - Volumes come first: a full disk must not keep a volume from growing.
//! - A step that fails is a condition; the other steps go on.

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

// In the order of the walk.
mod observe;
mod hibernation;
mod settings;
mod converge;
mod restart;
mod rollout;
mod status;
mod removal;

/// The field manager of everything written here.
const MANAGER: &str = "ropewalk-operator/cluster";
/// The interval at which a settled cluster is reconciled.
const RESYNC: Duration = Duration::from_secs(60);
/// The delay after a status that requires another reconcile at once.
const AT_ONCE: Duration = Duration::from_millis(300);
/// The interval for a cluster that is not settled, whatever the watches bring.
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
    let reconcile = |object, context| watch::framed(object, context, reconcile);
    let outcomes = controller.run(reconcile, watch::again, context);
    // Without a finalizer a cluster that is deleted is never reconciled again.
    watch::drive(outcomes.inspect(|outcome| {
        if let Err(controller::Error::ObjectNotFound(object)) = outcome {
            let namespace = object.namespace.clone().unwrap_or_default();
            forget(&gone, &ClusterKey::new(namespace, object.name.clone()));
        }
    }))
    .await;
}

/// Drops what is known of a cluster that is gone or is being deleted.
fn forget(context: &Context, cluster: &ClusterKey) {
    context.brokers.forget(cluster);
    context.hibernations.end(cluster);
    context.settings_log.forget(cluster);
    context.contested.forget(&cluster.namespace, &cluster.name);
}

fn of<K>(child: PartialObjectMeta<K>) -> Option<ObjectRef<Guarded<BrokerCluster>>> {
    watch::cluster_of(&child)
}

/// Moves a cluster closer to its spec and reports its state.
///
/// 1. `observe` does all the reading.
/// 2. `validate` is pure. Later steps read its result and not the object.
/// 3. `children` is pure: every object as it should be.
/// 4. `converge` writes what does not hold, volumes first, and brings brokers their settings.
/// 5. `decide` is pure: which broker may restart. `rollout` carries it out.
/// 6. The status is written also when a step failed.
async fn reconcile(seen: BrokerCluster, context: Arc<Context>) -> Result<Action, Failure> {
    let namespace = seen.namespace().unwrap_or_default();
    let api: Api<BrokerCluster> = Api::namespaced(context.client.clone(), &namespace);
    let Some(cluster) = api.get_opt(&seen.name_any()).await? else {
        forget(&context, &key(&seen));
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

/// When the cluster is reconciled again, whatever the watches bring.
fn next(
    context: &Context,
    valid: &ValidCluster,
    status: &BrokerClusterStatus,
    problems: &[Problem],
) -> Result<Action, Failure> {
    // The permission to format has to be taken back before anything can happen to the volume.
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
    // A cluster that is new or was made again answers with epochs and tokens of its own.
    if valid.status.as_ref().is_none_or(|status| status.cluster_id.is_none()) {
        let cluster = ClusterKey::new(valid.namespace.clone(), valid.name.clone());
        context.brokers.forget(&cluster);
    }
    Ok(Action::requeue(RECHECK))
}

/// What a cluster is called in the tables of this process.
fn key(cluster: &BrokerCluster) -> ClusterKey {
    ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any())
}

/// The labels that find everything that was made for a cluster. What is found counts only by its name.
fn selector(cluster: &BrokerCluster) -> String {
    let (cluster, by) = (cluster.name_any(), names::MANAGED_BY);
    format!("{}={cluster},{}={by}", names::LABEL_CLUSTER, names::LABEL_MANAGED_BY)
}

#[cfg(test)]
mod tests;
