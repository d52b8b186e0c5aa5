//! Hibernation of a cluster: brokers run until the cluster's consumers are at their minimum, for
//! one minute at most.
//!
//! Consumers without brokers would only fail and be restarted.

use std::time::{Duration, Instant};

use kube::runtime::events::EventType;
use ropewalk_operator_api::BrokerCluster;
use ropewalk_operator_api::cluster::RunState;
use ropewalk_operator_plan::cluster::{Observed, ValidCluster};

use super::key;
use crate::context::{Context, EventReason};

/// Interval of checking the consumers.
pub(super) const RECHECK: Duration = Duration::from_secs(2);

/// The consumers that the cluster waits for before its pods stop, as last reported by scaling;
/// `None` if it waits for nothing. Also registers the cluster in the shared table of hibernations,
/// or removes it.
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

/// Writes an Event that names the awaited consumers.
pub(super) async fn report(context: &Context, valid: &ValidCluster) {
    let Some(up) = valid.awaited_consumers.as_ref().filter(|up| !up.is_empty()) else { return };
    let note = format!("waits until {} are at their minimum", up.join(", "));
    let reason = EventReason { reason: "ConsumersFirst", action: "Hibernate" };
    context.publish_event(&valid.reference, EventType::Normal, reason, note).await;
}
