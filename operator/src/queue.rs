//! The queue controller: reconciles a `Queue` into a declared topic and bound consumer groups.
//!
//! `resolve` finds the cluster (or creates `default`); `declare` declares the Queue to the
//! brokers; `removal` handles deletion. [`crate::status_metrics`] writes the metrics in the
//! status, [`crate::scaling`] the replicas.
//!
//! # Invariants
//!
//! - **K1** a converged Queue is declared again every minute, so that drift is corrected, and its
//!   status is written only when it changes.
//! - **K4** with Retain a deletion does not wait for the operator; with Delete the finalizer is
//!   always removed in the end.
//! - An empty cluster is never created in place of a cluster that existed.
//! - A topic that is gone with its records is a condition until the user accepts the loss, also
//!   when an empty topic has taken its name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::condition;
use ropewalk_operator_api::queue::ConsumerStatus;
use ropewalk_operator_api::{BrokerCluster, DeletionPolicy, ManagementState, Queue, QueueStatus};
use ropewalk_operator_plan::queue::{ClusterState, DeclareOutcome, Facts, lost_topic};
use tokio::sync::watch as channel;

use crate::apply;
use crate::cluster_key::ClusterKey;
use crate::context::Context;
use crate::finalizer;
use crate::outages;
use crate::watch::{self, Failure, Guarded};

mod resolve;
mod declare;
mod removal;

use resolve::ClusterResolution;

/// Field manager of everything that this controller writes.
const MANAGER: &str = "ropewalk-operator/queue";
/// Interval of declaring a Queue again, so that drift is corrected within a minute.
const RESYNC: Duration = Duration::from_secs(55);
/// Interval for a Queue that waits for its cluster, in addition to the watches.
const RECHECK: Duration = Duration::from_secs(15);
/// Longest wait before a Queue whose status did not fit into the budget is reconciled again.
const UNWRITTEN_MAX: Duration = Duration::from_secs(20);

/// Runs the controller in a scope until `stopping` turns true.
pub async fn run(
    context: Arc<Context>,
    scope: Option<String>,
    mut stopping: channel::Receiver<bool>,
) {
    let scope = scope.as_deref();
    let client = context.client.clone();
    let (store, stream) = watch::own(watch::api::<Guarded<Queue>>(&client, scope));
    let (clusters, cluster_stream) = clusters(watch::api(&client, scope));
    context.queues.write().push(store.clone());
    context.clusters.write().push(clusters.clone());
    let stop = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let queues = store.clone();
    let controller = Controller::for_stream(stream, store)
        .with_config(watch::config())
        .watches_stream(cluster_stream, move |cluster| queues_of(&queues, &cluster))
        .graceful_shutdown_on(stop);
    let reconcile = move |object, context| {
        let clusters = clusters.clone();
        watch::reconcile_guarded(object, context, move |queue, context| {
            reconcile(queue, context, clusters)
        })
    };
    watch::drive(controller.run(reconcile, watch::error_policy, context)).await;
}

type Clusters = Store<Guarded<BrokerCluster>>;

