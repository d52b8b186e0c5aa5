//! Why a broker does not serve, and the remedy.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use ropewalk_operator_api::condition::{Finding, cluster as kind};
use ropewalk_operator_api::{names, size};

use super::Facts;
use crate::cluster::observed::{container_of, pod_condition as condition_of, restore_container};
use crate::cluster::validate::acceptance;
use crate::cluster::volume::{self, claimed};

/// Exit code of a broker whose data directory is empty and must not be.
const EXIT_DATA_LOST: i32 = 7;

/// A failure of one step of a reconcile. The other steps continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The cause in one CamelCase word, for programs.
    pub reason: &'static str,
    /// The cause and the remedy, for people.
    pub message: String,
    /// The part of the cluster that fails.
    pub concerns: Concern,
}

/// The part of the cluster that a problem concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// An object that exists twice or belongs to another owner: the cluster cannot work until it is
    /// removed.
    Existence,
    /// The volumes of the brokers.
    Storage,
    /// The settings of running brokers.
    Configuration,
    /// Any other part; the operator tries again.
    Other,
}

impl Problem {
    /// Whether no broker can serve because of it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.concerns == Concern::Existence
    }
}

impl Facts<'_> {
    /// Reason and message for a broker that does not serve.
    pub(super) fn trouble(&self, id: i32) -> (&'static str, String) {
        if let Some(message) = self.lost(id) {
            return ("DataLost", message);
        }
        // A pod whose volume is missing is also unschedulable: the volume is the cause to report.
        self.claim_trouble(id)
            .or_else(|| self.pod_trouble(id))
            .or_else(|| self.problem_trouble())
            .unwrap_or_else(|| ("Starting", format!("broker {id} is starting")))
    }

    fn problem_trouble(&self) -> Option<(&'static str, String)> {
        self.problems.first().map(|problem| (problem.reason, problem.message.clone()))
    }

    fn pod_trouble(&self, id: i32) -> Option<(&'static str, String)> {
        let Some(pod) = self.observed.pods.get(&id) else {
            let set = names::broker(&self.valid.name, id);
            return self.observed.warning(&set).map(|warning| {
                let (reason, advice) = not_created(warning);
                (reason, format!("the pod of broker {id} cannot be made: {warning}{advice}"))
            });
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return Some(match self.node_lost(id) {
                Some(message) => ("NodeUnreachable", message),
                None => ("Stopping", format!("the pod of broker {id} is stopping")),
            });
        }
        scheduling(pod, id)
            .or_else(|| waiting(pod, id))
            .or_else(|| self.mounting(pod, id))
            .or_else(|| self.restore_trouble(id))
            .or_else(|| {
                let reasons = &self.observed.answers.get(&id)?.reasons;
                let message = format!("broker {id} does not serve yet: {}", reasons.join("; "));
                (!reasons.is_empty()).then_some(("BrokerNotReady", message))
            })
    }

    /// Attach and mount failures are visible only in Events.
    fn mounting(&self, pod: &Pod, id: i32) -> Option<(&'static str, String)> {
        let name = pod.metadata.name.as_deref()?;
        let warning = self.observed.warning(name)?;
        let creating = waiting_reason(pod).is_some_and(|(reason, _)| reason == "ContainerCreating");
        creating
            .then(|| ("PodNotStarted", format!("the pod of broker {id} does not start: {warning}")))
    }

    fn claim_trouble(&self, id: i32) -> Option<(&'static str, String)> {
        let claim = self.observed.claims.get(&id)?;
        let name = names::volume_claim(&self.valid.name, id);
        if let Some(threat) = volume::threat(self.observed, id) {
            let words = volume::rescue(self.observed, &self.valid.name, id)?;
            return Some((threat.reason(), words));
        }
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Pending") {
            return None;
        }
        let warning = self.observed.warning(&name)?;
        let missing = warning.contains("storageclass") && warning.contains("not found");
        if missing {
            let message = format!(
                "the volume {name} cannot be made: {warning}. Make the class; `storageClassName` is immutable, so to use another delete this BrokerCluster and the claim {name}, which holds nothing yet"
            );
            return Some(("StorageClassNotFound", message));
        }
        Some(("VolumePending", format!("the volume {name} is not there yet: {warning}")))
    }

    /// The message about a broker whose volume is empty and was not before.
    fn lost(&self, id: i32) -> Option<String> {
        let pod = self.observed.pods.get(&id)?;
        let restore = restore_container(pod).and_then(end_of);
        let is_lost = |ended: &ContainerStateTerminated| ended.exit_code == EXIT_DATA_LOST;
        restore.filter(|ended| is_lost(ended)).or_else(|| last_end(pod).filter(|e| is_lost(e)))?;
        let claim = names::volume_claim(&self.valid.name, id);
        let uid = self.observed.claims.get(&id).and_then(|claim| claim.metadata.uid.clone());
        let before = self.valid.brokers_before();
        let used = before.filter(|broker| broker.id == id).find_map(|b| b.accepted_loss.as_deref());
        let value = uid.and_then(|uid| acceptance(&uid, used));
        let (name, key) = (&self.valid.name, names::ANNOTATION_ACCEPT_DATA_LOSS);
        Some(format!(
            "broker {id} held data, and its volume {claim} is empty now. If the data can be brought back, restore the volume. To begin again without it: `kubectl annotate --overwrite rwc {name} {key}={}`",
            value.unwrap_or_default()
        ))
    }

    pub(super) fn data_lost(&self) -> Finding {
        let lost = self.valid.brokers.iter().find_map(|broker| self.lost(broker.id));
        match lost {
            Some(message) => Finding::new(kind::DATA_LOST, true, "VolumeEmpty", message),
            None => {
                Finding::new(kind::DATA_LOST, false, "DataPresent", "no volume was found empty")
            }
        }
    }

    pub(super) fn storage(&self) -> Finding {
        let failed = self.problems.iter().find(|problem| problem.concerns == Concern::Storage);
        if let Some(problem) = failed {
            return Finding::new(
                kind::STORAGE_RESIZED,
                false,
                problem.reason,
                problem.message.clone(),
            );
        }
        let mut larger = Vec::new();
        for broker in &self.valid.brokers {
            let Some(claim) = self.observed.claims.get(&broker.id) else { continue };
            let name = names::volume_claim(&self.valid.name, broker.id);
            let has = volume::capacity(claim).map(|(bytes, _)| bytes);
            let asked = claimed(claim).and_then(|asked| size::bytes(&asked));
            if has.is_some() && has < asked {
                let (reason, message) = self.growing(broker.id, &name);
                return Finding::new(kind::STORAGE_RESIZED, false, reason, message);
            }
            if asked > self.valid.size.bytes() {
                larger.push(name);
            }
        }
        if !larger.is_empty() {
            let message = format!("larger than asked for, and left so: {}", larger.join(", "));
            return Finding::new(kind::STORAGE_RESIZED, true, "LargerThanAsked", message);
        }
        Finding::new(kind::STORAGE_RESIZED, true, "AsAsked", "every volume has the size asked for")
    }

    /// Reason and message for a volume that is being enlarged.
    fn growing(&self, id: i32, name: &str) -> (&'static str, String) {
        let claim = self.observed.claims.get(&id);
        if claim.and_then(volume::waits_for_file_system).is_some() {
            let minutes = volume::RESIZE_PATIENCE_SECONDS / 60;
            let message = format!(
                "the volume {name} has grown, its file system has not. If the node does not make it larger while it is mounted within {minutes} minutes, broker {id} is restarted once, as `spec.rollout` says"
            );
            return ("FileSystemResizePending", message);
        }
        let warning = self.observed.warning(name);
        let has = claim.and_then(volume::capacity).map_or("-", |(_, has)| has);
        let back =
            format!("`spec.storage.size` can be set back, not below the {has} that the volume has");
        if let Some(why) = claim.and_then(volume::growth_failed) {
            let why = warning.unwrap_or(why);
            let message = format!("the volume {name} cannot be made larger: {why}; {back}");
            return ("ResizeFailed", message);
        }
        let message = match warning {
            Some(warning) => format!("the volume {name} is being made larger: {warning}; {back}"),
            None => format!("the volume {name} is being made larger"),
        };
        ("Resizing", message)
    }
}

