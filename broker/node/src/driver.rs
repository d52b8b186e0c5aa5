//! The owner of one replica: it takes inputs and carries out the actions of its [`Core`].
//!
//! There is one driver per shard, and several share a task. A driver never blocks: the WAL's own
//! thread writes records and reports back, and appending to a partition log accesses memory only.
//! Batches that arrive while writes are in flight are joined into the next entries, so batching
//! depends on load and not on a timer.
//!
//! # Order of events for a batch
//!
//! propose → WAL durable → applied to the state → in the log, readable → observer called →
//! answered.
//!
//! # A full disk
//!
//! While the log has no space for another file, batches wait for a moment and are then refused. All
//! other commands (deletes, retention, commits, administration) are still written to the space that
//! the log reserves for them, but never before batches that came earlier. A refused write is
//! submitted again, because its entries are in the engine's log already.
//!
//! # Stopping
//!
//! A driver ends when the last handle is dropped, when `stop` is set, or when the WAL fails. Open
//! calls are then answered with `Stopped`, or with `Unknown` if they were proposed; a write that is
//! not durable is never answered as success (D1, D2).
//!
//! # A replica that stops
//!
//! A replica stops when it meets an entry of a newer version of the broker, or when its log or its
//! state contradicts the others'. The other shards of the broker continue. The driver of a stopped
//! replica refuses all calls, but lets checkpoints capture the state through the last applied
//! entry; later entries stay in the log. A replica whose replay would not show the reason is marked
//! on the disk, so that it does not start again.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_shard::command::Append;
use ropewalk_shard::driver::{Actions, Answer, Caller, ChangeError, Core, Event, Now, StateAccess};
use ropewalk_shard::engine::{Entry, EntryId, HardState};
use ropewalk_shard::limits::TICK_MS;
use ropewalk_shard::proposal::{AppendResult, ProposeError};
use ropewalk_shard::replica::{Replica, StopReason, Work, Write};
use ropewalk_shard::send_budget::Turn;
use ropewalk_shard::{Effect, Outcome};
use ropewalk_store::checkpoint::Capture;
use ropewalk_store::log::Logs;
use ropewalk_store::replica_log;
use ropewalk_wal::{Completion, Record, ReplicaKey, Submission, WalError, WalHandle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error};

use crate::handle::{Input, Observer, ShardHandle};
use crate::limits;
use crate::peers::{LogReader, Peers};
use crate::sends::Sends;
use crate::supervision::Failure;
use crate::transfers::TransferOrders;

mod replication;

/// The operations of the write-ahead log that a driver needs, as a trait that tests replace.
pub trait LogWriter: Send + Sync + fmt::Debug {
    /// Queues records to be made durable together; `done` is called once, in the order of
    /// submission.
    fn submit(&self, records: Vec<Record>, done: Completion);
    /// Whether there is no space for record batches now.
    fn is_full(&self) -> bool;
}

impl LogWriter for WalHandle {
    fn submit(&self, records: Vec<Record>, done: Completion) {
        // The entries are in the engine's log, so they may use the reserved space: the driver
        // checked for space before it proposed them.
        Self::submit(self, Submission::new(records, done).from_reserve());
    }

    fn is_full(&self) -> bool {
        Self::is_full(self)
    }
}

/// The dependencies of a driver.
#[derive(Debug, Clone)]
pub struct DriverContext {
    /// The write-ahead log.
    pub wal: Arc<dyn LogWriter>,
    /// Reads the write-ahead log.
    pub log: Arc<dyn LogReader>,
    /// Where the messages to the other replicas go.
    pub peers: Arc<dyn Peers>,
    /// What all shards have on their way there.
    pub sends: Arc<Sends>,
    /// Sends files to replicas that lack what the log no longer has.
    pub transfers: TransferOrders,
    /// Creates and closes partition logs.
    pub logs: Arc<dyn Logs>,
    /// Receives the effects of applied entries.
    pub observer: Arc<dyn Observer>,
    /// The wall clock, Unix milliseconds.
    pub clock_ms: fn() -> i64,
    /// Set to `true` to end the task.
    pub stop: watch::Receiver<bool>,
    /// All shards of a broker tick at the same times, in multiples of a tick from here on: their
    /// heartbeats share frames, and an idle broker is woken once for all.
    pub ticks_from: Instant,
}

