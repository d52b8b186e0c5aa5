//! Conditions and status of a cluster, from the observation and the problems of a reconcile.
//!
//! - Every reason and message names the remedy, or what the operator waits for.
//! - **K1** the same observation gives the same status, so that nothing is written twice.
//! - `formatted` never becomes false again, `highestBrokerId` never decreases.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ropewalk_operator_api::cluster::BrokerStatus;
use ropewalk_operator_api::condition::{Finding, READY, cluster as kind};
use ropewalk_operator_api::{BrokerClusterStatus, names};

use super::observed::is_ready;
use super::properties::KAFKA_PORT;
use super::rollout::{Cause, Decision};
use super::{Answer, Observed, ValidCluster, applied, volume};

mod trouble;
mod health;
mod tiering;
mod restored;

pub use health::{WARNINGS, is_warning};
pub use trouble::{Concern, Problem};

/// The input of the conditions and the status.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The cluster as it should be.
    pub valid: &'a ValidCluster,
    /// The cluster as it was observed.
    pub observed: &'a Observed,
    /// The restart decision by broker id.
    pub decisions: &'a [(i32, Decision)],
    /// Problems of this reconcile, by step.
    pub problems: &'a [Problem],
    /// Ids of brokers that this reconcile restarted.
    pub restarted: &'a [i32],
    /// Time of the reconcile.
    pub now: &'a Time,
}

