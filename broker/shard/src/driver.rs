//! The core of a shard's driver, without a task, a clock or I/O: events in, [`Actions`] out.
//!
//! The caller passes each event to [`Core::take`] and carries out what [`Core::poll`] returns until
//! it returns `None`. The shard's task and tests are such callers.
//!
//! # Invariants
//!
//! - Batches and commands are proposed in the order in which they arrived. A proposal that the
//!   engine is too busy for keeps its place in the queue and its arrival time.
//! - **D1** a call succeeds only when its write and every earlier one are durable: see `writes`.
//! - After a refused batch of a new producer, every batch of the same [`SendOrder`] is refused.
//! - Each caller is answered exactly once. A call of which a part was proposed is never answered
//!   with an error that means that nothing was changed.
//!
//! # Limits
//!
//! An entry carries batches of up to [`limits::ENTRY_BYTES_MAX`] bytes together, or a single larger
//! one; a call with more than that becomes several entries. At most [`limits::WRITES_INFLIGHT_MAX`]
//! writes are in flight. A proposal that waits longer than [`limits::FULL_WAIT_MAX`] is refused.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::command::{self, Append, Command};
use crate::limits;
use crate::proposal::{Certainty, ProposeError, SendOrder};
use crate::replica::{Replica, Ticket, Work};
use crate::state::{AppendOutcome, AppendRefusal, Outcome};

mod checks;
mod events;
mod footprint;
mod refusals;
mod replication;
mod writes;

use checks::CheckTimer;
pub use events::{Actions, Answer, Caller, ChangeError, Event, Now, StateAccess};
use replication::Inbox;
use writes::{Finished, Writes};

/// The state of one shard's driver.
#[derive(Debug)]
pub struct Core {
    replica: Replica,
    /// Calls that are not proposed yet, oldest first.
    queue: VecDeque<Pending>,
    /// Appends that are not answered.
    calls: HashMap<Caller, Call>,
    /// Proposals and reads without an outcome.
    waiters: BTreeMap<Ticket, Waiter>,
    next_ticket: Ticket,
    writes: Writes,
    inbox: Inbox,
    /// Why the oldest call of `queue` could not be proposed at the last attempt.
    obstacle: Option<ProposeError>,
    checks: CheckTimer,
    outbox: Actions,
}

#[derive(Debug)]
struct Pending {
    caller: Caller,
    since: Duration,
    what: Proposal,
}

#[derive(Debug)]
enum Proposal {
    Appends(VecDeque<Append>),
    Command(Command),
}

/// One append call that is not answered.
#[derive(Debug)]
struct Call {
    /// Results of the batches that are applied, in order.
    results: Vec<Result<AppendOutcome, AppendRefusal>>,
    /// Number of batches that are proposed and have no outcome.
    proposed: usize,
    /// Number of batches that are not applied.
    left: usize,
    order: SendOrder,
}

/// The batches of one call in an entry that joins batches of several calls.
#[derive(Debug)]
struct Part {
    caller: Caller,
    since: Duration,
    count: usize,
}

#[derive(Debug)]
enum Waiter {
    Appends(Vec<Part>),
    Command { caller: Caller, since: Duration },
    Read(Caller),
    Change(Caller),
}

impl Core {
    /// A core that drives `replica`.
    #[must_use]
    pub fn new(replica: Replica) -> Self {
        Self {
            replica,
            queue: VecDeque::new(),
            calls: HashMap::new(),
            waiters: BTreeMap::new(),
            next_ticket: 0,
            writes: Writes::default(),
            inbox: Inbox::default(),
            obstacle: None,
            checks: CheckTimer::default(),
            outbox: Actions::default(),
        }
    }

