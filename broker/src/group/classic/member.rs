//! The members of a classic group, by member id and by instance id.
//!
//! Invariant: `instances` maps exactly the instance ids of `members` to their member ids.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Candidate, Join, MemberDescription, NEW_MEMBER_WAIT_MS, Reply, Token};
use crate::group::Refusal;

/// The state of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// The request of this member that is pending.
    pub(super) waiting: Option<Waiting>,
    /// The member has not received its generation yet, and cannot send heartbeats.
    pub(super) is_new: bool,
    /// The member has requested its assignment in this generation.
    pub(super) synced: bool,
    /// The end of the member's session, milliseconds.
    pub(super) session_until_ms: i64,
}

/// A pending request of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A join that waits for the next generation.
    Join(Token),
    /// A join that waits for the record of an instance id takeover; the generation does not change.
    Takeover {
        token: Token,
        /// The sequence of the record.
        sequence: u64,
        /// The leader to name in the response. Before KIP-814 a returning leader is given its own
        /// old member id as leader, so that it does not assign.
        leader: String,
        /// The member is the leader and is instructed to skip the assignment.
        skip_assignment: bool,
    },
    /// A sync that waits for the assignment.
    Sync(Token),
}

impl Waiting {
    /// The error reply that ends the wait.
    pub(super) fn refused(self, member_id: String, refusal: Refusal) -> (Token, Reply) {
        match self {
            Self::Join(token) | Self::Takeover { token, .. } => {
                (token, Reply::NotJoined { member_id, refusal })
            }
            Self::Sync(token) => (token, Reply::NotSynced(refusal)),
        }
    }
}

impl Member {
    pub(super) fn new(join: Join, now_ms: i64) -> Self {
        Self {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            waiting: None,
            is_new: true,
            synced: false,
            session_until_ms: now_ms.saturating_add(NEW_MEMBER_WAIT_MS),
        }
    }

    /// Takes over the values that each join renews.
    pub(super) fn refresh(&mut self, join: Join) {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
    }

    /// Extends the session by a full session timeout from now, and returns its new end.
    pub(super) fn extend_session(&mut self, now_ms: i64) -> i64 {
        self.session_until_ms = now_ms.saturating_add(i64::from(self.session_timeout_ms));
        self.session_until_ms
    }

    /// Size of the member's metadata, bytes.
    fn metadata_bytes(&self) -> usize {
        let instance_bytes = self.instance_id.as_ref().map_or(0, String::len);
        instance_bytes
            + self.client_id.len()
            + self.client_host.len()
            + protocols_bytes(&self.protocols)
    }

    pub(super) fn is_joining(&self) -> bool {
        matches!(self.waiting, Some(Waiting::Join(_)))
    }

    pub(super) fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    /// Whether the session has expired. A member with a pending request is not silent, but a new
    /// member's wait has a limit of its own.
    pub(super) fn is_expired(&self, now_ms: i64) -> bool {
        self.session_until_ms <= now_ms && (self.is_new || self.waiting.is_none())
    }

    /// The member's subscription under a protocol.
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    pub(super) fn describe(&self, member_id: &str, chosen: Option<&str>) -> MemberDescription {
        let assignment = if chosen.is_some() { self.assignment.clone() } else { Bytes::new() };
        MemberDescription {
            member_id: member_id.to_owned(),
            instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            metadata: self.metadata(chosen),
            assignment,
        }
    }
}

/// Size of a member's protocols with their names and their overhead in the record, bytes.
pub(super) fn protocols_bytes(protocols: &[(String, Bytes)]) -> usize {
    /// Two lengths, and the headers of the two allocations.
    const EACH_BYTES: usize = 64;
    protocols.iter().map(|(name, metadata)| EACH_BYTES + name.len() + metadata.len()).sum()
}

