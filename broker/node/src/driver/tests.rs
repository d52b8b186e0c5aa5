//! Tests of the driver's task, with a log that answers when the test lets it.

use std::sync::Mutex;

use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::engine::{EntryKind, EntrySource, HardState, Members, Start, StoredEntry};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::proposal::SendOrder;
use ropewalk_shard::{BrokerId, HistoryId, PartitionId, ReplicaId, ShardId, State};
use ropewalk_store::PartitionLog;
use ropewalk_store::work::WorkError;

use super::*;
use crate::handle::{FeatureLevel, Halt};
use crate::sends::OnItsWay;

mod peers;

/// A log that holds submitted writes until the test answers them.
#[derive(Default)]
struct HeldLog(Mutex<Vec<Completion>>);

impl fmt::Debug for HeldLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldLog")
    }
}

impl LogWriter for HeldLog {
    fn submit(&self, _: Vec<Record>, done: Completion) {
        self.0.lock().expect("no panic").push(done);
    }

    fn is_full(&self) -> bool {
        false
    }
}

impl HeldLog {
    /// Answers the oldest write.
    async fn answer(&self, result: Result<(), WalError>) {
        let oldest = || {
            let mut held = self.0.lock().expect("no panic");
            (!held.is_empty()).then(|| held.remove(0))
        };
        let done = loop {
            if let Some(done) = oldest() {
                break done;
            }
            tokio::task::yield_now().await;
        };
        done(result.map_err(Arc::new));
    }
}

/// Keeps the messages that a driver sends.
#[derive(Debug, Default)]
struct Sent {
    messages: Mutex<Vec<Message>>,
    /// Whether messages are refused.
    is_cut: std::sync::atomic::AtomicBool,
    /// The entries that are not on their way any more when the test says so.
    on_their_way: Mutex<Vec<OnItsWay>>,
}

impl Peers for Sent {
    fn send(&self, shard: ShardId, _: HistoryId, message: Message) -> bool {
        assert_eq!(shard, ShardId(3));
        self.messages.lock().expect("no panic").push(message);
        !self.is_cut.load(std::sync::atomic::Ordering::Acquire)
    }

    fn broker_of(&self, _: ShardId, replica: u64) -> Option<BrokerId> {
        Some(BrokerId(i32::try_from(replica).expect("small")))
    }

    fn send_entries(
        &self,
        shard: ShardId,
        history: HistoryId,
        message: Message,
        on_its_way: OnItsWay,
    ) -> bool {
        self.on_their_way.lock().expect("no panic").push(on_its_way);
        self.send(shard, history, message)
    }

    fn send_files(&self, _: ropewalk_store::transfer::message::Message) -> bool {
        false
    }
}

