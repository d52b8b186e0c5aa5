//! Finds the cluster of a Queue, or creates the default cluster.
//!
//! # Invariants
//!
//! - `default` is created, never applied over an existing one, once a Queue that names no cluster
//!   is 5 s old and was never in a cluster. Only a user deletes it.
//! - A Queue whose cluster is gone gets a condition, never a new empty cluster. No cluster is
//!   created for another Queue of the namespace either, as long as any Queue was in `default`.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::ObjectMeta;
use kube::runtime::events::EventType;
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::{BrokerCluster, Queue, names};
use ropewalk_operator_plan::queue::{ClusterState, Refusal};

use super::{Clusters, key, present};
use crate::context::{Context, EventReason};
use crate::watch::Failure;

/// Minimum age of a Queue before a cluster is created for it: a user who applies several files may
/// create the cluster as well.
const AGE_MIN: Duration = Duration::from_secs(5);

/// Result of looking up the cluster of a Queue.
#[derive(Debug)]
pub(super) enum ClusterResolution {
    /// The cluster exists and is not being deleted.
    Found(Box<BrokerCluster>),
    /// There is none, and the user has to act.
    Missing(Refusal),
    /// There is none yet: check again after this time.
    Pending(Duration),
}

impl ClusterResolution {
    pub(super) fn cluster_state(&self) -> ClusterState {
        match self {
            Self::Found(cluster) => present(cluster),
            Self::Missing(refused) => ClusterState::Missing(refused.clone()),
            Self::Pending(_) => ClusterState::Missing(Refusal {
                reason: "ClusterPending",
                message: format!(
                    "there is no BrokerCluster `{}`; it is being created",
                    names::DEFAULT_CLUSTER
                ),
            }),
        }
    }
}

/// Finds the cluster of a Queue, and creates `default` if the Queue names none.
pub(super) async fn resolve(
    context: &Context,
    clusters: &Clusters,
    queue: &Queue,
) -> Result<ClusterResolution, Failure> {
    let key = key(queue);
    // In a store that is not complete yet every cluster would look missing.
    if clusters.wait_until_ready().await.is_err() {
        return Ok(ClusterResolution::Pending(AGE_MIN));
    }
    if let Some(cluster) = context.cluster(&key) {
        if cluster.metadata.deletion_timestamp.is_some() {
            let message = format!("the BrokerCluster `{}` is being deleted", key.name);
            return Ok(ClusterResolution::Missing(Refusal { reason: "ClusterDeleting", message }));
        }
        return Ok(ClusterResolution::Found(Box::new(cluster)));
    }
    let was_in_one = queue.status.as_ref().is_some_and(|status| status.cluster_name.is_some());
    if queue.spec.cluster_ref.is_some() || was_in_one {
        let message = if was_in_one {
            format!(
                "the BrokerCluster `{0}` that held this queue is gone. Its volumes are kept unless `deletionPolicy` said Delete: create a BrokerCluster `{0}` again to get the data back",
                key.name
            )
        } else {
            format!("there is no BrokerCluster `{}` in this namespace: create it", key.name)
        };
        return Ok(ClusterResolution::Missing(Refusal { reason: "ClusterNotFound", message }));
    }
    let age = age(queue);
    if age < AGE_MIN {
        return Ok(ClusterResolution::Pending(AGE_MIN - age));
    }
    if let Some(other) = queue_that_was_in_default(context, queue).await? {
        let message = format!(
            "the BrokerCluster `{0}` is gone, and the Queue {other} was in it. Its volumes are kept unless `deletionPolicy` said Delete: create a BrokerCluster `{0}` again to get the data back, also for this Queue",
            key.name
        );
        return Ok(ClusterResolution::Missing(Refusal { reason: "ClusterNotFound", message }));
    }
    make_default(context, queue).await?;
    Ok(ClusterResolution::Pending(Duration::from_secs(2)))
}

/// A Queue of the namespace that was in the cluster `default`, by a live read that also covers
/// Queues that this release cannot deserialize.
async fn queue_that_was_in_default(
    context: &Context,
    queue: &Queue,
) -> Result<Option<String>, Failure> {
    let namespace = queue.namespace().unwrap_or_default();
    let kind = ApiResource::erase::<Queue>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &kind);
    let listed = api.list(&ListParams::default()).await?;
    let was_in_default = |other: &&DynamicObject| {
        let name = other.data.pointer("/status/clusterName").and_then(serde_json::Value::as_str);
        name == Some(names::DEFAULT_CLUSTER)
    };
    Ok(listed.items.iter().find(was_in_default).map(kube::ResourceExt::name_any))
}

fn age(queue: &Queue) -> Duration {
    let created = queue.creation_timestamp().map_or_else(Timestamp::now, |time| time.0);
    let seconds = Timestamp::now().as_second().saturating_sub(created.as_second());
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

async fn make_default(context: &Context, queue: &Queue) -> Result<(), Failure> {
    let namespace = queue.namespace().unwrap_or_default();
    let api: Api<BrokerCluster> = Api::namespaced(context.client.clone(), &namespace);
    let label = (names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned());
    let annotation = (names::ANNOTATION_MADE_FOR.to_owned(), queue.name_any());
    let mut cluster = BrokerCluster::new(names::DEFAULT_CLUSTER, context.default_cluster.clone());
    cluster.metadata = ObjectMeta {
        name: Some(names::DEFAULT_CLUSTER.to_owned()),
        labels: Some([label].into()),
        annotations: Some([annotation].into()),
        ..ObjectMeta::default()
    };
    context.leadership.check()?;
    match api.create(&PostParams::default(), &cluster).await {
        Ok(_) => {
            tracing::info!(kind = %BrokerCluster::kind(&()), namespace, "default cluster created");
            context.metrics.wrote("default cluster");
            let note = format!(
                "created the BrokerCluster `{}`, because this Queue names none",
                names::DEFAULT_CLUSTER
            );
            let reason = EventReason { reason: "ClusterCreated", action: "Create" };
            context.publish_event(&queue.object_ref(&()), EventType::Normal, reason, note).await;
            Ok(())
        }
        // Another client created it meanwhile, which is fine.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
