//! Starts and stops all shards of one broker: recovery, the WAL's threads, the tasks of the
//! drivers, the flushers, the checkpoint thread and the cleaner.
//!
//! # Stopping
//!
//! First a last checkpoint while the drivers still run, so that the next start has little to
//! replay; then the drivers, then the WAL. A crash between two steps costs time at the next start,
//! never data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_disk::{Disk, Lock};
use ropewalk_shard::message::Message;
use ropewalk_shard::send_budget::SendLimits;
use ropewalk_shard::{PartitionId, ShardId};
use ropewalk_store::bootstrap;
use ropewalk_store::budget::TailBudget;
use ropewalk_store::checkpoint::{self, Checkpointer};
use ropewalk_store::clean::Cleaner;
use ropewalk_store::directory::{DataDir, DataDirContents, Identity, Start};
use ropewalk_store::policy::Policy;
use ropewalk_store::recovery;
use ropewalk_store::transfer;
use ropewalk_store::transfer::message::Message as FilesMessage;
use ropewalk_store::work::WorkError;
use ropewalk_wal::{Answers, Guard, RoundReport, WalHandle, Writer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::error::NodeError;
use crate::handle::{Halt, Observer, ShardHandle};
use crate::pace;
use crate::peers::Peers;
use crate::sends::Sends;
use crate::shards::{Parts, Shards};
use crate::supervision::{self, Failure, OnFatal, StopGuard, Supervisor};
use crate::transfers::{self, TransferHandle, TransferOrders};
use crate::{blocking, drivers};

/// Receives the report of each round of the write-ahead log. It must not block, because the log's
/// thread calls it.
pub type OnRound = Arc<dyn Fn(&RoundReport) + Send + Sync>;

/// The options of a node.
#[derive(Clone)]
pub struct NodeOptions {
    /// The disk that holds the data directory.
    pub disk: Arc<dyn Disk>,
    /// Path of the data directory.
    pub dir: PathBuf,
    /// The identity with which an empty directory is formatted; `None` refuses an empty directory.
    pub format: Option<Identity>,
    /// Receives the effects of applied entries.
    pub observer: Arc<dyn Observer>,
    /// The brokers with the other replicas of the shards.
    pub peers: Arc<dyn Peers>,
    /// Settings for the segments and the compaction of each partition.
    pub policy: Arc<dyn Policy>,
    /// Receives the error that ends the process: the disk failed (D2), or a thread or task ended.
    pub on_fatal: OnFatal,
    /// Receives the report of each round of the write-ahead log, for metrics.
    pub on_round: OnRound,
    /// The wall clock, Unix milliseconds.
    pub clock_ms: fn() -> i64,
    /// Bounds of the store.
    pub recovery: recovery::Options,
    /// Limits of the checkpoint thread.
    pub checkpoint: checkpoint::Options,
    /// Bounds of the transfers of files to and from other brokers.
    pub transfer: transfer::Options,
}

impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeOptions").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The starts of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedAs {
    /// The start of this process.
    pub own: Start,
    /// The last starts before it, oldest first.
    pub earlier: Vec<Start>,
}

/// All shards of a broker.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    start: StartedAs,
    shards: Arc<Shards>,
    damaged: Vec<(ShardId, String)>,
    damaged_partitions: Vec<(PartitionId, String)>,
    budget: Arc<TailBudget>,
    wal: WalHandle,
    supervisor: Supervisor,
    transfers: TransferOrders,
    running: Mutex<Option<RunningNode>>,
}

#[derive(Debug)]
struct RunningNode {
    _stop_guard: StopGuard,
    stop: watch::Sender<bool>,
    drivers: JoinSet<()>,
    transfers: TransferHandle,
    _lock: Lock,
}

