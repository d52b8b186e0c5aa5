//! Conditions about brokers that may serve all the same: data at risk, damage, a full volume, an
//! unreachable admin API, and whether the settings of the spec are in effect.
//!
//! - None of them makes a cluster unready, because clients can use everything else.
//! - **K1** the messages of a broker may change at any time; conditions are built from kinds and
//!   counts only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use ropewalk_operator_api::condition::{Finding, Status, cluster as kind};
use ropewalk_operator_api::names;

use super::Facts;
use super::trouble::Concern;
use crate::cluster::observed::is_ready;
use crate::cluster::properties::{ADMIN_PORT, FORMAT_KEY};
use crate::cluster::rollout::Decision;
use crate::cluster::volume;

/// Conditions that are also reported as a Warning Event when they begin.
pub const WARNINGS: &[&str] = &[
    kind::DATA_AT_RISK,
    kind::DEGRADED,
    kind::STORAGE_FULL,
    kind::ADMIN_REACHABLE,
    kind::TIERING_HEALTHY,
];

/// Those of them that report a problem when they are False.
const GOOD: &[&str] = &[kind::ADMIN_REACHABLE, kind::TIERING_HEALTHY];

/// Whether a condition is one of them and reports a problem.
#[must_use]
pub fn is_warning(condition: &Condition) -> bool {
    let bad = if GOOD.contains(&condition.type_.as_str()) { "False" } else { "True" };
    WARNINGS.contains(&condition.type_.as_str()) && condition.status == bad
}

/// A kind of damage.
struct Damage {
    /// Kind of the condition in the broker's reply.
    kind: &'static str,
    /// Reason of the operator's condition.
    reason: &'static str,
    /// The damaged parts, plural.
    parts: &'static str,
}

/// Kinds of damage that brokers report.
const DAMAGES: &[Damage] = &[
    Damage { kind: "damaged_shard", reason: "ShardsDamaged", parts: "shards" },
    Damage { kind: "damaged_partitions", reason: "PartitionsDamaged", parts: "partitions" },
];

/// Reasons for a broker whose pod is ready and that did not answer: the first time, and from the
/// second time on.
const MISSED: [&str; 2] = ["AnswerMissing", "AdminUnreachable"];

