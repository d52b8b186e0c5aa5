//! The shards of a broker: those that it found at start, and those whose files it has received
//! since.
//!
//! A shard runs as a driver in one of the tasks; the checkpointer, its flusher and the cleaner work
//! for it. To install other files, the driver is ended and the workers release the shard first, so
//! that nothing writes its files meanwhile; then it is opened as at a start.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use ropewalk_shard::ShardId;
use ropewalk_shard::engine::EntryId;
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::replica::Replica;
use ropewalk_store::checkpoint::{Checkpointer, ShardFiles};
use ropewalk_store::clean::Cleaner;
use ropewalk_store::flush::Flusher;
use ropewalk_store::log::Logs;
use ropewalk_store::recovery::{self, OpenedReplica};
use ropewalk_store::store::flusher_of;
use ropewalk_store::transfer::Position;
use ropewalk_store::work::WorkError;
use ropewalk_store::{PartitionLog, PartitionLogs, Store};
use ropewalk_wal::{HardState, WalHandle};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::background::Background;
use crate::driver::{Driver, DriverContext};
use crate::drivers::{RunningDriver, Tasks};
use crate::error::NodeError;
use crate::handle::{FeatureLevel, Observer, ShardHandle};
use crate::limits;
use crate::peers::Peers;
use crate::sends::Sends;
use crate::supervision::{self, Supervisor};
use crate::transfers::{self, TransferOrders};

/// What every shard uses.
pub(crate) struct Parts {
    pub(crate) store: Arc<Store>,
    pub(crate) wal: WalHandle,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) sends: Arc<Sends>,
    pub(crate) transfers: TransferOrders,
    pub(crate) clock_ms: fn() -> i64,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) ticks_from: Instant,
    pub(crate) supervisor: Supervisor,
}

/// The threads and tasks that work for the shards.
#[derive(Debug)]
struct Workers {
    tasks: Tasks,
    flushers: Vec<Background<Flusher>>,
    checkpointer: Background<Checkpointer>,
    cleaner: Background<Cleaner>,
}

/// The shards of a broker.
pub(crate) struct Shards {
    parts: Parts,
    /// By number. A shard that was never on this broker has no handle.
    handles: Box<[OnceLock<Arc<ShardHandle>>]>,
    /// Replicas that this broker has to hold and may have no files of yet.
    expected: Mutex<BTreeMap<ShardId, Expected>>,
    /// The newest replica of each shard that was destroyed here: it never comes back, and neither
    /// does an older one, because ids only grow.
    destroyed: Mutex<BTreeMap<ShardId, u64>>,
    /// Notified when a shard has come to this broker.
    arrivals: Notify,
    /// The feature level of the cluster, which all shards share.
    level: FeatureLevel,
    /// `None` before the start and after the stop.
    workers: Mutex<Option<Workers>>,
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.iter().map(|shard| shard.id());
        f.debug_list().entries(shards).finish()
    }
}

/// A replica that this broker has to hold.
#[derive(Debug, Clone, Copy)]
struct Expected {
    replica: u64,
    /// The replica whose files were asked for last.
    asked: Option<u64>,
}

/// A shard that can run.
struct Prepared {
    shard: Arc<ShardHandle>,
    logs: Arc<PartitionLogs>,
    files: ShardFiles,
    driver: RunningDriver,
}

impl Shards {
    /// No shards; there can be those with numbers through `last`.
    pub(crate) fn new(parts: Parts, last: u32, destroyed: BTreeMap<ShardId, u64>) -> Self {
        let handles = (0..=last).map(|_| OnceLock::new()).collect();
        let (expected, workers, level) = (Mutex::default(), Mutex::default(), Default::default());
        let (destroyed, arrivals) = (Mutex::new(destroyed), Notify::new());
        Self { parts, handles, expected, destroyed, arrivals, level, workers }
    }

    fn slot(&self, id: ShardId) -> Option<&OnceLock<Arc<ShardHandle>>> {
        self.handles.get(usize::try_from(id.0).ok()?)
    }

    /// A shard that is on this broker.
    pub(crate) fn get(&self, id: ShardId) -> Option<&Arc<ShardHandle>> {
        self.even_if_destroyed(id).filter(|shard| !shard.is_vacant())
    }

    /// A shard that is on this broker, or was until its replica was destroyed.
    pub(crate) fn even_if_destroyed(&self, id: ShardId) -> Option<&Arc<ShardHandle>> {
        self.slot(id)?.get()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.handles.iter().filter_map(OnceLock::get).filter(|shard| !shard.is_vacant())
    }

    /// Waits until a shard is on this broker.
    pub(crate) async fn arrived(&self, id: ShardId) -> &Arc<ShardHandle> {
        loop {
            let mut arrival = pin!(self.arrivals.notified());
            // Before the check, so that no arrival is missed after it.
            arrival.as_mut().enable();
            if let Some(shard) = self.get(id) {
                return shard;
            }
            arrival.await;
        }
    }

