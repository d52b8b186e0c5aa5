//! A classic consumer group: who is in it, which generation, and who waits for what.
//!
//! Members join, one of them (the leader) is told about all and makes the assignment, everybody
//! fetches their part of it with `SyncGroup` and then sends heartbeats. Any change among them
//! starts that again under the next generation number.
//!
//! # Place in the walk
//!
//! [`crate::group::coordinator`] feeds requests and the time in and carries [`Output`] out.
//! **This module** decides, and knows neither tasks nor clocks nor Kafka's error codes.
//!
//! # Invariants
//!
//! - **G1** a generation number is durable before any client hears of it: it is persisted when the
//!   joins are complete, before they are answered, and once more with the assignment before
//!   `SyncGroup` is answered. So a restart neither repeats a number nor goes back to one.
//! - **G2** an assignment comes from the leader of its generation, whole, and only once.
//! - **G3** whoever waits is answered at the latest when the rebalance or session timeout that he
//!   waits under has passed.
//! - **O3** a commit is admitted only from a member of the current generation.
//!
//! # After a crash
//!
//! [`ClassicGroup::restore`] takes up the last durable generation. With its assignment it is
//! stable, and members notice nothing; without, they are asked to join again. Each has one
//! full session timeout from then.

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

/// Who waits for a reply; the caller gives it out and finds the waiter by it.
pub(crate) type Token = u64;

/// The broker's settings for groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// `group.min.session.timeout.ms`
    pub session_ms_min: i32,
    /// `group.max.session.timeout.ms`
    pub session_ms_max: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_delay_ms: i32,
    /// `group.max.size`
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

/// How long a new member's `JoinGroup` may wait. It has no member id yet and cannot send
/// heartbeats, so a client that gave up and asked again would leave one ghost a try behind.
const NEW_MEMBER_WAIT_MS: i64 = 300_000;

/// Where the group stands, as clients and tools see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No members. Offsets may be there.
    Empty {
        /// When to try again to make the emptiness durable.
        retry_at_ms: Option<i64>,
    },
    /// Everybody is asked to join again.
    Preparing {
        /// Who has not joined by then is out.
        until_ms: i64,
        /// The first rebalance of an empty group, which waits for company.
        opening: Option<Opening>,
    },
    /// The generation is decided; its leader makes the assignment.
    Completing {
        /// How far.
        stage: Stage,
        /// Who has not sent `SyncGroup` by then is out.
        sync_until_ms: i64,
    },
    /// Everybody has or can fetch an assignment.
    Stable {
        /// The same, while somebody has not fetched it.
        sync_until_ms: Option<i64>,
    },
    /// Deleted, or coordinated elsewhere from now on.
    Dead(Refusal),
}

/// What is left of the initial delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The whole wait ends after this much more.
    remaining_ms: i64,
    /// Somebody came since the delay was last extended.
    extend: bool,
}

/// The steps from complete joins to an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The generation is being made durable; its number is not told yet.
    Announcing {
        /// The [`Persist`] that is waited for.
        sequence: u64,
    },
    /// The leader is to send the assignment.
    Assigning,
    /// The assignment is being made durable; nobody has it yet.
    Recording {
        /// The [`Persist`] that is waited for.
        sequence: u64,
    },
}

/// A `JoinGroup` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Join {
    /// Empty for one who has none yet.
    pub member_id: String,
    /// `group.instance.id`
    pub instance_id: Option<String>,
    /// The client's own name.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// How long it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// What it supports, best first, each with its subscription.
    pub protocols: Vec<(String, Bytes)>,
    /// The part of a new member id that makes it unique.
    pub unique: Uuid,
    /// From v4 a dynamic member must come back with the id it is given (KIP-394).
    pub needs_known_id: bool,
    /// From v9 a leader can be told not to assign (KIP-814).
    pub can_skip_assignment: bool,
}

impl Join {
    /// The id a new member gets.
    fn fresh_id(&self) -> String {
        let name = self.instance_id.as_ref().unwrap_or(&self.client_id);
        format!("{name}-{}", self.unique)
    }
}

