//! The cluster controller: from a `BrokerCluster` to pods, volumes, Services and rollouts.
//!
//! # Place in the walk
//!
//! [`observe`] does all the reading, by live requests, so that nothing is decided on what was. The pure
//! part (`operator/plan`) says what should be. [`converge`] does the writing, in steps that do not
//! wait for each other; [`restart`] is the one disruptive act; [`removal`] ends it all.
//!
//! # Invariants
//!
//! - **K1** a converged cluster is read every minute and never written.
//! - **K2** a pod is evicted only after live reads, under the Lease, with the brokers' newest epoch,
//!   and only if it is still the pod that was looked at.
//! - **K4** nothing is stopped while a volume would be lost with its pod.
//! - A paused cluster is shown and not touched, also while it is being deleted.
//! - Volumes come first: a full disk must not keep a volume from growing.
//! - A step that fails is a condition; the other steps go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action};
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use ropewalk_operator_api::{BrokerCluster, BrokerClusterStatus, DeletionPolicy, ManagementState};
use ropewalk_operator_api::{condition, names};
use ropewalk_operator_plan::cluster::verdict::{Concern, Facts, Problem, is_alarm};
use ropewalk_operator_plan::cluster::{rollout, validate};
use serde_json::json;
use tokio::sync::watch as channel;

use crate::admin::{CONFLICTING_OPERATOR, Target};
use crate::context::Context;
use crate::signals::ClusterKey;
use crate::watch::{self, Failure, Guarded};
use crate::{apply, finalizer};

mod contested;
mod observe;
mod slumber;
mod restart;
mod converge;
mod removal;

/// The field manager of everything written here.
const MANAGER: &str = "ropewalk-operator/cluster";
/// A settled cluster is looked at so often.
const RESYNC: Duration = Duration::from_secs(60);
/// One whose status says something that has to be acted upon is looked at again.
const AT_ONCE: Duration = Duration::from_millis(300);
/// One that is not is looked at so often, whatever the watches bring.
const RECHECK: Duration = Duration::from_secs(10);

/// What each start of a broker was told of its settings: when it was started, by its clock, and the hash
/// of the settings. Only needed for brokers that do not say it themselves.
#[derive(Debug, Default)]
struct Told(Mutex<HashMap<Target, (i64, String)>>);

impl Told {
    fn recall(&self, target: &Target, started_at_ms: i64) -> Option<String> {
        let told = self.0.lock();
        let (start, hash) = told.get(target)?;
        (*start == started_at_ms).then(|| hash.clone())
    }

    fn remember(&self, target: Target, started_at_ms: i64, hash: String) {
        self.0.lock().insert(target, (started_at_ms, hash));
    }

    fn forget(&self, cluster: &ClusterKey) {
        self.0.lock().retain(|target, _| target.cluster != *cluster);
    }
}

/// What this controller works with.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    context: Arc<Context>,
    told: Arc<Told>,
    contested: Arc<contested::Contested>,
}

impl Work {
    fn new(context: Arc<Context>) -> Self {
        Self { context, told: Arc::default(), contested: Arc::default() }
    }
}

