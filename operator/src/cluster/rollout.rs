//! Carries out what the rollout decided: records an intent that took effect, or restarts a broker.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, Patch, PatchParams};
use ropewalk_operator_api::names;
use ropewalk_operator_plan::cluster::ValidCluster;
use ropewalk_operator_plan::cluster::children::Children;
use ropewalk_operator_plan::cluster::rollout::Decision;
use ropewalk_operator_plan::cluster::verdict::{Concern, Problem};
use serde_json::json;

use super::MANAGER;
use super::converge::problem;
use super::restart::{self, RestartOutcome};
use crate::context::Context;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct RolloutReport {
    /// Brokers that were restarted, by id.
    pub(super) restarted: Vec<i32>,
    /// What went wrong.
    pub(super) problems: Vec<Problem>,
}

/// Carries out the decisions.
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
                match restart::restart(context, valid, (*id, set), reason).await {
                    Ok(RestartOutcome::Restarted) => report.restarted.push(*id),
                    Ok(RestartOutcome::Outdated) => {}
                    Ok(RestartOutcome::Refused(words)) => {
                        let message = format!(
                            "broker {id} has to restart, and Kubernetes refuses to evict its pod: {words}; it is tried again"
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

/// Records on the StatefulSet that what the user asked is in effect.
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
