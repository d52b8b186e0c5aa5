//! The writer thread: joins the submissions of all shards into rounds.
//!
//! All submissions that are queued when a round becomes durable are the next round: batching
//! results from load, not from a timer. A second thread does the log's chores, so that no round
//! waits for a file to be preallocated.
//!
//! # Order
//!
//! Submissions are written in the order in which they were submitted, each completely in one round,
//! and completed in that order. The completions of a round are delivered together, and the receiver
//! runs them on another thread while the next round is written: each may wake a thread, and the
//! disk would be idle meanwhile. A completion must not block.
//!
//! # Failure
//!
//! A refused submission (no space, too large, a gap) writes nothing and is completed with its own
//! error; later submissions of the same replica are refused as well, because they would leave a
//! gap. A failed write or sync is final: all pending and later submissions are completed with its
//! error.
//!
//! # Limits
//!
//! A round takes submissions up to [`ROUND_BYTES_MAX`]; a larger submission is a round of its own.
//! The queue is bounded by the number of writes that the shards have in flight.

mod submission;
mod answers;
mod queue;
mod chores;
mod reserve;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropewalk_thread as thread;

use crate::files::Chore;
use crate::log::{Admission, Round, Wal, WalError};
use crate::reader::Reader;
use crate::record::ReplicaKey;

pub use answers::Answers;
use queue::{Command, Queue, WakeReason};
pub use submission::{Completion, Submission};

/// Largest size of a round in bytes, unless a single submission is larger.
pub const ROUND_BYTES_MAX: u64 = 4 << 20;
/// Time without a round after which the memory of large rounds is released. Also the interval in
/// which a failed creation of a file is retried and the log is sealed.
const IDLE: Duration = Duration::from_secs(1);

/// The body of one of the log's threads. It returns the error with which the log failed finally.
pub type Body = Box<dyn FnOnce() -> Result<(), Arc<WalError>> + Send>;

/// Runs the body of the thread with this name on that thread, so that the caller can observe its
/// end or panic.
pub type Guard = Arc<dyn Fn(&'static str, Body) + Send + Sync>;

/// One durable round, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct RoundReport {
    /// Number of submissions in the round.
    pub submissions: usize,
    /// Number of records in the round.
    pub records: usize,
    /// Size on disk in bytes.
    pub bytes: u64,
    /// Time from the start of the write until the round was durable.
    pub wrote: Duration,
    /// Time before that in which the round waited for the next file of the log to begin. Almost
    /// zero if it fit the file of the round before.
    pub waited_for_file: Duration,
}

/// State of the log, for metrics and admission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rounds written since the start.
    pub rounds: u64,
    /// Records written since the start.
    pub records: u64,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// Bytes of the log that cannot be released yet.
    pub used_bytes: u64,
    /// Size of all files in bytes, including spare files.
    pub bytes: u64,
    /// Number of files with rounds.
    pub files: usize,
    /// There is no space for another file: normal submissions are refused, now or soon.
    pub full: bool,
    /// The reason is a full disk, not the log's own limit.
    pub disk_full: bool,
    /// The log failed finally, or its thread panicked: the process must stop.
    pub failed: bool,
}

/// Starts the threads of a log.
#[derive(Debug)]
pub struct Writer;

impl Writer {
    /// Moves the log to a thread of its own. That thread calls `deliver` with the completions of
    /// every round, then `report`. With [`Answers::give`] as `deliver`, the completions run on that
    /// thread.
    pub fn spawn(
        wal: Wal,
        deliver: impl FnMut(Answers) + Send + 'static,
        report: impl FnMut(&RoundReport) + Send + 'static,
    ) -> io::Result<WalHandle> {
        // All pending submissions were completed with the error.
        Self::spawn_guarded(wal, deliver, report, Arc::new(|_, body| drop(body())))
    }

    /// Like [`Writer::spawn`], with the bodies of both threads ("wal" and "wal-files") run by
    /// `guard`.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn spawn_guarded(
        wal: Wal,
        deliver: impl FnMut(Answers) + Send + 'static,
        report: impl FnMut(&RoundReport) + Send + 'static,
        guard: Guard,
    ) -> io::Result<WalHandle> {
        let queue = Arc::new(Queue::default());
        let reader = wal.reader();
        let (chores, to_do) = thread::channel();
        let (disk, dir) = wal.disk_and_dir();
        let helper_queue = Arc::clone(&queue);
        let body: Body = Box::new(move || {
            chores::run(&*disk, &dir, &to_do, &helper_queue);
            Ok(())
        });
        let helper_guard = Arc::clone(&guard);
        let helper = thread::spawn("wal-files", move || helper_guard("wal-files", body))?;
        // The "wal-files" thread ends when this is dropped, which is after `guard` has reported the
        // end of the "wal" thread and its cause.
        let open = chores.clone();
        let mut rounds = Rounds {
            wal,
            queue: Arc::clone(&queue),
            waiting: VecDeque::new(),
            round: VecDeque::new(),
            answers: Answers::default(),
            chores,
            retried: thread::now(),
            deliver: Box::new(deliver),
            report: Box::new(report),
            stats: Stats::default(),
        };
        rounds.publish();
        let thread = thread::spawn("wal", move || {
            guard("wal", Box::new(move || rounds.run()));
            drop(open);
        })?;
        queue.set_threads([thread, helper]);
        Ok(WalHandle { last: Arc::new(CloseOnDrop(queue)), reader })
    }
}

