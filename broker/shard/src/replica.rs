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

use bytes::Bytes;

use crate::command::{self, Command, Envelope};
use crate::engine::{
    ConfirmedRead, Engine, EngineError, Entry, EntryId, EntryKind, HardState, Members,
    ProposalRejection, Start,
};
use crate::id::ReplicaId;
use crate::limits;
use crate::proposal::ProposeError;
use crate::state::{Effect, Outcome, State};

/// Identifies a proposal or a read until it is resolved. The caller chooses it; each is used once.
pub type Ticket = u64;

/// One replica of a shard.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    engine: Engine,
    members: Members,
    applied: EntryId,
    /// A changed hard state that need not be synced alone; the next write includes it.
    hard_state: Option<HardState>,
    proposals: VecDeque<Proposal>,
    /// Reads that are not requested from the engine yet.
    reads_asked: Vec<Ticket>,
    /// Confirmed reads, by the index that has to be applied before they are resolved.
    reads_confirmed: VecDeque<(u64, Vec<Ticket>)>,
    /// Requested reads that are not confirmed yet, by context.
    read_contexts: VecDeque<(u64, Vec<Ticket>)>,
    next_context: u64,
    /// The term in which this replica leads and has applied its first entry.
    leading: Option<u64>,
}

#[derive(Debug)]
struct Proposal {
    index: u64,
    term: u64,
    ticket: Ticket,
    /// The envelope before it was encoded, if it carries batches: they own their memory already and
    /// need not be copied out of the entry.
    batches: Option<Envelope>,
}

/// What the driver has to do after a [`Replica::poll`].
#[derive(Debug, Default)]
pub struct Work {
    /// A write to make durable and then report with [`Replica::persisted`].
    pub write: Option<Write>,
    /// Effects to carry out, in order.
    pub effects: Vec<Effect>,
    /// Outcomes of proposals, to be delivered after the effects.
    pub outcomes: Vec<(Ticket, Result<Outcome, ProposeError>)>,
    /// Outcomes of reads.
    pub reads: Vec<(Ticket, Result<(), ProposeError>)>,
    /// Set when leadership changed: the term in which this replica leads now, `None` for not
    /// leading.
    pub leads: Option<Option<u64>>,
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
        let members = start.members.clone();
        let applied = start.snapshot;
        Ok(Self {
            id,
            engine: Engine::new(start)?,
            members,
            applied,
            hard_state: None,
            proposals: VecDeque::new(),
            reads_asked: Vec::new(),
            reads_confirmed: VecDeque::new(),
            read_contexts: VecDeque::new(),
            next_context: 0,
            leading: None,
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
        &self.members
    }

    /// The term in which this replica leads and has applied its first entry.
    #[must_use]
    pub fn leading(&self) -> Option<u64> {
        self.leading
    }

    /// Whether the replica needs ticks. A single voter does not, unless its replay waits for
    /// memory.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        !self.engine.is_lone() || self.engine.waits_for_room()
    }

    /// Advances the engine's clock by one tick.
    pub fn tick(&mut self) {
        if !self.engine.is_lone() {
            self.engine.tick();
        }
    }

    /// Proposes a command; a later poll resolves `ticket`. Returns the size of the entry's payload,
    /// bytes.
    ///
    /// # Errors
    /// `NotLeader` when this replica does not lead, `Busy` when too much is uncommitted, `TooLarge`
    /// when the entry would be over [`limits::ENTRY_BYTES_HARD_MAX`]. The command was not proposed,
    /// and no poll resolves the ticket.
    pub fn propose(
        &mut self,
        ticket: Ticket,
        command: &Command,
        time_ms: i64,
    ) -> Result<usize, ProposeError> {
        let term = self.leading.ok_or(ProposeError::NotLeader)?;
        let data = command::encode(term, time_ms, command);
        let (size_bytes, size_bytes_max) = (data.len(), limits::ENTRY_BYTES_HARD_MAX);
        if size_bytes > size_bytes_max {
            return Err(ProposeError::TooLarge { size_bytes, size_bytes_max });
        }
        match self.engine.propose(data) {
            Ok(index) => {
                let batches = match command {
                    Command::Append(_) => Some(command.clone()),
                    Command::Shard(_) | Command::Catalog(_) => None,
                };
                let batches = batches.map(|command| Envelope { term, time_ms, command });
                self.proposals.push_back(Proposal { index, term, ticket, batches });
                Ok(size_bytes)
            }
            Err(ProposalRejection::NotLeader) => Err(ProposeError::NotLeader),
            Err(ProposalRejection::Busy) => Err(ProposeError::Busy),
        }
    }

    /// Requests a linearizable read; a poll resolves `ticket` once everything that is committed now
    /// is applied.
    pub fn read(&mut self, ticket: Ticket) {
        self.reads_asked.push(ticket);
    }

    /// Reports that the write of this number and every earlier one are durable.
    pub fn persisted(&mut self, number: u64) {
        self.engine.persisted(number);
    }

