//! The loop that owns one replica: takes inputs, carries out what the replica says.
//!
//! One task per shard. It never blocks: records go to the WAL's own thread, which reports back;
//! appending to a log is memory only. What arrives while writes are under way is joined into the
//! next entry, so batching comes from load and not from a timer.
//!
//! # Order of events for a batch
//!
//! propose → WAL durable → applied to the state → in the log, readable → observer told → answered.
//!
//! # A full disk
//!
//! While the log has no space for another file, batches wait for a moment and are then refused
//! with a clear error; everything else (deletes, retention, commits, administration) still goes,
//! out of the space that the log keeps for it. A write that was refused after all is made again:
//! its entries are in the engine's log already.
//!
//! # Stopping
//!
//! The loop ends when the last handle is dropped, when told to, or when the WAL fails. Then every
//! waiter sees `Stopped`; nothing that was not durable is ever answered as done (D1, D2).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropewalk_wal::{Submission, WalError, WalHandle};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error};

use crate::command::{Append, Command};
use crate::handle::{AppendResult, Capture, Input, Observer, ProposeError, Shard};
use crate::id::PartitionId;
use crate::limits;
use crate::log::PartitionLog;
use crate::replica::{Replica, Ticket, Work, Write};
use crate::state::{Effect, Outcome};

/// Where a partition's records go. The store behind it knows directories and budgets.
pub trait Logs: Send + Sync + fmt::Debug {
    /// The (empty) log of a partition that was just opened.
    fn open(&self, partition: PartitionId) -> Arc<PartitionLog>;
    /// The partition is gone; its files may go once no snapshot names them.
    fn closed(&self, partition: PartitionId, log: Arc<PartitionLog>);
}

/// What a driver needs of its surroundings.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Takes the records.
    pub wal: WalHandle,
    /// Makes the logs.
    pub logs: Arc<dyn Logs>,
    /// Sees what was applied.
    pub observer: Arc<dyn Observer>,
    /// The wall clock, Unix milliseconds.
    pub clock_ms: fn() -> i64,
    /// Set to `true` to end the loop.
    pub stop: watch::Receiver<bool>,
}

/// The owner of one replica.
#[derive(Debug)]
pub struct Driver {
    shard: Arc<Shard>,
    replica: Replica,
    around: Surroundings,
    queue: mpsc::UnboundedReceiver<Input>,
    durable: mpsc::UnboundedReceiver<Durable>,
    report: mpsc::UnboundedSender<Durable>,
    appends: VecDeque<Batches>,
    commands: VecDeque<(Command, oneshot::Sender<Result<Outcome, ProposeError>>)>,
    waiters: HashMap<Ticket, Waiter>,
    next_ticket: Ticket,
    /// Handed to the WAL and not yet reported durable, in order.
    writes: VecDeque<Write>,
    /// How many of those the WAL has refused for want of space.
    refused: usize,
}

/// The WAL's word on a write.
type Durable = Result<u64, Arc<WalError>>;

/// Batches of one caller that have not been proposed yet.
#[derive(Debug)]
struct Batches {
    items: Vec<Append>,
    done: oneshot::Sender<AppendResult>,
    since: Instant,
}

/// Who is told when a ticket is resolved.
#[derive(Debug)]
enum Waiter {
    /// Those whose batches were joined into the entry, each with how many are theirs.
    Appends(Vec<(usize, oneshot::Sender<AppendResult>)>),
    Command(oneshot::Sender<Result<Outcome, ProposeError>>),
    Read(oneshot::Sender<Result<(), ProposeError>>),
}

enum Event {
    Inputs,
    Durable(Durable),
    Tick,
    Stop,
}

impl Driver {
    /// A driver for `replica`, whose handle is `shard` and whose inputs come from `queue`.
    #[must_use]
    pub fn new(
        shard: Arc<Shard>,
        queue: mpsc::UnboundedReceiver<Input>,
        replica: Replica,
        around: Surroundings,
    ) -> Self {
        let (report, durable) = mpsc::unbounded_channel();
        Self {
            shard,
            replica,
            around,
            queue,
            durable,
            report,
            appends: VecDeque::new(),
            commands: VecDeque::new(),
            waiters: HashMap::new(),
            next_ticket: 0,
            writes: VecDeque::new(),
            refused: 0,
        }
    }

