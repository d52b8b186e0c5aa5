//! Nodes in one process that replicate a shard: every message is encoded, and is delivered unless
//! one of the two nodes is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_batch::Builder;
use ropewalk_disk::SimDisk;
use ropewalk_node::{Node, NodeOptions, Observer, Peers, ShardHandle};
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::command::{Append, Command, OpenPartition, ShardCommand};
use ropewalk_shard::driver::ChangeError;
use ropewalk_shard::engine::{ChangeRejection, MembersChange};
use ropewalk_shard::message::Message;
use ropewalk_shard::proposal::SendOrder;
use ropewalk_shard::{BrokerId, Effect, HistoryId, PartitionId, ShardId, TopicId};
use ropewalk_store::policy::Policy;
use ropewalk_store::transfer::message::Message as FilesMessage;
use ropewalk_store::{Identity, checkpoint, recovery, transfer};

const SHARD: ShardId = ShardId(1);
/// Raft ids of the replicas of [`SHARD`], by node. The first is the one that the first broker of a
/// cluster gives to it.
const REPLICAS: [u64; 3] = [2, 77, 88];

#[derive(Debug)]
struct Quiet;

impl Observer for Quiet {
    fn applied(&self, _: ShardId, _: &[Effect]) {}
    fn leads(&self, _: ShardId, _: Option<u64>) {}
    fn installed(&self, _: &ShardHandle) {}
}

impl Policy for Quiet {
    fn segments(&self, _: PartitionId) -> SegmentConfig {
        SegmentConfig { segment_bytes: 256 << 10, ..SegmentConfig::default() }
    }
}

/// The nodes, by number, and the connections between them.
#[derive(Debug, Default)]
struct Net {
    nodes: Mutex<BTreeMap<usize, Weak<Node>>>,
    cut: Mutex<BTreeSet<usize>>,
}

impl Net {
    /// The node with a replica, if it can be reached from node `from`.
    fn reach(&self, from: usize, replica: u64) -> Option<Arc<Node>> {
        let to = REPLICAS.iter().position(|id| *id == replica)?;
        let is_cut = [from, to].iter().any(|node| self.cut.lock().contains(node));
        if is_cut { None } else { self.nodes.lock().get(&to)?.upgrade() }
    }
}

/// One node's side of the network.
#[derive(Debug)]
struct Side {
    me: usize,
    net: Arc<Net>,
}

impl Peers for Side {
    fn send(&self, shard: ShardId, history: HistoryId, message: Message) -> bool {
        let Some(node) = self.net.reach(self.me, message.to) else { return false };
        let encoded = message.encode(history).to_bytes();
        node.message(shard, Message::decode(encoded, history).expect("as it was encoded"))
    }

    fn send_files(&self, message: FilesMessage) -> bool {
        let Some(node) = self.net.reach(self.me, message.to) else { return false };
        let encoded = message.encode().to_bytes();
        node.files_message(FilesMessage::decode(encoded).expect("as it was encoded"));
        true
    }
}

fn clock_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_millis()).expect("fits")
}

/// Brokers on simulated disks.
struct Cluster {
    net: Arc<Net>,
    disks: Vec<SimDisk>,
    nodes: Vec<Option<Arc<Node>>>,
}

impl Cluster {
    fn new() -> Self {
        let disks = (1..=3).map(SimDisk::new).collect();
        let mut cluster = Self { net: Arc::default(), disks, nodes: vec![None; 3] };
        (0..3).for_each(|node| cluster.start(node));
        cluster
    }

    fn start(&mut self, me: usize) {
        let (cluster_id, id) = ("test".to_owned(), BrokerId(i32::try_from(me).expect("small")));
        let identity = match me {
            0 => Identity::first(cluster_id, id, 1),
            _ => Identity::joining(cluster_id, id, 1),
        };
        let wal = ropewalk_wal::Options {
            file_bytes: 1 << 20,
            first_file_bytes: 1 << 20,
            files_bytes_max: 64 << 20,
            spares_max: 2,
            prefilled: 0,
        };
        let node = Node::open(NodeOptions {
            disk: Arc::new(self.disks[me].clone()),
            dir: PathBuf::from("/data"),
            format: Some(identity),
            observer: Arc::new(Quiet),
            peers: Arc::new(Side { me, net: Arc::clone(&self.net) }),
            policy: Arc::new(Quiet),
            on_fatal: Arc::new(|error| panic!("{error}")),
            on_round: Arc::new(|_| ()),
            clock_ms,
            recovery: recovery::Options { wal, tail_bytes_max: 4 << 20, open_files_max: 16 },
            checkpoint: checkpoint::Options {
                wal_used_bytes_soft_max: 2 << 20,
                // A learner begins with a snapshot of the leader's.
                checkpoint_age_ms: 100,
                syncs_per_second: 2_000,
                disk_free_bytes_min: 0,
                unsynced_logs_max: 100,
            },
            transfer: transfer::Options { disk_free_bytes_min: 0, ..Default::default() },
        });
        let node = Arc::new(node.expect("it opens"));
        node.expect(SHARD, REPLICAS[me]);
        self.net.nodes.lock().insert(me, Arc::downgrade(&node));
        self.nodes[me] = Some(node);
    }

    async fn stop(&mut self, me: usize) {
        self.net.nodes.lock().remove(&me);
        let node = self.nodes[me].take().expect("it runs");
        node.stop().await;
        drop(node);
        self.disks[me].restart();
    }

