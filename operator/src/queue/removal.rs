//! The end of a Queue under `deletionPolicy: Delete`. Without that there is no finalizer, and nothing
//! to wait for.
//!
//! # Invariants
//!
//! - **K4** it always ends: at once when the cluster is gone or going, and after [`PATIENCE`] when the
//!   brokers cannot be reached. What stays behind then is said in an Event.
//! - The policy is that of this moment. Only a topic that this very Queue owns is deleted.

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
use crate::context::Context;
use crate::finalizer;
use crate::watch::Failure;

/// Brokers that cannot be reached are waited for so long.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often they are tried.
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
            tracing::warn!(why, "the topic cannot be deleted yet");
            return Ok(Action::requeue(PAUSE));
        }
        let note = format!("the topic {} was not deleted and stays: {why}", queue.topic());
        let words = ("TopicLeftBehind", "Delete");
        context.tell(&queue.object_ref(&()), EventType::Warning, words, note).await;
    }
    finalizer::keep(api, queue, false).await?;
    Ok(Action::await_change())
}

/// Deletes the topic; `Err` with the reason when that may still succeed.
async fn delete_topic(
    context: &Context,
    clusters: &Clusters,
    queue: &Queue,
) -> Result<Result<(), String>, Failure> {
    if clusters.wait_until_ready().await.is_err() {
        return Ok(Err("the clusters are not known yet".to_owned()));
    }
    let Some(cluster) = context.cluster(&key(queue)) else { return Ok(Ok(())) };
    let namespace = queue.namespace().unwrap_or_default();
    if cluster.metadata.deletion_timestamp.is_some() || context.is_ending(&namespace).await {
        return Ok(Ok(())); // What holds the topic is going too.
    }
    let owner = queue.uid().unwrap_or_default();
    let topic = segment(queue.topic());
    let path = format!("/v1/queues/{topic}?owner={owner}&data=delete");
    let deleted = context.brokers.delete::<Value>(&Target::of(&cluster), &path).await;
    Ok(match deleted {
        Ok(_) => Ok(()),
        // Somebody else's: it was never ours to delete.
        Err(error) if error.is_refused("NameCollision") => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

fn waited(queue: &Queue) -> Duration {
    let since = queue.metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second());
    let seconds = since.map_or(0, |since| Timestamp::now().as_second() - since);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
