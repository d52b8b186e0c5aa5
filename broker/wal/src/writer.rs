//! The thread that turns what all shards have ready into rounds.
//!
//! Whatever is queued when a round is durable becomes the next round: batching comes from load,
//! not from a timer. A second thread does the log's chores, so that no round waits for a
//! file to be filled with zeroes.
//!
//! # Order
//!
//! Submissions are written in the order in which they were submitted, each wholly in one
//! round, and answered in that order. The answers of a round are handed on together, because each
//! may wake a thread, and the disk would rest meanwhile: whoever takes them runs them elsewhere
//! while the next round is written. `done` must not block.
//!
//! # Failure
//!
//! A refused submission (no space, too large, a hole) is answered alone and wrote nothing; what
//! follows it for the same replica is refused as well, because it would leave a hole. A failed
//! write or sync is final: it is answered to everybody, now and later.
//!
//! # Limits
//!
//! A round takes submissions up to [`ROUND_BYTES_MAX`]; a larger one goes alone. The queue is
//! bounded by what the shards have in flight.

mod answers;
mod queue;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ropewalk_disk::Disk;

use crate::files::{Chore, Reader};
use crate::log::{Admission, Round, Wal, WalError};
use crate::record::{Record, ReplicaKey};

pub use answers::Answers;
use queue::{Command, Queue, Woken};

/// What a round gathers at most, unless a single submission is larger.
pub const ROUND_BYTES_MAX: u64 = 4 << 20;
/// Without a round for so long, memory of large rounds is given back. So often is a failed creation of a file retried.
const IDLE: Duration = Duration::from_secs(1);

/// The body of one of the log's threads. It returns the error with which the log failed for good.
pub type Body = Box<dyn FnOnce() -> Result<(), Arc<WalError>> + Send>;

/// Runs the body of the thread of this name, on that thread: the place to see it end or panic.
pub type Guard = Arc<dyn Fn(&'static str, Body) + Send + Sync>;

/// Told once the records are durable, or why they are not.
pub type Completion = Box<dyn FnOnce(Result<(), Arc<WalError>>) + Send>;

/// Records that shall become durable together.
pub struct Submission {
    records: Vec<Record>,
    size_bytes: u64,
    admission: Admission,
    done: Completion,
}

impl Submission {
    /// Records, and who wants to know.
    pub fn new(
        records: Vec<Record>,
        done: impl FnOnce(Result<(), Arc<WalError>>) + Send + 'static,
    ) -> Self {
        let size_bytes = records.iter().map(Record::size_bytes).sum::<usize>() as u64;
        Self { records, size_bytes, admission: Admission::Normal, done: Box::new(done) }
    }

    /// It may use the space that is kept for what frees space: deletes, retention, truncation.
    pub fn from_reserve(mut self) -> Self {
        self.admission = Admission::Reserve;
        self
    }

    /// It may use the last space, which is kept for what lets files of the log go: truncation.
    pub fn for_release(mut self) -> Self {
        self.admission = Admission::Release;
        self
    }
}

/// One round, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct RoundReport {
    /// How many submissions it held.
    pub submissions: usize,
    /// How many records.
    pub records: usize,
    /// What it took on disk.
    pub bytes: u64,
    /// From the first byte handed to the disk until it was durable.
    pub wrote: Duration,
}

/// The log, seen from outside of its thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rounds written since the start.
    pub rounds: u64,
    /// Records written since the start.
    pub records: u64,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// How much of the log cannot be let go yet.
    pub used_bytes: u64,
    /// What all files take, spare ones included.
    pub bytes: u64,
    /// How many files hold rounds.
    pub files: usize,
    /// No space for another file was found: normal submissions are, or soon will be, refused.
    pub full: bool,
    /// That is because the last attempt to create a file found the disk full, not because the log is at
    /// its own limit.
    pub disk_full: bool,
    /// The log failed for good, or its thread panicked: the process must stop.
    pub failed: bool,
}

/// Starts the threads of a log.
#[derive(Debug)]
pub struct Writer;

impl Writer {
    /// Moves the log to its own thread. `deliver` takes the answers of every round, and `report`
    /// is called after it, both from there. With [`Answers::give`] for `deliver` they run there too.
    pub fn spawn(
        wal: Wal,
        deliver: impl FnMut(Answers) + Send + 'static,
        report: impl FnMut(&RoundReport) + Send + 'static,
    ) -> io::Result<WalHandle> {
        // A failure was answered to all who waited.
        Self::spawn_guarded(wal, deliver, report, Arc::new(|_, body| drop(body())))
    }

