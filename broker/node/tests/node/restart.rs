//! A whole node on a real disk: it is stopped or dropped, and restarted.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use ropewalk_disk::{Disk, Operation, RealDisk, SimDisk};
use ropewalk_node::{NoPeers, Node, NodeOptions};
use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::{BrokerId, ShardId, limits};
use ropewalk_store::{Identity, checkpoint};

use crate::support::{self, CHECKPOINTS, append, leads, open_partition, partition, values};

fn open(dir: &Path) -> Node {
    open_with(real_disk(), dir, CHECKPOINTS)
}

fn real_disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(ropewalk_disk::Options::default()))
}

fn open_with(disk: Arc<dyn Disk>, dir: &Path, checkpoint: checkpoint::Options) -> Node {
    let identity = Identity::first("test".to_owned(), BrokerId(1), 3);
    let options = support::options(disk, dir, identity, Arc::new(NoPeers));
    Node::open(NodeOptions { checkpoint, ..options }).expect("the node opens")
}

/// Written data survives because the operating system keeps running; tests/power_loss simulates a
/// loss of power.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_what_was_acked_is_there_after_a_stop_and_after_the_process_has_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut expected: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 4];
    for round in 0..4_u8 {
        let node = open(dir.path());
        assert_eq!(node.incarnation(), u64::from(round) + 1);
        let shard = Arc::clone(node.shard(ShardId(2)).expect("it is there"));
        leads(&shard).await;
        for index in 0..4 {
            open_partition(&shard, index).await;
            assert_eq!(values(&shard, index), expected[index as usize], "round {round}");
        }
        // Enough for several files of the log, for flushes and for checkpoints.
        for number in 0..800_u32 {
            let index = (number % 3) as i32;
            let value = [&number.to_le_bytes()[..], &vec![round; 8_000]].concat();
            let offset = append(&shard, index, &value).await;
            let expected = &mut expected[index as usize];
            assert_eq!(offset, expected.len() as i64);
            expected.push(value);
        }
        append(&shard, 3, b"small").await;
        expected[3].push(b"small".to_vec());
        // The log is released in the background; the test times out if it never is.
        while node.wal().stats().used_bytes > 4 << 20 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        if round % 2 == 0 {
            node.stop().await;
        }
        // Like a crash, without a checkpoint. The threads are stopped, as those of a dead process
        // are.
        let wal = node.wal().clone();
        drop((node, shard));
        wal.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_on_a_full_disk_what_is_deleted_makes_room_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let all_of_it = checkpoint::Options { disk_free_bytes_min: u64::MAX, ..CHECKPOINTS };
    let node = open_with(real_disk(), dir.path(), all_of_it);
    let shard = Arc::clone(node.shard(ShardId(2)).expect("it is there"));
    leads(&shard).await;
    open_partition(&shard, 0).await;
    for _ in 0..500 {
        append(&shard, 0, &[7; 8_000]).await;
    }
    let segments = || -> usize {
        let below = |dir: &Path| std::fs::read_dir(dir).expect("a directory").flatten();
        let partitions = below(&dir.path().join("partitions"));
        partitions.map(|partition| below(&partition.path()).count()).sum()
    };
    while segments() == 0 || !node.tail_budget().is_disk_full() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(node.tail_budget().wait_below().await.is_err(), "records are refused");
    let close = Command::Shard(ShardCommand::ClosePartitions(vec![partition(0)]));
    shard.propose(close).await.expect("it closes");
    // Two checkpoints later; the test times out if they are not made.
    while segments() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    node.stop().await;
}

/// Memory is always short and no checkpoint is due: tails are flushed, and their files wait for a
/// sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_few_files_are_open_however_many_partitions_are_flushed() {
    const PARTITIONS: i32 = 300;
    let disk = SimDisk::new(1);
    let never = checkpoint::Options { wal_used_bytes_soft_max: u64::MAX, ..CHECKPOINTS };
    let node = open_with(Arc::new(disk.clone()), Path::new("/data"), never);
    let shard = Arc::clone(node.shard(ShardId(2)).expect("it is there"));
    leads(&shard).await;
    for index in 0..PARTITIONS {
        open_partition(&shard, index).await;
    }
    let mut open_files = 0;
    for index in 0..PARTITIONS {
        append(&shard, index, &[7; 40_000]).await;
        node.tail_budget().wait_below().await.expect("there is room soon");
        open_files = open_files.max(disk.open_files());
    }
    assert!((100..300).contains(&open_files), "{open_files} files were open");
    for index in 0..PARTITIONS {
        assert_eq!(values(&shard, index), [vec![7; 40_000]]);
    }
    node.stop().await;
}

