//! The members of a classic group, by member id and by instance id.
//!
//! Invariant: `instances` maps exactly the instance ids of `members` to their member ids.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Candidate, Join, MemberDescription, NEW_MEMBER_WAIT_MS, Reply, Token};
use crate::group::Refusal;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// What it waits for.
    pub(super) waiting: Option<Waiting>,
    /// It was never told its generation, and cannot send heartbeats.
    pub(super) is_new: bool,
    /// It has asked for its assignment in this generation.
    pub(super) synced: bool,
    /// It is silent for too long from then on.
    pub(super) session_until_ms: i64,
}

/// What a member waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The next generation.
    Join(Token),
    /// The record that it took over an instance id; the generation stands.
    Takeover {
        token: Token,
        /// The record.
        sequence: u64,
        /// Who it is told leads: before KIP-814 a leader that came back is told its own old
        /// id, so that it does not assign.
        leader: String,
        /// It leads, and is told not to assign.
        skip_assignment: bool,
    },
    /// Its assignment.
    Sync(Token),
}

impl Waiting {
    /// The reply that ends the wait without what was waited for.
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

    /// What a member says anew each time it joins.
    pub(super) fn refresh(&mut self, join: Join) {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
    }

    /// A full session from now. Says until when.
    pub(super) fn extend_session(&mut self, now_ms: i64) -> i64 {
        self.session_until_ms = now_ms.saturating_add(i64::from(self.session_timeout_ms));
        self.session_until_ms
    }

    /// What is kept of what it says about itself, bytes.
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

    /// Whether its silence lasted too long. Who waits for us is not silent; but a new member's
    /// wait has an end of its own.
    pub(super) fn is_expired(&self, now_ms: i64) -> bool {
        self.session_until_ms <= now_ms && (self.is_new || self.waiting.is_none())
    }

    /// Its subscription under a protocol.
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

/// What a member's protocols take, with their names and their place in the record, bytes.
pub(super) fn protocols_bytes(protocols: &[(String, Bytes)]) -> usize {
    /// Two lengths, and the headers of the two allocations.
    const EACH_BYTES: usize = 64;
    protocols.iter().map(|(name, metadata)| EACH_BYTES + name.len() + metadata.len()).sum()
}

/// All members.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: BTreeMap<String, Member>,
    instances: BTreeMap<String, String>,
    /// See [`Members::metadata_bytes`].
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

    /// Who holds an instance id.
    pub(super) fn holder(&self, instance_id: &str) -> Option<&str> {
        self.instances.get(instance_id).map(String::as_str)
    }

    /// What all members say about themselves, with their ids, bytes.
    pub(super) fn metadata_bytes(&self) -> usize {
        self.metadata_bytes
    }

    /// A member's part of [`Self::metadata_bytes`]; 0 for one that is not there.
    pub(super) fn bytes_of(&self, id: &str) -> usize {
        self.members.get(id).map_or(0, |member| id.len() + member.metadata_bytes())
    }

    /// Replaces what a member says about itself, as each of its joins does.
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

    /// Whether there is such a member, and no newer process under its instance id.
    pub(super) fn check(&self, id: &str, instance_id: Option<&str>) -> Result<(), Refusal> {
        if let Some(instance) = instance_id {
            let holder = self.holder(instance).ok_or(Refusal::UnknownMember)?;
            if holder != id {
                return Err(Refusal::FencedInstance);
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(Refusal::UnknownMember) }
    }

    /// The ids of those that `condition` holds for.
    pub(super) fn ids_where(&self, condition: impl Fn(&Member) -> bool) -> Vec<String> {
        let matching = self.members.iter().filter(|(_, member)| condition(member));
        matching.map(|(id, _)| id.clone()).collect()
    }

    /// Takes what everybody waits for.
    pub(super) fn stop_waiting(&mut self) -> Vec<(String, Waiting)> {
        let waiting = |(id, m): (&String, &mut Member)| Some((id.clone(), m.waiting.take()?));
        self.members.iter_mut().filter_map(waiting).collect()
    }

    /// How many wait for the next generation.
    pub(super) fn joining(&self) -> usize {
        self.members.values().filter(|member| member.is_joining()).count()
    }

    /// The longest time that any of them may take to join again.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|m| i64::from(m.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Whether every member supports this protocol.
    pub(super) fn all_support(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.supports(protocol))
    }

    /// Each member votes for the first protocol on its list that all support. Of equally many
    /// votes, the one that the first voter (`leader`, if it is there) likes best wins.
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
        // `rev`: of equal ones `max_by_key` takes the last.
        common.iter().rev().max_by_key(|name| votes_for(name)).map(|&name| name.to_owned())
    }

    /// Everyone, as the leader sees them.
    pub(super) fn candidates(&self, protocol: Option<&str>) -> Vec<Candidate> {
        let candidate = |(id, member): (&String, &Member)| Candidate {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        self.members.iter().map(candidate).collect()
    }
}