impl Node {
    /// Opens a data directory and starts its shards. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn open(options: NodeOptions) -> Result<Self, NodeError> {
        let data = DataDir::new(Arc::clone(&options.disk), options.dir.clone());
        let lock = data.lock()?;
        format_if_empty(&data, &options)?;
        let opened = recovery::open(data, &options.recovery)?;
        let start = begin_start(opened.store.data(), options.clock_ms)?;
        opened.store.set_pause(pace::shared());
        let (stop, stopped) = watch::channel(false);
        // Delivering answers wakes drivers, which would take time from the log's thread.
        let (deliver, delivered) = mpsc::unbounded_channel();
        let supervisor = Supervisor::new(Arc::clone(&options.on_fatal));
        let guard = guard_log(supervisor.clone(), deliver.clone());
        let deliver = move |answers| drop(deliver.send(answers));
        let on_round = options.on_round;
        let report = move |round: &RoundReport| on_round(round);
        let wal = Writer::spawn_guarded(opened.wal, deliver, report, guard)?;
        let (orders, taken) = TransferOrders::new();
        let parts = Parts {
            store: Arc::clone(&opened.store),
            wal: wal.clone(),
            observer: options.observer,
            peers: Arc::clone(&options.peers),
            sends: Sends::new(SendLimits::default()),
            transfers: orders.clone(),
            clock_ms: options.clock_ms,
            stop: stopped,
            ticks_from: Instant::now(),
            supervisor: supervisor.clone(),
        };
        let known = opened.replicas.iter().map(|found| found.shard);
        let known = known.chain(opened.receiving.iter().map(|(shard, _)| *shard));
        let last = known.chain([ShardId(opened.identity.shards)]).max();
        let last = last.map_or(0, |shard| shard.0);
        let shards = Arc::new(Shards::new(parts, last, opened.destroyed));
        let stop_guard = supervisor.stop_guard();
        let policy = Arc::clone(&options.policy);
        let journal = Box::new(wal.clone());
        let store = Arc::clone(&opened.store);
        let cleaner = Cleaner::new(Arc::clone(&store), Arc::clone(&policy));
        let checkpointer = Checkpointer::new(opened.store, journal, policy, options.checkpoint);
        let answers = supervisor.endless(&supervision::ANSWERS, give_answers(delivered));
        let (tasks, drivers) = drivers::spawn(&supervisor, drivers::task_count(), answers);
        for (shard, replica) in opened.receiving {
            shards.expect(shard, replica);
        }
        shards.start(opened.replicas, tasks, checkpointer, cleaner)?;
        let context = transfers::Context {
            store: Arc::clone(&store),
            wal: wal.clone(),
            peers: options.peers,
            shards: Arc::clone(&shards),
            options: options.transfer,
            clock_ms: options.clock_ms,
        };
        let transfers = transfers::spawn(context, (orders.clone(), taken), supervisor.clone())?;
        info!(dir = %options.dir.display(), shards = shards.iter().count(), "data directory opened");
        let running =
            RunningNode { _stop_guard: stop_guard, stop, drivers, transfers, _lock: lock };
        Ok(Self {
            identity: opened.identity,
            start,
            shards,
            damaged: opened.damaged.into_iter().map(|lost| (lost.shard, lost.what)).collect(),
            damaged_partitions: opened.damaged_partitions,
            budget: Arc::clone(store.budget()),
            wal,
            supervisor,
            transfers: orders,
            running: Mutex::new(Some(running)),
        })
    }

    /// The broker that the data directory belongs to.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The incarnation of this broker: a number that is higher than at every start before, durably.
    /// Other brokers know this process by it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.start.own.incarnation
    }

    /// This start and those before it, by which other brokers recognise a copy of the directory.
    #[must_use]
    pub fn start(&self) -> &StartedAs {
        &self.start
    }

    /// A shard by its number; `None` when it is not on this broker, is damaged or has stopped.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Arc<ShardHandle>> {
        self.held_shard(id).filter(|shard| !shard.is_halted())
    }

    /// Like [`Self::shard`], and also a shard that has stopped.
    #[must_use]
    pub fn held_shard(&self, id: ShardId) -> Option<&Arc<ShardHandle>> {
        self.shards.get(id)
    }

    /// Every shard of this broker that is not damaged, the catalog first.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.shards.iter().filter(|shard| !shard.is_halted())
    }

    /// The shards whose replica has stopped while the broker runs, with the reason.
    pub fn halted(&self) -> impl Iterator<Item = (ShardId, Halt)> {
        self.shards.iter().filter_map(|shard| Some((shard.id(), shard.halted()?)))
    }

    /// The shard of the catalog.
    ///
    /// # Panics
    /// When the catalog was never on this broker since the start, because it is damaged or has not
    /// been received yet: check [`Self::damaged`] and wait for [`Self::catalog_arrived`] first.
    #[must_use]
    pub fn catalog(&self) -> &Arc<ShardHandle> {
        let catalog = self.shards.even_if_destroyed(ShardId::CATALOG);
        catalog.expect("a node without a catalog serves no requests")
    }

    /// The shard of the catalog; `None` if it is damaged, or on a broker that joins a cluster and
    /// has not received it yet.
    #[must_use]
    pub fn try_catalog(&self) -> Option<&Arc<ShardHandle>> {
        self.held_shard(ShardId::CATALOG)
    }

    /// Waits until the catalog is on this broker: at once, unless the broker joins a cluster. Waits
    /// forever if it never comes.
    pub async fn catalog_arrived(&self) -> &Arc<ShardHandle> {
        self.shards.arrived(ShardId::CATALOG).await
    }

    /// The shards of which this broker runs or receives a replica, or expects one, with the Raft id
    /// of the replica.
    #[must_use]
    pub fn shard_ids_held(&self) -> BTreeMap<ShardId, u64> {
        self.shards.held()
    }

    /// Destroys a replica that the catalog has removed from this broker: it is ended, its files and
    /// its log are removed, and it never comes back, also after a crash. The shard can then have
    /// another replica here, with a higher id. Also for a replica that is damaged, or that is only
    /// expected or received. Does nothing to another replica of the shard.
    ///
    /// # Errors
    /// When the disk fails or the broker stops. The next start completes what has begun; unless the
    /// error is final, this may be called again before.
    pub async fn destroy(&self, shard: ShardId, replica: u64) -> Result<(), WorkError> {
        let destroyed = self.transfers.destroy(shard, replica).await;
        destroyed.unwrap_or_else(|_| Err(WorkError::Later("the broker stops".to_owned())))
    }

    /// Says that this broker has to hold a replica of a shard, with this Raft id. Files of another
    /// replica of the shard are then taken, and the replica begins with them. Does nothing if this
    /// replica, or a later one of the shard, was [destroyed](Self::destroy) here, or the cluster
    /// was not created with such a shard. A replica that the broker has must be destroyed before
    /// another one of its shard is received.
    pub fn expect(&self, shard: ShardId, replica: u64) {
        self.shards.expect(shard, replica);
    }

    /// Passes in a message of another broker for a replica of this one. Returns whether it was
    /// taken: it is not if there is no such replica here, or too many messages wait.
    pub fn message(&self, shard: ShardId, message: Message) -> bool {
        self.shards.message(shard, message)
    }

    /// Passes in a message of another broker that belongs to a transfer of files.
    pub fn files_message(&self, message: FilesMessage) {
        self.transfers.message(message);
    }

    /// Damaged shards with a description of the damage. They are not started until repaired (D3).
    #[must_use]
    pub fn damaged(&self) -> &[(ShardId, String)] {
        &self.damaged
    }

    /// Partitions whose records were damaged at start, with a description of the damage (D3).
    #[must_use]
    pub fn damaged_partitions(&self) -> &[(PartitionId, String)] {
        &self.damaged_partitions
    }

    /// Whether writes are refused because the disk of the log or of the segments is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.wal.stats().disk_full || self.tail_budget().is_disk_full()
    }

    /// The memory budget of records that are not flushed.
    #[must_use]
    pub fn tail_budget(&self) -> &Arc<TailBudget> {
        &self.budget
    }

    /// The write-ahead log, for its metrics.
    #[must_use]
    pub fn wal(&self) -> &WalHandle {
        &self.wal
    }

    /// The supervisor of tasks that work for this node's shards and must not end.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Whether the catalog is on this broker, and every running shard [has a
    /// leader](ShardHandle::has_leader).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.try_catalog().is_some() && self.shards().all(|shard| shard.has_leader())
    }

    /// Stops everything in order, with a last checkpoint. Does nothing the second time.
    pub async fn stop(&self) {
        let Some(mut running) = self.running.lock().take() else { return };
        self.supervisor.stop();
        let (shards, transfers) = (Arc::clone(&self.shards), running.transfers);
        let stopped = blocking::start(move || {
            // It may be installing files, with the workers.
            drop(transfers);
            shards.stop_workers()
        });
        match stopped.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(%error, "last checkpoint failed, the next start replays more")
            }
            Err(error) => warn!(%error, "stopping the checkpointer failed"),
        }
        let _ = running.stop.send(true);
        while running.drivers.join_next().await.is_some() {}
        let wal = self.wal.clone();
        if let Err(error) = blocking::start(move || wal.close()).await {
            warn!(%error, "stopping the write-ahead log failed");
        }
        info!("node stopped");
    }
}