/// The members of a group.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: BTreeMap<String, Member>,
    instances: BTreeMap<String, String>,
    /// Size of all metadata; see [`Members::metadata_bytes`].
    metadata_bytes: usize,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Member)> {
        self.members.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = (&String, &mut Member)> {
        self.members.iter_mut()
    }

    /// The member id that holds an instance id.
    pub(super) fn holder(&self, instance_id: &str) -> Option<&str> {
        self.instances.get(instance_id).map(String::as_str)
    }

    /// Size of the metadata of all members with their ids, bytes.
    pub(super) fn metadata_bytes(&self) -> usize {
        self.metadata_bytes
    }

    /// A member's part of [`Self::metadata_bytes`]; 0 for an unknown member.
    pub(super) fn bytes_of(&self, id: &str) -> usize {
        self.members.get(id).map_or(0, |member| id.len() + member.metadata_bytes())
    }

    /// Replaces the metadata of a member, as each of its joins does.
    pub(super) fn refresh(&mut self, id: &str, join: Join) {
        let before = self.bytes_of(id);
        if let Some(member) = self.members.get_mut(id) {
            member.refresh(join);
        }
        self.metadata_bytes = self.metadata_bytes - before + self.bytes_of(id);
    }

    pub(super) fn insert(&mut self, id: String, member: Member) {
        self.metadata_bytes += id.len() + member.metadata_bytes();
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        self.members.insert(id, member);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.metadata_bytes -= id.len() + member.metadata_bytes();
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        Some(member)
    }

    /// Checks that the member exists and that no newer process holds its instance id.
    pub(super) fn check(&self, id: &str, instance_id: Option<&str>) -> Result<(), Refusal> {
        if let Some(instance) = instance_id {
            let holder = self.holder(instance).ok_or(Refusal::UnknownMember)?;
            if holder != id {
                return Err(Refusal::FencedInstance);
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(Refusal::UnknownMember) }
    }

    /// The ids of the members for which `condition` holds.
    pub(super) fn ids_where(&self, condition: impl Fn(&Member) -> bool) -> Vec<String> {
        let matching = self.members.iter().filter(|(_, member)| condition(member));
        matching.map(|(id, _)| id.clone()).collect()
    }

    /// Removes all pending requests and returns them.
    pub(super) fn stop_waiting(&mut self) -> Vec<(String, Waiting)> {
        let waiting = |(id, m): (&String, &mut Member)| Some((id.clone(), m.waiting.take()?));
        self.members.iter_mut().filter_map(waiting).collect()
    }

    /// The number of members with a pending join.
    pub(super) fn joining(&self) -> usize {
        self.members.values().filter(|member| member.is_joining()).count()
    }

    /// The longest rebalance timeout of the members, milliseconds.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|m| i64::from(m.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Whether every member supports this protocol.
    pub(super) fn all_support(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.supports(protocol))
    }

    /// Elects the protocol. Each member votes for the first protocol on its list that all members
    /// support. On a tie the first voter's preference decides (`leader`'s, if it is a member).
    pub(super) fn elect_protocol(&self, leader: Option<&str>) -> Option<String> {
        let first = leader.and_then(|id| self.members.get(id)).or(self.members.values().next())?;
        let common: Vec<&str> = first
            .protocols
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| self.all_support(name))
            .collect();
        let votes_for = |name: &str| {
            let vote = |m: &Member| {
                m.protocols.iter().find(|(name, _)| common.contains(&name.as_str())).cloned()
            };
            self.members.values().filter(|m| vote(m).is_some_and(|(v, _)| v == name)).count()
        };
        // `rev` because `max_by_key` returns the last of equal elements.
        common.iter().rev().max_by_key(|name| votes_for(name)).map(|&name| name.to_owned())
    }

    /// All members, as the leader receives them.
    pub(super) fn candidates(&self, protocol: Option<&str>) -> Vec<Candidate> {
        let candidate = |(id, member): (&String, &Member)| Candidate {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        self.members.iter().map(candidate).collect()
    }
}
