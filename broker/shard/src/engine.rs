//! The Raft engine. This is the only module that uses the `raft` crate.
//!
//! The engine has no clock, disk or network. The caller passes in proposals, messages and ticks,
//! takes the entries to write and the messages to send as a [`Ready`], and reports when a write is
//! durable. Any number of writes may be in flight; every [`Ready`] is reported, in order. Committed
//! entries are applied when the caller has the memory for it: see `apply`.
//!
//! # Invariants
//!
//! - This replica commits nothing before its own write is durable (D1): the engine counts this
//!   replica towards the majority only in [`Engine::persisted`].
//! - A vote, and an acknowledgement of entries, are sent only after the write that they are about
//!   is durable: see [`Ready::messages_after`].
//! - Proposals and reads that the engine would forward to the leader on another broker are refused
//!   unless this replica leads.
//! - A message reaches the `raft` crate only after `admission` has checked it.
//! - The only voter campaigns by itself once it has applied every entry that it knows to be
//!   committed, so never on members that a later entry has changed.
//! - The engine draws no random numbers: its election timeouts are a function of
//!   [`Start::seed`], its id, the voters and the term.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use raft::eraftpb::{self, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};

use crate::limits;
use crate::message::{Body, Message};
use crate::payload::Payload;

mod members;
mod apply;
mod election;
mod footprint;
mod membership;
mod store;
mod peers;
mod progress;
mod full;
mod heard;
mod held;
mod admission;
mod convert;
mod uncommitted;

pub use crate::entry::{Entry, EntryId, EntryKind};
pub use admission::MessageRejection;
use election::Ended;
use heard::Heard;
use held::Held;
pub use members::{ChangeRejection, Members, MembersChange, UnknownChange};
pub use progress::Progress;
use store::LogStore;
pub use store::{EntrySource, Fetch, StoredEntry};
use uncommitted::{Share, Uncommitted};

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
    /// Decides the election timeouts. Replicas of a shard may have the same seed.
    pub seed: u64,
}

/// Why the engine did not accept a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalRejection {
    /// This replica does not lead.
    NotLeader,
    /// As much is uncommitted as [`limits::UNCOMMITTED_BYTES_MAX`] allows: retry after an entry
    /// commits.
    Busy,
}

/// What the caller has to do: send `messages`, write `entries` and `hard_state` to the WAL. When
/// the write, and the write of every earlier `Ready`, are durable, the caller reports
/// [`Engine::persisted`] and sends `messages_after`.
#[derive(Debug, Default)]
pub struct Ready {
    /// The number to report with [`Engine::persisted`]. A `Ready` without a write is reported, too.
    pub number: u64,
    /// New entries; an earlier entry at the same index or above is replaced.
    pub entries: Vec<Entry>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Whether the write has to be durable: false when only the commit index moved.
    pub must_sync: bool,
    /// Whether a change of the members is among the entries that are newly committed. They are
    /// applied from [`Engine::next_to_apply`] on.
    pub commits_members: bool,
    /// Reads for which the leadership of this replica is confirmed.
    pub reads: Vec<ConfirmedRead>,
    /// Messages to send at once.
    pub messages: Vec<Message>,
    /// Messages to send when the write of this `Ready` and of every earlier one are durable.
    pub messages_after: Vec<Message>,
    /// Entries to read for followers: see [`Engine::fetched`].
    pub fetches: Vec<Fetch>,
    /// Replicas that need a snapshot, because the log no longer has the entries that they lack.
    pub snapshots_for: Vec<u64>,
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
    members: Members,
    seed: u64,
    /// Everything through this index was committed before the start.
    committed_at_start: u64,
    /// The last index of the log at the start.
    last_at_start: u64,
    /// Entries through this index may be applied.
    to_apply: u64,
    /// The number of the last [`Ready`].
    number: u64,
    /// The number of the last [`Ready`] that is durable with all before it.
    persisted: u64,
    /// The last term that is durable.
    durable_term: u64,
    /// Terms of hard states that are not durable, by the number of their [`Ready`].
    terms_in_flight: VecDeque<(u64, u64)>,
    /// Messages of our own to send with the next [`Ready`].
    messages: Vec<Message>,
    uncommitted: Uncommitted,
    /// Whether this replica's disk has no space for record batches.
    is_full: bool,
    /// Followers whose disks have no space for record batches.
    full: BTreeSet<u64>,
    /// The newest entry of the log that carries no record batches, as far as it was appended since
    /// the start.
    last_command: u64,
    /// The newest entry of the log that frees space. At the start it may be any, so the last one.
    last_freeing: u64,
    /// When the other members were last heard of.
    heard: Heard,
    held: Held,
    /// Set for a while after the process of the leader has ended.
    ended: Option<Ended>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raft = &self.node.raft;
        f.debug_struct("Engine").field("id", &raft.id).field("term", &raft.term).finish()
    }
}

