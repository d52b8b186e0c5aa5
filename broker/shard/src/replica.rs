//! One replica of a shard, without I/O: it proposes commands and applies committed entries.
//!
//! The driver passes in events and carries out the [`Work`] that [`Replica::poll`] returns. A test
//! can take the driver's part, and simulate a crash between any two steps.
//!
//! # Invariants
//!
//! - **D1** a ticket is resolved with an outcome only after its entry was applied, which the engine
//!   allows only after a majority, this replica included, reported it durable.
//! - A ticket is resolved exactly once. When this replica loses the leadership, its open tickets
//!   resolve to `Unknown`; a ticket whose entry was replaced, or committed in another term,
//!   resolves to `NotLeader`.
//! - Nothing is proposed or read before the first entry of this leader's term is applied.

use std::collections::VecDeque;

use crate::command::{self, Command, Envelope};
use crate::engine::{
    ChangeRejection, Engine, EngineError, Entry, EntryId, EntryKind, Fetch, HardState, Members,
    MembersChange, MessageRejection, ProposalRejection, Ready, Start,
};
use crate::id::ReplicaId;
use crate::limits;
use crate::message::{Body, Message};
use crate::proposal::ProposeError;
use crate::state::{Effect, Outcome, State};
use checks::Checks;
use reads::Reads;

mod checks;
mod footprint;
mod memory;
mod reads;
mod progress;
mod stop_reason;

pub(crate) use checks::check;
pub use stop_reason::StopReason;

/// Identifies a proposal or a read until it is resolved. The caller chooses it; each is used once.
pub type Ticket = u64;

/// One replica of a shard.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    engine: Engine,
    applied: EntryId,
    /// A changed hard state that need not be synced alone; the next write includes it.
    hard_state: Option<HardState>,
    proposals: VecDeque<Proposal>,
    reads: Reads,
    /// The term in which this replica leads and has applied its first entry.
    leading: Option<u64>,
    /// The feature level of the cluster, as far as it is known here.
    level: u8,
    checks: Checks,
    /// Whether the replica has reported a [`StopReason`]; it does nothing any more.
    is_stopped: bool,
}

#[derive(Debug)]
struct Proposal {
    index: u64,
    term: u64,
    ticket: Ticket,
}

/// What the driver has to do after a [`Replica::poll`].
#[derive(Debug, Default)]
pub struct Work {
    /// The number to report with [`Replica::persisted`] when `write` and every earlier write are
    /// durable; `None` if nothing has to be reported.
    pub number: Option<u64>,
    /// A write to make durable.
    pub write: Option<Write>,
    /// Messages to send at once.
    pub messages: Vec<Message>,
    /// Messages to send when `number` is reported.
    pub messages_after: Vec<Message>,
    /// Entries to read from the log for followers and to pass to [`Replica::fetched`].
    pub fetches: Vec<Fetch>,
    /// Replicas that need a snapshot, because the log no longer has the entries that they lack.
    pub snapshots_for: Vec<u64>,
    /// Effects to carry out, in order.
    pub effects: Vec<Effect>,
    /// Outcomes of proposals, to be delivered after the effects.
    pub outcomes: Vec<(Ticket, Result<Outcome, ProposeError>)>,
    /// Outcomes of reads.
    pub reads: Vec<(Ticket, Result<(), ProposeError>)>,
    /// Set when leadership changed: the term in which this replica leads now, `None` for not
    /// leading.
    pub leads: Option<Option<u64>>,
    /// Set once, when the replica stops.
    pub stopped: Option<StopReason>,
}

/// What has to be made durable together, in the replica's part of the write-ahead log.
#[derive(Debug, Clone)]
pub struct Write {
    /// The number to report with [`Replica::persisted`].
    pub number: u64,
    /// New entries, in order; an earlier entry at the same index or above is replaced.
    pub entries: Vec<Entry>,
    /// The hard state, if it changed; written after the entries.
    pub hard_state: Option<HardState>,
}

