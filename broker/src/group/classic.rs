//! The state machine of one classic consumer group: its members, its generation and the pending
//! requests.
//!
//! Members join, the leader (one of them) receives the list of members and makes the assignment,
//! every member fetches its part with `SyncGroup` and then sends heartbeats. Any change of the
//! members starts this again under the next generation number.
//!
//! [`crate::group::coordinator`] passes in requests and the time, and carries out the [`Output`].
//! This module uses no tasks, no clock and none of Kafka's error codes.
//!
//! # Invariants
//!
//! - **G1** a generation number is durable before a client receives it: it is persisted when the
//!   joins are complete, before they are answered, and again with the assignment before `SyncGroup`
//!   is answered. So a restart neither repeats a number nor returns to an earlier one.
//! - **G2** an assignment comes from the leader of its generation, in full, and only once.
//! - **G3** a pending request is answered at the latest when the rebalance or session timeout that
//!   it waits under has passed.
//! - **O3** a commit is admitted only from a member of the current generation.
//!
//! # After a crash
//!
//! [`ClassicGroup::restore`] restores the last durable generation. With an assignment it is stable,
//! and members notice nothing; without one, the members must join again. Each member has one full
//! session timeout from then.

mod member;
mod pending;
mod join;
mod rebalance;
mod sync;
mod timers;
mod record;

use bytes::Bytes;
use ropewalk_shard::command::{MemberClaim, SetGeneration};
use uuid::Uuid;

use super::Refusal;
use member::Members;
use pending::Pending;

/// Identifies a pending request; the caller issues it and finds the request by it.
pub(crate) type Token = u64;

/// The broker's group settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The value of `group.min.session.timeout.ms`, milliseconds.
    pub session_ms_min: i32,
    /// The value of `group.max.session.timeout.ms`, milliseconds.
    pub session_ms_max: i32,
    /// The value of `group.initial.rebalance.delay.ms`, milliseconds.
    pub initial_delay_ms: i32,
    /// `group.max.size`, number of members.
    pub members_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            session_ms_min: 6_000,
            session_ms_max: 1_800_000,
            initial_delay_ms: 3_000,
            members_max: usize::MAX,
        }
    }
}

/// Longest wait of a new member's `JoinGroup`, milliseconds. It has no member id yet and cannot
/// send heartbeats, so a client that gives up and retries would leave one dead member behind per
/// attempt.
const NEW_MEMBER_WAIT_MS: i64 = 300_000;

/// The state of the group, as clients and tools see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The group has no members. It may have offsets.
    Empty {
        /// When to retry making the empty generation durable; `None` if it is durable.
        retry_at_ms: Option<i64>,
    },
    /// All members must join again.
    Preparing {
        /// Members that have not joined by then are removed.
        until_ms: i64,
        /// The first rebalance of an empty group, which waits for more members.
        initial_delay: Option<InitialDelay>,
    },
    /// The members of the generation are fixed; its leader makes the assignment.
    Completing {
        /// The current step towards the assignment.
        stage: Stage,
        /// Members that have not sent `SyncGroup` by then are removed.
        sync_until_ms: i64,
    },
    /// Every member has its assignment or can fetch it.
    Stable {
        /// The same deadline, while a member has not fetched its assignment.
        sync_until_ms: Option<i64>,
    },
    /// Deleted, or coordinated elsewhere from now on.
    Dead(Refusal),
}

/// The rest of the initial rebalance delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitialDelay {
    /// The longest remaining extension of the delay, milliseconds.
    remaining_ms: i64,
    /// Whether a member joined since the delay was last extended.
    extend: bool,
}

/// The steps from complete joins to an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The generation is being made durable; its number is not published yet.
    Announcing {
        /// The sequence of the pending [`Persist`].
        sequence: u64,
    },
    /// The leader has to send the assignment.
    Assigning,
    /// The assignment is being made durable; no member has received it.
    Recording {
        /// The sequence of the pending [`Persist`].
        sequence: u64,
    },
}

/// A `JoinGroup` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Join {
    /// Empty for a new member.
    pub member_id: String,
    /// `group.instance.id`; `None` for a dynamic member.
    pub instance_id: Option<String>,
    /// The client id of the request.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// The session timeout, milliseconds.
    pub session_timeout_ms: i32,
    /// The rebalance timeout: how long the member may take to join again, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// The supported protocols, in order of preference, each with the member's subscription.
    pub protocols: Vec<(String, Bytes)>,
    /// The unique part of a new member id.
    pub unique: Uuid,
    /// From v4 on a dynamic member must join again with the member id it is given (KIP-394).
    pub needs_known_id: bool,
    /// From v9 on a leader can be instructed to skip the assignment (KIP-814).
    pub can_skip_assignment: bool,
}