/// The clusters of a scope, and a stream of those whose readiness changed.
fn clusters(
    api: Api<Guarded<BrokerCluster>>,
) -> (
    Clusters,
    impl futures_util::Stream<Item = Result<Guarded<BrokerCluster>, watcher::Error>> + Send,
) {
    let (store, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object: &mut Guarded<BrokerCluster>| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
        .predicate_filter(readiness, kube::runtime::PredicateConfig::default());
    (store, stream.boxed())
}

/// Changes when the Queues of a cluster must be reconciled: when another cluster has the name, when
/// it is being deleted, and when it begins or ceases to be ready or to answer. The reason why it is
/// not ready changes several times during a restart and concerns no Queue.
fn readiness(cluster: &Guarded<BrokerCluster>) -> Option<u64> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    cluster.uid().hash(&mut hasher);
    cluster.meta().deletion_timestamp.is_some().hash(&mut hasher);
    if let Some(status) = cluster.0.as_ref().ok().and_then(|cluster| cluster.status.as_ref()) {
        let ready = condition::find(&status.conditions, condition::READY);
        ready.map(|ready| ready.status == "True").hash(&mut hasher);
        (status.ready_replicas > 0).hash(&mut hasher);
        let reachable = condition::cluster::ADMIN_REACHABLE;
        condition::is_true(&status.conditions, reachable).hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// The Queues that belong to a cluster.
fn queues_of(
    queues: &Store<Guarded<Queue>>,
    cluster: &Guarded<BrokerCluster>,
) -> Vec<ObjectRef<Guarded<Queue>>> {
    let (namespace, name) = (cluster.namespace(), cluster.name_any());
    let is_in_cluster = |queue: &Arc<Guarded<Queue>>| {
        queue.namespace() == namespace
            && queue.0.as_ref().is_ok_and(|queue| queue.cluster() == name)
    };
    let found = queues.state().into_iter().filter(is_in_cluster);
    found.map(|queue| ObjectRef::from_obj(queue.as_ref())).collect()
}

/// Reconciles a Queue with its spec and writes its status.
///
/// `clusters` is the store of the scope that the Queue is watched in.
async fn reconcile(
    queue: Queue,
    context: Arc<Context>,
    clusters: Clusters,
) -> Result<Action, Failure> {
    let context = context.as_ref();
    let namespace = queue.namespace().unwrap_or_default();
    let api: Api<Queue> = Api::namespaced(context.client.clone(), &namespace);
    if queue.metadata.deletion_timestamp.is_some() {
        return removal::remove(context, &clusters, &api, &queue).await;
    }
    finalizer::keep(&api, &queue, queue.spec.deletion_policy == DeletionPolicy::Delete).await?;
    let resolved = resolve::resolve(context, &clusters, &queue).await?;
    if let ClusterResolution::Found(cluster) = &resolved
        && let Some(wait) = outages::spread(&queue, cluster, Timestamp::now())
    {
        return Ok(Action::requeue(wait));
    }
    let (facts, failure) = declared(context, &queue, &resolved).await;
    if let Some(left) = context.outages.hold(&facts, Instant::now()) {
        return match failure {
            Some(failure) => Err(failure),
            None => Ok(Action::requeue(left)),
        };
    }
    let is_written = write_status(context, &api, &facts, &resolved).await?;
    if !is_written && failure.is_none() {
        // Requeue instead of waiting here: a new Queue must not wait behind a thousand statuses.
        let turn = outages::turn(&queue, UNWRITTEN_MAX);
        return Ok(Action::requeue(turn.max(Duration::from_secs(1))));
    }
    match (failure, &facts.declared, &resolved) {
        (Some(failure), ..) => Err(failure),
        (None, _, ClusterResolution::Pending(wait)) => Ok(Action::requeue(*wait)),
        (None, None, _) => Ok(Action::requeue(RECHECK)),
        (None, Some(_), _) => Ok(Action::requeue(spread(&queue))),
    }
}

/// The interval of the next declaration, spread so that Queues do not stay in step.
fn spread(queue: &Queue) -> Duration {
    RESYNC.saturating_sub(outages::turn(queue, Duration::from_secs(10)))
}

/// Declares a Queue to its brokers if they can be called. Returns the facts for the status, and a
/// failure that is to be retried.
async fn declared<'a>(
    context: &Context,
    queue: &'a Queue,
    resolved: &ClusterResolution,
) -> (Facts<'a>, Option<Failure>) {
    let mut outcome = declare::DeclareReport::default();
    if let ClusterResolution::Found(cluster) = resolved
        && may_answer(cluster)
    {
        outcome = match queue.spec.management_state {
            ManagementState::Paused => declare::inspect(context, cluster, queue).await,
            ManagementState::Managed => declare::declare(context, cluster, queue).await,
        };
    }
    let found = outcome.declared.as_ref().and_then(|declared| declared.as_ref().ok());
    let found = found.map(|declared| declared.topic_id.as_str());
    let facts = Facts {
        queue,
        cluster: resolved.cluster_state(),
        lost_topic: lost_topic(queue, found),
        declared: outcome.declared,
        unbound: outcome.unbound,
        still_bound: outcome.still_bound,
    };
    (facts, outcome.failure)
}

/// Writes this controller's part of the status if it changed; `false` if the budget does not allow
/// it now.
async fn write_status(
    context: &Context,
    api: &Api<Queue>,
    facts: &Facts<'_>,
    resolved: &ClusterResolution,
) -> Result<bool, Failure> {
    let queue = facts.queue;
    let before = queue.status.clone().unwrap_or_default();
    let after = status(facts, resolved, &before, &Time(Timestamp::now()));
    if holds(&before, &after) {
        return Ok(true);
    }
    if !context.budget.admit(Instant::now()) {
        return Ok(false);
    }
    context.leadership.check()?;
    match apply::status(api, MANAGER, &queue.object_ref(&()), &after).await {
        Ok(()) => {}
        // The Queue is gone, so there is nothing to write.
        Err(error) if apply::is_gone(&error) => return Ok(true),
        Err(error) => return Err(error.into()),
    }
    context.metrics.wrote("queue status");
    context
        .publish_readiness_event(&queue.object_ref(&()), &before.conditions, &after.conditions)
        .await;
    Ok(true)
}

/// This controller's part of the status.
fn status(
    facts: &Facts<'_>,
    resolved: &ClusterResolution,
    before: &QueueStatus,
    now: &Time,
) -> QueueStatus {
    let queue = facts.queue;
    let generation = queue.metadata.generation;
    let findings = facts.findings();
    let conditions: Vec<Condition> =
        findings.iter().map(|finding| finding.dated(&before.conditions, generation, now)).collect();
    let cluster = match resolved {
        ClusterResolution::Found(cluster) => Some(cluster),
        ClusterResolution::Missing(_) | ClusterResolution::Pending(_) => None,
    };
    let declared: Option<&DeclareOutcome> =
        facts.declared.as_ref().and_then(|declared| declared.as_ref().ok());
    let consumers = queue.spec.consumers.iter().map(|consumer| ConsumerStatus {
        name: consumer.name.clone(),
        group_id: Some(queue.group(consumer)),
        ..ConsumerStatus::default()
    });
    QueueStatus {
        observed_generation: generation,
        conditions,
        cluster_name: cluster.map(|c| c.name_any()).or_else(|| before.cluster_name.clone()),
        bootstrap_servers: cluster
            .and_then(|cluster| cluster.status.as_ref()?.bootstrap_servers.clone())
            .or_else(|| before.bootstrap_servers.clone()),
        topic_name: Some(queue.topic().to_owned()),
        topic_id: declared
            .map(|declared| declared.topic_id.clone())
            .or_else(|| before.topic_id.clone()),
        lost_topic_id: facts.lost_topic.clone(),
        partitions: declared.map(|declared| declared.partitions).or(before.partitions),
        consumers: consumers.collect(),
        ..QueueStatus::default()
    }
}

/// Whether the status contains this controller's part already. Other controllers own other fields.
fn holds(before: &QueueStatus, after: &QueueStatus) -> bool {
    let groups = |status: &QueueStatus| -> Vec<(String, Option<String>)> {
        let mut groups: Vec<_> =
            status.consumers.iter().map(|c| (c.name.clone(), c.group_id.clone())).collect();
        groups.retain(|(_, group)| group.is_some());
        groups.sort();
        groups
    };
    before.observed_generation == after.observed_generation
        && before.cluster_name == after.cluster_name
        && before.bootstrap_servers == after.bootstrap_servers
        && before.topic_name == after.topic_name
        && before.topic_id == after.topic_id
        && before.lost_topic_id == after.lost_topic_id
        && before.partitions == after.partitions
        && groups(before) == groups(after)
        && after.conditions.iter().all(|condition| before.conditions.contains(condition))
}

/// Whether the brokers of a cluster can be called: their admin API answers, ready or not. A broker
/// with a full volume needs the retention of its Queues most.
pub(crate) fn may_answer(cluster: &BrokerCluster) -> bool {
    let Some(status) = cluster.status.as_ref() else { return false };
    let answers = condition::is_true(&status.conditions, condition::cluster::ADMIN_REACHABLE);
    answers || status.ready_replicas > 0
}

/// The key of the cluster of a Queue.
pub(crate) fn key(queue: &Queue) -> ClusterKey {
    ClusterKey::new(queue.namespace().unwrap_or_default(), queue.cluster())
}

/// The state of an existing cluster, for the conditions of its Queues.
fn present(cluster: &BrokerCluster) -> ClusterState {
    let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice());
    let ready = condition::find(conditions.unwrap_or_default(), condition::READY);
    ClusterState::Present { ready: ready.is_some_and(|ready| ready.status == "True") }
}

#[cfg(test)]
mod tests;