/// The owner of one replica.
#[derive(Debug)]
pub struct Driver {
    shard: Arc<ShardHandle>,
    core: Core,
    context: DriverContext,
    queue: mpsc::UnboundedReceiver<Input>,
    durable: mpsc::UnboundedReceiver<WriteReport>,
    report: mpsc::UnboundedSender<WriteReport>,
    fetched: mpsc::UnboundedReceiver<Fetched>,
    fetch: mpsc::UnboundedSender<Fetched>,
    turns: mpsc::UnboundedReceiver<Turn>,
    replies: HashMap<Caller, Reply>,
    next_caller: Caller,
    begun: Instant,
    /// Receives the hard state when the driver has ended, because its shard is closed.
    closing: Option<oneshot::Sender<HardState>>,
}

/// The WAL's answer to a write.
#[derive(Debug)]
struct WriteReport {
    /// [`Write::number`] of the write.
    number: u64,
    result: Result<(), Arc<WalError>>,
}

/// The answer to a [`Fetch`](ropewalk_shard::engine::Fetch).
#[derive(Debug)]
struct Fetched {
    id: u64,
    entries: Option<Vec<Entry>>,
}

/// The channel that receives the answer to a call.
#[derive(Debug)]
enum Reply {
    Appended(oneshot::Sender<AppendResult>),
    Proposed(oneshot::Sender<Result<Outcome, ProposeError>>),
    Read(oneshot::Sender<Result<(), ProposeError>>),
    Changed(oneshot::Sender<Result<(), ChangeError>>),
}

enum Wake {
    Inputs,
    Durable(WriteReport),
    Fetched(Fetched),
    Turn(Turn),
    Tick,
    Stop,
}

impl StateAccess for ShardHandle {
    fn poll(&self, replica: &mut Replica) -> Option<Work> {
        self.change(|state| replica.poll(state))
    }

    fn is_of_new_producer(&self, item: &Append) -> bool {
        self.state().is_of_new_producer(item)
    }

    fn level(&self) -> u8 {
        Self::level(self)
    }
}

impl Driver {
    /// A driver for `replica`, whose handle is `shard` and whose inputs come from `queue`.
    #[must_use]
    pub fn new(
        shard: Arc<ShardHandle>,
        queue: mpsc::UnboundedReceiver<Input>,
        replica: Replica,
        context: DriverContext,
    ) -> Self {
        shard.set_replica(replica.id().0);
        let (report, durable) = mpsc::unbounded_channel();
        let (fetch, fetched) = mpsc::unbounded_channel();
        let turns = context.sends.enter(shard.id());
        Self {
            shard,
            core: Core::new(replica),
            context,
            queue,
            durable,
            report,
            fetched,
            fetch,
            turns,
            replies: HashMap::new(),
            next_caller: 0,
            begun: Instant::now(),
            closing: None,
        }
    }

    /// Runs until stopped.
    ///
    /// # Errors
    /// When the WAL or the disk failed, or an entry can never be written: the process has to end.
    pub async fn run(mut self) -> Result<(), Failure> {
        // Before the log is replayed, so that a change of the members in it is seen as one.
        self.publish();
        let ended = self.serve().await;
        self.shard.set_leading(None);
        self.shard.set_progress(Vec::new());
        self.context.observer.leads(self.shard.id(), None);
        self.context.sends.leave(self.shard.id(), &mut self.turns);
        for (caller, answer) in self.core.stop() {
            self.answer(caller, answer);
        }
        self.queue.close();
        while let Ok(input) = self.queue.try_recv() {
            input.refuse(ProposeError::Stopped);
        }
        debug!(shard = %self.shard.id(), "driver stopped");
        if let Some(done) = self.closing.take() {
            let _ = done.send(self.core.replica().hard_state());
        }
        ended
    }