    /// The replicas that this broker has, or has to receive.
    pub(crate) fn held(&self) -> BTreeMap<ShardId, u64> {
        let expected = self.expected.lock();
        let mut held: BTreeMap<_, _> =
            expected.iter().map(|(shard, expected)| (*shard, expected.replica)).collect();
        held.extend(self.iter().filter_map(|shard| Some((shard.id(), shard.replica()?))));
        held
    }

    /// Expects a replica on this broker, unless it was destroyed here.
    pub(crate) fn expect(&self, shard: ShardId, replica: u64) {
        if self.slot(shard).is_none() {
            tracing::error!(%shard, replica, "replica refused: the cluster has no such shard");
            return;
        }
        if self.destroyed.lock().get(&shard).is_some_and(|destroyed| replica <= *destroyed) {
            tracing::debug!(%shard, replica, "replica refused: it was destroyed");
            return;
        }
        let mut expected = self.expected.lock();
        let entry = expected.entry(shard).or_insert(Expected { replica, asked: None });
        if entry.replica != replica {
            *entry = Expected { replica, asked: None };
        }
    }

    /// Passes a message to the replica that it is for. A replica that is expected and has no files
    /// yet asks the sender, who leads, for its files.
    pub(crate) fn message(&self, shard: ShardId, message: Message) -> bool {
        if let Some(held) = self.get(shard) {
            return held.replica() == Some(message.to)
                && self.has_room(held, message.payload_bytes())
                && held.message(message);
        }
        if let Some(expected) = self.expected.lock().get_mut(&shard)
            && expected.replica == message.to
            && matches!(message.body, Body::Append { .. } | Body::Heartbeat { .. })
            && expected.asked != Some(message.from)
        {
            expected.asked = Some(message.from);
            self.parts.transfers.begin(shard, message.to, message.from);
        }
        false
    }

    /// Whether a message with so many bytes of entries may wait for the driver of a shard, beside
    /// those that wait for the other drivers. One message of each shard may.
    fn has_room(&self, shard: &ShardHandle, bytes: usize) -> bool {
        let waiting = || self.iter().map(|shard| shard.message_bytes()).sum::<usize>();
        bytes == 0
            || shard.message_bytes() == 0
            || waiting() + bytes <= limits::NODE_MESSAGES_BYTES_MAX
    }

    fn is_expected(&self, shard: ShardId, replica: u64) -> bool {
        self.expected.lock().get(&shard).is_some_and(|expected| expected.replica == replica)
    }

    /// Runs the replicas that were found at start, and the workers for them.
    ///
    /// # Errors
    /// When a replica cannot start, or a thread.
    pub(crate) fn start(
        &self,
        replicas: Vec<OpenedReplica>,
        mut tasks: Tasks,
        mut checkpointer: Checkpointer,
        mut cleaner: Cleaner,
    ) -> Result<(), NodeError> {
        for found in replicas {
            let prepared = self.prepare(found)?;
            let logged = Arc::clone(&prepared.shard);
            cleaner.add(prepared.shard.id(), Box::new(move || logged.logs()));
            checkpointer.add(prepared.files, Box::new(prepared.shard));
            tasks.add(prepared.driver);
        }
        let Parts { clock_ms, supervisor, .. } = &self.parts;
        let spawn = |flusher| Background::spawn(flusher, *clock_ms, supervisor);
        let flushers = checkpointer.flushers().into_iter().map(spawn).collect::<Result<_, _>>()?;
        let checkpointer = Background::spawn(checkpointer, *clock_ms, supervisor)?;
        let cleaner = Background::spawn(cleaner, *clock_ms, supervisor)?;
        *self.workers.lock() = Some(Workers { tasks, flushers, checkpointer, cleaner });
        Ok(())
    }

    /// Stops the workers, with a last checkpoint. The drivers still run. Blocks.
    ///
    /// # Errors
    /// When the last checkpoint failed.
    pub(crate) fn stop_workers(&self) -> Result<(), WorkError> {
        let Some(workers) = self.workers.lock().take() else { return Ok(()) };
        let Workers { tasks, flushers, checkpointer, cleaner } = workers;
        drop(cleaner);
        let stopped = checkpointer.stop();
        drop(flushers);
        // The tasks end when their drivers do.
        drop(tasks);
        stopped
    }