/// A handle of the log for the shards. Clones share one log. When the last one is dropped, the
/// queued submissions are written and the threads end.
#[derive(Debug, Clone)]
pub struct WalHandle {
    last: Arc<CloseOnDrop>,
    reader: Reader,
}

#[derive(Debug)]
struct CloseOnDrop(Arc<Queue>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl WalHandle {
    /// Queues records to be written.
    pub fn submit(&self, submission: Submission) {
        self.queue().push(Command::Submit(submission));
    }

    /// Queues a call of [`Wal::release`].
    pub fn release(&self, needed: BTreeMap<ReplicaKey, u64>) {
        self.queue().push(Command::Release(needed));
    }

    /// See [`Wal::pinned_by_oldest`]. Blocks until the current round is durable.
    pub fn pinned_by_oldest(&self) -> Vec<(ReplicaKey, u64)> {
        let (answer, answered) = thread::channel();
        self.queue().push(Command::Ask(Box::new(move |wal| {
            // The caller may have stopped waiting.
            answer.send(wal.pinned_by_oldest());
        })));
        answered.recv().unwrap_or_default()
    }

    /// Whether there is no space for another file: see [`Stats::full`].
    pub fn is_full(&self) -> bool {
        self.queue().is_full()
    }

    /// The current state of the log.
    pub fn stats(&self) -> Stats {
        self.queue().stats()
    }

    /// A handle that reads entries while the log is being written.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Writes the queued submissions, ends the log's threads and waits for them: its files are not
    /// accessed afterwards. Later submissions are completed with [`WalError::Closed`]. Must not be
    /// called from a completion.
    pub fn close(&self) {
        self.queue().close();
        self.queue().join();
    }

    fn queue(&self) -> &Queue {
        &self.last.0
    }
}

/// State of the writer thread.
struct Rounds {
    wal: Wal,
    queue: Arc<Queue>,
    waiting: VecDeque<Command>,
    /// The submissions of the round being collected.
    round: VecDeque<Submission>,
    /// Completions that were not delivered yet.
    answers: Answers,
    chores: thread::Sender<Chore>,
    retried: Instant,
    deliver: Box<dyn FnMut(Answers) + Send>,
    report: Box<dyn FnMut(&RoundReport) + Send>,
    stats: Stats,
}

impl Drop for Rounds {
    /// Completes all pending submissions, also after a panic, so that no caller waits forever.
    fn drop(&mut self) {
        let error = Arc::new(WalError::Closed);
        if std::thread::panicking() {
            self.stats.failed = true;
            self.publish();
        }
        self.queue.fail(&error);
        self.answer_waiting(&error);
    }
}

impl Rounds {
    /// Runs until the log is closed or fails.
    fn run(&mut self) -> Result<(), Arc<WalError>> {
        let mut idle = false;
        loop {
            self.hand_out_chores();
            if self.waiting.is_empty() {
                let timeout = (!idle || self.wal.is_full()).then_some(IDLE);
                match self.queue.wait(&mut self.waiting, timeout) {
                    WakeReason::Commands => {
                        idle = false;
                        self.wal.set_idle(false);
                    }
                    WakeReason::Chores => {}
                    WakeReason::Timeout => {
                        idle = true;
                        self.wal.set_idle(true);
                        self.release_idle_memory();
                    }
                    WakeReason::Closed => return self.close(),
                }
            }
            if let Err(error) = self.take_chores_done().and_then(|()| self.work()) {
                let error = Arc::new(error);
                self.fail(&error);
                return Err(error);
            }
        }
    }

    fn close(&mut self) -> Result<(), Arc<WalError>> {
        self.seal().map_err(|error| {
            let error = Arc::new(error);
            self.fail(&error);
            error
        })
    }

    fn seal(&mut self) -> Result<(), WalError> {
        // Two writes of one block must not overlap.
        while self.wal.is_marking() {
            self.wait_for_chore()?;
        }
        self.wal.seal()
    }

    /// Waits until a chore is done, and takes its result.
    fn wait_for_chore(&mut self) -> Result<(), WalError> {
        if !self.queue.wait_for_chores() {
            let error = io::Error::other("the thread that prepares log files has ended");
            return Err(WalError::failed(error));
        }
        self.take_chores_done()
    }

    fn release_idle_memory(&mut self) {
        self.wal.shrink();
        self.waiting.shrink_to(64);
        self.round.shrink_to(64);
        self.publish();
    }

    fn hand_out_chores(&mut self) {
        let now = thread::now();
        if now.saturating_duration_since(self.retried) >= IDLE {
            self.retried = now;
            self.wal.retry_creation();
            self.wal.seal_later();
        }
        while let Some(chore) = self.wal.next_chore() {
            // The "wal-files" thread ends only after this thread.
            self.chores.send(chore);
        }
    }

    fn take_chores_done(&mut self) -> Result<(), WalError> {
        let done = self.queue.take_chores_done();
        if done.is_empty() {
            return Ok(());
        }
        for done in done {
            self.wal.chore_done(done)?;
        }
        self.publish();
        Ok(())
    }

    /// Handles all queued commands, including those that arrive meanwhile.
    fn work(&mut self) -> Result<(), WalError> {
        while let Some(command) = self.waiting.pop_front() {
            match command {
                Command::Submit(submission) => {
                    self.collect_round(submission);
                    self.write()?;
                }
                Command::Release(needed) => {
                    self.wal.release(&needed);
                    self.publish();
                }
                Command::Ask(ask) => ask(&self.wal),
            }
            self.queue.take_commands(&mut self.waiting);
            self.take_chores_done()?;
            self.hand_out_chores();
        }
        Ok(())
    }

    /// Collects a round from the queued submissions.
    fn collect_round(&mut self, first: Submission) {
        self.wal.begin();
        let mut next = Some(first);
        while let Some(submission) = next.take() {
            match self.wal.add(&submission.records) {
                Ok(()) => self.round.push_back(submission),
                Err(error) => self.answers.push(submission.done, Err(Arc::new(error))),
            }
            let room = ROUND_BYTES_MAX.saturating_sub(self.wal.collected_bytes());
            next = self
                .waiting
                .pop_front_if(|command| match command {
                    Command::Submit(next) => next.size_bytes <= room,
                    Command::Release(_) | Command::Ask(_) => false,
                })
                .and_then(Command::into_submission);
        }
    }

    fn write(&mut self) -> Result<(), WalError> {
        match self.commit(Admission::Normal) {
            Ok(()) => Ok(()),
            Err(error @ WalError::Full { .. }) => self.write_from_reserve(&Arc::new(error)),
            Err(error) => Err(error),
        }
    }

    /// Writes the collected round and completes its submissions.
    fn commit(&mut self, admission: Admission) -> Result<(), WalError> {
        let called = thread::now();
        // Waiting for the file that is being prepared is faster than creating another one.
        while !self.wal.is_ready(admission) && self.wal.chore_in_flight() {
            self.wait_for_chore()?;
        }
        self.wal.make_room(admission)?;
        let began = thread::now();
        let records = self.round.iter().flat_map(|submission| &submission.records);
        let span = tracing::debug_span!("wal_round", submissions = self.round.len());
        let round = span.in_scope(|| self.wal.commit(records))?;
        let wrote = thread::now() - began;
        let submissions = self.round.len();
        self.stats.rounds += u64::from(round.bytes > 0);
        self.stats.records += round.records as u64;
        self.stats.written_bytes += round.bytes;
        self.publish();
        self.answer_round(|| Ok(()));
        let Round { records, bytes, .. } = round;
        let waited_for_file = began - called;
        (self.report)(&RoundReport { submissions, records, bytes, wrote, waited_for_file });
        Ok(())
    }

    fn publish(&mut self) {
        self.stats.used_bytes = self.wal.used_bytes();
        self.stats.bytes = self.wal.bytes();
        self.stats.files = self.wal.files();
        self.stats.full = self.wal.is_full();
        self.stats.disk_full = self.stats.full && self.wal.is_disk_full();
        self.queue.publish(self.stats);
    }

    fn fail(&mut self, error: &Arc<WalError>) {
        tracing::error!(%error, "write-ahead log failed, no more rounds are written");
        self.stats.failed = true;
        self.publish();
        self.queue.fail(error);
        self.answer_waiting(error);
    }

    fn answer_waiting(&mut self, error: &Arc<WalError>) {
        self.queue.take_commands(&mut self.waiting);
        self.round.extend(self.waiting.drain(..).filter_map(Command::into_submission));
        self.answer_round(|| Err(Arc::clone(error)));
    }

    fn answer_round(&mut self, answer: impl Fn() -> Result<(), Arc<WalError>>) {
        for submission in self.round.drain(..) {
            self.answers.push(submission.done, answer());
        }
        if !self.answers.is_empty() {
            (self.deliver)(std::mem::take(&mut self.answers));
        }
    }
}