    async fn serve(&mut self) -> Result<(), Failure> {
        let mut inputs = Vec::new();
        let mut ticks = ticks(self.context.ticks_from);
        let mut stop = self.context.stop.clone();
        // Kept from turn to turn, because each wait registers in a list that all drivers share.
        let mut stopped = pin!(async move { drop(stop.wait_for(|stop| *stop).await) });
        loop {
            if let Some(reason) = self.settle() {
                self.halt(&reason).await?;
            }
            let wake = tokio::select! {
                biased;
                Some(report) = self.durable.recv() => Wake::Durable(report),
                // Before the inputs, of which there may always be more: a leader whose ticks are
                // late is deposed.
                _ = ticks.tick(), if self.core.needs_ticks() => Wake::Tick,
                Some(fetched) = self.fetched.recv() => Wake::Fetched(fetched),
                Some(turn) = self.turns.recv() => Wake::Turn(turn),
                count = self.queue.recv_many(&mut inputs, limits::INPUTS_MAX) => {
                    if count == 0 { Wake::Stop } else { Wake::Inputs }
                }
                () = &mut stopped => Wake::Stop,
            };
            match wake {
                Wake::Inputs => {
                    for input in inputs.drain(..) {
                        if self.closing.is_some() {
                            input.refuse(ProposeError::Stopped);
                        } else {
                            self.take(input);
                        }
                    }
                }
                Wake::Durable(WriteReport { number, result: Ok(()) }) => {
                    self.event(Event::Durable(number));
                }
                Wake::Durable(WriteReport { number, result: Err(error) }) => {
                    match failure(&error) {
                        None => self.event(Event::NoSpace(number)),
                        Some(DriverEnd::Closed) => {
                            // The log's thread ended, and its supervisor reports the cause.
                            stopped.await;
                            return Ok(());
                        }
                        Some(DriverEnd::Failed(failure)) => {
                            error!(shard = %self.shard.id(), %error, "write-ahead log failed");
                            return Err(failure);
                        }
                    }
                }
                Wake::Fetched(Fetched { id, entries }) => {
                    self.event(Event::Fetched { id, entries });
                }
                Wake::Turn(turn) => {
                    if let Some(reason) = self.take_turn(turn) {
                        self.halt(&reason).await?;
                    }
                }
                Wake::Tick => {
                    self.event(Event::Tick);
                    self.publish_progress();
                }
                Wake::Stop => return Ok(()),
            }
            if self.closing.is_some() {
                return Ok(());
            }
        }
    }

    fn now(&self) -> Now {
        Now { at: self.begun.elapsed(), time_ms: (self.context.clock_ms)() }
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        self.core.take(event, now);
    }

    fn take(&mut self, input: Input) {
        let caller = self.next_caller;
        self.next_caller += 1;
        let (event, reply) = match input {
            Input::Append { items, order, done } => {
                (Event::Append { caller, items, order }, Reply::Appended(done))
            }
            Input::Propose { command, done } => {
                (Event::Propose { caller, command }, Reply::Proposed(done))
            }
            Input::ReadBarrier { done } => (Event::Read { caller }, Reply::Read(done)),
            Input::Change { change, done } => {
                (Event::Change { caller, change }, Reply::Changed(done))
            }
            Input::Capture { done } => {
                let _ = done.send(self.capture());
                return;
            }
            Input::Message(message) => {
                self.shard.message_taken(&message);
                self.event(Event::Message(message));
                return;
            }
            Input::Transfer(to) => {
                self.event(Event::Transfer(to));
                return;
            }
            Input::Ended(replica) => {
                self.event(Event::Ended(replica));
                return;
            }
            Input::Lacks { last, done } => {
                let _ = done.send(self.core.replica().lacks(last));
                return;
            }
            Input::Close { if_lacks, done } => {
                // Between the check and the end nothing is added to the log.
                if if_lacks.is_none_or(|last| self.core.replica().lacks(last)) {
                    self.shard.set_closing();
                    self.closing = Some(done);
                }
                return;
            }
        };
        self.replies.insert(caller, reply);
        self.event(event);
    }

    fn capture(&self) -> Capture {
        let replica = self.core.replica();
        let EntryId { index, term } = replica.applied();
        Capture {
            replica: replica.id(),
            index,
            term,
            members: replica.members().clone(),
            state: self.shard.state().clone(),
            logs: self.shard.logs(),
        }
    }

    /// Carries out all actions that are possible without waiting. Returns why the replica stopped,
    /// once.
    fn settle(&mut self) -> Option<StopReason> {
        let shard = Arc::clone(&self.shard);
        let mut stopped = None;
        while let Some(mut actions) =
            self.core.poll(self.now(), !self.context.wal.is_full(), &*shard)
        {
            stopped = stopped.or(actions.stopped.take());
            self.carry_out(actions);
            self.publish();
        }
        stopped
    }

