//! Whether older messages move to the bucket, and what a loss of all volumes would lose.
//!
//! **K1** the text of a store's answer may differ each time. A condition keeps the text that it had
//! when it began, as long as the kind of the failure is the same; and the time that messages wait
//! is reported in steps.

use ropewalk_operator_api::condition::{Finding, Status, cluster as kind, find};

use super::Facts;
use crate::cluster::observed::AnswerFailure;

/// The broker's condition for a bucket that fails, or that Queues need and that is not set.
const TIER_FAILING: &str = "tier_failing";
/// The setting that names the bucket.
const URL: &str = "ropewalk.tier.url";
/// Seconds that an upload may take after its messages reached their age.
const UPLOAD_SECONDS: i64 = 60;
/// Steps of the reported time, seconds; above the last one in whole days.
const STEPS: [i64; 10] = [60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, DAY];
const DAY: i64 = 86_400;

/// What the operator says of a kind of failure.
struct Advice {
    /// The broker's name of the kind.
    kind: &'static str,
    /// Reason of the condition.
    reason: &'static str,
    /// What to do.
    advice: &'static str,
}

/// The kinds of failures that brokers report.
const ADVICE: &[Advice] = &[
    Advice {
        kind: "unavailable",
        reason: "BucketUnavailable",
        advice: "check the service and the network; uploads continue once it works again",
    },
    Advice {
        kind: "denied",
        reason: "AccessDenied",
        advice: "check `spec.objectStorage.credentials`, and that they permit to get, put, list and delete objects",
    },
    Advice {
        kind: "unsuitable",
        reason: "BucketUnsuitable",
        advice: "the store lacks what the brokers need: use another one in `spec.objectStorage`",
    },
    Advice {
        kind: "unready",
        reason: "BucketUnready",
        advice: "check that the bucket exists, its certificate, and `spec.objectStorage`",
    },
    Advice {
        kind: "other_cluster",
        reason: "OtherCluster",
        advice: "another cluster uses this bucket and prefix: use one of its own in `spec.objectStorage`",
    },
    Advice {
        kind: "fenced",
        reason: "TakenOver",
        advice: "another cluster was restored from this bucket and owns it now: send messages there, and delete this BrokerCluster",
    },
    Advice { kind: "settings", reason: "InvalidSettings", advice: "correct `spec.objectStorage`" },
];

impl Facts<'_> {
    /// The bucket that the brokers have claimed.
    pub(super) fn bucket(&self) -> Option<String> {
        let mut tiers = self.observed.answers.values().filter_map(|answer| answer.tier.as_ref());
        tiers.find(|tier| tier.claimed).map(|tier| tier.url.clone())
    }

    /// The age below which every message of a tiered Queue may be missing in the bucket; `None`
    /// unless every broker reports it.
    pub(super) fn data_loss_window(&self) -> Option<i64> {
        let tier = |id| self.observed.answers.get(&id).and_then(|answer| answer.tier.as_ref());
        let brokers = self.valid.brokers.iter().map(|broker| tier(broker.id));
        let windows: Option<Vec<i64>> = brokers
            .map(|tier| {
                let tier = tier?;
                let usual = tier.upload_max_age_seconds.saturating_add(UPLOAD_SECONDS);
                let waited = tier.not_uploaded_seconds;
                Some(if waited <= usual { usual } else { step(waited) })
            })
            .collect();
        windows?.into_iter().max()
    }

    /// `None` for a cluster without a bucket whose Queues need none.
    pub(super) fn tiering_healthy(&self) -> Option<Finding> {
        let of = kind::TIERING_HEALTHY;
        let new = |status: Status, reason, message| Some(Finding::new(of, status, reason, message));
        let Some(storage) = &self.valid.object_storage else { return self.without_bucket() };
        if let Some(missing) = &self.observed.missing_input {
            let message = format!("{missing}, which `spec.objectStorage` names: create it");
            return new(Status::False, "SecretMissing", message);
        }
        let mut unknown = None;
        for broker in &self.valid.brokers {
            let id = broker.id;
            let Some(answer) = self.observed.answers.get(&id) else {
                let message = format!("broker {id} does not answer; see AdminReachable");
                unknown = unknown.or(Some(("NotAnswered", message)));
                continue;
            };
            let failure = answer.tier.as_ref().and_then(|tier| tier.failure.as_ref());
            if let Some(failure) = failure {
                return Some(self.bucket_fails(id, failure));
            }
            let is_claimed = answer.tier.as_ref().is_some_and(|tier| tier.claimed);
            let is_pending = answer.settings.needs_restart.iter().any(|key| key == URL);
            if is_pending {
                let message =
                    format!("broker {id} uses the bucket after a restart; see RestartPending");
                unknown = unknown.or(Some(("RestartNeeded", message)));
            } else if answer.tier.is_none() && answer.condition(TIER_FAILING).is_some() {
                let message = format!(
                    "broker {id} reports that the bucket fails; `GET /v1/broker` and its log say why"
                );
                return new(Status::False, "BucketFailing", message);
            } else if !is_claimed {
                let message = format!("broker {id} has not reported the state of the bucket yet");
                unknown = unknown.or(Some(("NotReported", message)));
            }
        }
        if let Some((reason, message)) = unknown {
            return new(Status::Unknown, reason, message);
        }
        let message = format!("older messages of Queues with `tiering` move to {}", storage.url());
        new(Status::True, "BucketWorks", message)
    }

    fn without_bucket(&self) -> Option<Finding> {
        let fails = |id: &&i32| {
            self.observed.answers.get(id).is_some_and(|a| a.condition(TIER_FAILING).is_some())
        };
        let id = self.observed.answers.keys().find(fails)?;
        let message = format!(
            "broker {id} has topics with `remote.storage.enable`, and this BrokerCluster has no bucket: set `spec.objectStorage`. Until then their messages stay on the volumes"
        );
        Some(Finding::new(kind::TIERING_HEALTHY, false, "NoObjectStorage", message))
    }

    fn bucket_fails(&self, id: i32, failure: &AnswerFailure) -> Finding {
        let known = ADVICE.iter().find(|one| one.kind == failure.kind);
        let (reason, advice) = known
            .map_or(("BucketFailing", "the broker's log and `GET /v1/broker` say more"), |known| {
                (known.reason, known.advice)
            });
        let bucket = self.valid.object_storage.as_ref().map(|storage| storage.url());
        let bucket = bucket.unwrap_or_default();
        let what = match &failure.operation {
            Some(operation) => format!("cannot {operation} objects in {bucket}"),
            None => format!("cannot use {bucket}"),
        };
        let head = format!(
            "broker {id} {what}: {advice}. Until then messages stay on the volumes, and are acknowledged as long as these have space. Cause: "
        );
        let before = find(self.valid.conditions_before(), kind::TIERING_HEALTHY);
        let same = before.filter(|old| old.reason == reason && old.message.starts_with(&head));
        let message =
            same.map_or_else(|| format!("{head}{}", failure.message), |old| old.message.clone());
        Finding::new(kind::TIERING_HEALTHY, false, reason, message)
    }
}

/// The next step that is not below.
fn step(seconds: i64) -> i64 {
    let step = STEPS.into_iter().find(|step| *step >= seconds);
    step.unwrap_or_else(|| seconds.saturating_add(DAY - 1) / DAY * DAY)
}

#[cfg(test)]
mod tests;