    /// The same, with the bodies of both threads ("wal" and "wal-files") run by `guard`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn spawn_guarded(
        wal: Wal,
        deliver: impl FnMut(Answers) + Send + 'static,
        report: impl FnMut(&RoundReport) + Send + 'static,
        guard: Guard,
    ) -> io::Result<WalHandle> {
        let queue = Arc::new(Queue::default());
        let reader = wal.reader();
        let (chores, to_do) = mpsc::channel();
        let (disk, dir) = wal.place();
        let helper_queue = Arc::clone(&queue);
        let body: Body = Box::new(move || {
            do_chores(&*disk, &dir, &to_do, &helper_queue);
            Ok(())
        });
        let helper_guard = Arc::clone(&guard);
        let helper = thread::Builder::new().name("wal-files".to_owned());
        let helper = helper.spawn(move || helper_guard("wal-files", body))?;
        // The helper ends once this is dropped: after the end of the writer has been reported with its cause.
        let open = chores.clone();
        let mut rounds = Rounds {
            wal,
            queue: Arc::clone(&queue),
            waiting: VecDeque::new(),
            round: VecDeque::new(),
            answers: Answers::default(),
            chores,
            retried: Instant::now(),
            deliver: Box::new(deliver),
            report: Box::new(report),
            stats: Stats::default(),
        };
        rounds.publish();
        let thread = thread::Builder::new().name("wal".to_owned());
        let thread = thread.spawn(move || {
            guard("wal", Box::new(move || rounds.run()));
            drop(open);
        })?;
        queue.set_threads([thread, helper]);
        Ok(WalHandle { last: Arc::new(CloseOnDrop(queue)), reader })
    }
}

/// Says that the thread ends, also when it panics.
struct HelperGuard<'a>(&'a Queue);

impl Drop for HelperGuard<'_> {
    fn drop(&mut self) {
        self.0.helper_gone();
    }
}

fn do_chores(disk: &dyn Disk, dir: &Path, to_do: &mpsc::Receiver<Chore>, queue: &Queue) {
    let _gone = HelperGuard(queue);
    // Ends when the writer, which holds the other end, is gone.
    while let Ok(chore) = to_do.recv() {
        queue.chore_done(chore.run(disk, dir));
    }
}

/// What the shards hold of the log. Clones are the same log; when the last one is dropped, what
/// is queued is still written and the threads end.
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
    /// Queues records to be made durable.
    pub fn submit(&self, submission: Submission) {
        self.queue().push(Command::Submit(submission));
    }

    /// See [`Wal::release`].
    pub fn release(&self, needed: BTreeMap<ReplicaKey, u64>) {
        self.queue().push(Command::Release(needed));
    }

    /// See [`Wal::pinned_by_oldest`]. Waits for the round that is being written.
    pub fn pinned_by_oldest(&self) -> Vec<(ReplicaKey, u64)> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.queue().push(Command::Ask(Box::new(move |wal| {
            // Whoever asked may have gone.
            let _ = answer.send(wal.pinned_by_oldest());
        })));
        answered.recv().unwrap_or_default()
    }

    /// Whether no space for another file was found: see [`Stats::full`].
    pub fn is_full(&self) -> bool {
        self.queue().is_full()
    }

    /// How the log is doing.
    pub fn stats(&self) -> Stats {
        self.queue().stats()
    }

    /// Reads entries while the log is being written.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Writes what is queued, then ends the log's threads and waits for them: nothing touches
    /// its files afterwards. Later submissions are answered with [`WalError::Closed`]. Not to be
    /// called from `done`.
    pub fn close(&self) {
        self.queue().close();
        self.queue().join();
    }

    fn queue(&self) -> &Queue {
        &self.last.0
    }
}

/// The writer's thread.
struct Rounds {
    wal: Wal,
    queue: Arc<Queue>,
    waiting: VecDeque<Command>,
    /// The round being gathered.
    round: VecDeque<Submission>,
    /// Given, and not yet handed on.
    answers: Answers,
    chores: mpsc::Sender<Chore>,
    retried: Instant,
    deliver: Box<dyn FnMut(Answers) + Send>,
    report: Box<dyn FnMut(&RoundReport) + Send>,
    stats: Stats,
}

impl Drop for Rounds {
    /// Nobody waits for ever, also not for a thread that panicked.
    fn drop(&mut self) {
        let error = Arc::new(WalError::Closed);
        if thread::panicking() {
            self.stats.failed = true;
            self.publish();
        }
        self.queue.fail(&error);
        self.answer_waiting(&error);
    }
}