impl Engine {
    /// A replica in the state that `start` describes.
    ///
    /// # Errors
    /// [`EngineError::LogLost`] when the hard state shows that entries or votes are missing in the
    /// log, which must not count as a voter's again; otherwise when `start` is inconsistent.
    pub fn new(start: Start) -> Result<Self, EngineError> {
        let entries =
            start.entries.iter().map(|entry| EntryId { index: entry.index, term: entry.term });
        let last = check_log(start.hard_state, start.snapshot, entries)?;
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
            // See `uncommitted`.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: limits::COMMITTED_BYTES_MAX,
            ..Config::default()
        };
        config.validate().map_err(EngineError::from_raft)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let (members, seed, snapshot) = (start.members.clone(), start.seed, start.snapshot);
        let store = LogStore::new(start);
        let node = RawNode::new(&config, store, &logger).map_err(EngineError::from_raft)?;
        let mut engine = Self {
            committed_at_start: node.raft.raft_log.committed,
            last_at_start: last.index,
            to_apply: snapshot.index,
            durable_term: node.raft.term,
            node,
            members,
            seed,
            number: 0,
            persisted: 0,
            terms_in_flight: VecDeque::new(),
            messages: Vec::new(),
            uncommitted: Uncommitted::default(),
            is_full: false,
            full: BTreeSet::new(),
            last_command: 0,
            last_freeing: last.index,
            heard: Heard::default(),
            held: Held::default(),
            ended: None,
        };
        engine.campaign_alone();
        Ok(engine)
    }

    /// Raft id of this replica.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.node.raft.id
    }

    /// The members as of the last applied entry.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Whether this replica is the shard's only one, which needs no ticks and no messages.
    #[must_use]
    pub fn is_lone(&self) -> bool {
        self.members.is_lone(self.id())
    }

    /// The last index of the log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The last index that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The newest term seen.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Term, vote and commit index, also if they are not durable yet.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        HardState::from(&self.node.raft.hard_state())
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

    /// Appends `data` to the log and returns its index. It is neither durable nor committed yet.
    ///
    /// # Errors
    /// See [`ProposalRejection`].
    pub fn propose(&mut self, data: Payload) -> Result<u64, ProposalRejection> {
        if !self.is_leader() {
            return Err(ProposalRejection::NotLeader);
        }
        let share = Share::of_command(&data);
        if !self.uncommitted.admits(self.term(), self.committed(), share, data.len()) {
            return Err(ProposalRejection::Busy);
        }
        let entry = convert::outline(EntryId::default(), EntryKind::Normal, data.is_empty());
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.set_entries(vec![entry].into());
        match self.node.step(message) {
            Ok(()) => Ok(self.proposed(data, share)),
            Err(raft::Error::ProposalDropped) if self.is_leader() => Err(ProposalRejection::Busy),
            Err(_) => Err(ProposalRejection::NotLeader),
        }
    }

    /// Keeps the payload of the entry that was proposed last; returns its index.
    fn proposed(&mut self, data: Payload, share: Share) -> u64 {
        let id = EntryId { index: self.last_index(), term: self.term() };
        self.uncommitted.add(id.index, share, data.len());
        self.node.store().pass(id, data);
        id.index
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

    /// The work that is ready, if any.
    pub fn ready(&mut self) -> Option<Ready> {
        let fetches = self.node.mut_store().take_fetches();
        let snapshots_for = self.node.mut_store().take_snapshot_requests();
        let has_requests = !fetches.is_empty() || !snapshots_for.is_empty();
        if !self.node.has_ready() && self.messages.is_empty() && !has_requests {
            self.node.mut_store().passed();
            return None;
        }
        let mut ready = self.node.ready();
        let entries = self.complete(&ready.take_entries());
        self.node.mut_store().append(&entries);
        self.note_commands(&entries);
        if let Some(hs) = ready.hs() {
            self.node.mut_store().set_hard_state(hs.clone());
            self.terms_in_flight.push_back((ready.number(), hs.term));
        }
        self.number = ready.number();
        let mut messages = std::mem::take(&mut self.messages);
        let log = self.node.store();
        let convert = |message| convert::from_raft(message, |entry| log.complete(entry));
        let sent = ready.take_messages().into_iter().filter_map(convert);
        messages.extend(sent.flat_map(Message::split));
        let mut messages_after = Vec::new();
        for message in ready.take_persisted_messages().into_iter().filter_map(convert) {
            let Message { term, body, .. } = &message;
            // An answer to a heartbeat says nothing about entries: a slow disk does not hold it up.
            let is_early =
                matches!(body, Body::HeartbeatResponse { .. }) && *term == self.durable_term;
            if is_early { messages.push(message) } else { messages_after.push(message) }
        }
        for message in messages.iter_mut().chain(&mut messages_after) {
            if let Body::HeartbeatResponse { is_full, .. } = &mut message.body {
                *is_full = self.is_full;
            }
        }
        messages.retain_mut(|message| self.is_useful(message));
        if !self.is_leader() {
            self.held.clear();
        }
        messages.retain(|message| !self.held.takes(message));
        let committed = ready.take_committed_entries();
        self.to_apply = committed.last().map_or(self.to_apply, |last| last.index);
        let out = Ready {
            number: ready.number(),
            entries,
            hard_state: ready.hs().map(HardState::from),
            must_sync: ready.must_sync(),
            commits_members: committed.iter().any(convert::is_change_of_members),
            reads: ready.take_read_states().iter().filter_map(read_state).collect(),
            messages,
            messages_after,
            fetches,
            snapshots_for,
        };
        self.node.advance_append_async(ready);
        self.node.mut_store().passed();
        Some(out)
    }

    fn complete(&self, entries: &[eraftpb::Entry]) -> Vec<Entry> {
        let log = self.node.store();
        let entries = entries
            .iter()
            .map(|entry| log.complete(entry).expect("the payload of a new entry is kept"));
        entries.collect()
    }

    /// Reports that the writes of the [`Ready`] of this number and of all before it are durable.
    pub fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number);
        while let Some((_, term)) = self.terms_in_flight.pop_front_if(|(of, _)| *of <= number) {
            self.durable_term = term;
        }
        self.node.on_persist_ready(number);
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

