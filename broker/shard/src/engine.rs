//! The Raft engine behind one seam: the only module that names the `raft` crate.
//!
//! The engine is a pure state machine (no clock, disk or network). We feed it proposals, messages
//! and ticks, take what has to be written, sent and applied as a [`Ready`], and tell it when a
//! write is durable. Any number of writes may be under way; they are reported in order.
//!
//! # Rules kept here
//!
//! - Nothing is committed by this replica before its own write is durable (D1): the engine counts
//!   itself only in [`Engine::persisted`].
//! - Proposals, reads and transfers that the engine would forward to a leader elsewhere never
//!   leave the broker: they are refused unless this replica leads.
//! - The engine panics on a commit index outside its log, so [`Start`] is clamped on the way in.

use std::fmt;

use bytes::Bytes;
use raft::eraftpb::{self, ConfState, EntryType, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use serde::{Deserialize, Serialize};

use crate::limits;

mod store;

use store::LogStore;
pub use store::{EntrySource, StoredEntry};

/// What a replica must remember of its votes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: u64,
    /// The replica voted for in it; 0 for none.
    pub vote: u64,
    /// Known to be committed. A hint: the log after it may be committed too.
    pub commit: u64,
}

/// Who takes part in a shard. Joint configurations are part of it from the first day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Replicas that vote.
    pub voters: Vec<u64>,
    /// Replicas that only listen.
    pub learners: Vec<u64>,
    /// The voters of the configuration being left.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when it is left.
    pub learners_next: Vec<u64>,
    /// Whether it is left without being told.
    pub auto_leave: bool,
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
    /// Its place.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// What `data` is.
    pub kind: EntryKind,
    /// The payload; empty for the entry that opens a term.
    pub data: Bytes,
}

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A command, or nothing.
    Normal = 0,
    /// A change of members.
    Members = 1,
}

impl EntryKind {
    /// The reverse of `as u8`; `None` for a number no broker wrote.
    #[must_use]
    pub fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Normal),
            1 => Some(Self::Members),
            _ => None,
        }
    }
}

/// What the engine starts from, as recovery found it.
#[derive(Debug)]
pub struct Start {
    /// This replica.
    pub replica: u64,
    /// Votes.
    pub hard_state: HardState,
    /// Members as of the snapshot.
    pub members: Members,
    /// Index and term of the snapshot: everything through it is applied.
    pub snapshot: (u64, u64),
    /// The entries after it, in order without a gap.
    pub entries: Vec<StoredEntry>,
    /// Reads the payloads of those.
    pub source: Box<dyn EntrySource>,
}

/// Why a proposal was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalRejection {
    /// This replica does not lead.
    NotLeader,
    /// Too much is uncommitted already: try again after something commits.
    Busy,
}

/// What there is to do. `write` (if any) goes to the WAL and is reported with
/// [`Engine::persisted`]; `committed` is applied now.
#[derive(Debug, Default)]
pub struct Ready {
    /// Report this number when `entries` and `hard_state` are durable.
    pub number: u64,
    /// New entries; an earlier entry at the same index or above is replaced.
    pub entries: Vec<Entry>,
    /// Votes, if they changed.
    pub hard_state: Option<HardState>,
    /// Whether it has to be durable: false when only the commit index moved.
    pub must_sync: bool,
    /// Committed, in order.
    pub committed: Vec<Entry>,
    /// Reads that are safe once `index` is applied: (context, index).
    pub reads: Vec<(u64, u64)>,
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
    /// A replica in the state that `start` describes. A lone voter campaigns at once.
    ///
    /// # Errors
    /// When the engine finds the start inconsistent.
    pub fn new(start: Start) -> Result<Self, EngineError> {
        let lone = start.members.voters == [start.replica]
            && start.members.voters_outgoing.is_empty()
            && start.members.learners.is_empty();
        let config = Config {
            id: start.replica,
            applied: start.snapshot.0,
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

    /// Whether this replica is the shard's only one: it needs no ticks and no messages.
    #[must_use]
    pub fn is_lone(&self) -> bool {
        self.lone
    }

    /// The newest term seen.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Whether this replica leads. It may serve only once its term's first entry is applied.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The replica that leads, if known.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        Some(self.node.raft.leader_id).filter(|id| *id != 0)
    }

    /// One tick of [`limits::TICK_MS`].
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// Appends `data` to the log; its index. Not durable, not committed.
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

    /// Asks whether this replica still leads; answered in [`Ready::reads`] under `context`.
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

    /// Whether the next entry to apply comes from before the start, and waits for memory.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        let log = &self.node.raft.raft_log;
        log.store.waits_for_room(log.applied)
    }

    /// What there is to do now, if anything.
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

    /// Everything of the ready of this number and the ones before it is durable here.
    pub fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
    }

    /// Everything through `index` is applied: its payloads need not be kept for this replica.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        if self.lone {
            self.node.mut_store().forget_through(index);
        }
    }
}

#[cfg(test)]
impl Engine {
    /// Becomes a follower of nobody in the next term.
    pub(crate) fn depose(&mut self) {
        let term = self.node.raft.term + 1;
        self.node.raft.become_follower(term, 0);
    }
}

fn read_state(read: &raft::ReadState) -> Option<(u64, u64)> {
    let context = read.request_ctx.as_slice().try_into().ok()?;
    Some((u64::from_be_bytes(context), read.index))
}

/// The engine cannot go on with what it was given.
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