/// The write-ahead log may hold many times the memory budget: recovery replays it in pieces, and
/// the checkpoint thread frees memory in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_start_replays_a_long_log_within_the_memory_for_records() {
    const BATCHES: u32 = 600;
    let disk = SimDisk::new(1);
    // Nothing is checkpointed before the crash.
    let never = checkpoint::Options { wal_used_bytes_soft_max: u64::MAX, ..CHECKPOINTS };
    let node = open_with(Arc::new(disk.clone()), Path::new("/data"), never);
    let shard = Arc::clone(node.shard(ShardId(2)).expect("it is there"));
    leads(&shard).await;
    for index in 0..3 {
        open_partition(&shard, index).await;
    }
    let value = |number: u32| [&number.to_le_bytes()[..], &[7; 80_000]].concat();
    for number in 0..BATCHES {
        node.tail_budget().wait_below().await.expect("there is room soon");
        append(&shard, (number % 3) as i32, &value(number)).await;
    }
    let wal = node.wal().clone();
    assert!(wal.stats().used_bytes > 40 << 20, "all of it is in the log");
    drop((node, shard));
    wal.close();
    disk.power_cycle(1);

    let node = open_with(Arc::new(disk.clone()), Path::new("/data"), CHECKPOINTS);
    let shard = Arc::clone(node.shard(ShardId(2)).expect("it is there"));
    leads(&shard).await;
    for index in 0..3 {
        let found = values(&shard, index);
        assert_eq!(found.len(), BATCHES as usize / 3);
        assert!(found.iter().zip(0..).all(|(found, at)| *found == value(3 * at + index as u32)));
    }
    // The budget, and the one piece that was being applied when it was used up.
    let most = (4 << 20) + limits::COMMITTED_BYTES_MAX as usize + (1 << 20);
    let peak = node.tail_budget().peak_bytes();
    assert!(peak <= most, "{peak} bytes were pinned, {most} are allowed");
    node.stop().await;
}

/// Stops every thread that does one kind of operation on the files of partitions.
struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    closed: Vec<Operation>,
    waiting: usize,
}

impl Gate {
    fn on(disk: &SimDisk) -> Self {
        let gate = Self(Arc::default());
        let shared = Arc::clone(&gate.0);
        disk.before_operations(move |operation, path| {
            if path.starts_with("/data/partitions") {
                let (state, changed) = &*shared;
                let mut state = state.lock().expect("no panic");
                if state.closed.contains(&operation) {
                    state.waiting += 1;
                    while state.closed.contains(&operation) {
                        state = changed.wait(state).expect("no panic");
                    }
                    state.waiting -= 1;
                }
            }
        });
        gate
    }

    fn close(&self, operation: Operation) {
        self.0.0.lock().expect("no panic").closed.push(operation);
    }

    fn waiting(&self) -> usize {
        self.0.0.lock().expect("no panic").waiting
    }

    fn open(&self) {
        self.0.0.lock().expect("no panic").closed.clear();
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// A batch of 100 kB for each of three shards. Returns the bytes.
async fn append_to_all(node: &Node) -> usize {
    let value = vec![7; 100_000];
    for shard in 1..=3 {
        let shard = node.shard(ShardId(shard)).expect("it runs");
        append(shard, 0, &value).await;
    }
    3 * value.len()
}

/// A checkpoint that waits for the disk holds up neither the rounds of the log nor the flushing of
/// tails. If tails cannot be flushed either, producers wait once they are full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_producers_go_on_while_a_checkpoint_waits_for_a_sync() {
    let disk = SimDisk::new(1);
    let node = open_with(Arc::new(disk.clone()), Path::new("/data"), CHECKPOINTS);
    let budget = Arc::clone(node.tail_budget());
    for shard in node.shards().filter(|shard| shard.id() != ShardId::CATALOG) {
        leads(shard).await;
        open_partition(shard, 0).await;
    }
    let gate = Gate::on(&disk);
    gate.close(Operation::Sync);
    let mut bytes = 0;
    // Enough for a checkpoint.
    while bytes < 2 * usize::try_from(CHECKPOINTS.wal_used_bytes_soft_max).expect("fits") {
        bytes += append_to_all(&node).await;
    }
    while gate.waiting() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let before = bytes;
    while bytes - before < 16_000_000 {
        budget.wait_below().await.expect("the disk is not full");
        bytes += append_to_all(&node).await;
    }
    assert!(gate.waiting() > 0, "the checkpoint still waits");
    assert!(budget.pinned_bytes() < 5_000_000, "{}", budget.pinned_bytes());

    gate.close(Operation::Write);
    while !budget.is_over() {
        bytes += append_to_all(&node).await;
    }
    tokio::select! {
        biased;
        _ = budget.wait_below() => panic!("there is room in the tails"),
        () = std::future::ready(()) => {}
    }
    // What was proposed before is still acknowledged.
    bytes += append_to_all(&node).await;
    gate.open();
    budget.wait_below().await.expect("the disk is not full");
    drop(gate);
    disk.no_more_before_operations();
    node.stop().await;
    drop(node);
    let node = open_with(Arc::new(disk), Path::new("/data"), CHECKPOINTS);
    for shard in 1..=3 {
        let shard = node.shard(ShardId(shard)).expect("it runs");
        leads(shard).await;
        assert_eq!(values(shard, 0).len(), bytes / 300_000, "D1");
    }
}
