//! A broker in one thread, with a simulated clock: driver cores, write-ahead log, flushers and
//! checkpointer.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_disk::{Dice, SimDisk};
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::command::{Append, Command};
use ropewalk_shard::driver::{Answer, Core, Event, Now, StateAccess};
use ropewalk_shard::engine::EntryId;
use ropewalk_shard::proposal::SendOrder;
use ropewalk_shard::replica::{Replica, Work, Write};
use ropewalk_shard::{BrokerId, Effect, Outcome, PartitionId, ProposeError, ShardId, State};
use ropewalk_store::PartitionLogs;
use ropewalk_store::checkpoint::Capture;
use ropewalk_store::checkpoint::{self, Checkpointer, Journal, Source};
use ropewalk_store::flush::Flusher;
use ropewalk_store::log::Logs;
use ropewalk_store::policy::Policy;
use ropewalk_store::recovery::{self, OpenError, OpenStore};
use ropewalk_store::replica_log;
use ropewalk_store::work::{Next, WorkError};
use ropewalk_store::{DataDir, Identity, PartitionLog, bootstrap};
use ropewalk_wal::{Record, ReplicaKey, Wal, WalError};

use super::oracle::Op;

pub(crate) const ROOT: &str = "/data";
/// Shards beside the catalog.
pub(crate) const SHARDS: u32 = 3;

pub(crate) const OPTIONS: recovery::Options = recovery::Options {
    wal: ropewalk_wal::Options {
        file_bytes: 256 << 10,
        first_file_bytes: 256 << 10,
        files_bytes_max: 8 << 20,
        spares_max: 3,
        prefilled: 0,
    },
    tail_bytes_max: 96 << 10,
    open_files_max: 4,
};

pub(crate) const CHECKPOINTS: checkpoint::Options = checkpoint::Options {
    wal_used_bytes_soft_max: 300 << 10,
    checkpoint_age_ms: 3_000,
    syncs_per_second: 10,
    disk_free_bytes_min: 0,
    unsynced_logs_max: 3,
};

/// Size and limits of a broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Shards beside the catalog.
    pub(crate) shards: u32,
    pub(crate) options: recovery::Options,
    pub(crate) checkpoints: checkpoint::Options,
    pub(crate) segment_bytes: u64,
}

/// Small enough that everything happens often.
pub(crate) const SETUP: Setup =
    Setup { shards: SHARDS, options: OPTIONS, checkpoints: CHECKPOINTS, segment_bytes: 40 << 10 };

/// An operation of the disk failed for good: the process ends.
#[derive(Debug)]
pub(crate) struct ProcessEnd;

/// A proposal and its outcome.
#[derive(Debug)]
pub(crate) struct DecidedProposal {
    pub(crate) shard: ShardId,
    pub(crate) op: Op,
    pub(crate) outcome: Result<Outcome, ProposeError>,
}

pub(crate) struct Broker {
    wal: Arc<Mutex<Wal>>,
    notes: Arc<AtomicU64>,
    pub(crate) shards: BTreeMap<ShardId, RunningShard>,
    flushers: Arc<Mutex<Vec<Flusher>>>,
    checkpointer: Checkpointer,
    /// The disk, if flushers run between any two of its operations, and the dice that decide when.
    interleaved: Option<(SimDisk, Dice)>,
    now_ms: i64,
    next_ticket: u64,
    pub(crate) checkpoints: u64,
    wal_failed: bool,
}

pub(crate) struct RunningShard {
    core: Core,
    cell: Arc<Mutex<Cell>>,
    partition_logs: Arc<PartitionLogs>,
    pub(crate) undecided: BTreeMap<u64, Op>,
}

/// The state that the checkpointer and the shard share.
#[derive(Debug)]
pub(crate) struct Cell {
    capture: Capture,
    logs: HashMap<PartitionId, Arc<PartitionLog>>,
}

#[derive(Debug)]
struct CaptureSource(Arc<Mutex<Cell>>);

impl Source for CaptureSource {
    fn capture(&self) -> Option<Capture> {
        let cell = self.0.lock();
        let logs = cell.logs.iter().map(|(id, log)| (*id, Arc::clone(log))).collect();
        Some(Capture { logs, ..cell.capture.clone() })
    }
}

