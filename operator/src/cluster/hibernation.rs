//! Consumers first: a cluster that is to hibernate runs on until its consumers are at their minimum.
//!
//! Without brokers they would only fail and be started again. They are waited for a minute at most.

use std::time::{Duration, Instant};

use kube::runtime::events::EventType;
use ropewalk_operator_api::BrokerCluster;
use ropewalk_operator_api::cluster::RunState;
use ropewalk_operator_plan::cluster::{Observed, ValidCluster};

use super::key;
use crate::context::Context;

/// How often the consumers are checked.
pub(super) const RECHECK: Duration = Duration::from_secs(2);

/// The consumers that the cluster waits for before its pods stop, as far as scaling has reported; `None` if
/// it waits for nothing. Registers the cluster with scaling, or takes it off again.
pub(super) fn awaited_consumers(
    context: &Context,
    cluster: &BrokerCluster,
    observed: &Observed,
) -> Option<Vec<String>> {
    let key = key(cluster);
    if cluster.spec.run_state != RunState::Hibernated {
        context.hibernations.end(&key);
        return None;
    }
    let now = Instant::now();
    context.hibernations.begin(&key, now);
    if observed.pods.is_empty() {
        return None;
    }
    context.hibernations.awaits(&key, now)
}

/// An Event that names the consumers that are awaited.
pub(super) async fn report(context: &Context, valid: &ValidCluster) {
    let Some(up) = valid.awaited_consumers.as_ref().filter(|up| !up.is_empty()) else { return };
    let note = format!("waits until {} are at their minimum", up.join(", "));
    let words = ("ConsumersFirst", "Hibernate");
    context.tell(&valid.reference, EventType::Normal, words, note).await;
}
