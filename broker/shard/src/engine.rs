//! The Raft engine. This is the only module that uses the `raft` crate.
//!
//! The engine has no clock, disk or network. The caller passes in proposals and ticks, takes the
//! entries to write and to apply as a [`Ready`], and reports when a write is durable. Any number of
//! writes may be in flight; they are reported in order.
//!
//! # Invariants
//!
//! - This replica commits nothing before its own write is durable (D1): the engine counts this
//!   replica towards the majority only in [`Engine::persisted`].
//! - Proposals and reads that the engine would forward to the leader on another broker are refused
//!   unless this replica leads.
//! - The `raft` crate panics on a commit index outside its log, so the commit index of [`Start`] is
//!   clamped to the log.

use std::fmt;

use bytes::Bytes;
use raft::eraftpb::{self, ConfState, EntryType, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use serde::{Deserialize, Serialize};

use crate::limits;

mod store;

use store::LogStore;
pub use store::{EntrySource, StoredEntry};

/// Raft's hard state: what a replica must write before it answers a vote or an append.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: u64,
    /// The replica that got this one's vote in `term`; 0 for none.
    pub vote: u64,
    /// The last index known to be committed; later entries may be committed too.
    pub commit: u64,
}

/// The members of a shard: Raft's `ConfState`, joint configurations included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Replicas that vote.
    pub voters: Vec<u64>,
    /// Replicas that receive the log and do not vote.
    pub learners: Vec<u64>,
    /// The voters of the configuration that a joint configuration leaves.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: Vec<u64>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// Index and term of an entry, which together identify it in the log of any replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryId {
    /// Index in the log, from 1; 0 for the position before the first entry.
    pub index: u64,
    /// The term in which the entry was proposed.
    pub term: u64,
}

impl Members {
    /// A shard with one replica.
    #[must_use]
    pub fn lone(replica: u64) -> Self {
        Self { voters: vec![replica], ..Self::default() }
    }

    fn to_conf_state(&self) -> ConfState {
        let mut state = ConfState::default();
        state.set_voters(self.voters.clone());
        state.set_learners(self.learners.clone());
        state.set_voters_outgoing(self.voters_outgoing.clone());
        state.set_learners_next(self.learners_next.clone());
        state.set_auto_leave(self.auto_leave);
        state
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index in the log.
    pub index: u64,
    /// The term in which the entry was proposed.
    pub term: u64,
    /// How `data` is encoded.
    pub kind: EntryKind,
    /// The payload; empty for the first entry of a term.
    pub data: Bytes,
}

impl Entry {
    /// Index and term of the entry.
    #[must_use]
    pub fn id(&self) -> EntryId {
        EntryId { index: self.index, term: self.term }
    }
}

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A [`command`](crate::command), or empty.
    Normal = 0,
    /// A change of the shard's members.
    Members = 1,
}

impl EntryKind {
    /// The reverse of `as u8`; `None` for an unknown number.
    #[must_use]
    pub fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Normal),
            1 => Some(Self::Members),
            _ => None,
        }
    }
}

/// The state from which the engine starts, as recovery read it.
#[derive(Debug)]
pub struct Start {
    /// Raft id of this replica.
    pub replica: u64,
    /// The last hard state in the log.
    pub hard_state: HardState,
    /// Members as of the snapshot.
    pub members: Members,
    /// The last entry that the snapshot includes; everything through it is applied.
    pub snapshot: EntryId,
    /// The entries after it, in order without a gap.
    pub entries: Vec<StoredEntry>,
    /// Reads the payloads of `entries`.
    pub source: Box<dyn EntrySource>,
}

/// Why the engine did not accept a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalRejection {
    /// This replica does not lead.
    NotLeader,
    /// [`limits::UNCOMMITTED_BYTES_MAX`] are uncommitted: retry after an entry commits.
    Busy,
}

/// What the caller has to do: write `entries` and `hard_state` to the WAL and report that with
/// [`Engine::persisted`]; apply `committed` now.
#[derive(Debug, Default)]
pub struct Ready {
    /// The number to report when `entries` and `hard_state` are durable.
    pub number: u64,
    /// New entries; an earlier entry at the same index or above is replaced.
    pub entries: Vec<Entry>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Whether the write has to be durable: false when only the commit index moved.
    pub must_sync: bool,
    /// Entries that are newly committed, in order.
    pub committed: Vec<Entry>,
    /// Reads for which the leadership of this replica is confirmed.
    pub reads: Vec<ConfirmedRead>,
}

/// A read that may be answered once the entry at `index` is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmedRead {
    /// The context given to [`Engine::read_index`].
    pub context: u64,
    /// The commit index when the read was requested.
    pub index: u64,
}

/// A Raft replica.
pub struct Engine {
    node: RawNode<LogStore>,
    lone: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raft = &self.node.raft;
        f.debug_struct("Engine").field("id", &raft.id).field("term", &raft.term).finish()
    }
}

