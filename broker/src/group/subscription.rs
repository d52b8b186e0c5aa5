//! The topics that consumers subscribe to, decoded from the bytes that they send to the group's
//! leader.
//!
//! The broker takes no part in the assignment and decodes these bytes for three reasons only: a
//! static member that rejoins with the same topics causes no rebalance, offsets of subscribed
//! topics do not expire, and an administrator cannot delete them.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};
use ropewalk_shard::state::Group;

/// The protocol type of Kafka's consumers.
pub(crate) const CONSUMER: &str = "consumer";

/// The topics that a group reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubscribedTopics {
    /// The group reads these topics.
    To(BTreeSet<String>),
    /// The members' metadata is not a consumer's: the group may read any topic.
    Unknown,
}

/// The members' metadata, not decoded yet: it is copied while the state is locked and decoded after
/// that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberMetadata {
    /// The metadata of each member's chosen protocol.
    ByConsumers(Vec<Bytes>),
    /// Metadata of another protocol type.
    ByOthers,
}

impl MemberMetadata {
    /// The metadata of the members of the group's last completed generation.
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

    /// Decodes the topics of all members. Equal metadata is decoded once.
    pub(crate) fn read(self) -> SubscribedTopics {
        let Self::ByConsumers(all) = self else { return SubscribedTopics::Unknown };
        let distinct: BTreeSet<Bytes> = all.into_iter().collect();
        let all: Option<Vec<_>> = distinct.iter().map(topics).collect();
        all.map_or(SubscribedTopics::Unknown, |all| {
            SubscribedTopics::To(all.into_iter().flatten().collect())
        })
    }
}

impl SubscribedTopics {
    /// The topics of a group's members, by its last completed generation.
    pub(crate) fn of(group: &Group) -> Self {
        MemberMetadata::of(group).read()
    }

    /// Whether some member may read the topic.
    pub(crate) fn includes(&self, topic: &str) -> bool {
        match self {
            Self::To(topics) => topics.contains(topic),
            Self::Unknown => true,
        }
    }
}

/// Whether a returning member subscribes to the same topics as before. The other fields (owned
/// partitions, generation, rack) do not matter. Metadata of other protocol types is opaque; a
/// static member with such metadata counts as unchanged.
pub(crate) fn same_topics(protocol_type: Option<&str>, before: &Bytes, after: &Bytes) -> bool {
    if protocol_type != Some(CONSUMER) || before == after {
        return true;
    }
    match (topics(before), topics(after)) {
        (Some(before), Some(after)) => before == after,
        _ => true,
    }
}

/// The topics of a `ConsumerProtocolSubscription`: a version, then an array of strings. Fields of
/// later versions follow.
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
