//! Nodes in one process that replicate shards: every message is encoded, and is delivered unless
//! one of the two nodes is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_disk::SimDisk;
use ropewalk_node::{Node, Peers, ShardHandle};
use ropewalk_shard::driver::ChangeError;
use ropewalk_shard::engine::{ChangeRejection, MembersChange};
use ropewalk_shard::message::Message;
use ropewalk_shard::{BrokerId, HistoryId, ShardId};
use ropewalk_store::Identity;
use ropewalk_store::transfer::message::Message as FilesMessage;

use crate::support::{self, pause, try_append, values};

pub(crate) const SHARD: ShardId = ShardId(1);
/// Raft ids of the replicas of [`SHARD`], by node. The first is the one that the first broker of a
/// cluster gives to it.
pub(crate) const REPLICAS: [u64; 3] = [2, 77, 88];

/// Raft id of the replica of the catalog that the first broker of a cluster has.
const CATALOG_REPLICA: u64 = 1;

/// The nodes, by number, the replicas that each has, and the connections between them.
#[derive(Debug, Default)]
pub(crate) struct Net {
    nodes: Mutex<BTreeMap<usize, Weak<Node>>>,
    homes: Mutex<BTreeMap<u64, usize>>,
    pub(crate) cut: Mutex<BTreeSet<usize>>,
}

impl Net {
    /// The node with a replica, if it can be reached from node `from`.
    fn reach(&self, from: usize, replica: u64) -> Option<Arc<Node>> {
        let to = *self.homes.lock().get(&replica)?;
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

/// Brokers on simulated disks.
pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) nodes: Vec<Option<Arc<Node>>>,
}

impl Cluster {
    /// Three nodes of which the first has all shards. Each expects its replica of [`SHARD`].
    pub(crate) fn new() -> Self {
        let disks = (1..=3).map(SimDisk::new).collect();
        let mut cluster = Self { net: Arc::default(), disks, nodes: vec![None; 3] };
        (0..3).for_each(|node| cluster.start(node));
        cluster.net.homes.lock().insert(CATALOG_REPLICA, 0);
        cluster
    }

    /// Starts a node, which expects its replica of [`SHARD`].
    pub(crate) fn start(&mut self, me: usize) {
        self.open(me);
        self.expect(me, SHARD, REPLICAS[me]);
    }

    /// Starts a node.
    pub(crate) fn open(&mut self, me: usize) {
        let (cluster_id, id) = ("test".to_owned(), BrokerId(i32::try_from(me).expect("small")));
        let identity = match me {
            0 => Identity::first(cluster_id, id, 1),
            _ => Identity::joining(cluster_id, id, 1),
        };
        let side = Arc::new(Side { me, net: Arc::clone(&self.net) });
        let disk = Arc::new(self.disks[me].clone());
        let options = support::options(disk, Path::new("/data"), identity, side);
        let node = Node::open(options).expect("it opens");
        let node = Arc::new(node);
        self.net.nodes.lock().insert(me, Arc::downgrade(&node));
        self.nodes[me] = Some(node);
    }

    /// Lets a node have a replica.
    pub(crate) fn expect(&self, me: usize, shard: ShardId, replica: u64) {
        self.net.homes.lock().insert(replica, me);
        self.node(me).expect(shard, replica);
    }

    pub(crate) fn node(&self, me: usize) -> &Arc<Node> {
        self.nodes[me].as_ref().expect("it runs")
    }

    pub(crate) async fn stop(&mut self, me: usize) {
        self.net.nodes.lock().remove(&me);
        let node = self.nodes[me].take().expect("it runs");
        node.stop().await;
        drop(node);
        self.disks[me].restart();
    }

    pub(crate) async fn stop_all(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_some() {
                self.stop(node).await;
            }
        }
    }

    pub(crate) fn shard(&self, me: usize) -> Option<Arc<ShardHandle>> {
        self.nodes[me].as_ref()?.shard(SHARD).cloned()
    }

    /// The node that leads the shard.
    pub(crate) async fn leader(&self) -> usize {
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
    pub(crate) async fn catches_up(&self, me: usize) {
        loop {
            let applied = |node| self.shard(node).map(|held| held.applied_index());
            if applied(me).is_some() && applied(me) >= (0..3).filter_map(applied).max() {
                return;
            }
            pause().await;
        }
    }

    pub(crate) async fn change(&self, change: MembersChange) {
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
    pub(crate) async fn join(&self, me: usize) {
        self.change(MembersChange::AddLearner(REPLICAS[me])).await;
        self.catches_up(me).await;
        self.change(MembersChange::Promote(REPLICAS[me])).await;
    }

    /// Appends a value at the leader until it is acknowledged.
    pub(crate) async fn append(&self, value: &[u8]) {
        loop {
            let leader = self.leader().await;
            let shard = self.shard(leader).expect("it leads");
            if try_append(&shard, 0, value).await.is_ok() {
                return;
            }
        }
    }

    /// Each acknowledged value of a node's replica, in order; a value whose answer was lost may be
    /// there twice.
    pub(crate) fn distinct(&self, me: usize) -> Vec<Vec<u8>> {
        let mut values = values(&self.shard(me).expect("it has it"), 0);
        values.dedup();
        values
    }
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), work).await;
    done.unwrap_or_else(|_| panic!("it takes too long: {what}"))
}