impl Facts<'_> {
    /// Builds the whole status.
    #[must_use]
    pub fn status(&self) -> BrokerClusterStatus {
        let before = self.valid.status.clone().unwrap_or_default();
        let generation = self.valid.generation;
        let ready = self.valid.brokers.iter().filter(|broker| self.serves(broker.id)).count();
        let ready = i32::try_from(ready).unwrap_or(i32::MAX);
        let first = self.valid.brokers.first().map(|broker| broker.id);
        let answer = first.and_then(|id| self.observed.answers.get(&id));
        let cluster_id = answer.map(|answer| answer.cluster_id.clone()).filter(|id| !id.is_empty());
        let version = answer.map(|answer| answer.version.clone()).filter(|text| !text.is_empty());
        let (name, namespace) = (&self.valid.name, &self.valid.namespace);
        let bootstrap = names::bootstrap(name);
        BrokerClusterStatus {
            observed_generation: generation,
            conditions: self
                .findings()
                .iter()
                .map(|finding| finding.dated(&before.conditions, generation, self.now))
                .collect(),
            replicas: i32::try_from(self.observed.pods.len()).unwrap_or(i32::MAX),
            ready_replicas: ready,
            brokers_ready: Some(format!("{ready}/{}", self.valid.brokers.len())),
            selector: Some(format!(
                "{}={name},{}={}",
                names::LABEL_CLUSTER,
                names::LABEL_COMPONENT,
                names::COMPONENT_BROKER
            )),
            version: version.or(before.version),
            cluster_id: cluster_id.or(before.cluster_id),
            bootstrap_servers: Some(format!("{bootstrap}.{namespace}.svc:{KAFKA_PORT}")),
            bucket: self.bucket().or(before.bucket),
            data_loss_window_seconds: self.data_loss_window(),
            storage_capacity: self.storage_capacity(),
            highest_broker_id: self.valid.highest_broker_id,
            brokers: self.valid.brokers.iter().map(|broker| self.broker(broker.id)).collect(),
        }
    }

    /// Capacity of the largest broker volume.
    fn storage_capacity(&self) -> Option<String> {
        let brokers = self.valid.brokers.iter();
        let claims = brokers.filter_map(|broker| self.observed.claims.get(&broker.id));
        claims.filter_map(volume::capacity).max().map(|(_, has)| has.to_owned())
    }

    fn broker(&self, id: i32) -> BrokerStatus {
        let before = self.valid.brokers_before().find(|old| old.id == id);
        let ready = self.serves(id);
        let answer = self.observed.answers.get(&id);
        let known = self.valid.brokers.iter().find(|broker| broker.id == id);
        let decision = self.decisions.iter().find(|(of, _)| *of == id).map(|(_, what)| what);
        let now_restarted = self.restarted.contains(&id);
        BrokerStatus {
            id,
            pod_name: self
                .observed
                .pods
                .contains_key(&id)
                .then(|| names::pod(&self.valid.name, id)),
            ready,
            // An open data directory was formatted, also before the pod is ready.
            formatted: ready
                || answer.is_some_and(Answer::has_data_directory)
                || known.is_some_and(|broker| broker.formatted),
            // Recorded once the broker serves again; the same value has no effect afterwards.
            accepted_loss: known
                .filter(|_| ready)
                .and_then(|broker| broker.accepts_loss.clone())
                .or_else(|| before.and_then(|old| old.accepted_loss.clone())),
            version: answer
                .map(|answer| answer.version.clone())
                .filter(|version| !version.is_empty())
                .or_else(|| before.and_then(|old| old.version.clone())),
            image: self
                .observed
                .stateful_sets
                .get(&id)
                .and_then(applied::image)
                .or_else(|| before.and_then(|old| old.image.clone())),
            restart_reason: match decision {
                Some(Decision::Wait { reason, .. } | Decision::Restart { reason }) => {
                    Some(reason.clone())
                }
                Some(
                    Decision::Settled
                    | Decision::Record
                    | Decision::Unconfirmed { .. }
                    | Decision::Offer { .. },
                )
                | None => None,
            },
            last_restart_time: now_restarted
                .then(|| self.now.clone())
                .or_else(|| before.and_then(|old| old.last_restart_time.clone())),
        }
    }

    fn serves(&self, id: i32) -> bool {
        self.observed.pods.get(&id).is_some_and(is_ready)
    }

    /// Every condition of the cluster.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.ready(), self.progressing(), self.restart_pending()];
        findings.push(self.upgrade_available());
        findings.push(self.storage());
        findings.push(self.data_lost());
        findings.push(self.configuration());
        findings.push(self.data_at_risk());
        findings.push(self.degraded());
        findings.push(self.storage_full());
        findings.push(self.admin_reachable());
        findings.extend(self.tiering_healthy());
        findings.extend(self.restored());
        findings
    }

    fn ready(&self) -> Finding {
        if let Some(problem) = self.problems.iter().find(|problem| problem.is_fatal()) {
            return Finding::new(READY, false, problem.reason, problem.message.clone());
        }
        if !self.valid.running {
            let rest = "set `spec.runState` to Running to start the brokers; their data is kept";
            let reason = if self.observed.pods.is_empty() { "Hibernated" } else { "Hibernating" };
            return Finding::new(READY, false, reason, rest);
        }
        let troubles = self.valid.brokers.iter().filter(|broker| !self.serves(broker.id));
        if let Some((reason, message)) = troubles.map(|broker| self.trouble(broker.id)).next() {
            return Finding::new(READY, false, reason, message);
        }
        let message = if self.valid.is_paused {
            "every broker serves; changes are paused"
        } else {
            "every broker serves"
        };
        Finding::new(READY, true, "BrokersReady", message)
    }

    fn progressing(&self) -> Finding {
        if self.valid.is_paused {
            let message = "`spec.managementState` is Paused: nothing is changed";
            return Finding::new(kind::PROGRESSING, false, "Paused", message);
        }
        if let Some(problem) = self.problems.first() {
            return Finding::new(kind::PROGRESSING, false, problem.reason, problem.message.clone());
        }
        let restarts =
            self.decisions.iter().any(|(_, what)| matches!(what, Decision::Restart { .. }));
        let waits =
            self.valid.running && self.valid.brokers.iter().any(|broker| !self.serves(broker.id));
        let stops = !self.valid.running && !self.observed.pods.is_empty();
        let unknown =
            self.decisions.iter().any(|(_, what)| matches!(what, Decision::Unconfirmed { .. }));
        if let Some(id) = self.overdue() {
            let seconds = self.valid.rollout.broker_deadline_seconds;
            let message =
                format!("broker {id} is not ready {seconds} s after its restart; see Ready");
            return Finding::new(kind::PROGRESSING, false, "DeadlineExceeded", message);
        }
        if restarts || waits || stops {
            let message = "brokers are being started, stopped or restarted";
            return Finding::new(kind::PROGRESSING, true, "BrokersChanging", message);
        }
        if unknown {
            let message = "it is not known yet whether brokers run what was asked for";
            return Finding::new(kind::PROGRESSING, true, "Confirming", message);
        }
        Finding::new(kind::PROGRESSING, false, "Settled", "everything is as it was asked for")
    }

    /// A broker that was restarted and is not ready within the deadline.
    fn overdue(&self) -> Option<i32> {
        let deadline = i64::from(self.valid.rollout.broker_deadline_seconds);
        let mut late = self.valid.brokers_before().filter(|broker| {
            let at = broker.last_restart_time.as_ref().map(|time| time.0.as_second());
            at.is_some_and(|at| self.now.0.as_second() - at > deadline)
        });
        late.find(|broker| !self.serves(broker.id) && self.valid.running).map(|broker| broker.id)
    }

    fn restart_pending(&self) -> Finding {
        for (id, decision) in self.decisions {
            let (reason, message) = match decision {
                Decision::Settled
                | Decision::Record
                | Decision::Unconfirmed { .. }
                | Decision::Offer { .. } => continue,
                Decision::Restart { reason } => ("Restarting", format!("broker {id}: {reason}")),
                Decision::Wait { reason, cause } => self.waiting(*id, reason, cause),
            };
            return Finding::new(kind::RESTART_PENDING, true, reason, message);
        }
        Finding::new(kind::RESTART_PENDING, false, "NothingPending", "no broker has to restart")
    }

    /// Reason and message for a restart that waits.
    fn waiting(&self, id: i32, reason: &str, cause: &Cause) -> (&'static str, String) {
        let (word, rest) = match cause {
            Cause::OtherBroker(other) => {
                ("WaitingForBroker", format!("waits until broker {other} is ready"))
            }
            Cause::Approval(token) => {
                let name = &self.valid.name;
                let key = names::ANNOTATION_APPROVE_RESTART;
                let words = format!(
                    "approve it with `kubectl annotate --overwrite rwc {name} {key}={token}`"
                );
                ("WaitingForApproval", words)
            }
            Cause::Volume(threat, words) => (threat.reason(), format!("waits, because {words}")),
            Cause::Recovery => {
                ("WaitingForRecovery", "waits until the broker has read its log".to_owned())
            }
            Cause::Answer => {
                let words = "waits until the broker's admin API answers; see AdminReachable";
                ("WaitingForAnswer", words.to_owned())
            }
            Cause::Input(missing) => {
                ("WaitingForSecret", format!("waits, because a new pod would not start: {missing}"))
            }
        };
        (word, format!("broker {id}: {reason}; {rest}"))
    }

    fn upgrade_available(&self) -> Finding {
        let offers = self.decisions.iter().find_map(|(id, decision)| match decision {
            Decision::Offer { reason } => Some((id, reason)),
            Decision::Settled
            | Decision::Record
            | Decision::Unconfirmed { .. }
            | Decision::Restart { .. }
            | Decision::Wait { .. } => None,
        });
        let name = &self.valid.name;
        let restart = names::ANNOTATION_RESTART;
        if let Some((id, reason)) = offers {
            let message = format!(
                "broker {id}: {reason}. Nothing restarts by itself: take it over with `kubectl annotate --overwrite rwc {name} {restart}=\"$(date +%s)\"`"
            );
            return Finding::new(kind::UPGRADE_AVAILABLE, true, "NewDefaults", message);
        }
        let older = self.valid.brokers.iter().find(|broker| broker.newer_default.is_some());
        if let Some((broker, newer)) = older.and_then(|b| Some((b, b.newer_default.as_ref()?))) {
            let message = format!(
                "brokers run {}, this operator comes with {newer}. Nothing restarts by itself: set `spec.version` to upgrade",
                broker.image
            );
            return Finding::new(kind::UPGRADE_AVAILABLE, true, "NewRelease", message);
        }
        Finding::new(kind::UPGRADE_AVAILABLE, false, "UpToDate", "brokers run what was asked for")
    }
}

#[cfg(test)]
mod tests;
