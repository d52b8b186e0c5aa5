//! One replica of a shard, without I/O: proposals in, entries to write out, entries applied.
//!
//! The driver feeds events and carries out the [`Work`] that [`Replica::poll`] returns; a test can
//! be the driver too, and crash between any two steps.
//!
//! # Invariants
//!
//! - **D1** a ticket is resolved with an outcome only after its entry was applied, which the engine
//!   allows only after a majority, this replica included, reported it durable.
//! - A ticket is resolved exactly once. Those of a lost term resolve to `Unknown`; one whose entry
//!   was replaced, or committed in another term, to `NotLeader`.
//! - Nothing is proposed or read before the first entry of this leader's term is applied.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::command::{self, Command, Envelope};
use crate::engine::{
    Engine, EngineError, Entry, EntryKind, HardState, Members, ProposalRejection, Start,
};
use crate::id::ReplicaId;
use crate::limits;
use crate::proposal::ProposeError;
use crate::state::{Effect, Outcome, State};

/// Names a proposal or a read until it is resolved. The caller draws them; each is used once.
pub type Ticket = u64;

/// One replica.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    engine: Engine,
    members: Members,
    applied: (u64, u64),
    /// Votes that changed and wait for a write worth making.
    hard_state: Option<HardState>,
    proposals: VecDeque<Proposal>,
    reads_asked: Vec<Ticket>,
    reads_confirmed: VecDeque<(u64, Vec<Ticket>)>,
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
    /// The entry before it was written down, if it carries batches: they own their memory already
    /// and need not be copied out of the entry.
    batches: Option<Envelope>,
}

/// What the driver has to do after a [`Replica::poll`].
#[derive(Debug, Default)]
pub struct Work {
    /// To be made durable; then [`Replica::persisted`] with the number.
    pub write: Option<Write>,
    /// To be carried out in order.
    pub effects: Vec<Effect>,
    /// Proposals that are decided, after their effects.
    pub outcomes: Vec<(Ticket, Result<Outcome, ProposeError>)>,
    /// Reads that are decided.
    pub reads: Vec<(Ticket, Result<(), ProposeError>)>,
    /// This replica began or ceased to lead.
    pub leads: Option<Option<u64>>,
}

/// What has to be made durable together, in the replica's part of the write-ahead log.
#[derive(Debug, Clone)]
pub struct Write {
    /// What to report.
    pub number: u64,
    /// New entries, in order; an earlier entry at the same index or above is replaced.
    pub entries: Vec<Entry>,
    /// Votes, if they changed: written after the entries.
    pub hard_state: Option<HardState>,
}

impl Replica {
    /// A replica as recovery found it.
    ///
    /// # Errors
    /// When the engine finds the start inconsistent.
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

    /// Its number in the catalog.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Index and term of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> (u64, u64) {
        self.applied
    }

    /// Who takes part, as of the last applied entry.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The term this replica leads and serves in.
    #[must_use]
    pub fn leading(&self) -> Option<u64> {
        self.leading
    }

    /// Whether it needs ticks: a lone voter does not, unless it waits for memory to go on with its replay.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        !self.engine.is_lone() || self.engine.waits_for_room()
    }

    /// One tick of the engine's clock.
    pub fn tick(&mut self) {
        if !self.engine.is_lone() {
            self.engine.tick();
        }
    }

    /// Proposes a command; `ticket` is resolved by a later poll. Returns the size of the entry's
    /// payload, bytes.
    ///
    /// # Errors
    /// `NotLeader` when this replica does not serve, `Busy` when too much is uncommitted, `TooLarge` when
    /// the entry would be over [`limits::ENTRY_BYTES_HARD_MAX`]: the command was not taken and the
    /// ticket will not be resolved.
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

    /// Asks for a read; `ticket` is resolved once what is committed now is applied.
    pub fn read(&mut self, ticket: Ticket) {
        self.reads_asked.push(ticket);
    }

    /// The write of this number, and every earlier one, is durable.
    pub fn persisted(&mut self, number: u64) {
        self.engine.persisted(number);
    }

    /// Does what can be done now. Call until it returns `None`, and again after each tick.
    ///
    /// What the log holds from before the start is applied in pieces of
    /// [`COMMITTED_BYTES_MAX`](crate::limits::COMMITTED_BYTES_MAX), as far as the memory for it goes: the checkpoint
    /// thread makes more.
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
        for (context, index) in ready.reads {
            self.confirm_read(context, index);
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
        self.applied = (entry.index, entry.term);
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

    /// The entry as it was proposed here, if it was: what `entry` decodes to.
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

    fn confirm_read(&mut self, context: u64, index: u64) {
        // Contexts are confirmed in order; one that was skipped was lost and is covered by this.
        while let Some((asked, _)) = self.read_contexts.front()
            && *asked <= context
        {
            let (_, tickets) = self.read_contexts.pop_front().expect("it is there");
            self.reads_confirmed.push_back((index, tickets));
        }
    }

    fn settle_reads(&mut self, work: &mut Work) {
        while let Some((index, _)) = self.reads_confirmed.front()
            && *index <= self.applied.0
        {
            let (_, tickets) = self.reads_confirmed.pop_front().expect("it is there");
            work.reads.extend(tickets.into_iter().map(|ticket| (ticket, Ok(()))));
        }
    }

    fn follow_leadership(&mut self, work: &mut Work) {
        let term = self.engine.term();
        let serves = self.engine.is_leader() && self.applied.1 == term;
        let leading = serves.then_some(term);
        if leading == self.leading {
            return;
        }
        self.leading = leading;
        work.leads = Some(leading);
        // Reads are safe to give up and ask again; proposals of an earlier term may yet commit.
        let lost = self.proposals.drain(..).map(|p| (p.ticket, Err(ProposeError::Unknown)));
        work.outcomes.extend(lost);
        let reads = self.read_contexts.drain(..).chain(self.reads_confirmed.drain(..));
        let lost = reads.flat_map(|(_, tickets)| tickets);
        work.reads.extend(lost.map(|ticket| (ticket, Err(ProposeError::NotLeader))));
    }
}

#[cfg(test)]
impl Replica {
    /// Loses the lead to nobody.
    pub(crate) fn depose(&mut self) {
        self.engine.depose();
    }
}

/// An entry that does not decode was written by a newer broker or is damage that the WAL's
/// checksum did not see. Applying anything else instead would make the replicas differ.
fn decode(data: &Bytes) -> Envelope {
    Envelope::decode(data)
        .unwrap_or_else(|error| panic!("a committed entry cannot be applied: {error}"))
}

#[cfg(test)]
pub(crate) mod tests;