    fn carry_out(&mut self, actions: Actions) {
        let Actions { writes, effects, answers, leads, messages, fetches, .. } = actions;
        self.shard.set_applied(self.core.replica().applied().index);
        writes.into_iter().for_each(|write| self.submit(write));
        for effect in &effects {
            self.carry_out_effect(effect);
        }
        if !effects.is_empty() {
            self.context.observer.applied(self.shard.id(), &effects);
        }
        for (caller, answer) in answers {
            self.answer(caller, answer);
        }
        if let Some(term) = leads {
            debug!(shard = %self.shard.id(), ?term, "leadership changed");
            self.shard.set_leading(term);
            self.context.observer.leads(self.shard.id(), term);
        }
        self.send(messages);
        fetches.into_iter().for_each(|fetch| self.fetch(fetch));
        for replica in actions.snapshots_for {
            self.context.transfers.offer(self.shard.id(), self.core.replica().id().0, replica);
        }
        for (from, rejection) in actions.rejected {
            debug!(shard = %self.shard.id(), from, %rejection, "message refused");
        }
    }

    fn key(&self) -> ReplicaKey {
        replica_log::key(self.shard.id(), self.core.replica().id())
    }

    fn submit(&self, write: Write) {
        let (report, number) = (self.report.clone(), write.number);
        let done = move |result| {
            // The task may have ended.
            let _ = report.send(WriteReport { number, result });
        };
        self.context.wal.submit(replica_log::records(self.key(), write), Box::new(done));
    }

    /// Sends an answer. The receiver may have been dropped, because the client no longer waits.
    fn answer(&mut self, caller: Caller, answer: Answer) {
        match (self.replies.remove(&caller), answer) {
            (Some(Reply::Appended(done)), Answer::Appended(result)) => drop(done.send(result)),
            (Some(Reply::Proposed(done)), Answer::Proposed(result)) => drop(done.send(result)),
            (Some(Reply::Read(done)), Answer::Read(result)) => drop(done.send(result)),
            (Some(Reply::Changed(done)), Answer::Changed(result)) => drop(done.send(result)),
            (reply, answer) => unreachable!("{reply:?} was answered with {answer:?}"),
        }
    }

    fn carry_out_effect(&self, effect: &Effect) {
        match effect {
            Effect::Appended { partition, batch, time_ms } => {
                let log = self.shard.log(partition).expect("an open partition has a log");
                log.append(batch.clone(), *time_ms);
            }
            Effect::Opened(partition) => {
                self.shard.insert_log(*partition, self.context.logs.open(*partition));
            }
            Effect::Closed(partition) => {
                if let Some(log) = self.shard.remove_log(partition) {
                    self.context.logs.closed(*partition, log);
                }
            }
            Effect::LogStart { partition, offset } => {
                self.shard.log(partition).iter().for_each(|log| log.set_log_start(*offset));
            }
            Effect::LocalStart { partition, offset } => {
                self.shard.log(partition).iter().for_each(|log| log.set_local_start(*offset));
            }
            Effect::Restored { partition, log_start, end } => {
                self.shard.log(partition).iter().for_each(|log| log.restore(*log_start, *end));
            }
            Effect::CatalogChanged(_) => self.shard.follow_level(),
            Effect::Committed { .. } | Effect::GroupChanged(_) | Effect::TierChanged(_) => {}
        }
    }
}

/// The ticks of the engine's clock. A tick that is late is one tick.
fn ticks(from: Instant) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(from, Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}

/// Why an error of the WAL ends a driver.
enum DriverEnd {
    Closed,
    Failed(Failure),
}

/// Whether an error of the WAL ends the driver; `None` when the same write may succeed later,
/// because the log is full or an earlier write was refused.
fn failure(error: &WalError) -> Option<DriverEnd> {
    match error {
        WalError::Full { .. } | WalError::NotContiguous { .. } => None,
        WalError::TooLarge { .. } => {
            let why = format!("a proposed entry can never be written: {error}");
            Some(DriverEnd::Failed(Failure::Fault(why)))
        }
        WalError::Failed(_) => Some(DriverEnd::Failed(Failure::Disk(error.to_string()))),
        WalError::Closed => Some(DriverEnd::Closed),
    }
}

#[cfg(test)]
mod tests;