impl Join {
    /// The member id of a new member.
    fn fresh_id(&self) -> String {
        let name = self.instance_id.as_ref().unwrap_or(&self.client_id);
        format!("{name}-{}", self.unique)
    }
}

/// A `SyncGroup` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncRequest {
    /// The member that sends the request.
    pub claim: MemberClaim,
    /// The protocol type that the member expects; old clients do not send it.
    pub protocol_type: Option<String>,
    /// The protocol that the member expects; old clients do not send it.
    pub protocol: Option<String>,
    /// From the leader: the assignment of each member.
    pub assignments: Vec<(String, Bytes)>,
}

/// A member to remove, as `LeaveGroup` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaver {
    /// Empty when an administrator removes a static member by its instance id.
    pub member_id: String,
    /// `group.instance.id`; `None` for a dynamic member.
    pub instance_id: Option<String>,
}

/// The result of a pending request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The success response of `JoinGroup`.
    Joined(JoinResult),
    /// The error response of `JoinGroup`.
    NotJoined {
        /// The member id to join again with; empty if there is none.
        member_id: String,
        /// The reason of the refusal.
        refusal: Refusal,
    },
    /// The success response of `SyncGroup`.
    Synced(SyncResult),
    /// The error response of `SyncGroup`.
    NotSynced(Refusal),
}

/// A member's place in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinResult {
    /// The member's id.
    pub member_id: String,
    /// The generation number.
    pub generation: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: Option<String>,
    /// The chosen protocol (assignor).
    pub protocol: Option<String>,
    /// The member id of the leader.
    pub leader: String,
    /// All members, if this member is the leader; empty otherwise.
    pub members: Vec<Candidate>,
    /// The leader rejoined and the current assignment remains valid.
    pub skip_assignment: bool,
}

/// A member in the leader's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The member id.
    pub member_id: String,
    /// `group.instance.id`; `None` for a dynamic member.
    pub instance_id: Option<String>,
    /// The member's subscription under the chosen protocol.
    pub metadata: Bytes,
}

/// A member's part of the assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncResult {
    /// `consumer`, `connect`, …
    pub protocol_type: Option<String>,
    /// The chosen protocol (assignor).
    pub protocol: Option<String>,
    /// The assignment that the leader made for the member.
    pub assignment: Bytes,
}

/// A record to make durable. Records of one group must be proposed in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Persist {
    /// The sequence number to pass to [`ClassicGroup::persisted`].
    pub sequence: u64,
    /// The content of the record.
    pub record: SetGeneration,
}

/// What the caller has to do, in any order.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Output {
    /// The replies to pending requests.
    pub replies: Vec<(Token, Reply)>,
    /// The records to propose, in this order.
    pub persists: Vec<Persist>,
}

/// The state machine of one group. The module documentation lists its invariants.
#[derive(Debug)]
pub(crate) struct ClassicGroup {
    id: String,
    rules: Rules,
    phase: Phase,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: Members,
    /// Member ids that were issued and not used yet.
    pending: Pending,
    /// The number of records emitted so far.
    sequence: u64,
    /// A lower bound of all deadlines, milliseconds.
    wake_ms: i64,
    output: Output,
}

/// A group as DescribeGroups reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// Kafka's name of the state.
    pub state: &'static str,
    /// `consumer`, `connect`, … ; empty for a group that never had members.
    pub protocol_type: String,
    /// The chosen protocol (assignor) of a stable group.
    pub protocol: String,
    /// The members of the group.
    pub members: Vec<MemberDescription>,
}

/// A member as DescribeGroups reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    /// The member id.
    pub member_id: String,
    /// `group.instance.id`; `None` for a dynamic member.
    pub instance_id: Option<String>,
    /// The client id of the member.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// The member's subscription, in a stable group.
    pub metadata: Bytes,
    /// The member's assignment, in a stable group.
    pub assignment: Bytes,
}

impl ClassicGroup {
    /// A group without a record.
    pub(crate) fn new(id: String, rules: Rules) -> Self {
        Self {
            id,
            rules,
            phase: Phase::Empty { retry_at_ms: None },
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Members::default(),
            pending: Pending::default(),
            sequence: 0,
            wake_ms: i64::MAX,
            output: Output::default(),
        }
    }

