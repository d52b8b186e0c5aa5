//! The part of a Queue's status about scaling: replicas, the reason of their last change, and two
//! conditions.
//!
//! It has a field manager of its own and is written on change only. Metrics are rounded, and their
//! writes wait for the budget that all statuses share.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ropewalk_operator_api::Queue;
use ropewalk_operator_api::condition::{self, Finding, Status};
use ropewalk_operator_api::queue::{ConsumerStatus, QueueStatus};
use ropewalk_operator_plan::scaling::Action;

use super::consumer::{Consumer, ScalingState};

/// Shorter freezes are not shown in the condition.
const FREEZE_SHOWN_AFTER: Duration = Duration::from_secs(20);

/// The status of all consumers of a Queue.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScalingStatus {
    pub(super) findings: Vec<Finding>,
    pub(super) consumers: Vec<ConsumerStatus>,
    /// `3/6`: current and desired replicas.
    pub(super) replicas: Option<String>,
}

/// Severity of the difference between the written and the wanted status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    /// Equal after rounding.
    None,
    /// Only metrics and messages differ.
    Metrics,
    /// A change that users act on.
    Significant,
}

impl ScalingStatus {
    /// The status for all consumers of one Queue that have a target.
    pub(super) fn of(consumers: &[&Consumer], now: Instant) -> Self {
        let (mut there, mut wanted) = (0, 0);
        let mut counted = HashSet::new();
        for consumer in consumers {
            // A target that several consumers share is counted once.
            if let Some((target, _)) = consumer.seen
                && counted.insert(consumer.target_key())
            {
                there += target.current;
                wanted += desired(consumer).unwrap_or(target.replicas);
            }
        }
        let is_seen = consumers.iter().any(|consumer| consumer.seen.is_some());
        Self {
            findings: vec![active(consumers, now), limited(consumers)],
            consumers: consumers
                .iter()
                .map(|consumer| consumer_status(consumer))
                .filter(is_scaled)
                .collect(),
            replicas: is_seen.then(|| format!("{there}/{wanted}")),
        }
    }

    /// The empty status of a Queue without a consumer that has a target: removes all fields.
    pub(super) fn none() -> Self {
        Self { findings: Vec::new(), consumers: Vec::new(), replicas: None }
    }

    /// Whether a status contains any field of scaling.
    pub(super) fn are_in(status: &QueueStatus) -> bool {
        let ours = [condition::queue::SCALING_ACTIVE, condition::queue::SCALING_LIMITED];
        ours.iter().any(|kind| condition::find(&status.conditions, kind).is_some())
            || status.consumer_replicas.is_some()
            || status.consumers.iter().any(is_scaled)
    }

    /// Compares with the status in the object.
    pub(super) fn difference(&self, queue: &Queue) -> Difference {
        let empty = Default::default();
        let status = queue.status.as_ref().unwrap_or(&empty);
        let mut worst = Difference::None;
        if self.findings.is_empty() && Self::are_in(status) {
            return Difference::Significant;
        }
        let has = |name: &str| self.consumers.iter().any(|piece| piece.name == name);
        if status.consumers.iter().any(|old| is_scaled(old) && !has(&old.name)) {
            return Difference::Significant;
        }
        for finding in &self.findings {
            match condition::find(&status.conditions, finding.kind) {
                Some(old)
                    if old.status == finding.status.as_str() && old.reason == finding.reason =>
                {
                    if old.message != finding.message && worst == Difference::None {
                        worst = Difference::Metrics;
                    }
                }
                Some(_) | None => return Difference::Significant,
            }
        }
        if status.consumer_replicas != self.replicas {
            return Difference::Significant;
        }
        for piece in &self.consumers {
            let old = status.consumers.iter().find(|old| old.name == piece.name);
            let Some(old) = old else { return Difference::Significant };
            if old.desired_replicas != piece.desired_replicas
                || old.replicas != piece.replicas
                || old.last_scale_reason != piece.last_scale_reason
            {
                return Difference::Significant;
            }
            if old.per_replica_per_second_milli != piece.per_replica_per_second_milli {
                worst = Difference::Metrics;
            }
        }
        worst
    }

    /// The status to apply: all fields of scaling, and no other.
    pub(super) fn status(&self, queue: &Queue, now: &Time) -> QueueStatus {
        let before = queue.status.iter().flat_map(|status| &status.conditions).cloned();
        let before: Vec<_> = before.collect();
        let generation = queue.metadata.generation;
        let dated = self.findings.iter().map(|finding| finding.dated(&before, generation, now));
        // Unknown values are omitted: null is not a valid value.
        QueueStatus {
            conditions: dated.collect(),
            consumer_replicas: self.replicas.clone(),
            consumers: self.consumers.clone(),
            ..QueueStatus::default()
        }
    }
}

/// Whether an entry contains any field of scaling. An empty entry is not written: it would stay
/// when the consumer is removed.
fn is_scaled(piece: &ConsumerStatus) -> bool {
    piece.replicas.is_some()
        || piece.desired_replicas.is_some()
        || piece.per_replica_per_second_milli.is_some()
        || piece.last_scale_time.is_some()
        || piece.last_scale_reason.is_some()
}

fn desired(consumer: &Consumer) -> Option<u32> {
    let own = || consumer.decision.as_ref().map(|decision| decision.action.replicas());
    consumer.together.filter(|_| consumer.has_peers && consumer.decision.is_some()).or_else(own)
}

