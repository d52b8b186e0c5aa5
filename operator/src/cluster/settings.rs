//! Sends the settings of the spec to running brokers.

use std::collections::BTreeMap;

use ropewalk_operator_plan::cluster::observed::AnswerSettings;
use ropewalk_operator_plan::cluster::verdict::{Concern, Problem};
use ropewalk_operator_plan::cluster::{Observed, ValidCluster, properties};
use serde_json::json;

use crate::admin::{CallError, Target};
use crate::cluster_key::ClusterKey;
use crate::context::Context;

/// Result of sending settings to all brokers.
#[derive(Debug, Default)]
pub(super) struct SettingsReport {
    /// The settings state of each broker that answered, by broker id.
    pub(super) settings: BTreeMap<i32, AnswerSettings>,
    /// Ids of the brokers that refused their settings.
    pub(super) refused: Vec<i32>,
    /// Failures, each to be reported as a condition.
    pub(super) problems: Vec<Problem>,
}

/// A broker's answer to new settings.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SettingsOutcome {
    applied: Vec<String>,
    needs_restart: Vec<String>,
}

/// Sends brokers their settings as soon as they answer, ready or not: a broker with a full volume
/// needs a shorter retention. Sent once for each start of a broker and each change.
pub(super) async fn push(
    context: &Context,
    valid: &ValidCluster,
    observed: &Observed,
) -> SettingsReport {
    let mut report = SettingsReport::default();
    for broker in &valid.brokers {
        let Some(answer) = observed.answers.get(&broker.id) else { continue };
        let cluster = ClusterKey::new(valid.namespace.clone(), valid.name.clone());
        let target = Target { cluster, broker: broker.id };
        let sent_hash = context.settings_log.recall(&target, answer.started_at_ms);
        let known = AnswerSettings { sent_hash, ..answer.settings.clone() };
        let settings = properties::settings(valid, broker);
        let hash = properties::hash(&settings);
        if known.are(&hash) {
            report.settings.insert(broker.id, known);
            continue;
        }
        let body = json!({ "settings": settings });
        let now_known =
            match context.brokers.put::<SettingsOutcome>(&target, "/v1/settings", &body).await {
                Ok(outcome) => {
                    if !outcome.applied.is_empty() {
                        let settings = outcome.applied;
                        tracing::info!(broker = broker.id, ?settings, "settings applied");
                    }
                    let needs_restart = outcome.needs_restart;
                    context.settings_log.remember(target, answer.started_at_ms, hash.clone());
                    AnswerSettings { needs_restart, last_hash: Some(hash), ..known }
                }
                // The broker is recovering its log and accepts settings afterwards.
                Err(error) if error.is_refused("NotReady") => known,
                Err(error) => {
                    if error.is_refused("InvalidSetting") {
                        report.refused.push(broker.id);
                    }
                    report.problems.push(problem(&error));
                    known
                }
            };
        report.settings.insert(broker.id, now_known);
    }
    report
}

/// The condition for settings that were not accepted, with the action for the user.
fn problem(error: &CallError) -> Problem {
    let refused = error.refused();
    let message = if matches!(error, CallError::Refused { .. }) {
        format!("{}; correct `spec.config`", refused.message)
    } else {
        refused.message
    };
    Problem { reason: refused.reason, message, concerns: Concern::Configuration }
}