/// Reason and advice for a pod that a StatefulSet cannot create.
fn not_created(warning: &str) -> (&'static str, &'static str) {
    let has = |words: &[&str]| words.iter().any(|word| warning.contains(word));
    if has(&["exceeded quota"]) {
        return ("QuotaExceeded", "");
    }
    if has(&["failed quota", "resources.requests", "resources.limits", "per Container", "per Pod"])
    {
        // A LimitRange sets limits below the requests, or a quota demands limits.
        return ("PodNotCreated", "; set `spec.resources` (requests and limits) so that they fit");
    }
    if has(&["security context constraint", "runAsUser", "fsGroup", "PodSecurity", "policy"]) {
        let advice = "; the policy has to allow the pod, or `spec.podTemplate.securityContext` has to fit it: `{}` leaves user and groups to the platform";
        return ("PodNotCreated", advice);
    }
    ("PodNotCreated", "")
}

fn scheduling(pod: &Pod, id: i32) -> Option<(&'static str, String)> {
    let (is_scheduled, message) = condition_of(pod, "PodScheduled")?;
    let message = message.unwrap_or("no node was found");
    (!is_scheduled).then(|| {
        let advice = "make room, add a node, or change `spec.resources` or `spec.podTemplate`";
        ("Unschedulable", format!("the pod of broker {id} finds no node: {message}; {advice}"))
    })
}

fn waiting(pod: &Pod, id: i32) -> Option<(&'static str, String)> {
    let (reason, message) = waiting_reason(pod)?;
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            let advice =
                "correct `spec.image` or `spec.version`, or `spec.podTemplate.imagePullSecrets`";
            Some(("ImageNotFound", format!("broker {id}: {message}; {advice}")))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(("PodNotStarted", format!("the pod of broker {id} does not start: {message}")))
        }
        "CrashLoopBackOff" => {
            let last = last_end(pod).map(|ended| {
                let words = ended.message.clone().or(ended.reason.clone()).unwrap_or_default();
                format!("exit code {}: {}", ended.exit_code, words.trim())
            });
            let last = last.unwrap_or_else(|| message.to_owned());
            Some(("CrashLooping", format!("broker {id} ends again and again: {last}")))
        }
        _ => None,
    }
}

fn waiting_reason(pod: &Pod) -> Option<(&str, &str)> {
    let waiting = container_of(pod)?.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
}

/// How the container of the broker ended last, if it does not run again.
fn last_end(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let status = container_of(pod)?;
    end_of(status)
}

/// How a container ended last, if it does not run again.
fn end_of(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) && status.ready {
        return None;
    }
    let now = state.and_then(|state| state.terminated.as_ref());
    now.or_else(|| status.last_state.as_ref()?.terminated.as_ref())
}
