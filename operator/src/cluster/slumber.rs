//! Consumers first: a cluster that is to sleep works on until its consumers are at their minimum.
//!
//! Without brokers they would only fail and be started again. They are waited for a minute at most.

use std::time::{Duration, Instant};

use kube::runtime::events::EventType;
use ropewalk_operator_api::BrokerCluster;
use ropewalk_operator_api::cluster::RunState;
use ropewalk_operator_plan::cluster::Observed;

use super::key;
use crate::context::Context;

/// How often it is looked whether they are there.
pub(super) const RECHECK: Duration = Duration::from_secs(2);

/// The cluster as it is to be for now, if its consumers are waited for.
pub(super) async fn awaited(
    context: &Context,
    cluster: &BrokerCluster,
    observed: &Observed,
) -> Option<BrokerCluster> {
    let key = key(cluster);
    if cluster.spec.run_state != RunState::Hibernated {
        context.slumber.end(&key);
        return None;
    }
    let now = Instant::now();
    context.slumber.begin(&key, now);
    if observed.pods.is_empty() {
        return None;
    }
    let up = context.slumber.awaits(&key, now)?;
    if !up.is_empty() {
        let note = format!("waits until {} are at their minimum", up.join(", "));
        context.tell(cluster, EventType::Normal, ("ConsumersFirst", "Hibernate"), note).await;
    }
    let mut awake = cluster.clone();
    awake.spec.run_state = RunState::Running;
    Some(awake)
}