/// Checks that the log of a replica has everything that its hard state says was in it. Returns its
/// last entry.
///
/// # Errors
/// [`EngineError::LogLost`] and [`EngineError::TermsFall`]: the replica must not vote.
pub fn check_log(
    hard_state: HardState,
    snapshot: EntryId,
    entries: impl IntoIterator<Item = EntryId>,
) -> Result<EntryId, EngineError> {
    let mut last = snapshot;
    for entry in entries {
        if entry.term < last.term {
            return Err(EngineError::TermsFall { snapshot });
        }
        last = entry;
    }
    let HardState { term, commit, .. } = hard_state;
    // Only a replica that has written nothing has no term.
    let is_new = hard_state == HardState::default() && last == snapshot;
    if commit > last.index || term < last.term && !is_new {
        return Err(EngineError::LogLost { commit, term, last });
    }
    Ok(last)
}

fn read_state(read: &raft::ReadState) -> Option<ConfirmedRead> {
    let context = read.request_ctx.as_slice().try_into().ok()?;
    Some(ConfirmedRead { context: u64::from_be_bytes(context), index: read.index })
}

/// Why the engine cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The log lacks entries or a vote that were durable: damage, or an older copy of the disk. As
    /// a voter, the replica could elect a leader without committed entries.
    #[error(
        "the log ends at index {} of term {}, but index {commit} was committed and term {term} was seen",
        last.index, last.term
    )]
    LogLost {
        /// The commit index of the hard state.
        commit: u64,
        /// The term of the hard state.
        term: u64,
        /// The last entry of the log.
        last: EntryId,
    },
    /// The entries do not belong to the snapshot: a log from before it was installed.
    #[error(
        "the entries after the snapshot at index {} of term {} have falling terms",
        snapshot.index, snapshot.term
    )]
    TermsFall {
        /// The last entry that the snapshot includes.
        snapshot: EntryId,
    },
    /// The `raft` crate returned an error.
    #[error("the Raft engine refused: {0}")]
    Raft(String),
}

impl EngineError {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn from_raft(error: raft::Error) -> Self {
        Self::Raft(error.to_string())
    }
}
