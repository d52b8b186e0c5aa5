//! The end of a cluster.
//!
//! Everything it owns is collected by Kubernetes. Volumes are owned by nobody; under
//! `deletionPolicy: Delete` they are deleted here, and only then is there a finalizer to wait for.
//!
//! # Invariants
//!
//! - **K4** the policy is that of this moment: a cluster that was set to Retain while it is being
//!   deleted keeps its data.
//! - It ends whatever state the brokers are in: no broker is asked.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::controller::Action;
use ropewalk_operator_api::{BrokerCluster, DeletionPolicy};

use super::{Work, selector};
use crate::finalizer;
use crate::signals::ClusterKey;
use crate::watch::Failure;

pub(super) async fn remove(
    work: &Work,
    api: &Api<BrokerCluster>,
    cluster: &BrokerCluster,
) -> Result<Action, Failure> {
    let namespace = cluster.namespace().unwrap_or_default();
    work.context.brokers.forget(&ClusterKey::new(namespace.clone(), cluster.name_any()));
    if !finalizer::is_on(cluster) {
        return Ok(Action::await_change());
    }
    if cluster.spec.deletion_policy == DeletionPolicy::Delete {
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(work.context.client.clone(), &namespace);
        let parameters = ListParams::default().labels(&selector(cluster));
        for claim in claims.list_metadata(&parameters).await?.items {
            if claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            work.context.leadership.check()?;
            // Kubernetes keeps it until the pod that uses it is gone.
            match claims.delete(&claim.name_any(), &DeleteParams::default()).await {
                Ok(_) => work.context.metrics.wrote("volume deletion"),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    finalizer::keep(api, cluster, false).await?;
    Ok(Action::await_change())
}