impl StateAccess for CaptureSource {
    fn poll(&self, replica: &mut Replica) -> Option<Work> {
        replica.poll(&mut self.0.lock().capture.state)
    }

    fn is_of_new_producer(&self, item: &Append) -> bool {
        self.0.lock().capture.state.is_of_new_producer(item)
    }

    fn level(&self) -> u8 {
        ropewalk_shard::command::FORMAT_MAX
    }
}

/// The write-ahead log, and the number of rounds with `Truncated` records.
#[derive(Debug)]
struct SharedWal(Arc<Mutex<Wal>>, Arc<AtomicU64>);

impl Journal for SharedWal {
    fn truncate(&self, covered: &[(ReplicaKey, EntryId)]) -> Result<(), WorkError> {
        let records: Vec<Record> = covered
            .iter()
            .map(|(key, EntryId { index, term })| Record::Truncated {
                key: *key,
                index: *index,
                term: *term,
            })
            .collect();
        self.1.fetch_add(1, Ordering::Relaxed);
        match self.0.lock().write_round_to_release(&records) {
            Ok(_) => Ok(()),
            Err(error) if error.is_final() => Err(WorkError::Final(error.to_string())),
            Err(error) => Err(WorkError::Later(error.to_string())),
        }
    }

    fn release(&self, needed: &BTreeMap<ReplicaKey, u64>) {
        self.0.lock().release(needed);
    }

    fn used_bytes(&self) -> u64 {
        self.0.lock().used_bytes()
    }

    fn is_full(&self) -> bool {
        self.0.lock().is_full()
    }

    fn pinned_by_oldest(&self) -> Vec<(ReplicaKey, u64)> {
        self.0.lock().pinned_by_oldest()
    }
}

#[derive(Debug)]
struct SegmentsOf(u64);

impl Policy for SegmentsOf {
    fn segments(&self, _: PartitionId) -> SegmentConfig {
        SegmentConfig { segment_bytes: self.0, ..SegmentConfig::default() }
    }
}

/// Opens the directory, and formats it before if that was never finished.
pub(crate) fn open(disk: &SimDisk) -> Result<OpenStore, OpenError> {
    open_with(disk, &SETUP)
}

pub(crate) fn open_with(disk: &SimDisk, setup: &Setup) -> Result<OpenStore, OpenError> {
    let Setup { shards, options, .. } = setup;
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from(ROOT));
    let _lock = data.lock()?;
    if !matches!(data.contents()?, ropewalk_store::directory::DataDirContents::Formatted(_)) {
        let identity = Identity::first("sim".to_owned(), BrokerId(1), *shards);
        bootstrap::format(&data, &identity, options)?;
    }
    recovery::open(data, options)
}

impl Broker {
    /// Starts every replica and replays its log.
    pub(crate) fn start(opened: OpenStore, now_ms: i64) -> Result<Self, ProcessEnd> {
        Self::start_with(opened, now_ms, &SETUP)
    }