/// Runs the controller in a scope until `stopping` turns true.
pub async fn run(
    context: Arc<Context>,
    scope: Option<String>,
    mut stopping: channel::Receiver<bool>,
) {
    let scope = scope.as_deref();
    let client = context.client.clone();
    let (store, stream) = watch::own(watch::api::<Guarded<BrokerCluster>>(&client, scope));
    let work = Work::new(context.clone());
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
    let gone = work.clone();
    let reconcile = move |object, context| {
        let work = work.clone();
        watch::framed(object, context, move |cluster, _| reconcile(cluster, work))
    };
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

/// Forgets what is known of a cluster that is gone or going.
fn forget(work: &Work, cluster: &ClusterKey) {
    work.context.brokers.forget(cluster);
    work.context.slumber.end(cluster);
    work.told.forget(cluster);
    work.contested.forget(&cluster.namespace, &cluster.name);
}

fn of<K>(child: PartialObjectMeta<K>) -> Option<ObjectRef<Guarded<BrokerCluster>>> {
    watch::cluster_of(&child)
}

/// Moves a cluster closer to its spec and says how it stands.
async fn reconcile(seen: BrokerCluster, work: Work) -> Result<Action, Failure> {
    let namespace = seen.namespace().unwrap_or_default();
    let api: Api<BrokerCluster> = Api::namespaced(work.context.client.clone(), &namespace);
    let Some(cluster) = api.get_opt(&seen.name_any()).await? else {
        forget(&work, &key(&seen));
        return Ok(Action::await_change());
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return removal::remove(&work, &api, &cluster).await;
    }
    let rival = work.context.brokers.conflict(&key(&cluster));
    let managed = cluster.spec.management_state == ManagementState::Managed && rival.is_none();
    if managed {
        let wanted = cluster.spec.deletion_policy == DeletionPolicy::Delete;
        finalizer::keep(&api, &cluster, wanted).await?;
    }
    let mut observed = observe::observe(&work.context, &cluster).await?;
    let awaited = slumber::awaited(&work.context, &cluster, &observed).await;
    let waits = awaited.is_some();
    let cluster = awaited.unwrap_or(cluster);
    let valid = match validate::validate(&cluster, &observed, &work.context.settings) {
        Ok(valid) => valid,
        Err(refusal) => {
            tracing::warn!(%refusal, "left alone");
            return Ok(Action::await_change());
        }
    };
    let mut done = converge::Done::default();
    if let Some(rival) = rival {
        done.problems.push(conflict(rival.to_string()));
    }
    if managed {
        done = converge::converge(&work, &cluster, &valid, &mut observed).await;
    }
    let mut decisions = rollout::decide(&cluster, &valid, &observed);
    if managed {
        converge::roll(&work, (&cluster, &valid), &mut decisions, &mut done).await;
    }
    let facts = Facts {
        cluster: &cluster,
        valid: &valid,
        observed: &observed,
        decisions: &decisions,
        problems: &done.problems,
        restarted: &done.restarted,
        now: &Time(Timestamp::now()),
    };
    let status = facts.status();
    let ready = condition::is_true(&status.conditions, condition::READY);
    let progressing = condition::is_true(&status.conditions, condition::cluster::PROGRESSING);
    let answers = condition::is_true(&status.conditions, condition::cluster::ADMIN_REACHABLE);
    // The leave to format has to be taken back before anything can happen to the volume.
    let formatted =
        |id: i32| status.brokers.iter().any(|broker| broker.id == id && broker.formatted);
    let news = valid.brokers.iter().any(|broker| !broker.formatted && formatted(broker.id));
    write_status(&work.context, &api, &cluster, status).await?;
    if ready && managed {
        end_acceptance(&api, &cluster).await?;
    }
    if news {
        return Ok(Action::requeue(AT_ONCE));
    }
    if waits {
        return Ok(Action::requeue(slumber::RECHECK));
    }
    finish(&work.context, &cluster, done.problems, ready && answers && !progressing)
}

fn conflict(message: String) -> Problem {
    Problem { reason: CONFLICTING_OPERATOR, message, concerns: Concern::Other }
}

/// The loss of data was accepted once, and the broker has begun again: another loss is another matter.
/// One that was used up before was set again, by a deployment tool: it has no effect, and is left.
async fn end_acceptance(api: &Api<BrokerCluster>, cluster: &BrokerCluster) -> Result<(), Failure> {
    let key = names::ANNOTATION_ACCEPT_DATA_LOSS;
    let before = cluster.status.iter().flat_map(|status| &status.brokers);
    let mut used = before.filter_map(|broker| broker.accepted_loss.as_ref());
    let value = cluster.annotations().get(key);
    if value.is_some_and(|value| !used.any(|used| used == value)) {
        let patch = json!({"metadata": {"annotations": {key: null}}});
        api.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

fn finish(
    context: &Context,
    cluster: &BrokerCluster,
    problems: Vec<Problem>,
    settled: bool,
) -> Result<Action, Failure> {
    if let Some(problem) = problems.into_iter().next() {
        return Err(Failure::Incomplete(format!("{}: {}", problem.reason, problem.message)));
    }
    if !settled {
        // A cluster that is new or was made anew answers with epochs and tokens of its own.
        if cluster.status.as_ref().is_none_or(|status| status.cluster_id.is_none()) {
            context.brokers.forget(&key(cluster));
        }
        return Ok(Action::requeue(RECHECK));
    }
    Ok(Action::requeue(RESYNC))
}

/// Writes the status if it says something new, and an Event if readiness changed.
async fn write_status(
    context: &Context,
    api: &Api<BrokerCluster>,
    cluster: &BrokerCluster,
    status: BrokerClusterStatus,
) -> Result<(), Failure> {
    if cluster.status.as_ref() == Some(&status) {
        return Ok(());
    }
    apply::status(api, MANAGER, cluster, &status).await?;
    context.metrics.wrote("cluster status");
    let before = cluster.status.as_ref().map(|status| status.conditions.as_slice());
    let before = before.unwrap_or_default();
    context.tell_readiness(cluster, before, &status.conditions).await;
    for alarm in status.conditions.iter().filter(|condition| is_alarm(condition)) {
        let old = condition::find(before, &alarm.type_);
        if old.is_none_or(|old| !is_alarm(old) || old.reason != alarm.reason) {
            let words = (alarm.reason.as_str(), "Observe");
            context.tell(cluster, EventType::Warning, words, alarm.message.clone()).await;
        }
    }
    Ok(())
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
