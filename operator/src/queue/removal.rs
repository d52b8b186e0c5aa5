//! Deletion of a Queue under `deletionPolicy: Delete`. Under Retain there is no finalizer.
//!
//! # Invariants
//!
//! - **K4** the deletion always completes: at once when the cluster is gone or being deleted, and
//!   after [`PATIENCE`] when the brokers cannot be reached. An Event reports a topic that is left
//!   behind.
//! - The current policy counts. Only a topic that this Queue owns is deleted.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::{DeletionPolicy, Queue};
use serde_json::Value;

use super::{Clusters, key};
use crate::admin::{Target, segment};
use crate::context::{Context, EventReason};
use crate::finalizer;
use crate::watch::Failure;

/// Longest wait for brokers that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(300);
/// Interval of attempts to delete the topic.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) async fn remove(
    context: &Context,
    clusters: &Clusters,
    api: &Api<Queue>,
    queue: &Queue,
) -> Result<Action, Failure> {
    if !finalizer::is_on(queue) {
        return Ok(Action::await_change());
    }
    if queue.spec.deletion_policy == DeletionPolicy::Delete
        && let Err(why) = delete_topic(context, clusters, queue).await?
    {
        if waited(queue) < PATIENCE {
            tracing::warn!(why, "topic not deleted, will retry");
            return Ok(Action::requeue(PAUSE));
        }
        let note = format!("the topic {} was not deleted and stays: {why}", queue.topic());
        let reason = EventReason { reason: "TopicLeftBehind", action: "Delete" };
        context.publish_event(&queue.object_ref(&()), EventType::Warning, reason, note).await;
    }
    finalizer::keep(api, queue, false).await?;
    Ok(Action::await_change())
}

/// Deletes the topic; the inner `Err` is the reason why that failed and may succeed later.
async fn delete_topic(
    context: &Context,
    clusters: &Clusters,
    queue: &Queue,
) -> Result<Result<(), String>, Failure> {
    if clusters.wait_until_ready().await.is_err() {
        return Ok(Err("the list of clusters is not complete yet".to_owned()));
    }
    let Some(cluster) = context.cluster(&key(queue)) else { return Ok(Ok(())) };
    let namespace = queue.namespace().unwrap_or_default();
    if cluster.metadata.deletion_timestamp.is_some() || context.is_ending(&namespace).await {
        return Ok(Ok(())); // The cluster that holds the topic is being deleted.
    }
    let owner = queue.uid().unwrap_or_default();
    let topic = segment(queue.topic());
    let path = format!("/v1/queues/{topic}?owner={owner}&data=delete");
    let deleted = context.brokers.delete::<Value>(&Target::of(&cluster), &path).await;
    Ok(match deleted {
        Ok(_) => Ok(()),
        // Another owner's topic, which is not deleted.
        Err(error) if error.is_refused("NameCollision") => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

fn waited(queue: &Queue) -> Duration {
    let since = queue.metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second());
    let seconds = since.map_or(0, |since| Timestamp::now().as_second() - since);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
