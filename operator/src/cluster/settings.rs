//! Brings the settings of the spec to brokers while they run.

use std::collections::BTreeMap;

use ropewalk_operator_plan::cluster::observed::AnswerSettings;
use ropewalk_operator_plan::cluster::verdict::{Concern, Problem};
use ropewalk_operator_plan::cluster::{Observed, ValidCluster, properties};
use serde_json::json;

use crate::admin::{CallError, Target};
use crate::cluster_key::ClusterKey;
use crate::context::Context;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct SettingsReport {
    /// What each broker that answers says of its settings now, by broker id.
    pub(super) settings: BTreeMap<i32, AnswerSettings>,
    /// Brokers that refused their settings.
    pub(super) refused: Vec<i32>,
    /// What went wrong.
    pub(super) problems: Vec<Problem>,
}

/// A broker's answer to new settings.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SettingsOutcome {
    applied: Vec<String>,
    needs_restart: Vec<String>,
}

/// Sends brokers their settings as soon as they answer, ready or not: a shorter retention is what a full
/// one needs. Sent once for each start of a broker and each change.
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
        let told_hash = context.settings_log.recall(&target, answer.started_at_ms);
        let known = AnswerSettings { told_hash, ..answer.settings.clone() };
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
                // It reads its log, and answers when that is done.
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

/// Why settings were not taken, in words that say what to do.
fn problem(error: &CallError) -> Problem {
    let refused = error.refused();
    let message = if matches!(error, CallError::Refused { .. }) {
        format!("{}; correct `spec.config`", refused.message)
    } else {
        refused.message
    };
    Problem { reason: refused.reason, message, concerns: Concern::Configuration }
}