/// A `SyncGroup` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncRequest {
    /// Who asks.
    pub claim: MemberClaim,
    /// What it believes was chosen; old clients do not say.
    pub protocol_type: Option<String>,
    /// The same.
    pub protocol: Option<String>,
    /// From the leader: each member's part.
    pub assignments: Vec<(String, Bytes)>,
}

/// A member that is to go, as `LeaveGroup` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaver {
    /// Empty when an administrator removes a static member by its instance id.
    pub member_id: String,
    /// `group.instance.id`
    pub instance_id: Option<String>,
}

/// What a waiter is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// To `JoinGroup`.
    Joined(Joined),
    /// To `JoinGroup`.
    NotJoined {
        /// Under which id to come back, if any.
        member_id: String,
        /// Why.
        refusal: Refusal,
    },
    /// To `SyncGroup`.
    Synced(Synced),
    /// To `SyncGroup`.
    NotSynced(Refusal),
}

/// A place in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The member's id.
    pub member_id: String,
    /// The generation.
    pub generation: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: Option<String>,
    /// The chosen assignor.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: String,
    /// Everyone, if this member is the leader.
    pub members: Vec<Candidate>,
    /// The leader came back and the assignment stands.
    pub skip_assignment: bool,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its id.
    pub member_id: String,
    /// `group.instance.id`
    pub instance_id: Option<String>,
    /// Its subscription under the chosen protocol.
    pub metadata: Bytes,
}

/// A member's part of the assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    /// `consumer`, `connect`, …
    pub protocol_type: Option<String>,
    /// The chosen assignor.
    pub protocol: Option<String>,
    /// What the leader gave it.
    pub assignment: Bytes,
}

/// A record to be made durable. Records of one group must be proposed in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Persist {
    /// To be given back to [`ClassicGroup::persisted`].
    pub sequence: u64,
    /// What.
    pub record: SetGeneration,
}

/// What the caller has to do, in any order.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Output {
    /// Whom to tell what.
    pub replies: Vec<(Token, Reply)>,
    /// What to propose, in this order.
    pub persists: Vec<Persist>,
}

/// The machine. See the module for its rules.
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
    /// Ids that were given out and not yet used.
    pending: Pending,
    /// How many records were asked for so far.
    sequence: u64,
    /// No deadline lies before this.
    wake_ms: i64,
    output: Output,
}

/// A group as tools see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// Kafka's word for the state.
    pub state: &'static str,
    /// `consumer`, `connect`, … ; empty for a group that never had members.
    pub protocol_type: String,
    /// The chosen assignor, in a stable group.
    pub protocol: String,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member as tools see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// `group.instance.id`
    pub instance_id: Option<String>,
    /// The client's own name.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Its subscription, in a stable group.
    pub metadata: Bytes,
    /// Its assignment, in a stable group.
    pub assignment: Bytes,
}

impl ClassicGroup {
    /// A group that never was.
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

    /// Where the group stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether nothing would be lost if this machine were dropped and restored from the record.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Empty { retry_at_ms: None } && self.pending.is_empty()
    }

    /// How many members it has, those that wait for the next generation included.
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// What its members say about themselves, and the ids given out to those who may join, bytes.
    pub(crate) fn metadata_bytes(&self) -> usize {
        self.members.metadata_bytes() + self.pending.size_bytes()
    }

    /// Whether its members are Kafka's consumers, whose subscriptions can be read.
    pub(crate) fn is_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(super::subscription::CONSUMER)
    }

    /// A member says that it lives. During a rebalance that counts too, but it is told to join.
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

    /// Whether offsets may be committed, by a member or (`None`) by one without membership. A
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
        // It knows the new generation but not its part of it: nothing it commits can be meant.
        if matches!(self.phase, Phase::Completing { .. }) {
            return Err(Refusal::RebalanceInProgress);
        }
        self.extend_session(&claim.member_id, now_ms);
        Ok(())
    }

    /// Members go, by themselves or removed by an administrator. One result for each.
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

    /// Everybody who waits is told `refusal`, and so is everybody who still comes. The record,
    /// if there is one, is another's business from now on.
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

    /// The group as tools see it.
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

    /// Checks a claim to be a member of the current generation.
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
    /// Kafka's word for it.
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
