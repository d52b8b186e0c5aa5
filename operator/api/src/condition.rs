//! Condition types of both kinds, and the functions that build and read a list of conditions.
//!
//! - `lastTransitionTime` changes only when `status` does, so that a converged object is never
//!   written because of its conditions.
//! - `reason` is one word that programs can match; `message` says what an administrator has to do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::Schema;

/// The summary condition of both kinds.
pub const READY: &str = "Ready";

/// Conditions of a `Queue`.
pub mod queue {
    /// The BrokerCluster of the Queue exists.
    pub const CLUSTER_RESOLVED: &str = "ClusterResolved";
    /// The brokers hold the topic as the spec declares it.
    pub const PROVISIONED: &str = "Provisioned";
    /// Every consumer group is bound at its start position.
    pub const CONSUMERS_BOUND: &str = "ConsumersBound";
    /// The topic differs from the spec in a way that the operator cannot or must not undo.
    pub const DRIFTED: &str = "Drifted";
    /// The topic that held the records was deleted; another topic has its name.
    pub const TOPIC_LOST: &str = "TopicLost";
    /// The operator scales the consumers.
    pub const SCALING_ACTIVE: &str = "ScalingActive";
    /// A limit keeps the number of replicas below what the load needs.
    pub const SCALING_LIMITED: &str = "ScalingLimited";
}

/// Conditions of a `BrokerCluster`.
pub mod cluster {
    /// A change of the spec is being carried out.
    pub const PROGRESSING: &str = "Progressing";
    /// A broker has to restart before the whole spec is in effect.
    pub const RESTART_PENDING: &str = "RestartPending";
    /// This release of the operator would build the pods differently; it waits for a requested
    /// restart.
    pub const UPGRADE_AVAILABLE: &str = "UpgradeAvailable";
    /// Every volume has the size of the spec.
    pub const STORAGE_RESIZED: &str = "StorageResized";
    /// The volume of a broker that held data is empty.
    pub const DATA_LOST: &str = "DataLost";
    /// A volume is lost as soon as its broker stops: the claim is being deleted or has lost its
    /// volume.
    pub const DATA_AT_RISK: &str = "DataAtRisk";
    /// A broker serves requests, and has found damaged data that it does not serve.
    pub const DEGRADED: &str = "Degraded";
    /// A broker refuses writes because its volume has no space left.
    pub const STORAGE_FULL: &str = "StorageFull";
    /// The operator reaches the admin API of every running broker.
    pub const ADMIN_REACHABLE: &str = "AdminReachable";
    /// The brokers run with the settings of the spec.
    pub const CONFIGURATION_APPLIED: &str = "ConfigurationApplied";
    /// Older messages move to the bucket. Absent on a cluster without a bucket.
    pub const TIERING_HEALTHY: &str = "TieringHealthy";
    /// The cluster holds what its bucket had. Absent on a cluster without `restoreFrom`.
    pub const RESTORED: &str = "Restored";
}

/// The `status` of a condition, as the API convention defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The condition applies.
    True,
    /// The condition does not apply.
    False,
    /// The operator does not know.
    Unknown,
}

impl Status {
    /// The value as the API convention spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// A condition without `lastTransitionTime` and `observedGeneration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The type, one of the constants of this module.
    pub kind: &'static str,
    /// Whether the condition applies.
    pub status: Status,
    /// The cause in one CamelCase word, for programs.
    pub reason: &'static str,
    /// The cause and the remedy, for people; at most 2,000 bytes.
    pub message: String,
}

impl Finding {
    /// Builds a finding and cuts `message` at 2,000 bytes.
    #[must_use]
    pub fn new(
        kind: &'static str,
        status: impl Into<Status>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        // The API server accepts 32,768 bytes; `kubectl describe` is readable up to a few lines.
        if message.len() > 2000 {
            let end = (0..=2000).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
        }
        Self { kind, status: status.into(), reason, message }
    }

    /// The condition for the status. `lastTransitionTime` is taken from `before` if the status is
    /// the same there, and is `now` otherwise.
    #[must_use]
    pub fn dated(&self, before: &[Condition], generation: Option<i64>, now: &Time) -> Condition {
        let since = find(before, self.kind)
            .filter(|old| old.status == self.status.as_str())
            .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
        Condition {
            type_: self.kind.to_owned(),
            status: self.status.as_str().to_owned(),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            observed_generation: generation,
            last_transition_time: since,
        }
    }
}

/// The condition of type `kind`, if the list has one.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of type `kind` has the status `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// The list is merged by type, so that each field manager can own its conditions.
pub(crate) fn schema(_: &mut schemars::SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "description": "Conditions by type. `reason` is for programs, `message` says what to do.",
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn k1_a_condition_keeps_its_time_until_its_status_changes() {
        let early = Time(Timestamp::from_second(1000).expect("a time"));
        let late = Time(Timestamp::from_second(2000).expect("a time"));
        let before = vec![Finding::new(READY, true, "Up", "fine").dated(&[], Some(1), &early)];
        let same = Finding::new(READY, true, "Up", "fine").dated(&before, Some(1), &late);
        assert_eq!(vec![same], before);
        let other = Finding::new(READY, false, "Down", "x").dated(&before, Some(2), &late);
        assert_eq!(other.last_transition_time, late);
    }
}