    fn shard(&self, me: usize) -> Option<Arc<ShardHandle>> {
        self.nodes[me].as_ref()?.shard(SHARD).cloned()
    }

    /// The node that leads the shard.
    async fn leader(&self) -> usize {
        loop {
            let leads = |me: &usize| self.shard(*me).is_some_and(|held| held.leading().is_some());
            let cut = self.net.cut.lock().clone();
            if let Some(leader) = (0..3).filter(|me| !cut.contains(me)).find(leads) {
                return leader;
            }
            pause().await;
        }
    }

    /// Waits until a node has applied what any has. One that led before it was cut off may think so
    /// still.
    async fn catches_up(&self, me: usize) {
        loop {
            let applied = |node| self.shard(node).map(|held| held.applied_index());
            if applied(me).is_some() && applied(me) >= (0..3).filter_map(applied).max() {
                return;
            }
            pause().await;
        }
    }

    async fn change(&self, change: MembersChange) {
        loop {
            let leader = self.leader().await;
            let changed = self.shard(leader).expect("it leads").change_members(change).await;
            match changed {
                Ok(()) | Err(ChangeError::Rejected(ChangeRejection::NoChange)) => return,
                // Not yet.
                Err(
                    ChangeError::Proposed(_)
                    | ChangeError::Rejected(
                        ChangeRejection::Pending
                        | ChangeRejection::NotLeader
                        | ChangeRejection::NotCaughtUp { .. },
                    ),
                ) => pause().await,
                Err(error) => panic!("{change:?}: {error}"),
            }
        }
    }

    /// A learner on this node that becomes a voter.
    async fn join(&self, me: usize) {
        self.change(MembersChange::AddLearner(REPLICAS[me])).await;
        self.catches_up(me).await;
        self.change(MembersChange::Promote(REPLICAS[me])).await;
    }

    /// Appends a value at the leader until it is acknowledged.
    async fn append(&self, value: &[u8]) {
        loop {
            let leader = self.leader().await;
            let batch = Builder::new().record(1, None, Some(value)).build();
            let items = vec![Append { partition: partition(), batch }];
            let shard = self.shard(leader).expect("it leads");
            if let Ok(Ok(results)) = shard.append(items, SendOrder::default()).await {
                results[0].expect("taken");
                return;
            }
        }
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

fn partition() -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(5)), index: 0 }
}

/// The values in the log of a replica.
fn values(shard: &ShardHandle) -> Vec<Vec<u8>> {
    let log = shard.log(&partition()).expect("it is open");
    let (mut bytes, mut at) = (Vec::new(), log.log_start());
    while at < log.high_watermark() {
        let chunk = log.read(at, 1 << 20, true).expect("readable");
        at = chunk.next_offset;
        bytes.extend(chunk.bytes.concat());
    }
    let (mut rest, mut values) = (bytes::Bytes::from(bytes), Vec::new());
    while !rest.is_empty() {
        let header = ropewalk_batch::Header::parse(&rest).expect("a batch");
        let batch = rest.split_to(header.size_bytes());
        for record in ropewalk_batch::records(&header, batch, 1 << 20).expect("records") {
            values.push(record.expect("a record").value.expect("a value").to_vec());
        }
    }
    values
}

/// Each acknowledged value, in order; a value whose answer was lost may be there twice.
fn distinct(mut values: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    values.dedup();
    values
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), work).await;
    done.unwrap_or_else(|_| panic!("it takes too long: {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_a_shard_that_grew_to_three_nodes_survives_the_loss_of_any() {
    let mut cluster = Cluster::new();
    let mut expected = Vec::new();
    let value = |number: usize| [&number.to_le_bytes()[..], &[7; 2000]].concat();
    within("the first leads", cluster.leader()).await;
    let open = OpenPartition { partition: partition(), epoch_base: 0 };
    let open = Command::Shard(ShardCommand::OpenPartitions(vec![open]));
    cluster.shard(0).expect("the first has it").propose(open).await.expect("it opens");
    assert!(cluster.shard(1).is_none(), "it joins without a shard");
    let mut append = async |cluster: &Cluster, count: usize| {
        for _ in 0..count {
            let value = value(expected.len());
            within("an append", cluster.append(&value)).await;
            expected.push(value);
        }
        expected.clone()
    };
    append(&cluster, 300).await;
    for joining in [1, 2] {
        within("it joins", cluster.join(joining)).await;
        append(&cluster, 50).await;
    }
    for lost in [0, 1, 2] {
        cluster.stop(lost).await;
        let leader = within("another leads", cluster.leader()).await;
        assert_ne!(leader, lost);
        let expected = append(&cluster, 40).await;
        cluster.start(lost);
        within("it comes back", cluster.catches_up(lost)).await;
        for node in 0..3 {
            within("it follows", cluster.catches_up(node)).await;
            let found = distinct(values(&cluster.shard(node).expect("it has it")));
            assert_eq!(found.len(), expected.len(), "node {node}");
            assert_eq!(found, expected, "node {node}");
        }
    }
    // A node that was cut off continues where it was.
    cluster.net.cut.lock().insert(1);
    let expected = append(&cluster, 40).await;
    cluster.net.cut.lock().clear();
    within("it comes back", cluster.catches_up(1)).await;
    assert_eq!(distinct(values(&cluster.shard(1).expect("it has it"))), expected);
    for node in 0..3 {
        cluster.stop(node).await;
    }
}