impl Replica {
    /// A replica in the state that recovery read.
    ///
    /// # Errors
    /// When `start` is inconsistent.
    pub fn new(start: Start) -> Result<Self, EngineError> {
        let id = ReplicaId(start.replica);
        let applied = start.snapshot;
        Ok(Self {
            id,
            engine: Engine::new(start)?,
            applied,
            hard_state: None,
            proposals: VecDeque::new(),
            reads: Reads::default(),
            leading: None,
            level: 0,
            checks: Checks::default(),
            is_stopped: false,
        })
    }

    /// The replica's id in the catalog.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// The last applied entry.
    #[must_use]
    pub fn applied(&self) -> EntryId {
        self.applied
    }

    /// The shard's members, as of the last applied entry.
    #[must_use]
    pub fn members(&self) -> &Members {
        self.engine.members()
    }

    /// The newest term seen.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.engine.term()
    }

    /// Term, vote and commit index, also if they are not durable yet.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.engine.hard_state()
    }

    /// The Raft id of the leader, if known.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        self.engine.leader()
    }

    /// The last index that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.engine.committed()
    }

    /// The last index of the log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.engine.last_index()
    }

    /// The term in which this replica leads and has applied its first entry.
    #[must_use]
    pub fn leading(&self) -> Option<u64> {
        self.leading
    }

    /// Whether a snapshot that includes the entry `last` may replace the replica's log: see
    /// [`Engine::lacks`].
    #[must_use]
    pub fn lacks(&self, last: EntryId) -> bool {
        self.engine.lacks(last)
    }

    /// Whether the replica needs ticks. A single voter that leads does not, unless its replay waits
    /// for memory.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        let is_lone_leader = self.engine.is_lone() && self.engine.is_leader();
        !self.is_stopped && (!is_lone_leader || self.waits_for_room())
    }

    /// Advances the engine's clock by one tick.
    pub fn tick(&mut self) {
        if !self.is_stopped {
            self.engine.tick();
        }
    }

    /// Handles a message of another replica of the shard.
    ///
    /// # Errors
    /// See [`MessageRejection`]: the message has no effect. After a fatal one the caller stops the
    /// replica.
    pub fn step(&mut self, message: Message) -> Result<(), MessageRejection> {
        if self.is_stopped {
            return Ok(());
        }
        let Body::StateDigest { index, digest } = message.body else {
            return self.engine.step(message);
        };
        let from = message.from;
        self.engine.step(message)?;
        self.take_digest(from, index, digest)
    }

    /// Sets the feature level of the cluster: commands of newer formats are not proposed.
    pub fn set_level(&mut self, level: u8) {
        self.level = level;
    }

    /// Sets whether the disk of this replica has no space for record batches.
    pub fn set_full(&mut self, is_full: bool) {
        self.engine.set_full(is_full);
    }

    /// Whether so many followers have full disks that record batches cannot be committed now.
    #[must_use]
    pub fn is_majority_full(&self) -> bool {
        self.engine.is_majority_full()
    }

    /// Reports that messages to this replica are lost.
    pub fn unreachable(&mut self, replica: u64) {
        self.engine.unreachable(replica);
    }

    /// Reports that the entries from `first` on were not sent to `replica`.
    pub fn hold(&mut self, replica: u64, first: u64) {
        self.engine.hold(replica, first);
    }

    /// Sends entries to a held follower again.
    pub fn release(&mut self, replica: u64) {
        self.engine.release(replica);
    }

    /// Reports that the process of another replica has ended: see [`Engine::ended`].
    pub fn ended(&mut self, replica: u64) {
        if !self.is_stopped {
            self.engine.ended(replica);
        }
    }

    /// Asks `replica` to lead in place of this one. Proposals wait meanwhile.
    pub fn transfer_leadership(&mut self, replica: u64) {
        self.engine.transfer_leadership(replica);
    }

    /// Passes in what a [`Fetch`] asked for; `None` when the log no longer has the entries.
    pub fn fetched(&mut self, id: u64, entries: Option<Vec<Entry>>) {
        if !self.is_stopped {
            self.engine.fetched(id, entries);
        }
    }

    /// Reports that a snapshot through `index` is durable: the log is not needed up to there.
    pub fn compacted(&mut self, index: u64) {
        self.engine.compacted(index);
    }

    /// Stops the replica: it neither votes nor applies any more, and refuses every call.
    pub(crate) fn stop(&mut self, reason: StopReason, work: &mut Work) {
        self.is_stopped = true;
        work.stopped = Some(reason);
        self.set_leading(None, work);
    }

    /// Proposes a change of the members; a later poll resolves `ticket`.
    ///
    /// # Errors
    /// See [`ChangeRejection`]: nothing was proposed, and no poll resolves the ticket.
    pub fn propose_members(
        &mut self,
        ticket: Ticket,
        change: MembersChange,
    ) -> Result<(), ChangeRejection> {
        let term = self.leading.ok_or(ChangeRejection::NotLeader)?;
        let index = self.engine.propose_members(change)?;
        self.proposals.push_back(Proposal { index, term, ticket });
        Ok(())
    }

    /// Proposes a command; a later poll resolves `ticket`. Returns the size of the entry's payload,
    /// bytes.
    ///
    /// # Errors
    /// `NotLeader` when this replica does not lead, `AboveLevel` when a broker of the cluster may
    /// not read the command, `Busy` when too much is uncommitted, `TooLarge` when the entry would
    /// be over [`limits::ENTRY_BYTES_HARD_MAX`]. The command was not proposed, and no poll resolves
    /// the ticket.
    pub fn propose(
        &mut self,
        ticket: Ticket,
        command: &Command,
        time_ms: i64,
    ) -> Result<usize, ProposeError> {
        let term = self.leading.ok_or(ProposeError::NotLeader)?;
        if !command::is_written_at(self.level, command) {
            let (format, level) = (command::format_of(command), self.level);
            return Err(ProposeError::AboveLevel { format, level });
        }
        let data = command::encode(term, time_ms, command);
        let (size_bytes, size_bytes_max) = (data.len(), limits::ENTRY_BYTES_HARD_MAX);
        if size_bytes > size_bytes_max {
            return Err(ProposeError::TooLarge { size_bytes, size_bytes_max });
        }
        match self.engine.propose(data) {
            Ok(index) => {
                self.proposals.push_back(Proposal { index, term, ticket });
                Ok(size_bytes)
            }
            Err(ProposalRejection::NotLeader) => Err(ProposeError::NotLeader),
            Err(ProposalRejection::Busy) => Err(ProposeError::Busy),
        }
    }

    /// Requests a linearizable read; a poll resolves `ticket` once everything that is committed now
    /// is applied.
    pub fn read(&mut self, ticket: Ticket) {
        self.reads.ask(ticket);
    }

    /// Reports that the write of this number and every earlier one are durable.
    pub fn persisted(&mut self, number: u64) {
        self.engine.persisted(number);
    }

    /// Advances the replica. Call until it returns `None`, and again after each event and tick.
    ///
    /// A replica that does not serve applies entries in pieces of
    /// [`limits::APPLIED_AT_ONCE_BYTES_MAX`], and waits while the memory budget is used up, until
    /// the background work has released some of it.
    pub fn poll(&mut self, state: &mut State) -> Option<Work> {
        let mut work = Work::default();
        if let Some(reason) = self.checks.finding.take() {
            self.stop(reason, &mut work);
        }
        let leader = self.leading.is_some().then_some(&mut self.engine);
        self.reads.request(leader, &mut work.reads);
        if self.is_stopped {
            return (!work.reads.is_empty() || work.stopped.is_some()).then_some(work);
        }
        let ready = self.engine.ready();
        let is_ready = ready.is_some();
        if let Some(ready) = ready {
            self.take_ready(ready, &mut work);
        }
        let has_applied = self.apply_committed(state, &mut work);
        if self.is_stopped {
            return Some(work);
        }
        if !is_ready && !has_applied {
            return (!work.reads.is_empty()).then_some(work);
        }
        self.reads.settle(self.applied.index, &mut work.reads);
        self.follow_leadership(&mut work);
        Some(work)
    }

    fn take_ready(&mut self, ready: Ready, work: &mut Work) {
        self.hard_state = ready.hard_state.or(self.hard_state);
        // A replica that restarts has the members that it knows to be committed.
        let changes_members = ready.commits_members;
        if ready.must_sync || !ready.entries.is_empty() || changes_members {
            let mut hard_state = self.hard_state.take();
            if let Some(state) = hard_state.as_mut().filter(|_| ready.entries.is_empty()) {
                // The log may refuse the entries of an earlier write and take this one: a commit
                // index after its end would look like a lost log at the next start.
                state.commit = state.commit.min(self.engine.durable_index());
            }
            work.write = Some(Write { number: ready.number, entries: ready.entries, hard_state });
        }
        work.number = Some(ready.number);
        work.messages = ready.messages;
        work.messages_after = ready.messages_after;
        work.fetches = ready.fetches;
        work.snapshots_for = ready.snapshots_for;
        for read in ready.reads {
            self.reads.confirm(read);
        }
    }

    fn apply(
        &mut self,
        state: &mut State,
        entry: Entry,
        work: &mut Work,
    ) -> Result<(), StopReason> {
        let index = entry.index;
        let mut is_check = false;
        let outcome = match entry.kind {
            EntryKind::Normal if entry.data.is_empty() => Outcome::Done,
            EntryKind::Normal => {
                let decoded = Envelope::decode(&entry.data);
                let envelope = decoded.map_err(|error| StopReason::of_command(index, error))?;
                is_check = envelope.command == check();
                state.apply(entry.term, envelope, &mut work.effects)
            }
            EntryKind::Members => {
                let decoded = MembersChange::decode(&entry.data.to_bytes());
                let change = decoded.map_err(|error| StopReason::of_change(index, error))?;
                self.engine
                    .apply_members(change)
                    .map_err(|error| StopReason::Members { index, error })?;
                Outcome::Done
            }
        };
        self.applied = entry.id();
        self.engine.applied(index);
        if is_check && outcome == Outcome::Done {
            self.check_state(state, work);
        }
        while let Some(first) = self.proposals.front()
            && first.index <= index
        {
            let proposal = self.proposals.pop_front().expect("it is there");
            let ours = proposal.index == index && proposal.term == entry.term;
            if ours && outcome != Outcome::TermChanged {
                work.outcomes.push((proposal.ticket, Ok(outcome)));
                return Ok(());
            }
            work.outcomes.push((proposal.ticket, Err(ProposeError::NotLeader)));
        }
        Ok(())
    }

    fn follow_leadership(&mut self, work: &mut Work) {
        let term = self.engine.term();
        let serves = self.engine.is_leader() && self.applied.term == term;
        self.set_leading(serves.then_some(term), work);
    }

    fn set_leading(&mut self, leading: Option<u64>, work: &mut Work) {
        if leading == self.leading {
            return;
        }
        self.leading = leading;
        work.leads = Some(leading);
        // A failed read is safe to retry; a proposal of an earlier term may still commit.
        let lost = self.proposals.drain(..).map(|p| (p.ticket, Err(ProposeError::Unknown)));
        work.outcomes.extend(lost);
        self.reads.fail(&mut work.reads);
    }
}

#[cfg(test)]
impl Replica {
    /// Loses the leadership, without a new leader.
    pub(crate) fn depose(&mut self) {
        self.engine.depose();
    }
}

#[cfg(test)]
pub(crate) mod tests;