    /// The current state of the group.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether this state machine can be dropped and restored from the record without a loss.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Empty { retry_at_ms: None } && self.pending.is_empty()
    }

    /// The number of members, including those that wait for the next generation.
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// Size of the members' metadata and of the issued member ids, bytes.
    pub(crate) fn metadata_bytes(&self) -> usize {
        self.members.metadata_bytes() + self.pending.size_bytes()
    }

    /// Whether the members are Kafka consumers, whose subscriptions can be decoded.
    pub(crate) fn is_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(super::subscription::CONSUMER)
    }

    /// A heartbeat of a member. During a rebalance it extends the session and is answered with an
    /// error, so that the member joins again.
    pub(crate) fn heartbeat(&mut self, claim: &MemberClaim, now_ms: i64) -> Result<(), Refusal> {
        self.admit(claim)?;
        self.extend_session(&claim.member_id, now_ms);
        match self.phase {
            Phase::Preparing { .. } => Err(Refusal::RebalanceInProgress),
            Phase::Completing { .. } | Phase::Stable { .. } => Ok(()),
            Phase::Empty { .. } => Err(Refusal::UnknownMember),
            Phase::Dead(refusal) => Err(refusal),
        }
    }

    /// Whether offsets may be committed by a member, or (`None`) by a client without membership. A
    /// member's commit counts as a heartbeat.
    pub(crate) fn check_commit(
        &mut self,
        claim: Option<&MemberClaim>,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        if let Phase::Dead(refusal) = self.phase {
            return Err(refusal);
        }
        let Some(claim) = claim else {
            let empty = matches!(self.phase, Phase::Empty { .. });
            return if empty { Ok(()) } else { Err(Refusal::UnknownMember) };
        };
        self.admit(claim)?;
        // The member knows the new generation but not its assignment, so it cannot have processed
        // records of it.
        if matches!(self.phase, Phase::Completing { .. }) {
            return Err(Refusal::RebalanceInProgress);
        }
        self.extend_session(&claim.member_id, now_ms);
        Ok(())
    }

    /// Members leave, or an administrator removes them. One result for each.
    pub(crate) fn leave(
        &mut self,
        leavers: &[Leaver],
        now_ms: i64,
    ) -> (Result<Vec<Result<(), Refusal>>, Refusal>, Output) {
        if let Phase::Dead(refusal) = self.phase {
            return (Err(refusal), self.take());
        }
        let results: Vec<_> = leavers.iter().map(|leaver| self.remove_leaver(leaver)).collect();
        if results.iter().any(Result::is_ok) {
            self.after_removal(now_ms);
        }
        (Ok(results), self.take())
    }

    fn remove_leaver(&mut self, leaver: &Leaver) -> Result<(), Refusal> {
        if self.pending.remove(&leaver.member_id) {
            return Ok(());
        }
        let id = if leaver.member_id.is_empty() {
            let instance = leaver.instance_id.as_deref().ok_or(Refusal::UnknownMember)?;
            self.members.holder(instance).ok_or(Refusal::UnknownMember)?.to_owned()
        } else {
            self.members.check(&leaver.member_id, leaver.instance_id.as_deref())?;
            leaver.member_id.clone()
        };
        self.remove(&id);
        Ok(())
    }

    /// Ends the group here: answers every pending and every later request with `refusal`. The
    /// record is not changed; its next coordinator owns it.
    pub(crate) fn kill(&mut self, refusal: Refusal) -> Output {
        for (member_id, waiting) in self.members.stop_waiting() {
            let reply = waiting.refused(member_id, refusal);
            self.output.replies.push(reply);
        }
        self.members = Members::default();
        self.pending.clear();
        self.phase = Phase::Dead(refusal);
        self.wake_ms = i64::MAX;
        self.take()
    }

    /// The group as DescribeGroups reports it.
    pub(crate) fn describe(&self) -> Description {
        let chosen = match self.phase {
            Phase::Stable { .. } => self.protocol.as_deref(),
            Phase::Empty { .. }
            | Phase::Preparing { .. }
            | Phase::Completing { .. }
            | Phase::Dead(_) => None,
        };
        Description {
            state: self.phase.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: chosen.unwrap_or_default().to_owned(),
            members: self.members.iter().map(|(id, m)| m.describe(id, chosen)).collect(),
        }
    }

    /// Checks that a request comes from a member of the current generation.
    fn admit(&self, claim: &MemberClaim) -> Result<(), Refusal> {
        if let Phase::Dead(refusal) = self.phase {
            return Err(refusal);
        }
        self.members.check(&claim.member_id, claim.instance_id.as_deref())?;
        if claim.generation == self.generation { Ok(()) } else { Err(Refusal::IllegalGeneration) }
    }

    fn take(&mut self) -> Output {
        std::mem::take(&mut self.output)
    }
}

impl Phase {
    /// Kafka's name of the state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty { .. } => "Empty",
            Self::Preparing { .. } => "PreparingRebalance",
            Self::Completing { .. } => "CompletingRebalance",
            Self::Stable { .. } => "Stable",
            Self::Dead(_) => "Dead",
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod simulation;
