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
use ropewalk_shard::engine::EngineError;
use ropewalk_shard::replica::Replica;
use ropewalk_shard::{PartitionId, ShardId};
use ropewalk_store::bootstrap;
use ropewalk_store::budget::TailBudget;
use ropewalk_store::checkpoint::{self, Checkpointer};
use ropewalk_store::clean::Cleaner;
use ropewalk_store::directory::{DataDir, DataDirContents, DirectoryError, Identity};
use ropewalk_store::log::Logs;
use ropewalk_store::policy::Policy;
use ropewalk_store::recovery::{self, OpenError};
use ropewalk_wal::{Answers, Guard, RoundReport, WalHandle, Writer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::background::{self, CheckpointerHandle, CleanerHandle, FlusherHandle};
use crate::driver::{Driver, DriverContext};
use crate::drivers;
use crate::handle::{Observer, ShardHandle};
use crate::pace;
use crate::peers::Peers;
use crate::supervision::{self, Failure, OnFatal, StopGuard, Supervisor};

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
}

impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeOptions").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Why a node did not open.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The directory is empty, and the options have no identity to format it.
    #[error(
        "the data directory is empty: {0} holds no broker's data. A new broker needs the option to \
         format it; if this broker is not new, its disk was lost"
    )]
    Empty(PathBuf),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The content of the directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// A replica cannot start from the recovered state.
    #[error("{shard}: {source}")]
    Engine {
        /// The shard of the replica.
        shard: ShardId,
        /// The error of the engine.
        source: EngineError,
    },
}

/// All shards of a broker.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    shards: BTreeMap<ShardId, Arc<ShardHandle>>,
    damaged: Vec<(ShardId, String)>,
    damaged_partitions: Vec<(PartitionId, String)>,
    budget: Arc<TailBudget>,
    wal: WalHandle,
    supervisor: Supervisor,
    running: Mutex<Option<RunningNode>>,
}

#[derive(Debug)]
struct RunningNode {
    _stop_guard: StopGuard,
    stop: watch::Sender<bool>,
    drivers: JoinSet<()>,
    flushers: Vec<FlusherHandle>,
    checkpointer: CheckpointerHandle,
    cleaner: CleanerHandle,
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
        opened.store.set_pause(pace::shared());
        let budget = Arc::clone(opened.store.budget());
        let (stop, stopped) = watch::channel(false);
        // Delivering answers wakes drivers, which would take time from the log's thread.
        let (deliver, delivered) = mpsc::unbounded_channel();
        let supervisor = Supervisor::new(Arc::clone(&options.on_fatal));
        let guard = guard_log(supervisor.clone(), deliver.clone());
        let deliver = move |answers| drop(deliver.send(answers));
        let on_round = options.on_round;
        let report = move |round: &RoundReport| on_round(round);
        let wal = Writer::spawn_guarded(opened.wal, deliver, report, guard)?;
        let mut node = Self {
            identity: opened.identity,
            shards: BTreeMap::new(),
            damaged: opened.damaged.into_iter().map(|lost| (lost.shard, lost.what)).collect(),
            damaged_partitions: opened.damaged_partitions,
            budget,
            wal: wal.clone(),
            supervisor: supervisor.clone(),
            running: Mutex::new(None),
        };
        let mut drivers: Vec<_> = (0..drivers::task_count()).map(|_| Vec::new()).collect();
        let policy = Arc::clone(&options.policy);
        let journal = Box::new(wal.clone());
        let mut cleaner = Cleaner::new(Arc::clone(&opened.store), Arc::clone(&policy));
        let mut checkpointer = Checkpointer::new(opened.store, journal, policy, options.checkpoint);
        let stop_guard = supervisor.stop_guard();
        for found in opened.replicas {
            let id = found.shard;
            let (shard, queue) = ShardHandle::new(id, found.state, found.logs);
            let replica = Replica::new(found.start)
                .map_err(|source| NodeError::Engine { shard: id, source })?;
            checkpointer.add(found.files, Box::new(Arc::clone(&shard)));
            let logged = Arc::clone(&shard);
            cleaner.add(id, Box::new(move || logged.logs()));
            let context = DriverContext {
                wal: Arc::new(wal.clone()),
                log: Arc::new(wal.reader()),
                peers: Arc::clone(&options.peers),
                logs: found.partition_logs as Arc<dyn Logs>,
                observer: Arc::clone(&options.observer),
                clock_ms: options.clock_ms,
                stop: stopped.clone(),
            };
            let driver = Driver::new(Arc::clone(&shard), queue, replica, context);
            let of_task = node.shards.len() % drivers.len();
            let driver = supervisor.watch(&supervision::DRIVER, id.to_string(), driver.run());
            drivers[of_task].push(driver);
            node.shards.insert(id, shard);
        }
        let answers = supervisor.endless(&supervision::ANSWERS, give_answers(delivered));
        let drivers = drivers::spawn(&supervisor, drivers, answers);
        let flushers =
            background::spawn_flushers(checkpointer.flushers(), options.clock_ms, &supervisor)?;
        let checkpointer =
            background::spawn_checkpointer(checkpointer, options.clock_ms, supervisor.clone())?;
        let cleaner = background::spawn_cleaner(cleaner, options.clock_ms, supervisor.clone())?;
        info!(dir = %options.dir.display(), shards = node.shards.len(), "data directory opened");
        let running = RunningNode {
            _stop_guard: stop_guard,
            stop,
            drivers,
            flushers,
            checkpointer,
            cleaner,
            _lock: lock,
        };
        *node.running.lock() = Some(running);
        Ok(node)
    }

    /// The broker that the data directory belongs to.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A shard by its number; `None` when it is not on this broker or is damaged.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Arc<ShardHandle>> {
        self.shards.get(&id)
    }

    /// Every running shard, the catalog first.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.shards.values()
    }

    /// The shard of the catalog.
    ///
    /// # Panics
    /// When the catalog is damaged; check [`Self::damaged`] first.
    #[must_use]
    pub fn catalog(&self) -> &Arc<ShardHandle> {
        self.shards
            .get(&ShardId::CATALOG)
            .expect("a node with a damaged catalog serves no requests")
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

    /// Whether every running shard leads and has applied the first entry of its term.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shards.values().all(|shard| shard.leading().is_some())
    }

    /// Stops everything in order, with a last checkpoint. Does nothing the second time.
    pub async fn stop(&self) {
        let Some(mut running) = self.running.lock().take() else { return };
        self.supervisor.stop();
        let (flushers, checkpointer) = (running.flushers, running.checkpointer);
        let cleaner = running.cleaner;
        let stopped = tokio::task::spawn_blocking(move || {
            drop(cleaner);
            let stopped = checkpointer.stop();
            drop(flushers);
            stopped
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
        if let Err(error) = tokio::task::spawn_blocking(move || wal.close()).await {
            warn!(%error, "stopping the write-ahead log failed");
        }
        info!("node stopped");
    }
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