    /// A handle and a driver for a replica that was opened.
    ///
    /// # Errors
    /// When the replica cannot start from what was recovered.
    fn prepare(&self, found: OpenedReplica) -> Result<Prepared, NodeError> {
        let OpenedReplica { shard: id, start, state, logs, partition_logs, files, .. } = found;
        let replica = Replica::new(start);
        let replica = replica.map_err(|source| NodeError::Engine { shard: id, source })?;
        let slot = self.slot(id).expect("the table has a place for every shard");
        let (shard, queue) = match slot.get() {
            Some(shard) => (Arc::clone(shard), shard.reopen(state, logs)),
            None => {
                let (shard, queue) = ShardHandle::new(id, state, logs, self.level.clone());
                let shard = Arc::clone(slot.get_or_init(|| shard));
                (shard, queue)
            }
        };
        let parts = &self.parts;
        let context = DriverContext {
            wal: Arc::new(parts.wal.clone()),
            log: Arc::new(parts.wal.reader()),
            peers: Arc::clone(&parts.peers),
            sends: Arc::clone(&parts.sends),
            transfers: parts.transfers.clone(),
            logs: Arc::clone(&partition_logs) as Arc<dyn Logs>,
            observer: Arc::clone(&parts.observer),
            clock_ms: parts.clock_ms,
            stop: parts.stop.clone(),
            ticks_from: parts.ticks_from,
        };
        let driver = Driver::new(Arc::clone(&shard), queue, replica, context);
        let closed = Arc::clone(&shard);
        let may_end = move || closed.is_closing();
        let task = &supervision::DRIVER;
        let driver = parts.supervisor.watch_until(task, id.to_string(), may_end, driver.run());
        Ok(Prepared { shard, logs: partition_logs, files, driver: Box::pin(driver) })
    }

    /// Runs a shard beside those that run.
    fn run(&self, prepared: Prepared) {
        let Prepared { shard, logs, files, driver } = prepared;
        let mut workers = self.workers.lock();
        // Without workers the broker stops.
        let Some(workers) = workers.as_mut() else { return };
        let id = shard.id();
        workers.flushers[flusher_of(id)].order(move |flusher| flusher.add(logs));
        let source = Box::new(Arc::clone(&shard));
        workers.checkpointer.order(move |checkpointer| checkpointer.add(files, source));
        workers.cleaner.order(move |cleaner| cleaner.add(id, Box::new(move || shard.logs())));
        workers.tasks.add(driver);
    }

    /// Takes a shard, whose driver has ended, from the workers. Blocks.
    fn take_from_workers(&self, shard: ShardId) {
        let workers = self.workers.lock();
        let Some(workers) = workers.as_ref() else { return };
        workers.flushers[flusher_of(shard)].order_and_wait(move |flusher| flusher.remove(shard));
        workers.checkpointer.order_and_wait(move |checkpointer| checkpointer.remove(shard));
        workers.cleaner.order_and_wait(move |cleaner| cleaner.remove(shard));
    }
}

impl transfers::Shards for Arc<Shards> {
    fn needs(&self, shard: ShardId, replica: u64, last: EntryId) -> bool {
        match self.get(shard) {
            Some(held) => held.replica() == Some(replica) && held.lacks(last),
            None => self.is_expected(shard, replica),
        }
    }

    fn claim(&self, shard: ShardId, replica: u64, last: EntryId) -> Option<Position> {
        match self.get(shard) {
            // Its files would be replaced while it runs.
            Some(held) if held.replica() != Some(replica) => None,
            Some(held) => {
                let state = held.close_if_lacks(last)?;
                self.take_from_workers(shard);
                let (term, vote, commit) = (state.term, state.vote, state.commit);
                Some(Position { hard_state: Some(HardState { term, vote, commit }) })
            }
            None => {
                let position = Position { hard_state: None };
                self.is_expected(shard, replica).then_some(position)
            }
        }
    }

    fn has_other(&self, shard: ShardId, replica: u64) -> bool {
        self.get(shard).is_some_and(|held| held.replica() != Some(replica))
    }

    fn retire(&self, shard: ShardId, replica: u64) -> Vec<Arc<PartitionLog>> {
        {
            let mut destroyed = self.destroyed.lock();
            let newest = destroyed.entry(shard).or_insert(replica);
            *newest = replica.max(*newest);
        }
        if self.is_expected(shard, replica) {
            self.expected.lock().remove(&shard);
        }
        let Some(held) = self.get(shard) else { return Vec::new() };
        held.close();
        self.take_from_workers(shard);
        held.vacate()
    }

    fn open(&self, shard: ShardId, known: Option<HardState>) -> Result<(), String> {
        let parts = &self.parts;
        let opened = recovery::open_installed(&parts.store, parts.wal.reader(), shard, known);
        let opened = opened.map_err(|error| format!("{shard} cannot be opened: {error}"))?;
        let prepared = self.prepare(opened).map_err(|error| error.to_string())?;
        parts.observer.installed(&prepared.shard);
        self.run(prepared);
        self.arrivals.notify_waiters();
        Ok(())
    }
}
