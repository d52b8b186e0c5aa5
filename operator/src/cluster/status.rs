//! The last step of a reconcile: writes the status and the Events that result from it.

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use ropewalk_operator_api::{BrokerCluster, BrokerClusterStatus, condition, names};
use ropewalk_operator_plan::cluster::ValidCluster;
use ropewalk_operator_plan::cluster::verdict::is_warning;
use serde_json::json;

use super::MANAGER;
use crate::apply;
use crate::context::{Context, EventReason};
use crate::watch::Failure;

/// Writes the status if it changed, and Events for changed readiness and new critical conditions.
pub(super) async fn write(
    context: &Context,
    api: &Api<BrokerCluster>,
    valid: &ValidCluster,
    status: &BrokerClusterStatus,
) -> Result<(), Failure> {
    if valid.status.as_ref() == Some(status) {
        return Ok(());
    }
    apply::status(api, MANAGER, &valid.reference, status).await?;
    context.metrics.wrote("cluster status");
    let before = valid.conditions_before();
    context.publish_readiness_event(&valid.reference, before, &status.conditions).await;
    for alarm in status.conditions.iter().filter(|condition| is_warning(condition)) {
        let old = condition::find(before, &alarm.type_);
        if old.is_none_or(|old| !is_warning(old) || old.reason != alarm.reason) {
            let reason = EventReason { reason: alarm.reason.as_str(), action: "Observe" };
            let note = alarm.message.clone();
            context.publish_event(&valid.reference, EventType::Warning, reason, note).await;
        }
    }
    Ok(())
}

/// Removes the annotation by which the user accepted a data loss, once the broker is ready again:
/// another loss needs another acceptance. An acceptance that was used before and was set again by a
/// deployment tool has no effect, and stays.
pub(super) async fn end_acceptance(
    api: &Api<BrokerCluster>,
    valid: &ValidCluster,
    status: &BrokerClusterStatus,
) -> Result<(), Failure> {
    if !valid.is_managed() || !condition::is_true(&status.conditions, condition::READY) {
        return Ok(());
    }
    let mut used = valid.brokers_before().filter_map(|broker| broker.accepted_loss.as_ref());
    let value = valid.accepted_loss.as_ref();
    if value.is_some_and(|value| !used.any(|used| used == value)) {
        let patch =
            json!({"metadata": {"annotations": {names::ANNOTATION_ACCEPT_DATA_LOSS: null}}});
        api.patch(&valid.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(())
}