fn consumer_status(consumer: &Consumer) -> ConsumerStatus {
    let count = |number: u32| i32::try_from(number).ok();
    let (last_scale_time, last_scale_reason) = consumer.last_scale.clone().unzip();
    ConsumerStatus {
        name: consumer.owner.consumer.clone(),
        replicas: consumer.seen.and_then(|(target, _)| count(target.current)),
        desired_replicas: desired(consumer)
            .or(consumer.seen.map(|(target, _)| target.replicas))
            .and_then(count),
        per_replica_per_second_milli: consumer.scaler.per_replica_per_second().map(milli),
        last_scale_time,
        last_scale_reason,
        ..ConsumerStatus::default()
    }
}

/// The rate in thousandths, rounded to two digits.
fn milli(rate: f64) -> i64 {
    let digits = (rate * 1000.0).max(1.0).log10().floor();
    let step = 10f64.powf((digits - 1.0).max(0.0));
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let rounded = ((rate * 1000.0 / step).round() * step) as i64;
    rounded
}

fn named(consumer: &Consumer, what: &str) -> String {
    format!("consumer {}: {what}", consumer.owner.consumer)
}

/// `ScalingActive`: the worst state of all consumers.
fn active(consumers: &[&Consumer], now: Instant) -> Finding {
    let kind = condition::queue::SCALING_ACTIVE;
    for consumer in consumers {
        if let ScalingState::Refused(reason, message) = &consumer.state {
            return Finding::new(kind, false, reason, named(consumer, message));
        }
    }
    for consumer in consumers {
        let frozen = consumer
            .frozen_since
            .is_some_and(|since| now.saturating_duration_since(since) > FREEZE_SHOWN_AFTER);
        if frozen
            && let Some(Action::Frozen { why, .. }) = consumer.decision.as_ref().map(|d| &d.action)
        {
            let message = named(consumer, &format!("replicas stay as they are: {why}"));
            return Finding::new(kind, Status::Unknown, "SignalsUnknown", message);
        }
    }
    let off = |consumer: &&&Consumer| matches!(consumer.state, ScalingState::Off(_));
    if let Some(consumer) = consumers.iter().find(off)
        && consumers.iter().filter(off).count() == consumers.len()
        && let ScalingState::Off(why) = consumer.state
    {
        return Finding::new(kind, false, "Disabled", why);
    }
    if consumers.iter().any(|consumer| consumer.policy.is_hibernating) {
        let message =
            "the brokers are hibernating: consumers are at their minimum or are being scaled to it";
        return Finding::new(kind, false, "Hibernating", message);
    }
    if consumers.iter().all(|consumer| consumer.decision.is_none()) {
        return Finding::new(kind, Status::Unknown, "Starting", "no decision yet");
    }
    Finding::new(kind, true, "Scaling", "replicas follow the load")
}

/// `ScalingLimited`: the reason why replicas are below the number that the load requires.
fn limited(consumers: &[&Consumer]) -> Finding {
    let kind = condition::queue::SCALING_LIMITED;
    for consumer in consumers {
        let Some(decision) = &consumer.decision else { continue };
        if let Some(missing) = &decision.missing_members {
            return Finding::new(
                kind,
                true,
                "ConsumersNotJoining",
                named(consumer, &missing.to_string()),
            );
        }
        if let Some(limit) = &decision.limit {
            return Finding::new(kind, true, limit.reason(), named(consumer, &limit.to_string()));
        }
    }
    Finding::new(kind, false, "NotLimited", "no limit is in effect")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(message: &str, milli: i64) -> ScalingStatus {
        let kind = condition::queue::SCALING_ACTIVE;
        let worker = ConsumerStatus {
            name: "worker".to_owned(),
            replicas: Some(3),
            desired_replicas: Some(3),
            per_replica_per_second_milli: Some(milli),
            ..ConsumerStatus::default()
        };
        ScalingStatus {
            findings: vec![Finding::new(kind, true, "Scaling", message)],
            consumers: vec![worker],
            replicas: Some("3/3".to_owned()),
        }
    }

    fn shows(status: &ScalingStatus) -> Queue {
        let queue = json!({
            "apiVersion": "ropewalk.dev/v1alpha1", "kind": "Queue", "spec": {},
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"},
        });
        let mut queue: Queue = serde_json::from_value(queue).expect("a Queue");
        let now = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let patch = json!({ "status": status.status(&queue, &now) });
        queue.status = serde_json::from_value(patch["status"].clone()).expect("a status");
        queue
    }

    #[test]
    fn k1_changed_metrics_are_not_significant() {
        let queue = shows(&status("replicas follow the load", 96_000));
        let difference = |status: ScalingStatus| status.difference(&queue);
        assert_eq!(difference(status("replicas follow the load", 96_000)), Difference::None);
        assert_eq!(difference(status("replicas follow the load", 97_000)), Difference::Metrics);
        assert_eq!(difference(status("other words", 96_000)), Difference::Metrics);
        let mut news = status("replicas follow the load", 96_000);
        news.replicas = Some("3/4".to_owned());
        assert_eq!(difference(news), Difference::Significant);
        let mut news = status("replicas follow the load", 96_000);
        news.consumers[0].desired_replicas = Some(4);
        assert_eq!(difference(news), Difference::Significant);
    }
}
