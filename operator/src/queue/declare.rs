//! Declares a Queue to its brokers: the topic, then its groups.

use kube::api::{Api, ListParams};
use kube::runtime::events::EventType;
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::{BrokerCluster, Queue};
use ropewalk_operator_plan::metrics::QueueMetrics;
use ropewalk_operator_plan::queue::{
    DeclareOutcome, OwnedResources, Refusal, binding, declaration, without_bucket,
};
use serde_json::Value;

use crate::admin::{CallError, Target, segment};
use crate::context::{Context, EventReason};
use crate::watch::{Failure, Guarded};

/// Result of declaring a Queue.
#[derive(Debug, Default)]
pub(super) struct DeclareReport {
    pub(super) declared: Option<Result<DeclareOutcome, Refusal>>,
    /// Consumers that could not be bound, with the reason.
    pub(super) unbound: Vec<(String, Refusal)>,
    /// Groups that the spec does not name and that could not be unbound.
    pub(super) still_bound: Vec<(String, Refusal)>,
    /// Failure that is to be retried with back-off.
    pub(super) failure: Option<Failure>,
}

impl DeclareReport {
    /// A refusal of the declaration waits for a change; any other failure is retried.
    fn record_failure(&mut self, error: CallError) {
        let waits = ["NameCollision", "InvalidConfig", "InvalidPartitions", "InvalidName"];
        if !waits.iter().any(|reason| error.is_refused(reason)) {
            self.failure = Some(error.into());
        }
    }
}

/// Declares the topic of a Queue and binds its groups.
pub(super) async fn declare(
    context: &Context,
    cluster: &BrokerCluster,
    queue: &Queue,
) -> DeclareReport {
    let at = Target::of(cluster);
    let mut outcome = DeclareReport::default();
    if let Some(refused) = without_bucket(queue, cluster) {
        outcome.declared = Some(Err(refused));
        return outcome;
    }
    let declared = match put(context, &at, queue).await {
        Err(error) if error.is_refused("NameCollision") => {
            // The owner may be a deleted Queue: with Retain its topic stays behind, owned.
            match release_orphan(context, &at, queue, &error).await {
                Ok(true) => put(context, &at, queue).await,
                Ok(false) | Err(_) => Err(error),
            }
        }
        other => other,
    };
    match declared {
        Ok(declared) => {
            if declared.adopted {
                let note = "adopted an existing topic without an owner".to_owned();
                let reason = EventReason { reason: "TopicAdopted", action: "Declare" };
                context
                    .publish_event(&queue.object_ref(&()), EventType::Normal, reason, note)
                    .await;
            }
            if !declared.created && !declared.changed.is_empty() {
                tracing::info!(changed = ?declared.changed, "topic reconciled");
            }
            outcome.declared = Some(Ok(declared));
            bind(context, &at, queue, &mut outcome).await;
        }
        Err(error) => {
            let mut refused = error.refused();
            refused.message = format!("topic {}: {}", queue.topic(), refused.message);
            outcome.declared = Some(Err(refused));
            outcome.record_failure(error);
        }
    }
    outcome
}

/// Reads the topic of a paused Queue and changes nothing.
pub(super) async fn inspect(
    context: &Context,
    cluster: &BrokerCluster,
    queue: &Queue,
) -> DeclareReport {
    #[derive(serde::Deserialize)]
    struct QueueDescription {
        #[serde(flatten)]
        measured: QueueMetrics,
        partitions: i32,
    }
    let at = Target::of(cluster);
    let path = format!("/v1/queues/{}", segment(queue.topic()));
    match context.brokers.ask::<QueueDescription>(&at, &path).await {
        Ok(description) => {
            let declared = DeclareOutcome {
                topic_id: description.measured.id,
                partitions: description.partitions,
                ..DeclareOutcome::default()
            };
            DeclareReport { declared: Some(Ok(declared)), ..DeclareReport::default() }
        }
        Err(error) if error.is_refused("NoSuchQueue") => {
            let topic = queue.topic();
            let message = format!(
                "paused, and there is no topic {topic}; with `managementState: Managed` it is created"
            );
            DeclareReport {
                declared: Some(Err(Refusal { reason: "Paused", message })),
                ..DeclareReport::default()
            }
        }
        Err(error) => {
            let mut outcome =
                DeclareReport { declared: Some(Err(error.refused())), ..DeclareReport::default() };
            outcome.record_failure(error);
            outcome
        }
    }
}