impl Facts<'_> {
    pub(super) fn data_at_risk(&self) -> Finding {
        for broker in &self.valid.brokers {
            if let Some(threat) = volume::threat(self.observed, broker.id)
                && let Some(words) = volume::rescue(self.observed, &self.valid.name, broker.id)
            {
                return Finding::new(kind::DATA_AT_RISK, true, threat.reason(), words);
            }
        }
        Finding::new(kind::DATA_AT_RISK, false, "VolumesSafe", "no volume is about to be removed")
    }

    pub(super) fn degraded(&self) -> Finding {
        for (id, answer) in &self.observed.answers {
            for Damage { kind: of, reason, parts } in DAMAGES {
                let Some(found) = answer.condition(of) else { continue };
                let message = format!(
                    "broker {id} found {} {parts} damaged and serves the rest. Its log and `GET /v1/broker` name them; `ropewalk-broker repair` says what giving them up would cost",
                    found.count
                );
                return Finding::new(kind::DEGRADED, true, reason, message);
            }
        }
        Finding::new(kind::DEGRADED, false, "NothingDamaged", "no broker reports damaged data")
    }

    pub(super) fn storage_full(&self) -> Finding {
        let full = |id: &&i32| {
            self.observed.answers.get(id).is_some_and(|a| a.condition("storage_full").is_some())
        };
        let Some(id) = self.observed.answers.keys().find(full) else {
            return Finding::new(kind::STORAGE_FULL, false, "SpaceLeft", "no volume is full");
        };
        let claim = names::volume_claim(&self.valid.name, *id);
        let message = format!(
            "broker {id} refuses writes, because its volume {claim} is full. Make `spec.storage.size` larger, or shorten the retention of Queues, or delete Queues: all of it works while the volume is full"
        );
        Finding::new(kind::STORAGE_FULL, true, "VolumeFull", message)
    }

    pub(super) fn admin_reachable(&self) -> Finding {
        let of = kind::ADMIN_REACHABLE;
        let mut starting = None;
        let mut answered = false;
        for broker in &self.valid.brokers {
            let Some(pod) = self.observed.pods.get(&broker.id) else { continue };
            if self.observed.answers.contains_key(&broker.id) {
                answered = true;
                continue;
            }
            if !is_ready(pod) {
                starting = starting.or(Some(broker.id));
                continue;
            }
            let before = self.valid.conditions_before();
            let mut before = before.iter().filter(|old| old.type_ == of);
            if !before.any(|old| MISSED.contains(&old.reason.as_str())) {
                // A single late answer is no outage; the operator asks again soon.
                let message = format!("broker {} did not answer this time", broker.id);
                return Finding::new(of, Status::Unknown, MISSED[0], message);
            }
            let why = self.observed.unanswered.get(&broker.id);
            let why = why.map_or("no answer", String::as_str);
            let service = names::broker(&self.valid.name, broker.id);
            let message = format!(
                "the pod of broker {0} is ready, but its admin API cannot be reached at {service}.{1}.svc:{ADMIN_PORT}: {why}. Does a NetworkPolicy or a service mesh keep the operator from TCP port {ADMIN_PORT}? Until then settings and Queues are not brought to it, and it is not restarted",
                broker.id, self.valid.namespace
            );
            return Finding::new(of, false, MISSED[1], message);
        }
        match (starting, answered) {
            (Some(id), _) => {
                let message = format!("broker {id} is not ready and does not answer");
                Finding::new(of, Status::Unknown, "BrokerStarting", message)
            }
            (None, true) => Finding::new(of, true, "Answered", "every broker answers"),
            (None, false) => Finding::new(of, Status::Unknown, "NotRunning", "no broker runs"),
        }
    }

    pub(super) fn configuration(&self) -> Finding {
        let of = kind::CONFIGURATION_APPLIED;
        let failed =
            self.problems.iter().find(|problem| problem.concerns == Concern::Configuration);
        if let Some(problem) = failed {
            return Finding::new(of, false, problem.reason, problem.message.clone());
        }
        for (id, decision) in self.decisions {
            let waits = match decision {
                Decision::Unconfirmed { reason } => {
                    let message = format!("broker {id}: {reason}");
                    return Finding::new(of, Status::Unknown, "NotConfirmed", message);
                }
                Decision::Restart { .. } | Decision::Wait { .. } => self.settings_waiting(*id),
                Decision::Settled | Decision::Record | Decision::Offer { .. } => continue,
            };
            if !waits.is_empty() {
                let message = format!(
                    "broker {id} has these settings only after a restart: {}; see RestartPending",
                    waits.join(", ")
                );
                return Finding::new(of, false, "RestartNeeded", message);
            }
        }
        let message = "brokers have the settings of the spec, or get them when they start";
        Finding::new(of, true, "Applied", message)
    }

    fn settings_waiting(&self, id: i32) -> Vec<&str> {
        let answer = self.observed.answers.get(&id);
        let keys = answer.into_iter().flat_map(|answer| &answer.settings.needs_restart);
        keys.map(String::as_str).filter(|key| *key != FORMAT_KEY).collect()
    }

    /// The message about a broker whose node does not confirm that its pod stopped.
    pub(super) fn node_lost(&self, id: i32) -> Option<String> {
        let pod = self.observed.pods.get(&id)?;
        let due = pod.metadata.deletion_timestamp.as_ref()?.0.as_second();
        if self.observed.at_second - due < OVERDUE_SECONDS {
            return None;
        }
        let node = pod.spec.as_ref()?.node_name.as_ref()?;
        Some(format!(
            "the pod of broker {id} should have stopped, and its node {node} does not say that it did. Kubernetes waits for the node, because two brokers on one volume would destroy the data; the operator never forces it. If the node is really off: `kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute` lets the volume go elsewhere; remove the taint when the node is back"
        ))
    }
}

/// Seconds after its deletion deadline from which a pod counts as waiting for its node.
const OVERDUE_SECONDS: i64 = 15;
