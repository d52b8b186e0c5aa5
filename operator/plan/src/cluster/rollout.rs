//! Decides which broker may be restarted now, and why the others may not.
//!
//! A broker has to restart when its pod was created from another template, or when it reports
//! settings that need a restart.
//!
//! - **K2** one broker at a time: while another broker is not ready, none is restarted.
//! - **K4** no broker is stopped while its volume would be lost with its pod, or while it recovers.
//! - No broker is stopped while its new pod could not start, because a Secret is missing.
//! - **K5** only a request of the user restarts a broker. If the intent that the pod was started
//!   with is the present one, the difference comes from the operator's release; it is shown in a
//!   condition and waits.
//! - The user's intent is compared with the intent at the last write of the template, not with the
//!   running pod: a request that failed can be taken back.
//! - An intent is recorded as done only on proof: the pod has the newest template, and the broker
//!   has reported which of exactly these settings need a restart.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use ropewalk_operator_api::cluster::RolloutStrategy;
use ropewalk_operator_api::names;

use super::observed::{is_ready, is_running, keeps_ending};
use super::properties::FORMAT_KEY;
use super::validate::Intent;
use super::{Broker, Observed, ValidCluster, applied, pod, properties, volume};
use crate::intent;

/// The decision for one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The broker runs the wanted template and settings.
    Settled,
    /// The same, but the recorded intent is old: every change took effect without a restart.
    Record,
    /// Whether the broker runs the wanted template and settings is not known yet.
    Unconfirmed {
        /// Which report is missing.
        reason: String,
    },
    /// The pod may be restarted now.
    Restart {
        /// The changes that need the restart.
        reason: String,
    },
    /// The broker has to restart, and must not yet.
    Wait {
        /// The changes that need the restart.
        reason: String,
        /// What the restart waits for.
        cause: Cause,
    },
    /// This operator would build the pod differently; the user has not requested it.
    Offer {
        /// The differences of the pod.
        reason: String,
    },
}

/// What a restart waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another broker that is not ready.
    OtherBroker(i32),
    /// The approval of the user: the annotation has to have this value.
    Approval(String),
    /// Its volume would be lost: why, and how to rescue it.
    Volume(volume::Threat, String),
    /// Its recovery would have to begin again.
    Recovery,
    /// Its admin API does not answer while the process runs, so that its state is unknown.
    Answer,
    /// A Secret or ConfigMap without which its new pod would not start.
    Input(String),
}

/// A change that only a restart brings about.
struct Difference {
    what: String,
    /// Whether the user requested it since the last restart.
    is_asked: bool,
}

/// Decides for every broker, in the order of their ids. At most one decision is
/// [`Decision::Restart`].
///
/// `refused`: ids of brokers that refused their settings; they are not restarted.
#[must_use]
pub fn decide(valid: &ValidCluster, observed: &Observed, refused: &[i32]) -> Vec<(i32, Decision)> {
    let not_ready = |id: i32| !observed.pods.get(&id).is_some_and(is_ready);
    let mut order: Vec<&Broker> = valid.brokers.iter().collect();
    // A broker that does not serve comes first: its restart costs least.
    order.sort_by_key(|broker| (!not_ready(broker.id), broker.id));
    let mut taken = None;
    let mut decisions = Vec::new();
    for broker in order {
        let differences = differences(valid, observed, broker);
        let reason = differences.iter().map(|one| one.what.as_str()).collect::<Vec<_>>().join("; ");
        let decision = if differences.iter().any(|difference| difference.is_asked) {
            let other = valid.brokers.iter().map(|other| other.id).find(|id| {
                *id != broker.id && (Some(*id) == taken || (valid.running && not_ready(*id)))
            });
            match forbidden(valid, observed, broker.id) {
                Some(cause) => Decision::Wait { reason, cause },
                None => judge(valid, reason, other),
            }
        } else if let Some(old) = recorded(observed, broker.id).filter(|old| *old != valid.intent) {
            confirm(valid, observed, broker, &old)
        } else if differences.is_empty() {
            Decision::Settled
        } else {
            Decision::Offer { reason }
        };
        if matches!(decision, Decision::Restart { .. }) {
            taken = Some(broker.id);
        }
        decisions.push((broker.id, decision));
    }
    for (_, decision) in decisions.iter_mut().filter(|(id, _)| refused.contains(id)) {
        *decision = Decision::Settled;
    }
    decisions.sort_by_key(|(id, _)| *id);
    decisions
}

/// Why a broker must not be stopped now, even on request.
fn forbidden(valid: &ValidCluster, observed: &Observed, id: i32) -> Option<Cause> {
    let pod = observed.pods.get(&id)?;
    if let Some(threat) = volume::threat(observed, id) {
        let words = volume::rescue(observed, &valid.name, id).unwrap_or_default();
        return Some(Cause::Volume(threat, words));
    }
    if let Some(missing) = &observed.missing_input {
        return Some(Cause::Input(missing.clone()));
    }
    // A broker in a crash loop needs the change that waits.
    if !valid.running || !is_running(pod) || keeps_ending(observed, pod) {
        return None;
    }
    match observed.answers.get(&id) {
        Some(answer) if !answer.recovery.done => Some(Cause::Recovery),
        Some(_) => None,
        None => Some(Cause::Answer),
    }
}