/// Draws the number of this process, and records the start.
fn begin_start(data: &DataDir, clock_ms: fn() -> i64) -> Result<StartedAs, NodeError> {
    let incarnation = data.next_incarnation(clock_ms())?;
    let process = getrandom::u64().map_err(NodeError::Random)?;
    let own = Start { incarnation, process };
    Ok(StartedAs { own, earlier: data.record_start(own)? })
}

/// Delivers the log's answers until its thread ends. Answers that are left when the drivers have
/// ended, or the runtime shuts down, are delivered when they are dropped.
async fn give_answers(mut delivered: mpsc::UnboundedReceiver<Answers>) {
    while let Some(answers) = delivered.recv().await {
        answers.give();
    }
}

/// Formats an empty data directory, if the options say for which broker.
fn format_if_empty(data: &DataDir, options: &NodeOptions) -> Result<(), NodeError> {
    if let DataDirContents::Empty | DataDirContents::HalfFormatted = data.contents()? {
        match &options.format {
            Some(identity) => bootstrap::format(data, identity, &options.recovery)?,
            None => return Err(NodeError::Empty(options.dir.clone())),
        }
    }
    Ok(())
}

/// Reports the end of the log's threads. Holding `answers` keeps the delivery task running until
/// that is reported, so that the first report names the cause.
fn guard_log(supervisor: Supervisor, answers: mpsc::UnboundedSender<Answers>) -> Guard {
    Arc::new(move |name, body| {
        let _kept = answers.clone();
        let task =
            if name == supervision::WAL.name { &supervision::WAL } else { &supervision::WAL_FILES };
        supervisor.run(task, || body().map_err(|error| Failure::Disk(error.to_string())));
    })
}