    /// Runs until stopped.
    pub async fn run(mut self) {
        let mut inputs = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(limits::TICK_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let needs_ticks = self.replica.needs_ticks();
        self.settle();
        loop {
            let event = tokio::select! {
                biased;
                Some(durable) = self.durable.recv() => Event::Durable(durable),
                count = self.queue.recv_many(&mut inputs, limits::INPUTS_MAX) => {
                    if count == 0 { Event::Stop } else { Event::Inputs }
                }
                _ = ticks.tick(), if needs_ticks || self.is_held_up() => Event::Tick,
                _ = self.around.stop.wait_for(|stop| *stop) => Event::Stop,
            };
            match event {
                Event::Inputs => inputs.drain(..).for_each(|input| self.take(input)),
                Event::Durable(Ok(number)) => {
                    self.writes.pop_front();
                    self.replica.persisted(number);
                }
                Event::Durable(Err(error)) if is_for_want_of_space(&error) => self.refused += 1,
                Event::Durable(Err(error)) => {
                    error!(shard = %self.shard.id(), %error, "the write-ahead log failed");
                    break;
                }
                Event::Tick => self.tick(needs_ticks),
                Event::Stop => break,
            }
            self.settle();
        }
        self.shard.set_leading(None);
        self.around.observer.leads(self.shard.id(), None);
        debug!(shard = %self.shard.id(), "stopped");
    }

    /// Whether something waits for space in the log.
    fn is_held_up(&self) -> bool {
        !self.appends.is_empty() || self.refused > 0
    }

    fn tick(&mut self, for_engine: bool) {
        if for_engine {
            self.replica.tick();
        }
        // All that follows a refused write is refused too: then they are made again, in order.
        if self.refused > 0 && self.refused == self.writes.len() {
            self.refused = 0;
            for write in std::mem::take(&mut self.writes) {
                self.submit(write);
            }
        }
        while let Some(batches) = self.appends.front()
            && batches.since.elapsed() > limits::FULL_WAIT_MAX
        {
            let batches = self.appends.pop_front().expect("it was just looked at");
            let _ = batches.done.send(Err(ProposeError::Full));
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Append { items, done } => {
                self.appends.push_back(Batches { items, done, since: Instant::now() });
            }
            Input::Propose { command, done } => self.commands.push_back((command, done)),
            Input::ReadBarrier { done } => {
                let ticket = self.ticket(Waiter::Read(done));
                self.replica.read(ticket);
            }
            Input::Capture { done } => {
                let (index, term) = self.replica.applied();
                let _ = done.send(Capture {
                    replica: self.replica.id(),
                    index,
                    term,
                    members: self.replica.members().clone(),
                    state: self.shard.state().clone(),
                    logs: self.shard.logs(),
                });
            }
        }
    }

    fn ticket(&mut self, waiter: Waiter) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.insert(ticket, waiter);
        ticket
    }

    /// Does all that can be done without waiting.
    fn settle(&mut self) {
        loop {
            while let Some(work) = self.shard.change(|state| self.replica.poll(state)) {
                self.carry_out(work);
            }
            if self.writes.len() >= limits::WRITES_INFLIGHT_MAX || !self.propose_next() {
                return;
            }
        }
    }

    /// Proposes the next entry; whether there was one that was taken.
    fn propose_next(&mut self) -> bool {
        let (command, waiter) = if let Some((command, done)) = self.commands.pop_front() {
            (command, Waiter::Command(done))
        } else if self.appends.is_empty() || self.around.wal.is_full() {
            return false;
        } else {
            self.join()
        };
        let ticket = self.next_ticket;
        match self.replica.propose(ticket, &command, (self.around.clock_ms)()) {
            Ok(()) => {
                self.ticket(waiter);
                true
            }
            Err(ProposeError::Full) if !self.writes.is_empty() => {
                self.put_back(command, waiter);
                false
            }
            Err(error) => {
                waiter.resolve(Err(error));
                true
            }
        }
    }