/// Without a reason for a restart: checks for proof that none is needed.
fn confirm(
    valid: &ValidCluster,
    observed: &Observed,
    broker: &Broker,
    recorded: &Intent,
) -> Decision {
    let (set, pod) = (observed.stateful_sets.get(&broker.id), observed.pods.get(&broker.id));
    if !valid.running {
        // The next start reads the current template and is checked then.
        return Decision::Settled;
    }
    if set.is_none_or(|set| template_of(set, pod) != TemplateOf::Newest) {
        let reason = "it is not known yet whether the pod has the newest template".to_owned();
        return Decision::Unconfirmed { reason };
    }
    let hash = properties::hash(&properties::settings(valid, broker));
    let answer = observed.answers.get(&broker.id);
    let knows = answer.is_some_and(|answer| answer.settings.are(&hash));
    if recorded.config != valid.intent.config && !knows {
        let reason =
            "the broker has not said yet whether the new settings need a restart".to_owned();
        return Decision::Unconfirmed { reason };
    }
    Decision::Record
}

fn judge(valid: &ValidCluster, reason: String, other: Option<i32>) -> Decision {
    let token = valid.intent.to_string();
    let approved = valid.approved_restart.as_ref() == Some(&token);
    let is_supervised = valid.rollout.strategy == RolloutStrategy::Supervised;
    if is_supervised && !approved && valid.running {
        return Decision::Wait { reason, cause: Cause::Approval(token) };
    }
    match other {
        Some(id) => Decision::Wait { reason, cause: Cause::OtherBroker(id) },
        None => Decision::Restart { reason },
    }
}

/// The intent of the user with which the pod is known to run.
fn recorded(observed: &Observed, id: i32) -> Option<Intent> {
    let set = observed.stateful_sets.get(&id)?;
    Intent::parse(set.annotations().get(names::ANNOTATION_INTENT)?)
}

/// The intent of the user at the last write of the pod template. A restart into that template may
/// have failed, so it can differ from [`recorded`]; taking the request back is a request as well.
fn attempted(observed: &Observed, id: i32) -> Option<Intent> {
    let set = observed.stateful_sets.get(&id)?;
    let said = set.annotations().get(names::ANNOTATION_TEMPLATE_INTENT);
    said.and_then(|said| Intent::parse(said)).or_else(|| recorded(observed, id))
}

/// The template revision that a pod was created from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TemplateOf {
    Newest,
    Older,
    /// Kubernetes has not observed the newest template yet, or there is no pod.
    Unknown,
}

fn template_of(set: &StatefulSet, pod: Option<&Pod>) -> TemplateOf {
    let status = set.status.as_ref();
    let is_seen =
        status.is_some_and(|status| status.observed_generation == set.metadata.generation);
    let newest = status.and_then(|status| status.update_revision.as_ref());
    let has = pod.and_then(|pod| pod.labels().get("controller-revision-hash"));
    match (newest, has) {
        (Some(newest), Some(has)) if is_seen && newest == has => TemplateOf::Newest,
        (Some(_), Some(_)) if is_seen => TemplateOf::Older,
        (Some(_) | None, Some(_) | None) => TemplateOf::Unknown,
    }
}

/// The changes that a restart of a broker would bring about.
fn differences(valid: &ValidCluster, observed: &Observed, broker: &Broker) -> Vec<Difference> {
    let Some(set) = observed.stateful_sets.get(&broker.id) else { return Vec::new() };
    let (recorded, attempted) = (recorded(observed, broker.id), attempted(observed, broker.id));
    let mut differences = Vec::new();
    let wanted = intent::hash(&pod::template(valid, broker));
    if set.annotations().get(names::ANNOTATION_TEMPLATE) != Some(&wanted) {
        let what = match applied::image(set) {
            Some(image) if image != broker.image => {
                format!("the image changes from {image} to {}", broker.image)
            }
            Some(_) | None => "the pod template has changed".to_owned(),
        };
        let is_asked = attempted.as_ref().is_some_and(|old| old.pod != valid.intent.pod);
        differences.push(Difference { what, is_asked });
    } else if template_of(set, observed.pods.get(&broker.id)) == TemplateOf::Older {
        // A restart has begun and the old pod still exists.
        let is_asked = recorded.as_ref().is_some_and(|old| *old != valid.intent);
        let what = "the pod still runs the template before".to_owned();
        differences.push(Difference { what, is_asked });
    }
    if valid.running && volume::needs_remount(observed, broker.id) {
        let claim = names::volume_claim(&valid.name, broker.id);
        let what = format!("the file system of the volume {claim} grows when it is mounted again");
        differences.push(Difference { what, is_asked: true });
    }
    let answer = observed.answers.get(&broker.id);
    let waiting = answer.into_iter().flat_map(|answer| &answer.settings.needs_restart);
    let waiting: Vec<&str> = waiting.map(String::as_str).filter(|key| *key != FORMAT_KEY).collect();
    if !waiting.is_empty() {
        let what = format!("these settings take effect after a restart: {}", waiting.join(", "));
        let is_other = |old: &Intent| old.config != valid.intent.config;
        let is_new = recorded.iter().chain(&attempted).any(is_other);
        let is_users = waiting.iter().any(|key| !properties::is_operators(valid, broker, key));
        differences.push(Difference { what, is_asked: is_new && is_users });
    }
    differences
}

#[cfg(test)]
mod tests;