    /// The replica that is driven.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Whether the caller has to send [`Event::Tick`]s now.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        self.replica.needs_ticks() || !self.queue.is_empty() || self.writes.is_refused()
    }

    /// Records an event. [`Self::poll`] returns the actions that result.
    pub fn take(&mut self, event: Event, now: Now) {
        match event {
            Event::Append { caller, items, order } => self.take_appends(caller, items, order, now),
            Event::Propose { caller, command } => {
                let what = Proposal::Command(command);
                self.queue.push_back(Pending { caller, since: now.at, what });
            }
            Event::Read { caller } => {
                let ticket = self.ticket(Waiter::Read(caller));
                self.replica.read(ticket);
            }
            Event::Durable(number) => {
                self.writes.durable(number);
                self.report_finished();
            }
            Event::NoSpace(number) => self.writes.refused(number),
            Event::Message(message) => self.take_message(message),
            Event::Fetched { id, entries } => self.replica.fetched(id, entries),
            Event::Unreachable(replica) => self.replica.unreachable(replica),
            Event::Held { replica, first } => self.replica.hold(replica, first),
            Event::Sendable(replica) => self.replica.release(replica),
            Event::Change { caller, change } => self.take_change(caller, change),
            Event::Transfer(replica) => self.replica.transfer_leadership(replica),
            Event::Ended(replica) => self.replica.ended(replica),
            Event::Compacted(index) => self.replica.compacted(index),
            Event::Tick => {
                self.inbox.tick();
                if self.replica.needs_ticks() {
                    self.replica.tick();
                }
                self.tick_checks(now);
                self.outbox.writes.extend(self.writes.submit_again());
            }
        }
    }

    /// The next actions; `None` when there are none before another event. `has_space` is whether
    /// the log has space for batches now.
    pub fn poll(&mut self, now: Now, has_space: bool, state: &impl StateAccess) -> Option<Actions> {
        self.replica.set_level(state.level());
        loop {
            if let Some(work) = state.poll(&mut self.replica) {
                self.absorb(work);
            } else if self.outbox.is_empty() {
                if self.step_next(has_space) {
                    continue;
                }
                // A replica that does not lead refuses at once what a leader would keep waiting.
                let may_propose = self.replica.leading().is_none()
                    || (self.writes.len() < limits::WRITES_INFLIGHT_MAX
                        && !self.writes.is_refused());
                let is_done = !(may_propose && self.propose(now, has_space, state));
                if is_done && !self.refuse_overdue(now, state) {
                    return None;
                }
            }
            if !self.outbox.is_empty() {
                return Some(std::mem::take(&mut self.outbox));
            }
        }
    }

    /// Ends the driver; returns the answers of all open calls.
    pub fn stop(&mut self) -> Vec<(Caller, Answer)> {
        for waiter in std::mem::take(&mut self.waiters).into_values() {
            let error = match waiter {
                Waiter::Appends(_) | Waiter::Command { .. } | Waiter::Change(_) => {
                    ProposeError::Unknown
                }
                Waiter::Read(_) => ProposeError::Stopped,
            };
            self.resolve(waiter, Err(error));
        }
        while let Some(pending) = self.queue.pop_front() {
            self.refuse(pending, ProposeError::Stopped);
        }
        std::mem::take(&mut self.outbox).answers
    }

    fn take_appends(&mut self, caller: Caller, items: Vec<Append>, order: SendOrder, now: Now) {
        let largest = items.iter().map(|item| item.batch.len()).max().unwrap_or(0);
        if largest > limits::BATCH_BYTES_MAX {
            let (size_bytes, size_bytes_max) = (largest, limits::BATCH_BYTES_MAX);
            let error = ProposeError::TooLarge { size_bytes, size_bytes_max };
            return self.answer(caller, Answer::Appended(Err(error)));
        }
        if items.is_empty() {
            return self.answer(caller, Answer::Appended(Ok(Vec::new())));
        }
        let call = Call { results: Vec::new(), proposed: 0, left: items.len(), order };
        self.calls.insert(caller, call);
        let what = Proposal::Appends(items.into());
        self.queue.push_back(Pending { caller, since: now.at, what });
    }

    fn ticket(&mut self, waiter: Waiter) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.insert(ticket, waiter);
        ticket
    }

    fn answer(&mut self, caller: Caller, answer: Answer) {
        self.outbox.answers.push((caller, answer));
    }

    /// Proposes the entries of the next write. Returns whether any call was proposed or answered.
    fn propose(&mut self, now: Now, has_space: bool, state: &impl StateAccess) -> bool {
        let mut bytes = 0;
        for count in 0..limits::ENTRIES_PER_WRITE_MAX {
            if bytes >= limits::ENTRY_BYTES_MAX {
                return true;
            }
            match self.propose_next(now, has_space, state) {
                Some(size_bytes) => bytes += size_bytes,
                None => return count > 0,
            }
        }
        true
    }

    /// Proposes the oldest call in the queue. Returns its size in bytes, 0 if it was refused,
    /// `None` if it has to wait.
    fn propose_next(
        &mut self,
        now: Now,
        has_space: bool,
        state: &impl StateAccess,
    ) -> Option<usize> {
        self.obstacle = None;
        if let Some(pending) = self.pop_behind() {
            self.refuse(pending, ProposeError::Behind);
            return Some(0);
        }
        let (command, waiter) = match self.queue.pop_front()? {
            Pending { caller, since, what: Proposal::Command(command) } => {
                (command, Waiter::Command { caller, since })
            }
            appends @ Pending { what: Proposal::Appends(_), .. } => {
                self.queue.push_front(appends);
                let has_space = has_space && !self.replica.is_majority_full();
                if !has_space && self.replica.leading().is_some() {
                    self.obstacle = Some(ProposeError::Full);
                    return None;
                }
                self.join()
            }
        };
        match self.replica.propose(self.next_ticket, &command, now.time_ms) {
            Ok(size_bytes) => {
                if let Waiter::Appends(parts) = &waiter {
                    for part in parts {
                        self.call(part.caller).proposed += part.count;
                    }
                }
                self.ticket(waiter);
                Some(size_bytes)
            }
            Err(ProposeError::Busy) => {
                self.obstacle = Some(ProposeError::Busy);
                self.put_back(command, waiter);
                None
            }
            Err(error) => {
                match waiter {
                    Waiter::Appends(parts) => {
                        let Command::Append(items) = &command else {
                            unreachable!("batches are joined into an append")
                        };
                        self.fail_parts(&parts, items, error, state);
                    }
                    waiter @ (Waiter::Command { .. } | Waiter::Read(_) | Waiter::Change(_)) => {
                        self.resolve(waiter, Err(error));
                    }
                }
                Some(0)
            }
        }
    }

    fn call(&mut self, caller: Caller) -> &mut Call {
        self.calls.get_mut(&caller).expect("batches that wait belong to a call")
    }

    /// Joins the batches at the head of the queue into one entry.
    fn join(&mut self) -> (Command, Waiter) {
        let (mut items, mut parts, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(Pending { caller, since, what: Proposal::Appends(waiting) }) =
            self.queue.front_mut()
        {
            if self.calls.get(caller).is_some_and(|call| call.order.is_ended()) {
                break;
            }
            let mut count = 0;
            while let Some(next) = waiting.front() {
                bytes += command::item_len(next);
                if bytes > limits::ENTRY_BYTES_MAX && !items.is_empty() {
                    break;
                }
                items.extend(waiting.pop_front());
                count += 1;
            }
            if count > 0 {
                parts.push(Part { caller: *caller, since: *since, count });
            }
            if !waiting.is_empty() {
                break;
            }
            self.queue.pop_front();
        }
        (Command::Append(items), Waiter::Appends(parts))
    }

    /// Puts a proposal that the engine is too busy for back at the head of the queue.
    fn put_back(&mut self, command: Command, waiter: Waiter) {
        match (command, waiter) {
            (Command::Append(mut items), Waiter::Appends(parts)) => {
                for Part { caller, since, count } in parts.into_iter().rev() {
                    let back = items.split_off(items.len() - count);
                    match self.queue.front_mut() {
                        Some(Pending { caller: first, what: Proposal::Appends(rest), .. })
                            if *first == caller =>
                        {
                            back.into_iter().rev().for_each(|item| rest.push_front(item));
                        }
                        Some(_) | None => {
                            let what = Proposal::Appends(back.into());
                            self.queue.push_front(Pending { caller, since, what });
                        }
                    }
                }
            }
            (command, Waiter::Command { caller, since }) => {
                let what = Proposal::Command(command);
                self.queue.push_front(Pending { caller, since, what });
            }
            (_, Waiter::Appends(_) | Waiter::Read(_) | Waiter::Change(_)) => {
                unreachable!("batches are joined into an append, and nothing else is put back")
            }
        }
    }

    fn resolve(&mut self, waiter: Waiter, outcome: Result<Outcome, ProposeError>) {
        match (waiter, outcome) {
            (Waiter::Command { caller, .. }, outcome) => {
                self.answer(caller, Answer::Proposed(outcome));
            }
            (Waiter::Read(caller), outcome) => {
                self.answer(caller, Answer::Read(outcome.map(|_| ())));
            }
            (Waiter::Change(caller), outcome) => {
                let changed = outcome.map(|_| ()).map_err(ChangeError::Proposed);
                self.answer(caller, Answer::Changed(changed));
            }
            (Waiter::Appends(parts), Ok(Outcome::Appended(results))) => {
                let mut results = results.into_iter();
                for part in parts {
                    self.appended(&part, results.by_ref().take(part.count));
                }
            }
            (Waiter::Appends(_), Ok(_)) => unreachable!("an append has one result per batch"),
            (Waiter::Appends(parts), Err(error)) => {
                for part in parts {
                    if let Some(call) = self.calls.get_mut(&part.caller) {
                        if error.certainty() != Certainty::Unknown {
                            call.proposed -= part.count;
                        }
                        call.order.end();
                    }
                    self.fail(part.caller, error);
                }
            }
        }
    }

    fn appended(
        &mut self,
        part: &Part,
        results: impl Iterator<Item = Result<AppendOutcome, AppendRefusal>>,
    ) {
        // The results are consumed also when the call has failed already.
        let results: Vec<_> = results.collect();
        let Some(call) = self.calls.get_mut(&part.caller) else { return };
        call.proposed -= part.count;
        call.left -= part.count;
        call.results.extend(results);
        if call.left == 0
            && let Some(call) = self.calls.remove(&part.caller)
        {
            self.answer(part.caller, Answer::Appended(Ok(call.results)));
        }
    }

    fn absorb(&mut self, work: Work) {
        self.outbox.messages.extend(work.messages);
        self.outbox.fetches.extend(work.fetches);
        self.outbox.snapshots_for.extend(work.snapshots_for);
        self.outbox.stopped = work.stopped.or(self.outbox.stopped.take());
        self.outbox.effects.extend(work.effects);
        let mut answers = Vec::new();
        for (ticket, outcome) in work.outcomes {
            match self.waiters.remove(&ticket) {
                // A restart before the write is durable would have the members from before.
                Some(Waiter::Change(caller)) => {
                    let changed = outcome.map(|_| ()).map_err(ChangeError::Proposed);
                    answers.push((caller, Answer::Changed(changed)));
                }
                Some(waiter) => self.resolve(waiter, outcome),
                None => {}
            }
        }
        if let Some(number) = work.number {
            let write = self.writes.push(number, work.write, work.messages_after, answers);
            self.outbox.writes.extend(write);
            self.report_finished();
        } else {
            self.outbox.answers.extend(answers);
        }
        for (ticket, result) in work.reads {
            if let Some(Waiter::Read(caller)) = self.waiters.remove(&ticket) {
                self.answer(caller, Answer::Read(result));
            }
        }
        self.outbox.leads = work.leads.or(self.outbox.leads.take());
    }
}

impl Core {
    /// Reports to the replica what is durable, and sends the messages that waited for it.
    fn report_finished(&mut self) {
        if let Some(Finished { number, messages, answers }) = self.writes.finished() {
            self.replica.persisted(number);
            self.outbox.messages.extend(messages);
            self.outbox.answers.extend(answers);
        }
    }
}

#[cfg(test)]
mod tests;
