//! What the brokers are told of a Queue: the topic, then its groups.

use kube::api::{Api, ListParams};
use kube::runtime::events::EventType;
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::{BrokerCluster, Queue};
use ropewalk_operator_plan::figures::Measured;
use ropewalk_operator_plan::queue::{Declared, Owned, Refused, binding, declaration};
use serde_json::Value;

use crate::admin::{CallError, Target, segment};
use crate::context::Context;
use crate::watch::{Failure, Guarded};

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) declared: Option<Result<Declared, Refused>>,
    /// Consumers that are not bound.
    pub(super) unbound: Vec<(String, Refused)>,
    /// Groups that the spec does not name and that are still bound.
    pub(super) still_bound: Vec<(String, Refused)>,
    /// What is to be tried again soon.
    pub(super) failure: Option<Failure>,
}

impl Told {
    /// What the broker refused waits for a change; everything else is tried again.
    fn keep(&mut self, error: CallError) {
        let waits = ["NameCollision", "InvalidConfig", "InvalidPartitions", "InvalidName"];
        if !waits.iter().any(|reason| error.is_refused(reason)) {
            self.failure = Some(error.into());
        }
    }
}

/// Declares a Queue and binds its groups.
pub(super) async fn declare(context: &Context, cluster: &BrokerCluster, queue: &Queue) -> Told {
    let at = Target::of(cluster);
    let mut told = Told::default();
    let declared = match put(context, &at, queue).await {
        Err(error) if error.is_refused("NameCollision") => {
            // The owner may be a Queue of the past: with Retain its topic stays behind, owned.
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
                let note = "took over a topic that nobody owned".to_owned();
                let words = ("TopicAdopted", "Declare");
                context.tell(&queue.object_ref(&()), EventType::Normal, words, note).await;
            }
            if !declared.created && !declared.changed.is_empty() {
                tracing::info!(changed = ?declared.changed, "put right");
            }
            told.declared = Some(Ok(declared));
            bind(context, &at, queue, &mut told).await;
        }
        Err(error) => {
            let mut refused = error.refused();
            refused.message = format!("topic {}: {}", queue.topic(), refused.message);
            told.declared = Some(Err(refused));
            told.keep(error);
        }
    }
    told
}

/// Looks at a Queue that is paused, and changes nothing.
pub(super) async fn look(context: &Context, cluster: &BrokerCluster, queue: &Queue) -> Told {
    #[derive(serde::Deserialize)]
    struct Seen {
        #[serde(flatten)]
        measured: Measured,
        partitions: i32,
    }
    let at = Target::of(cluster);
    let path = format!("/v1/queues/{}", segment(queue.topic()));
    match context.brokers.ask::<Seen>(&at, &path).await {
        Ok(seen) => {
            let declared = Declared {
                topic_id: seen.measured.id,
                partitions: seen.partitions,
                ..Declared::default()
            };
            Told { declared: Some(Ok(declared)), ..Told::default() }
        }
        Err(error) if error.is_refused("NoSuchQueue") => {
            let topic = queue.topic();
            let message = format!(
                "paused, and there is no topic {topic}; with `managementState: Managed` it is made"
            );
            Told { declared: Some(Err(Refused { reason: "Paused", message })), ..Told::default() }
        }
        Err(error) => {
            let mut told = Told { declared: Some(Err(error.refused())), ..Told::default() };
            told.keep(error);
            told
        }
    }
}

async fn put(context: &Context, at: &Target, queue: &Queue) -> Result<Declared, CallError> {
    let path = format!("/v1/queues/{}", segment(queue.topic()));
    context.brokers.put(at, &path, &declaration(queue)).await
}

/// Binds what the spec names, and unbinds every other group that the brokers list for this Queue.
async fn bind(context: &Context, at: &Target, queue: &Queue, told: &mut Told) {
    let topic = segment(queue.topic());
    let owner = queue.uid().unwrap_or_default();
    for consumer in &queue.spec.consumers {
        let path = format!("/v1/queues/{topic}/groups/{}", segment(&queue.group(consumer)));
        let body = binding(queue, consumer);
        if let Err(error) = context.brokers.put::<Value>(at, &path, &body).await {
            told.unbound.push((consumer.name.clone(), error.refused()));
            told.keep(error);
        }
    }
    let superfluous = match superfluous(context, at, queue).await {
        Ok(superfluous) => superfluous,
        Err(error) => {
            tracing::warn!(%error, "listing the bound groups failed, will retry");
            told.keep(error);
            return;
        }
    };
    for group in superfluous {
        let path = format!("/v1/queues/{topic}/groups/{}?owner={owner}", segment(&group));
        if let Err(error) = context.brokers.delete::<Value>(at, &path).await {
            tracing::warn!(%error, group, "unbinding a group failed, will retry");
            told.still_bound.push((group, error.refused()));
            told.keep(error);
        }
    }
}

/// The groups that are bound for this Queue and that its spec does not name.
///
/// The brokers list them, so a group is found as often as it takes to unbind it, whatever the status
/// says by then. A broker that has no such list (a release before 0.2) is asked for what the status
/// still names.
async fn superfluous(
    context: &Context,
    at: &Target,
    queue: &Queue,
) -> Result<Vec<String>, CallError> {
    let owner = queue.uid().unwrap_or_default();
    let path = format!("/v1/owners/{}", segment(&owner));
    match context.brokers.read::<Owned>(at, &path).await {
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

/// Frees a topic whose owner is a Queue that no longer exists. Its data stays.
///
/// The owner is looked for among the Queues of this namespace, live: a cluster holds no others.
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
    tracing::info!(owner, "freed a topic whose Queue is gone");
    Ok(true)
}