impl Rounds {
    /// Works until the log is closed.
    fn run(&mut self) -> Result<(), Arc<WalError>> {
        let mut idle = false;
        loop {
            self.hand_out_chores();
            if self.waiting.is_empty() {
                let timeout = (!idle || self.wal.is_full()).then_some(IDLE);
                match self.queue.wait(&mut self.waiting, timeout) {
                    Woken::Commands => idle = false,
                    Woken::Chores => {}
                    Woken::Timeout => {
                        idle = true;
                        self.rest();
                    }
                    Woken::Closed => return Ok(()),
                }
            }
            if let Err(error) = self.take_chores_done().and_then(|()| self.work()) {
                let error = Arc::new(error);
                self.die(&error);
                return Err(error);
            }
        }
    }

    fn rest(&mut self) {
        self.wal.shrink();
        self.waiting.shrink_to(64);
        self.round.shrink_to(64);
        self.publish();
    }

    fn hand_out_chores(&mut self) {
        if self.retried.elapsed() >= IDLE {
            self.retried = Instant::now();
            self.wal.retry_creation();
        }
        while let Some(chore) = self.wal.next_chore() {
            // The helper ends only after this thread.
            let _ = self.chores.send(chore);
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

    /// Does everything that waits; what arrives meanwhile joins.
    fn work(&mut self) -> Result<(), WalError> {
        while let Some(command) = self.waiting.pop_front() {
            match command {
                Command::Submit(submission) => {
                    self.gather(submission);
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

    /// Fills a round from what waits.
    fn gather(&mut self, first: Submission) {
        self.wal.begin();
        let mut next = Some(first);
        while let Some(submission) = next.take() {
            match self.wal.add(&submission.records) {
                Ok(()) => self.round.push_back(submission),
                Err(error) => self.answers.push(submission.done, Err(Arc::new(error))),
            }
            let room = ROUND_BYTES_MAX.saturating_sub(self.wal.gathered_bytes());
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

    /// There is no space for everything: answers the normal submissions, writes the others; those that let files of
    /// the log go alone, if need be.
    fn write_from_reserve(&mut self, full: &Arc<WalError>) -> Result<(), WalError> {
        match self.write_those(full, Admission::Reserve) {
            Err(error @ WalError::Full { .. }) => {
                let error = Arc::new(error);
                match self.write_those(&error, Admission::Release) {
                    Err(error @ WalError::Full { .. }) => {
                        let error = Arc::new(error);
                        self.answer_round(|| Err(Arc::clone(&error)));
                        self.publish();
                        Ok(())
                    }
                    result => result,
                }
            }
            result => result,
        }
    }

    /// Writes the submissions of the round that may use this space, and answers the others.
    fn write_those(&mut self, full: &Arc<WalError>, least: Admission) -> Result<(), WalError> {
        self.wal.begin();
        for submission in std::mem::take(&mut self.round) {
            if submission.admission < least {
                self.answers.push(submission.done, Err(Arc::clone(full)));
                continue;
            }
            match self.wal.add(&submission.records) {
                Ok(()) => self.round.push_back(submission),
                Err(error) => self.answers.push(submission.done, Err(Arc::new(error))),
            }
        }
        self.commit(least)
    }

    /// Writes the gathered round and answers it.
    fn commit(&mut self, admission: Admission) -> Result<(), WalError> {
        // A file that is being prepared right now is quicker than another one.
        while !self.wal.is_ready(admission) && self.wal.chore_in_flight() {
            if !self.queue.wait_for_chores() {
                let error = io::Error::other("the thread that prepares log files has ended");
                return Err(WalError::failed(error));
            }
            self.take_chores_done()?;
        }
        let began = Instant::now();
        let records = self.round.iter().flat_map(|submission| &submission.records);
        let span = tracing::debug_span!("wal_round", submissions = self.round.len());
        let round = span.in_scope(|| self.wal.commit(records, admission))?;
        let wrote = began.elapsed();
        let submissions = self.round.len();
        self.stats.rounds += u64::from(round.bytes > 0);
        self.stats.records += round.records as u64;
        self.stats.written_bytes += round.bytes;
        self.publish();
        self.answer_round(|| Ok(()));
        let Round { records, bytes, .. } = round;
        (self.report)(&RoundReport { submissions, records, bytes, wrote });
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

    fn die(&mut self, error: &Arc<WalError>) {
        tracing::error!(%error, "the write-ahead log failed for good");
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
