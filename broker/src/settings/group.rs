//! Configuration of consumer, share and streams groups (KIP-848, KIP-932, KIP-1071).
//!
//! Only classic groups are served, whose members send their own timeouts. The keys are stored and
//! shown nevertheless, so that tools can set them.

use super::key::{Key, Kind, Synonym, Update, Valid};

const fn int(name: &'static str, default: &'static str, at_least: i64) -> Key {
    Key::new(name, Kind::Int, Some(default))
        .valid(Valid::AtLeast(at_least))
        .update(Update::ClusterWide)
        .ignored()
}

macro_rules! synonym {
    ($name:literal) => {
        &[Synonym { name: $name, factor: 1 }]
    };
}

pub(super) static KEYS: &[Key] = &[
    int("consumer.assignment.interval.ms", "1000", 0)
        .synonyms(synonym!("group.consumer.assignment.interval.ms")),
    int("consumer.heartbeat.interval.ms", "5000", 1)
        .synonyms(synonym!("group.consumer.heartbeat.interval.ms")),
    int("consumer.session.timeout.ms", "45000", 1)
        .synonyms(synonym!("group.consumer.session.timeout.ms")),
    int("share.assignment.interval.ms", "1000", 0)
        .synonyms(synonym!("group.share.assignment.interval.ms")),
    Key::new("share.auto.offset.reset", Kind::String, Some("latest"))
        .update(Update::ClusterWide)
        .ignored(),
    int("share.delivery.count.limit", "5", 2)
        .synonyms(synonym!("group.share.delivery.count.limit")),
    int("share.heartbeat.interval.ms", "5000", 1)
        .synonyms(synonym!("group.share.heartbeat.interval.ms")),
    Key::new("share.isolation.level", Kind::String, Some("read_uncommitted"))
        .valid(Valid::OneOf(&["read_committed", "read_uncommitted"]))
        .update(Update::ClusterWide)
        .ignored(),
    int("share.partition.max.record.locks", "2000", 100)
        .synonyms(synonym!("group.share.partition.max.record.locks")),
    int("share.record.lock.duration.ms", "30000", 1000)
        .synonyms(synonym!("group.share.record.lock.duration.ms")),
    Key::new("share.renew.acknowledge.enable", Kind::Boolean, Some("true"))
        .update(Update::ClusterWide)
        .ignored(),
    int("share.session.timeout.ms", "45000", 1)
        .synonyms(synonym!("group.share.session.timeout.ms")),
    int("streams.assignment.interval.ms", "1000", 0)
        .synonyms(synonym!("group.streams.assignment.interval.ms")),
    int("streams.heartbeat.interval.ms", "5000", 1)
        .synonyms(synonym!("group.streams.heartbeat.interval.ms")),
    int("streams.initial.rebalance.delay.ms", "3000", 0)
        .synonyms(synonym!("group.streams.initial.rebalance.delay.ms")),
    int("streams.num.standby.replicas", "0", 0)
        .synonyms(synonym!("group.streams.num.standby.replicas")),
    int("streams.session.timeout.ms", "45000", 1)
        .synonyms(synonym!("group.streams.session.timeout.ms")),
];

/// Every key of a group, in the order of names.
pub fn all() -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
}

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
