//! Conditions: their types in one table, and the one way to change a list of them.
//!
//! # Invariants
//!
//! - `lastTransitionTime` moves only when the status does, so that a converged object is never
//!   written because of its conditions.
//! - A condition has a reason that a program can match and a message that tells a person what to do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::Schema;

/// A condition of a `Queue`: the summary.
pub const READY: &str = "Ready";

/// Conditions of a `Queue`.
pub mod queue {
    /// The cluster it lives in is known.
    pub const CLUSTER_RESOLVED: &str = "ClusterResolved";
    /// The brokers hold it as the spec says.
    pub const PROVISIONED: &str = "Provisioned";
    /// Every consumer group is bound at its start position.
    pub const CONSUMERS_BOUND: &str = "ConsumersBound";
    /// The brokers hold something else than the spec says, and it cannot or must not be undone.
    pub const DRIFTED: &str = "Drifted";
    /// The topic that held its records is gone; another one has its name.
    pub const TOPIC_LOST: &str = "TopicLost";
    /// Consumers are being scaled.
    pub const SCALING_ACTIVE: &str = "ScalingActive";
    /// Something keeps the consumers from the number that the load asks for.
    pub const SCALING_LIMITED: &str = "ScalingLimited";
}

/// Conditions of a `BrokerCluster`.
pub mod cluster {
    /// What was asked for is on its way.
    pub const PROGRESSING: &str = "Progressing";
    /// A broker has to restart before all of the spec holds.
    pub const RESTART_PENDING: &str = "RestartPending";
    /// The operator would set brokers up differently by now; it waits to be asked.
    pub const UPGRADE_AVAILABLE: &str = "UpgradeAvailable";
    /// Every volume has the size that was asked for.
    pub const STORAGE_RESIZED: &str = "StorageResized";
    /// A broker that held data finds its volume empty.
    pub const DATA_LOST: &str = "DataLost";
    /// A volume will be lost as soon as its broker stops: its claim is being deleted or has no volume.
    pub const DATA_AT_RISK: &str = "DataAtRisk";
    /// A broker serves, but found damaged data that it does not serve.
    pub const DEGRADED: &str = "Degraded";
    /// A broker refuses writes because its volume has no space left.
    pub const STORAGE_FULL: &str = "StorageFull";
    /// The operator reaches the admin API of every broker that runs.
    pub const ADMIN_REACHABLE: &str = "AdminReachable";
    /// The brokers run with the settings of the spec.
    pub const CONFIGURATION_APPLIED: &str = "ConfigurationApplied";
}

/// True, False, or not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can say.
    Unknown,
}

impl Status {
    /// As it is written.
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

/// A condition before it is known when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which condition.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// Why, in one word for programs.
    pub reason: &'static str,
    /// Why, and what to do, for people.
    pub message: String,
}

impl Finding {
    /// One finding.
    #[must_use]
    pub fn new(
        kind: &'static str,
        status: impl Into<Status>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        // The API server takes 32,768 bytes; nobody reads more than a few lines.
        if message.len() > 2000 {
            let end = (0..=2000).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
        }
        Self { kind, status: status.into(), reason, message }
    }

    /// As it goes into the status: with the time of its last change, which is `now` unless `before`
    /// had the same status.
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

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition holds.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Conditions are merged by type, so that several writers can own one each.
pub(crate) fn schema(_: &mut schemars::SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "description": "What holds for this object, and why.",
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
