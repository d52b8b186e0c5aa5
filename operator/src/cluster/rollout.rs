//! Carries out the decisions of the rollout: records an intent that took effect, or restarts a
//! broker.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, Patch, PatchParams};
use ropewalk_operator_api::names;
use ropewalk_operator_plan::cluster::ValidCluster;
use ropewalk_operator_plan::cluster::children::{Children, next_config_map};
use ropewalk_operator_plan::cluster::rollout::Decision;
use ropewalk_operator_plan::cluster::verdict::{Concern, Problem};
use serde_json::json;

use super::MANAGER;
use super::converge::problem;
use super::restart::{self, RestartOutcome, RestartTarget};
use crate::context::Context;

/// Result of carrying out the decisions.
#[derive(Debug, Default)]
pub(super) struct RolloutReport {
    /// Brokers that were restarted, by id.
    pub(super) restarted: Vec<i32>,
    /// Failures, each to be reported as a condition.
    pub(super) problems: Vec<Problem>,
}

/// Carries out the decisions in their order; a failure does not stop the later ones.
pub(super) async fn carry_out(
    context: &Context,
    valid: &ValidCluster,
    children: &Children,
    decisions: &[(i32, Decision)],
) -> RolloutReport {
    let mut report = RolloutReport::default();
    for (id, decision) in decisions {
        match decision {
            Decision::Settled
            | Decision::Unconfirmed { .. }
            | Decision::Wait { .. }
            | Decision::Offer { .. } => {}
            Decision::Record => report.problems.extend(record(context, valid, *id).await),
            Decision::Restart { reason } => {
                let Some(set) = children.stateful_sets.get(id) else { continue };
                let broker = valid.brokers.iter().find(|broker| broker.id == *id);
                let map = broker.and_then(|broker| next_config_map(valid, broker));
                let config_map = map.as_ref();
                let target = RestartTarget { broker: *id, stateful_set: set, config_map };
                match restart::restart(context, valid, target, reason).await {
                    Ok(RestartOutcome::Restarted) => report.restarted.push(*id),
                    Ok(RestartOutcome::Outdated) => {}
                    Ok(RestartOutcome::Refused(refusal)) => {
                        let message = format!(
                            "broker {id} has to restart, and Kubernetes refuses to evict its pod: {refusal}; it is retried"
                        );
                        let (reason, concerns) = ("EvictionRefused", Concern::Other);
                        report.problems.push(Problem { reason, message, concerns });
                    }
                    Err(error) => {
                        let message = format!("broker {id} could not be restarted: {error}");
                        let (reason, concerns) = ("RestartFailed", Concern::Other);
                        report.problems.push(Problem { reason, message, concerns });
                    }
                }
            }
        }
    }
    report
}

/// Records in the annotations of the StatefulSet that the intent of the user is in effect.
async fn record(context: &Context, valid: &ValidCluster, id: i32) -> Option<Problem> {
    let intent = valid.intent.to_string();
    let annotations = json!({
        names::ANNOTATION_INTENT: intent,
        names::ANNOTATION_TEMPLATE_INTENT: intent,
    });
    let patch = json!({"metadata": {"annotations": annotations}});
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &valid.namespace);
    let parameters =
        PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let name = names::broker(&valid.name, id);
    match sets.patch(&name, &parameters, &Patch::Merge(patch)).await {
        Ok(_) => {
            context.metrics.wrote("cluster child");
            None
        }
        Err(error) => Some(problem(&format!("the StatefulSet {name}"), &error, Concern::Other)),
    }
}