    pub(crate) fn start_with(
        opened: OpenStore,
        now_ms: i64,
        setup: &Setup,
    ) -> Result<Self, ProcessEnd> {
        let wal = Arc::new(Mutex::new(opened.wal));
        let notes = Arc::new(AtomicU64::new(0));
        let journal = Box::new(SharedWal(Arc::clone(&wal), Arc::clone(&notes)));
        let policy = Arc::new(SegmentsOf(setup.segment_bytes));
        let mut checkpointer = Checkpointer::new(opened.store, journal, policy, setup.checkpoints);
        let mut shards = BTreeMap::new();
        for found in opened.replicas {
            let EntryId { index, term } = found.start.snapshot;
            let members = found.start.members.clone();
            let replica = Replica::new(found.start).expect("a sane start");
            let capture = Capture {
                replica: replica.id(),
                index,
                term,
                members,
                state: found.state,
                logs: Vec::new(),
            };
            let cell = Arc::new(Mutex::new(Cell { capture, logs: found.logs }));
            checkpointer.add(found.files, Box::new(CaptureSource(Arc::clone(&cell))));
            let (partition_logs, undecided) = (found.partition_logs, BTreeMap::new());
            let core = Core::new(replica);
            shards.insert(found.shard, RunningShard { core, cell, partition_logs, undecided });
        }
        let flushers = Arc::new(Mutex::new(checkpointer.flushers()));
        let (next_ticket, checkpoints) = (0, 0);
        let wal_failed = false;
        let mut broker = Self {
            wal,
            notes,
            shards,
            flushers,
            checkpointer,
            interleaved: None,
            now_ms,
            next_ticket,
            checkpoints,
            wal_failed,
        };
        broker.settle()?;
        // The rest of the replay waits for memory.
        while broker.shards.values().any(|running| running.core.replica().needs_ticks()) {
            broker.step()?;
            broker.settle()?;
        }
        Ok(broker)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The term in which the shard's next command will be written.
    pub(crate) fn term(&self, shard: ShardId) -> u64 {
        self.shards[&shard].core.replica().hard_state().term
    }

    pub(crate) fn pass(&mut self, ms: i64) {
        self.now_ms += ms;
    }

    fn now(&self) -> Now {
        let ms = u64::try_from(self.now_ms).expect("after 1970");
        Now { at: Duration::from_millis(ms), time_ms: self.now_ms }
    }

    /// Proposes; nothing is written before the next [`Self::settle`].
    pub(crate) fn propose(&mut self, shard: ShardId, op: Op) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let now = self.now();
        let running = self.shards.get_mut(&shard).expect("all shards run");
        let event = match op.command() {
            Command::Append(items) => {
                Event::Append { caller: ticket, items, order: SendOrder::default() }
            }
            command @ (Command::Shard(_) | Command::Catalog(_)) => {
                Event::Propose { caller: ticket, command }
            }
        };
        running.core.take(event, now);
        running.undecided.insert(ticket, op);
    }

    /// Works until nothing is left to do; the writes of all shards are one round of the log.
    pub(crate) fn settle(&mut self) -> Result<Vec<DecidedProposal>, ProcessEnd> {
        let (mut decided, now) = (Vec::new(), self.now());
        loop {
            let mut writes: Vec<(ShardId, Write)> = Vec::new();
            for (shard, running) in &mut self.shards {
                running.poll((*shard, now), &mut writes, &mut decided);
            }
            if writes.is_empty() {
                return Ok(decided);
            }
            let records: Vec<Record> =
                writes.iter().flat_map(|(shard, write)| self.records(*shard, write)).collect();
            match self.wal.lock().write_round(&records) {
                Ok(_) => {}
                Err(WalError::Failed(_) | WalError::Closed) => {
                    self.wal_failed = true;
                    return Err(ProcessEnd);
                }
                Err(error) => panic!("a round was refused: {error}"),
            }
            for (shard, write) in writes {
                let running = self.shards.get_mut(&shard).expect("it wrote");
                running.core.take(Event::Durable(write.number), now);
            }
        }
    }

    fn records(&self, shard: ShardId, write: &Write) -> Vec<Record> {
        let replica = self.shards[&shard].core.replica().id();
        replica_log::records(replica_log::key(shard, replica), write.clone())
    }

    /// From now on flushers run between any two operations of the checkpointer.
    pub(crate) fn interleave(&mut self, disk: &SimDisk, seed: u64) {
        self.interleaved = Some((disk.clone(), Dice::new(seed)));
    }

    /// One step of each thread of the background work.
    pub(crate) fn step(&mut self) -> Result<(), ProcessEnd> {
        let now_ms = self.now_ms;
        for flusher in &mut *self.flushers.lock() {
            flusher.step(now_ms).map_err(|_| ProcessEnd)?;
        }
        self.beside_flushers(|checkpointer| checkpointer.step(now_ms)).map(|next| match next {
            Next::Now => self.checkpoints += 1,
            Next::Wait => {}
        })
    }

    /// Steps until no work is due.
    pub(crate) fn work(&mut self) -> Result<(), ProcessEnd> {
        loop {
            let before = self.checkpoints;
            self.step()?;
            if self.checkpoints == before {
                return Ok(());
            }
        }
    }