impl Sent {
    /// Waits until a message is sent that `is_wanted`, and takes all that were sent until then.
    async fn until(&self, is_wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        loop {
            if self.messages.lock().expect("no panic").iter().any(&is_wanted) {
                return std::mem::take(&mut *self.messages.lock().expect("no panic"));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// No partition is opened, and no observer is needed. Keeps the marks of replicas.
#[derive(Debug, Default)]
struct NoLogs(Mutex<Vec<(ReplicaId, String)>>);

impl Logs for NoLogs {
    fn open(&self, partition: PartitionId) -> Arc<PartitionLog> {
        panic!("{partition} was opened");
    }

    fn closed(&self, _: PartitionId, _: Arc<PartitionLog>) {}

    fn checkpoint(&self) {}

    fn quarantine(&self, replica: ReplicaId, reason: &str) -> Result<(), WorkError> {
        self.0.lock().expect("no panic").push((replica, reason.to_owned()));
        Ok(())
    }
}

impl LogReader for NoLogs {
    fn set_followed(&self, _: ReplicaKey, _: bool) {}

    fn read(&self, _: ReplicaKey, _: u64, _: u64) -> Option<Vec<Entry>> {
        None
    }
}

impl Observer for NoLogs {
    fn applied(&self, _: ShardId, _: &[Effect]) {}
    fn leads(&self, _: ShardId, _: Option<u64>) {}
    fn installed(&self, _: &ShardHandle) {}
}

/// The log of a replica at start: one entry of these bytes, or one that cannot be read.
#[derive(Debug)]
struct EarlierLog(Option<&'static [u8]>);

impl EntrySource for EarlierLog {
    fn read(&self, index: u64) -> Result<bytes::Bytes, String> {
        self.0.map(bytes::Bytes::from_static).ok_or_else(|| format!("no entry {index}"))
    }
}

fn start(hard_state: HardState, entries: Vec<StoredEntry>, source: EarlierLog) -> Replica {
    let source = Box::new(source);
    let (replica, members) = (2, Members::lone(2));
    let snapshot = EntryId { index: 1, term: 1 };
    let start = Start { replica, hard_state, members, snapshot, entries, source, seed: 0 };
    Replica::new(start).expect("a sane start")
}

/// A single replica that has written nothing.
fn lone() -> Replica {
    start(HardState::default(), Vec::new(), EarlierLog(None))
}

/// A single replica whose log has one committed entry.
fn holding(len_bytes: u32, source: EarlierLog) -> Replica {
    let hard_state = HardState { term: 1, vote: 2, commit: 2 };
    let stored = StoredEntry { index: 2, term: 1, kind: EntryKind::Normal, len_bytes };
    start(hard_state, vec![stored], source)
}

/// A driver of `replica`, its handle, its log, and the channel that stops it.
fn driver(replica: Replica) -> (Driver, Arc<ShardHandle>, Arc<HeldLog>, watch::Sender<bool>) {
    driver_with(replica, Arc::default(), Arc::new(Sent::default()))
}

fn driver_with(
    replica: Replica,
    logs: Arc<NoLogs>,
    peers: Arc<dyn Peers>,
) -> (Driver, Arc<ShardHandle>, Arc<HeldLog>, watch::Sender<bool>) {
    driver_sending(replica, logs, peers, Arc::default())
}

fn driver_sending(
    replica: Replica,
    logs: Arc<NoLogs>,
    peers: Arc<dyn Peers>,
    sends: Arc<Sends>,
) -> (Driver, Arc<ShardHandle>, Arc<HeldLog>, watch::Sender<bool>) {
    let (shard, queue) =
        ShardHandle::new(ShardId(3), State::new(), HashMap::new(), FeatureLevel::default());
    let log = Arc::new(HeldLog::default());
    let (stop, stopped) = watch::channel(false);
    let context = DriverContext {
        wal: Arc::clone(&log) as _,
        log: Arc::new(NoLogs::default()),
        peers,
        sends,
        transfers: TransferOrders::new().0,
        logs,
        observer: Arc::new(NoLogs::default()),
        clock_ms: || 0,
        stop: stopped,
        ticks_from: Instant::now(),
    };
    (Driver::new(Arc::clone(&shard), queue, replica, context), shard, log, stop)
}

struct RunningDriver {
    shard: Arc<ShardHandle>,
    log: Arc<HeldLog>,
    stop: watch::Sender<bool>,
    ended: tokio::task::JoinHandle<Result<(), Failure>>,
}

/// A driver whose replica leads.
async fn run() -> RunningDriver {
    let (driver, shard, log, stop) = driver(lone());
    let ended = tokio::spawn(driver.run());
    while shard.leading().is_none() {
        log.answer(Ok(())).await;
        tokio::task::yield_now().await;
    }
    RunningDriver { shard, log, stop, ended }
}

fn command() -> Command {
    Command::Shard(ShardCommand::DeleteGroup { group: "g".to_owned() })
}

fn on_a_runtime(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let ends = async {
        let ended = tokio::time::timeout(Duration::from_secs(30), test).await;
        ended.expect("a driver that ends, answers and submits when it has to");
    };
    runtime.enable_time().build().expect("a runtime").block_on(ends);
}

/// How a driver ends when the log answers a write with `error`, and the result for its proposer.
async fn end_with(error: WalError) -> (Result<(), Failure>, Result<Outcome, ProposeError>) {
    let running = run().await;
    let proposed = running.shard.submit(command());
    running.log.answer(Err(error)).await;
    let ended = running.ended.await.expect("it does not panic");
    assert_eq!(running.shard.propose(command()).await, Err(ProposeError::Stopped));
    (ended, proposed.await.expect("it is answered"))
}

#[test]
fn d2_a_failed_log_ends_the_driver_and_is_named() {
    on_a_runtime(async {
        let failed = WalError::Failed(Arc::new(std::io::Error::other("EIO")));
        let (ended, proposed) = end_with(failed).await;
        let Err(Failure::Disk(why)) = ended else { panic!("it ended with {ended:?}") };
        assert!(why.contains("EIO"), "{why}");
        assert_eq!(proposed, Err(ProposeError::Unknown));
    });
}

#[test]
fn a_write_that_never_fits_ends_the_driver_as_a_fault() {
    on_a_runtime(async {
        let (ended, _) = end_with(WalError::TooLarge { size_bytes: 9, size_bytes_max: 8 }).await;
        assert!(matches!(ended, Err(Failure::Fault(_))), "it ended with {ended:?}");
    });
}

#[test]
fn a_log_that_closed_leaves_the_report_to_its_supervisor() {
    on_a_runtime(async {
        let running = run().await;
        let proposed = running.shard.submit(command());
        running.log.answer(Err(WalError::Closed)).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!running.ended.is_finished());
        running.stop.send(true).expect("it listens");
        assert_eq!(running.ended.await.expect("it does not panic"), Ok(()));
        assert_eq!(proposed.await.expect("it is answered"), Err(ProposeError::Unknown));
    });
}

#[test]
fn d1_a_command_is_answered_when_its_write_is_durable() {
    on_a_runtime(async {
        let running = run().await;
        let mut proposed = running.shard.submit(command());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(proposed.try_recv().is_err(), "it is not durable");
        running.log.answer(Ok(())).await;
        assert!(proposed.await.expect("it is answered").is_ok());
    });
}

#[test]
fn a_stopped_driver_answers_everybody() {
    on_a_runtime(async {
        let running = run().await;
        let under_way = [running.shard.submit(command()), running.shard.submit(command())];
        while running.log.0.lock().expect("no panic").is_empty() {
            tokio::task::yield_now().await;
        }
        running.stop.send(true).expect("it listens");
        running.ended.await.expect("it does not panic").expect("it was asked to end");
        assert_eq!(running.shard.leading(), None, "it leads no longer");
        for proposed in under_way {
            assert_eq!(proposed.await.expect("it is answered"), Err(ProposeError::Unknown));
        }
        assert_eq!(running.shard.read_barrier().await, Err(ProposeError::Stopped));
        assert_eq!(
            running.shard.append(Vec::new(), SendOrder::default()).await,
            Ok(Err(ProposeError::Stopped))
        );
    });
}

/// The replica stops, and its driver continues: the process and its other shards do, too.
#[test]
fn an_entry_that_cannot_be_applied_stops_the_replica_with_a_reason() {
    let newer = "entry 2 was written by a newer version of the broker: it has format 97";
    let damaged = "entry 2 cannot be applied, it is damaged";
    let unread = "entry 2 cannot be read back from the log: no entry 2";
    for (bytes, reason, ends_with_upgrade) in [
        (Some(&b"an entry of nobody, long enough"[..]), newer, true),
        (Some(&b"\x00n entry of nobody, long enough"[..]), damaged, false),
        (None, unread, false),
    ] {
        on_a_runtime(async {
            let logs = Arc::<NoLogs>::default();
            let replica = holding(31, EarlierLog(bytes));
            let (driver, shard, _log, stop) =
                driver_with(replica, Arc::clone(&logs), Arc::new(Sent::default()));
            let ended = tokio::spawn(driver.run());
            let refused = shard.propose(command()).await;
            assert_eq!(refused, Err(ProposeError::NotLeader));
            let halt = shard.halted().expect("it has stopped");
            assert!(halt.reason.starts_with(reason), "{halt:?}");
            assert_eq!(halt.ends_with_upgrade, ends_with_upgrade);
            assert_eq!(shard.read_barrier().await, Err(ProposeError::NotLeader));
            let captured = Arc::clone(&shard);
            let captured = tokio::task::spawn_blocking(move || captured.capture()).await;
            let captured = captured.expect("no panic").expect("a checkpoint keeps what is applied");
            assert_eq!((captured.index, shard.leading()), (1, None));
            assert!(logs.0.lock().expect("no panic").is_empty(), "the replay finds it again");
            stop.send(true).expect("it listens");
            assert_eq!(ended.await.expect("it does not panic"), Ok(()));
        });
    }
}

#[test]
fn d4_a_replica_that_a_restart_would_run_again_is_marked() {
    on_a_runtime(async {
        let logs = Arc::<NoLogs>::default();
        let (mut driver, shard, _log, _stop) =
            driver_with(lone(), Arc::clone(&logs), Arc::new(Sent::default()));
        let diverged = StopReason::Diverged { index: 7, own: 1, majority: 2 };
        driver.halt(&diverged).await.expect("marked");
        let reason = diverged.to_string();
        let halt = Halt { reason: reason.clone(), ends_with_upgrade: false };
        assert_eq!(shard.halted(), Some(halt));
        assert_eq!(*logs.0.lock().expect("no panic"), [(ReplicaId(2), reason)]);
    });
}
