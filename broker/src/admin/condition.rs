//! Conditions of a broker beside readiness: damage, full storage, shards that catch up.
//!
//! [`super::Source::conditions`] collects them, `GET /v1/broker` lists them and `/metrics` counts
//! them. None of them makes `/ready` answer 503: a broker with one damaged partition still serves
//! all others.
//!
//! # Invariants
//!
//! - The name of a [`Kind`] in JSON never changes: operators match on it.
//! - A condition is listed only while it holds, each kind at most once, in the order of
//!   [`Kind::ALL`].

use std::fmt::Write as _;

use serde::Serialize;

use crate::limits;

/// The kinds of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Shards that are not served until they are repaired.
    DamagedShard,
    /// Shards whose replica has stopped, because it contradicts the other replicas or its log.
    QuarantinedShard,
    /// Shards whose replica has stopped at an entry of a newer version of the broker.
    TooOld,
    /// Partitions that lost records to damage.
    DamagedPartitions,
    /// Partitions that are kept although the catalog does not list their topic.
    OrphanedPartitions,
    /// Writes are refused because the volume has no space left.
    StorageFull,
    /// The write-ahead log is at its size limit and is being emptied; writes wait.
    LogAtLimit,
    /// The bucket for older records fails, or is not set: no records leave the disk.
    TierFailing,
    /// Shards without a leader, or whose replica on this broker lacks entries.
    CatchingUp,
}

impl Kind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: [Self; 9] = [
        Self::DamagedShard,
        Self::QuarantinedShard,
        Self::TooOld,
        Self::DamagedPartitions,
        Self::OrphanedPartitions,
        Self::StorageFull,
        Self::LogAtLimit,
        Self::TierFailing,
        Self::CatchingUp,
    ];

    /// The name in JSON and in the label of the metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DamagedShard => "damaged_shard",
            Self::QuarantinedShard => "quarantined_shard",
            Self::TooOld => "too_old",
            Self::DamagedPartitions => "damaged_partitions",
            Self::OrphanedPartitions => "orphaned_partitions",
            Self::StorageFull => "storage_full",
            Self::LogAtLimit => "log_at_limit",
            Self::TierFailing => "tier_failing",
            Self::CatchingUp => "catching_up",
        }
    }
}

/// A condition that holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// The kind of the condition.
    pub kind: Kind,
    /// One sentence for people, at most [`limits::CONDITION_BYTES_MAX`] bytes; the wording may
    /// change.
    pub message: String,
    /// Affected shards or partitions; 1 for a condition of the whole broker.
    pub count: usize,
}

impl Condition {
    /// A condition of the whole broker.
    #[must_use]
    pub fn of_broker(kind: Kind, message: String) -> Self {
        Self { kind, message: bounded(message), count: 1 }
    }

    /// A condition of some shards or partitions; `None` when there are none. The message begins
    /// with their number and `what`, and lists the first few.
    #[must_use]
    pub fn of_parts(
        kind: Kind,
        what: &str,
        parts: impl IntoIterator<Item = String>,
    ) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut listed: Vec<String> = parts.by_ref().take(limits::CONDITION_PARTS_MAX).collect();
        let count = listed.len() + parts.count();
        if count == 0 {
            return None;
        }
        if count > listed.len() {
            listed.push(format!("and {} more", count - listed.len()));
        }
        let mut message = String::new();
        let _ = write!(message, "{count} {what}: {}", listed.join("; "));
        Some(Self { kind, message: bounded(message), count })
    }
}

/// Truncates a message at the bound, on a character boundary.
fn bounded(mut message: String) -> String {
    const DOTS: char = '…';
    if message.len() > limits::CONDITION_BYTES_MAX {
        let room = limits::CONDITION_BYTES_MAX - DOTS.len_utf8();
        message.truncate(message.floor_char_boundary(room));
        message.push(DOTS);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_counts_all_parts_and_lists_a_bounded_number() {
        let none = Condition::of_parts(Kind::DamagedPartitions, "partitions are damaged", []);
        assert_eq!(none, None);
        let parts = (0..1000).map(|n| format!("orders-{n} (a wrong checksum)"));
        let all = Condition::of_parts(Kind::DamagedPartitions, "partitions are damaged", parts);
        let all = all.expect("there are some");
        assert_eq!(all.count, 1000);
        assert!(
            all.message.starts_with("1000 partitions are damaged: orders-0 (a wrong"),
            "{all:?}"
        );
        assert!(all.message.ends_with("; and 990 more"), "{all:?}");
    }

    #[test]
    fn r1_a_message_has_a_bound_and_ends_on_a_character() {
        let long = Condition::of_broker(Kind::StorageFull, "é".repeat(5_000));
        assert!(long.message.len() <= limits::CONDITION_BYTES_MAX);
        assert!(long.message.ends_with("é…"), "{}", long.message);
    }

    #[test]
    fn the_names_in_json_are_those_of_the_metric() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::json!(kind), kind.name());
        }
    }
}