    fn beside_flushers<T>(
        &mut self,
        act: impl FnOnce(&mut Checkpointer) -> Result<T, WorkError>,
    ) -> Result<T, ProcessEnd> {
        let Some((disk, dice)) = &mut self.interleaved else {
            return act(&mut self.checkpointer).map_err(|_| ProcessEnd);
        };
        let disk = disk.clone();
        let own_dice = Mutex::new(Dice::new(dice.draw()));
        let failed = Arc::new(AtomicBool::new(false));
        let (flushers, noted, now_ms) =
            (Arc::clone(&self.flushers), Arc::clone(&failed), self.now_ms);
        disk.before_operations(move |_, _| {
            // None during the operations of the flushers.
            let Some(mut flushers) = flushers.try_lock() else { return };
            if own_dice.lock().one_in(3) {
                for flusher in &mut *flushers {
                    let done = flusher.flush_all(now_ms);
                    noted.fetch_or(done.is_err(), Ordering::Relaxed);
                }
            }
        });
        let done = act(&mut self.checkpointer);
        disk.no_more_before_operations();
        if failed.load(Ordering::Relaxed) { Err(ProcessEnd) } else { done.map_err(|_| ProcessEnd) }
    }

    /// Number of rounds of the log that checkpoints wrote.
    pub(crate) fn notes(&self) -> u64 {
        self.notes.load(Ordering::Relaxed)
    }

    /// Bytes that the log keeps.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.wal.lock().used_bytes()
    }

    /// Whether a part that failed for good would continue to work (D2).
    pub(crate) fn goes_on(&mut self) -> bool {
        let wal_failed = self.wal_failed;
        let key = ReplicaKey { shard: 1, replica: 2 };
        let state = ropewalk_wal::HardState { term: u64::MAX, vote: 0, commit: 0 };
        wal_failed && self.wal.lock().write_round(&[Record::HardState { key, state }]).is_ok()
    }

    /// Stops with a last checkpoint.
    pub(crate) fn stop(mut self) -> Result<(), ProcessEnd> {
        let now_ms = self.now_ms;
        self.beside_flushers(|checkpointer| checkpointer.checkpoint_all(now_ms))
    }

    /// The partitions and groups of a shard.
    pub(crate) fn look<T>(
        &self,
        shard: ShardId,
        look: impl FnOnce(&State, &HashMap<PartitionId, Arc<PartitionLog>>) -> T,
    ) -> T {
        let cell = self.shards[&shard].cell.lock();
        look(&cell.capture.state, &cell.logs)
    }
}

impl RunningShard {
    fn poll(
        &mut self,
        (shard, now): (ShardId, Now),
        writes: &mut Vec<(ShardId, Write)>,
        decided: &mut Vec<DecidedProposal>,
    ) {
        let applies = CaptureSource(Arc::clone(&self.cell));
        while let Some(actions) = self.core.poll(now, true, &applies) {
            writes.extend(actions.writes.into_iter().map(|write| (shard, write)));
            for effect in actions.effects {
                self.cell.lock().carry_out(effect, &self.partition_logs);
            }
            for (caller, answer) in actions.answers {
                let op = self.undecided.remove(&caller).expect("each is decided once");
                let outcome = match answer {
                    Answer::Appended(results) => results.map(Outcome::Appended),
                    Answer::Proposed(outcome) => outcome,
                    Answer::Read(_) => panic!("no read was requested"),
                    Answer::Changed(_) => panic!("no change of the members was requested"),
                };
                decided.push(DecidedProposal { shard, op, outcome });
            }
        }
        let EntryId { index, term } = self.core.replica().applied();
        let mut cell = self.cell.lock();
        (cell.capture.index, cell.capture.term) = (index, term);
    }
}

impl Cell {
    fn carry_out(&mut self, effect: Effect, partition_logs: &PartitionLogs) {
        match effect {
            Effect::Appended { partition, batch, time_ms } => {
                self.logs[&partition].append(batch, time_ms);
            }
            Effect::Opened(partition) => {
                self.logs.insert(partition, partition_logs.open(partition));
            }
            Effect::Closed(partition) => {
                let log = self.logs.remove(&partition).expect("it was open");
                partition_logs.closed(partition, log);
            }
            Effect::LogStart { partition, offset } => self.logs[&partition].set_log_start(offset),
            Effect::LocalStart { partition, offset } => {
                self.logs[&partition].set_local_start(offset);
            }
            Effect::Restored { partition, log_start, end } => {
                self.logs[&partition].restore(log_start, end);
            }
            Effect::Committed { .. }
            | Effect::GroupChanged(_)
            | Effect::TierChanged(_)
            | Effect::CatalogChanged(_) => {}
        }
    }
}