    /// Joins the batches that wait into one entry.
    fn join(&mut self) -> (Command, Waiter) {
        let mut size = 0;
        let (mut items, mut waiters) = (Vec::new(), Vec::new());
        while let Some(next) = self.appends.front() {
            size += next.items.iter().map(|item| item.batch.len()).sum::<usize>();
            if size > limits::ENTRY_BYTES_MAX && !items.is_empty() {
                break;
            }
            let next = self.appends.pop_front().expect("it was just looked at");
            waiters.push((next.items.len(), next.done));
            items.extend(next.items);
        }
        (Command::Append(items), Waiter::Appends(waiters))
    }

    /// The engine takes no more now: what was joined goes back to the head of the line.
    fn put_back(&mut self, command: Command, waiter: Waiter) {
        match (command, waiter) {
            (Command::Append(mut items), Waiter::Appends(mut waiters)) => {
                while let Some((count, done)) = waiters.pop() {
                    let items = items.split_off(items.len() - count);
                    self.appends.push_front(Batches { items, done, since: Instant::now() });
                }
            }
            (command, Waiter::Command(done)) => self.commands.push_front((command, done)),
            (_, waiter) => waiter.resolve(Err(ProposeError::Full)),
        }
    }

    fn carry_out(&mut self, work: Work) {
        if let Some(write) = work.write {
            self.submit(write);
        }
        for effect in &work.effects {
            self.carry_out_effect(effect);
        }
        if !work.effects.is_empty() {
            self.around.observer.applied(self.shard.id(), &work.effects);
        }
        for (ticket, outcome) in work.outcomes {
            if let Some(waiter) = self.waiters.remove(&ticket) {
                waiter.resolve(outcome);
            }
        }
        for (ticket, result) in work.reads {
            if let Some(Waiter::Read(done)) = self.waiters.remove(&ticket) {
                let _ = done.send(result);
            }
        }
        if let Some(term) = work.leads {
            debug!(shard = %self.shard.id(), ?term, "leadership changed");
            self.shard.set_leading(term);
            self.around.observer.leads(self.shard.id(), term);
        }
    }

    fn submit(&mut self, write: Write) {
        let report = self.report.clone();
        let number = write.number;
        let done = move |result: Result<(), Arc<WalError>>| {
            // The loop may have ended; then nobody waits for this any more.
            let _ = report.send(result.map(|()| number));
        };
        // Whether there is space was asked before it was proposed: now it has to go through.
        let submission = Submission::new(write.records.clone(), done).from_reserve();
        self.writes.push_back(write);
        self.around.wal.submit(submission);
    }

    fn carry_out_effect(&self, effect: &Effect) {
        match effect {
            Effect::Appended { partition, batch, time_ms } => {
                let log = self.shard.log(partition).expect("an open partition has a log");
                log.append(batch.clone(), *time_ms);
            }
            Effect::Opened(partition) => {
                self.shard.insert_log(*partition, self.around.logs.open(*partition));
            }
            Effect::Closed(partition) => {
                if let Some(log) = self.shard.remove_log(partition) {
                    self.around.logs.closed(*partition, log);
                }
            }
            Effect::LogStart { partition, offset } => {
                if let Some(log) = self.shard.log(partition) {
                    log.set_log_start(*offset);
                }
            }
            Effect::Committed { .. } | Effect::GroupChanged(_) | Effect::CatalogChanged(_) => {}
        }
    }
}

/// Whether the same write may be taken later. One that follows a refused one leaves a hole.
fn is_for_want_of_space(error: &WalError) -> bool {
    match error {
        WalError::Full { .. } | WalError::NotContiguous { .. } => true,
        WalError::TooLarge { .. } | WalError::Failed(_) | WalError::Closed => false,
    }
}

impl Waiter {
    /// Receivers that are gone have stopped waiting: that is theirs to decide.
    fn resolve(self, outcome: Result<Outcome, ProposeError>) {
        match self {
            Self::Command(done) => {
                let _ = done.send(outcome);
            }
            Self::Read(done) => {
                let _ = done.send(outcome.map(|_| ()));
            }
            Self::Appends(waiters) => match outcome {
                Ok(Outcome::Appended(results)) => {
                    let mut results = results.into_iter();
                    for (count, done) in waiters {
                        let _ = done.send(Ok(results.by_ref().take(count).collect()));
                    }
                }
                Ok(_) => unreachable!("an append has one result per batch"),
                Err(error) => waiters.into_iter().for_each(|(_, done)| {
                    let _ = done.send(Err(error));
                }),
            },
        }
    }
}