impl Engine {
    /// A replica in the state that `start` describes. A single voter campaigns at once.
    ///
    /// # Errors
    /// When `start` is inconsistent.
    pub fn new(start: Start) -> Result<Self, EngineError> {
        let lone = start.members.voters == [start.replica]
            && start.members.voters_outgoing.is_empty()
            && start.members.learners.is_empty();
        let config = Config {
            id: start.replica,
            applied: start.snapshot.index,
            election_tick: limits::ELECTION_TICKS,
            heartbeat_tick: limits::HEARTBEAT_TICKS,
            max_size_per_msg: limits::MESSAGE_BYTES_MAX,
            max_inflight_msgs: limits::MESSAGES_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: limits::UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: limits::COMMITTED_BYTES_MAX,
            ..Config::default()
        };
        config.validate().map_err(EngineError::from_raft)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let store = LogStore::new(start);
        let mut node = RawNode::new(&config, store, &logger).map_err(EngineError::from_raft)?;
        if lone {
            node.campaign().map_err(EngineError::from_raft)?;
        }
        Ok(Self { node, lone })
    }

    /// Whether this replica is the shard's only one, which needs no ticks and no messages.
    #[must_use]
    pub fn is_lone(&self) -> bool {
        self.lone
    }

    /// The newest term seen.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Whether this replica leads. It may serve requests only once the first entry of its term is
    /// applied.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The Raft id of the leader, if known.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        Some(self.node.raft.leader_id).filter(|id| *id != 0)
    }

    /// Advances the engine's clock by [`limits::TICK_MS`].
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// Appends `data` to the log and returns its index. It is neither durable nor committed yet.
    ///
    /// # Errors
    /// See [`ProposalRejection`].
    pub fn propose(&mut self, data: Bytes) -> Result<u64, ProposalRejection> {
        if !self.is_leader() {
            return Err(ProposalRejection::NotLeader);
        }
        // Not `RawNode::propose`, which would copy the payload into a new vector.
        let mut entry = eraftpb::Entry::default();
        entry.set_data(data);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.set_entries(vec![entry].into());
        match self.node.step(message) {
            Ok(()) => Ok(self.node.raft.raft_log.last_index()),
            Err(raft::Error::ProposalDropped) if self.is_leader() => Err(ProposalRejection::Busy),
            Err(_) => Err(ProposalRejection::NotLeader),
        }
    }

    /// Requests a linearizable read (Raft's ReadIndex). Confirmed in [`Ready::reads`] under
    /// `context`.
    ///
    /// # Errors
    /// When it does not lead now.
    pub fn read_index(&mut self, context: u64) -> Result<(), ProposalRejection> {
        if !self.is_leader() {
            return Err(ProposalRejection::NotLeader);
        }
        self.node.read_index(context.to_be_bytes().to_vec());
        Ok(())
    }

    /// Whether the next entry to apply has to be read back from the WAL and waits for memory.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        let log = &self.node.raft.raft_log;
        log.store.waits_for_room(log.applied)
    }

    /// The work that is ready, if any.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        if let Some(hs) = ready.hs() {
            self.node.mut_store().set_hard_state(hs.clone());
        }
        let out = Ready {
            number: ready.number(),
            entries: entries.into_iter().map(Entry::from).collect(),
            hard_state: ready.hs().map(HardState::from),
            must_sync: ready.must_sync(),
            committed: ready.take_committed_entries().into_iter().map(Entry::from).collect(),
            reads: ready.take_read_states().iter().filter_map(read_state).collect(),
        };
        self.node.advance_append_async(ready);
        Some(out)
    }

    /// Reports that the writes of the [`Ready`] of this number and of all before it are durable.
    pub fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
    }

    /// Reports that everything through `index` is applied. A single replica releases the payloads.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        if self.lone {
            self.node.mut_store().discard_through(index);
        }
    }
}

#[cfg(test)]
impl Engine {
    /// Becomes a follower without a leader in the next term.
    pub(crate) fn depose(&mut self) {
        let term = self.node.raft.term + 1;
        self.node.raft.become_follower(term, 0);
    }
}

fn read_state(read: &raft::ReadState) -> Option<ConfirmedRead> {
    let context = read.request_ctx.as_slice().try_into().ok()?;
    Some(ConfirmedRead { context: u64::from_be_bytes(context), index: read.index })
}

/// The `raft` crate returned an error at start.
#[derive(Debug, thiserror::Error)]
#[error("the Raft engine refused its start: {0}")]
pub struct EngineError(String);

impl EngineError {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn from_raft(error: raft::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<eraftpb::Entry> for Entry {
    fn from(mut entry: eraftpb::Entry) -> Self {
        let kind = match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Normal,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Members,
        };
        Self { index: entry.index, term: entry.term, kind, data: entry.take_data() }
    }
}

impl From<&eraftpb::HardState> for HardState {
    fn from(state: &eraftpb::HardState) -> Self {
        Self { term: state.term, vote: state.vote, commit: state.commit }
    }
}