async fn put(context: &Context, at: &Target, queue: &Queue) -> Result<DeclareOutcome, CallError> {
    let path = format!("/v1/queues/{}", segment(queue.topic()));
    context.brokers.put(at, &path, &declaration(queue)).await
}

/// Binds the groups of the spec, and unbinds every other group that the brokers list for this
/// Queue.
async fn bind(context: &Context, at: &Target, queue: &Queue, outcome: &mut DeclareReport) {
    let topic = segment(queue.topic());
    let owner = queue.uid().unwrap_or_default();
    for consumer in &queue.spec.consumers {
        let path = format!("/v1/queues/{topic}/groups/{}", segment(&queue.group(consumer)));
        let body = binding(queue, consumer);
        if let Err(error) = context.brokers.put::<Value>(at, &path, &body).await {
            outcome.unbound.push((consumer.name.clone(), error.refused()));
            outcome.record_failure(error);
        }
    }
    let superfluous = match superfluous(context, at, queue).await {
        Ok(superfluous) => superfluous,
        Err(error) => {
            tracing::warn!(%error, "listing the bound groups failed, will retry");
            outcome.record_failure(error);
            return;
        }
    };
    for group in superfluous {
        let path = format!("/v1/queues/{topic}/groups/{}?owner={owner}", segment(&group));
        if let Err(error) = context.brokers.delete::<Value>(at, &path).await {
            tracing::warn!(%error, group, "unbinding a group failed, will retry");
            outcome.still_bound.push((group, error.refused()));
            outcome.record_failure(error);
        }
    }
}

/// The groups that are bound for this Queue and that its spec does not name.
///
/// The brokers list them, so unbinding is retried until it succeeds, whatever the status contains
/// by then. For a broker without that list (a release before 0.2) the groups in the status are
/// used.
async fn superfluous(
    context: &Context,
    at: &Target,
    queue: &Queue,
) -> Result<Vec<String>, CallError> {
    let owner = queue.uid().unwrap_or_default();
    let path = format!("/v1/owners/{}", segment(&owner));
    match context.brokers.read::<OwnedResources>(at, &path).await {
        Ok(owned) => Ok(owned.superfluous(queue)),
        Err(error) if error.is_refused("NotFound") => Ok(removed_since_last_status(queue)),
        Err(error) => Err(error),
    }
}

fn removed_since_last_status(queue: &Queue) -> Vec<String> {
    let wanted: Vec<String> = queue.spec.consumers.iter().map(|c| queue.group(c)).collect();
    let before = queue.status.iter().flat_map(|status| &status.consumers);
    let before = before.filter_map(|consumer| consumer.group_id.clone());
    before.filter(|group| !wanted.contains(group)).collect()
}

/// Releases a topic whose owner is a Queue that no longer exists. Its data stays.
///
/// The owner is searched live among the Queues of this namespace: a cluster holds no others.
async fn release_orphan(
    context: &Context,
    at: &Target,
    queue: &Queue,
    collision: &CallError,
) -> Result<bool, Failure> {
    let CallError::Refused { body, .. } = collision else { return Ok(false) };
    let Some(owner) = body.get("owner").and_then(Value::as_str) else { return Ok(false) };
    let namespace = queue.namespace().unwrap_or_default();
    let api: Api<Guarded<Queue>> = Api::namespaced(context.client.clone(), &namespace);
    let queues = api.list_metadata(&ListParams::default()).await?;
    if queues.items.iter().any(|queue| queue.meta().uid.as_deref() == Some(owner)) {
        return Ok(false);
    }
    let topic = segment(queue.topic());
    let path = format!("/v1/queues/{topic}?owner={}&data=keep", segment(owner));
    context.brokers.delete::<Value>(at, &path).await?;
    tracing::info!(owner, "topic released: its Queue no longer exists");
    Ok(true)
}
