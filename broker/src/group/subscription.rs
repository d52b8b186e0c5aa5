//! What consumers subscribe to, read from the bytes that they send to each other through the
//! group's leader.
//!
//! The broker has no part in an assignment and looks into these bytes for three reasons only: a
//! static member that comes back with the same topics costs no rebalance, offsets of topics that
//! somebody still reads do not expire, and an administrator cannot delete them.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};
use ropewalk_shard::state::Group;

/// The protocol type of Kafka's consumers.
pub(crate) const CONSUMER: &str = "consumer";

/// What a group reads, as far as it can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subscribed {
    /// These topics.
    To(BTreeSet<String>),
    /// Its members' bytes are not a consumer's: any topic, for all we know.
    Unknown,
}

/// What the members of a group sent, not read yet: it is taken while the state is locked, and read after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The metadata of each member's chosen protocol.
    ByConsumers(Vec<Bytes>),
    /// Bytes that are not a consumer's.
    ByOthers,
}

impl Sent {
    /// What the members of its last completed generation sent.
    pub(crate) fn of(group: &Group) -> Self {
        let Some(protocol) = &group.protocol else { return Self::ByConsumers(Vec::new()) };
        if group.protocol_type != CONSUMER {
            return Self::ByOthers;
        }
        let members = group.members.values();
        let of_member = members.map(|member| {
            let chosen = member.protocols.iter().find(|(name, _)| name == protocol);
            chosen.map(|(_, metadata)| metadata.clone())
        });
        of_member.collect::<Option<_>>().map_or(Self::ByOthers, Self::ByConsumers)
    }

    /// The topics of all members. Those that say the same are read once.
    pub(crate) fn read(self) -> Subscribed {
        let Self::ByConsumers(all) = self else { return Subscribed::Unknown };
        let distinct: BTreeSet<Bytes> = all.into_iter().collect();
        let all: Option<Vec<_>> = distinct.iter().map(topics).collect();
        all.map_or(Subscribed::Unknown, |all| Subscribed::To(all.into_iter().flatten().collect()))
    }
}

impl Subscribed {
    /// The topics of a group's members, by its last completed generation.
    pub(crate) fn of(group: &Group) -> Self {
        Sent::of(group).read()
    }

    /// Whether some member may read the topic.
    pub(crate) fn includes(&self, topic: &str) -> bool {
        match self {
            Self::To(topics) => topics.contains(topic),
            Self::Unknown => true,
        }
    }
}

/// Whether a member that came back wants what it wanted before. Everything but the topics (what
/// it owned, its generation, its rack) is gone or its own affair. Bytes of other protocol types
/// are opaque, and then a static member is taken at its word that it is the same.
pub(crate) fn same_topics(protocol_type: Option<&str>, before: &Bytes, after: &Bytes) -> bool {
    if protocol_type != Some(CONSUMER) || before == after {
        return true;
    }
    match (topics(before), topics(after)) {
        (Some(before), Some(after)) => before == after,
        _ => true,
    }
}

/// The topics of a `ConsumerProtocolSubscription`: a version, then an array of strings. What
/// later versions add comes behind.
fn topics(metadata: &Bytes) -> Option<BTreeSet<String>> {
    let mut rest = metadata.clone();
    rest.try_get_i16().ok().filter(|version| *version >= 0)?;
    let count = rest.try_get_i32().ok().filter(|count| *count >= 0)?;
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let length = usize::try_from(rest.try_get_i16().ok()?).ok()?;
        if rest.len() < length {
            return None;
        }
        topics.insert(String::from_utf8(rest.split_to(length).to_vec()).ok()?);
    }
    Some(topics)
}