    /// Advances the replica. Call until it returns `None`, and again after each event and tick.
    ///
    /// Entries that were in the log at start are applied in pieces of
    /// [`limits::COMMITTED_BYTES_MAX`]. Their replay waits while the memory budget is used up,
    /// until the checkpoint thread has released some of it.
    pub fn poll(&mut self, state: &mut State) -> Option<Work> {
        let mut work = Work::default();
        self.ask_reads(&mut work);
        let waits = self.engine.waits_for_room();
        let Some(ready) = (!waits).then(|| self.engine.ready()).flatten() else {
            return (!work.reads.is_empty()).then_some(work);
        };
        self.hard_state = ready.hard_state.or(self.hard_state);
        if ready.must_sync || !ready.entries.is_empty() {
            work.write = Some(Write {
                number: ready.number,
                entries: ready.entries,
                hard_state: self.hard_state.take(),
            });
        }
        for entry in ready.committed {
            self.apply(state, entry, &mut work);
        }
        for read in ready.reads {
            self.confirm_read(read);
        }
        self.settle_reads(&mut work);
        self.follow_leadership(&mut work);
        Some(work)
    }

    fn apply(&mut self, state: &mut State, entry: Entry, work: &mut Work) {
        let outcome = match entry.kind {
            EntryKind::Normal if entry.data.is_empty() => Outcome::Done,
            EntryKind::Normal => {
                let command = self.proposed(&entry).unwrap_or_else(|| decode(&entry.data));
                state.apply(entry.term, command, &mut work.effects)
            }
            // Members change only when there is more than one broker.
            EntryKind::Members => Outcome::Done,
        };
        self.applied = entry.id();
        self.engine.applied(entry.index);
        while let Some(first) = self.proposals.front()
            && first.index <= entry.index
        {
            let proposal = self.proposals.pop_front().expect("it is there");
            let ours = proposal.index == entry.index && proposal.term == entry.term;
            if ours && outcome != Outcome::TermChanged {
                work.outcomes.push((proposal.ticket, Ok(outcome)));
                return;
            }
            work.outcomes.push((proposal.ticket, Err(ProposeError::NotLeader)));
        }
    }

    /// The envelope that `entry` decodes to, if this replica proposed it and kept its batches.
    fn proposed(&mut self, entry: &Entry) -> Option<Envelope> {
        let mut proposals = self.proposals.iter_mut();
        let first = proposals.find(|proposal| proposal.index >= entry.index)?;
        let is_it = (first.index, first.term) == (entry.index, entry.term);
        is_it.then(|| first.batches.take()).flatten()
    }

    fn ask_reads(&mut self, work: &mut Work) {
        if self.reads_asked.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut self.reads_asked);
        let context = self.next_context;
        if self.leading.is_some() && self.engine.read_index(context).is_ok() {
            self.next_context += 1;
            self.read_contexts.push_back((context, tickets));
        } else {
            work.reads.extend(tickets.into_iter().map(|t| (t, Err(ProposeError::NotLeader))));
        }
    }

    fn confirm_read(&mut self, read: ConfirmedRead) {
        // The engine confirms contexts in order; a confirmation covers earlier ones that were lost.
        while let Some((asked, _)) = self.read_contexts.front()
            && *asked <= read.context
        {
            let (_, tickets) = self.read_contexts.pop_front().expect("it is there");
            self.reads_confirmed.push_back((read.index, tickets));
        }
    }

    fn settle_reads(&mut self, work: &mut Work) {
        while let Some((index, _)) = self.reads_confirmed.front()
            && *index <= self.applied.index
        {
            let (_, tickets) = self.reads_confirmed.pop_front().expect("it is there");
            work.reads.extend(tickets.into_iter().map(|ticket| (ticket, Ok(()))));
        }
    }

    fn follow_leadership(&mut self, work: &mut Work) {
        let term = self.engine.term();
        let serves = self.engine.is_leader() && self.applied.term == term;
        let leading = serves.then_some(term);
        if leading == self.leading {
            return;
        }
        self.leading = leading;
        work.leads = Some(leading);
        // A failed read is safe to retry; a proposal of an earlier term may still commit.
        let lost = self.proposals.drain(..).map(|p| (p.ticket, Err(ProposeError::Unknown)));
        work.outcomes.extend(lost);
        let reads = self.read_contexts.drain(..).chain(self.reads_confirmed.drain(..));
        let lost = reads.flat_map(|(_, tickets)| tickets);
        work.reads.extend(lost.map(|ticket| (ticket, Err(ProposeError::NotLeader))));
    }
}

#[cfg(test)]
impl Replica {
    /// Loses the leadership, without a new leader.
    pub(crate) fn depose(&mut self) {
        self.engine.depose();
    }
}

/// Panics on an entry that does not decode: a newer broker wrote it, or it is damaged in a way that
/// the WAL's checksum did not detect. Skipping it would make the replicas diverge.
fn decode(data: &Bytes) -> Envelope {
    Envelope::decode(data)
        .unwrap_or_else(|error| panic!("a committed entry cannot be applied: {error}"))
}

#[cfg(test)]
pub(crate) mod tests;
