//! Brokers under test: a node on a simulated disk, its link and its connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use ropewalk_batch::Builder;
use ropewalk_broker::cluster::metrics::PeerMetrics;
use ropewalk_broker::cluster::{Cluster, Link, Options};
use ropewalk_disk::SimDisk;
use ropewalk_node::{NoPeers, Node, NodeOptions, Observer, Peers, ShardHandle};
use ropewalk_peer::inbox::{Connected, Delivery, Inbox};
use ropewalk_peer::{CertificateFiles, Class, PeerAddress};
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::command::{Append, Command, OpenPartition, ShardCommand};
use ropewalk_shard::driver::ChangeError;
use ropewalk_shard::engine::{ChangeRejection, MembersChange};
use ropewalk_shard::proposal::SendOrder;
use ropewalk_shard::{BrokerId, Effect, PartitionId, Payload, ReplicaId, ShardId, TopicId};
use ropewalk_store::policy::Policy;
use ropewalk_store::{Identity, checkpoint, recovery, transfer};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::authority::{Authority, CLUSTER};
use crate::catalog::{Catalog, known};

pub(crate) const SHARD: ShardId = ShardId(1);

/// Raft ids of the replicas of [`SHARD`], by broker. The first is the one that the first broker of
/// a cluster gives to it.
pub(crate) const REPLICAS: [u64; 3] = [2, 77, 88];

/// Notifies the link of leaderships, as the broker's observer does.
#[derive(Debug)]
struct Observing(Option<Arc<Link>>);

impl Observer for Observing {
    fn applied(&self, _: ShardId, _: &[Effect]) {}
    fn leads(&self, _: ShardId, _: Option<u64>) {
        if let Some(link) = &self.0 {
            link.leads();
        }
    }
    fn installed(&self, _: &ShardHandle) {}
}

impl Policy for Observing {
    fn segments(&self, _: PartitionId) -> SegmentConfig {
        SegmentConfig { segment_bytes: 256 << 10, ..SegmentConfig::default() }
    }
}

fn clock_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_millis()).expect("it fits")
}

/// The options of a broker with small bounds. Broker 0 founds the cluster, the others join it.
pub(crate) fn options(
    disk: SimDisk,
    (id, shards): (BrokerId, u32),
    peers: Arc<dyn Peers>,
    observer: Arc<dyn Observer>,
    policy: Arc<dyn Policy>,
) -> NodeOptions {
    let identity = match id.0 {
        0 => Identity::first(CLUSTER.to_owned(), id, shards),
        _ => Identity::joining(CLUSTER.to_owned(), id, shards),
    };
    let wal = ropewalk_wal::Options {
        file_bytes: 1 << 20,
        first_file_bytes: 1 << 20,
        files_bytes_max: 64 << 20,
        spares_max: 2,
        prefilled: 0,
    };
    NodeOptions {
        disk: Arc::new(disk),
        dir: PathBuf::from("/data"),
        format: Some(identity),
        observer,
        peers,
        policy,
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
    }
}

fn open(disk: &SimDisk, id: i32, peers: Arc<dyn Peers>, link: Option<Arc<Link>>) -> Arc<Node> {
    let observing = Arc::new(Observing(link));
    let observer = Arc::clone(&observing) as _;
    let node = Node::open(options(disk.clone(), (BrokerId(id), 1), peers, observer, observing));
    Arc::new(node.expect("it opens"))
}

/// A broker without others.
pub(crate) struct Alone {
    pub(crate) node: Arc<Node>,
    pub(crate) cluster: Arc<Cluster>,
}

pub(crate) fn alone() -> Alone {
    let node = open(&SimDisk::new(1), 0, Arc::new(NoPeers), None);
    let cluster = Cluster::alone(Arc::clone(&node), known(BrokerId(0)));
    Alone { node, cluster }
}

/// A log that is held.
pub(crate) struct Hold {
    is_released: Arc<AtomicBool>,
}

impl Hold {
    pub(crate) fn release(&self) {
        self.is_released.store(true, Ordering::Release);
    }
}

struct Running {
    node: Arc<Node>,
    cluster: Arc<Cluster>,
    service: JoinHandle<()>,
    metrics: PeerMetrics,
}

/// Takes nothing.
struct Deaf;

impl Inbox for Deaf {
    fn control(&self, _: BrokerId, _: ShardId, _: Bytes) {}

    fn append(&self, _: BrokerId, _: ShardId, _: Bytes) -> Delivery<'_, ()> {
        Box::pin(async {})
    }

    fn request(&self, _: BrokerId, _: Bytes) -> Delivery<'_, Option<Payload>> {
        Box::pin(async { Some(Payload::default()) })
    }

    fn connected(&self, _: Connected) {}

    fn disconnected(&self, _: BrokerId) {}

    fn ended(&self, _: BrokerId) {}
}

/// See [`Brokers::impostor`].
pub(crate) struct Impostor {
    peers: ropewalk_peer::Peers,
    _service: JoinHandle<()>,
    _files: TempDir,
}

impl Impostor {
    /// Sends a request as soon as there is a connection; whether it was answered.
    pub(crate) async fn ask(&self, to: usize, request: impl Into<Payload>) -> bool {
        let request = request.into();
        loop {
            match self.peers.request(id(to), request.clone()) {
                Ok(reply) => return reply.await.is_ok(),
                Err(_) => pause().await,
            }
        }
    }
}

/// Brokers, by number.
pub(crate) struct Brokers {
    authority: Authority,
    disks: Vec<SimDisk>,
    files: Vec<(TempDir, CertificateFiles)>,
    catalogs: Vec<Arc<Catalog>>,
    incarnations: Vec<u64>,
    running: Vec<Option<Running>>,
}

impl Brokers {
    /// Brokers that know each other. The first has all shards.
    pub(crate) async fn start(count: i32) -> Self {
        let authority = Authority::new();
        let seeds = 1..=u64::try_from(count).expect("positive");
        let mut brokers = Self {
            disks: seeds.map(SimDisk::new).collect(),
            files: (0..count).map(|broker| authority.files(broker)).collect(),
            catalogs: (0..count).map(|_| Catalog::new()).collect(),
            authority,
            incarnations: (0..count).map(|_| 0).collect(),
            running: (0..count).map(|_| None).collect(),
        };
        let replicas = REPLICAS.into_iter().enumerate().take(brokers.running.len());
        for (broker, replica) in replicas {
            for catalog in &brokers.catalogs {
                catalog.place(SHARD, ReplicaId(replica), id(broker));
            }
            brokers.restart(broker);
        }
        let leader = within("the first leads", brokers.leader()).await;
        let open = OpenPartition { partition: partition(), epoch_base: 0 };
        let open = Command::Shard(ShardCommand::OpenPartitions(vec![open]));
        brokers.shard(leader).expect("it leads").propose(open).await.expect("it opens");
        brokers
    }

    /// Starts a broker on its disk, on other ports than before.
    pub(crate) fn restart(&mut self, broker: usize) {
        self.incarnations[broker] += 1;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let peers = ropewalk_peer::Options {
            broker: id(broker),
            cluster_id: CLUSTER.to_owned(),
            incarnation: self.incarnations[broker],
            started: None,
            features: 1,
            listen: [any, any],
            certificates: self.files[broker].1.clone(),
        };
        let link = Link::new(id(broker), Arc::clone(&self.catalogs[broker]) as _);
        let disk = &self.disks[broker];
        let node = open(disk, id(broker).0, Arc::clone(&link) as _, Some(Arc::clone(&link)));
        let own = known(id(broker));
        let options = Options { node: Arc::clone(&node), link, own, peers };
        let (cluster, service) = Cluster::open(options).expect("it opens");
        let service = tokio::spawn(async { service.run().await.expect("no task ends") });
        node.expect(SHARD, REPLICAS[broker]);
        let metrics = PeerMetrics::default();
        metrics.set(&cluster);
        self.running[broker] = Some(Running { node, cluster, service, metrics });
        for catalog in &self.catalogs {
            catalog.register(id(broker), self.address(broker));
        }
    }

    /// A member whose program is not a broker's: it sends what the test says.
    pub(crate) fn impostor(&self, number: i32) -> Impostor {
        let (files, certificates) = self.authority.files(number);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = ropewalk_peer::Options {
            broker: BrokerId(number),
            cluster_id: CLUSTER.to_owned(),
            incarnation: 1,
            started: None,
            features: 1,
            listen: [any, any],
            certificates,
        };
        let (peers, service) =
            ropewalk_peer::Peers::open(options, Arc::new(Deaf)).expect("it opens");
        let service = tokio::spawn(async { service.run().await.expect("no task ends") });
        let port = |class| peers.local_addr(class).expect("it is bound").port();
        let address = PeerAddress { host: "127.0.0.1".to_owned(), ports: Class::ALL.map(port) };
        for catalog in &self.catalogs {
            catalog.register(BrokerId(number), address.clone());
        }
        let all = (0..self.running.len()).map(|broker| (id(broker), self.address(broker)));
        peers.set_peers(&all.collect());
        Impostor { peers, _service: service, _files: files }
    }

    /// Stops a broker in order.
    pub(crate) async fn stop(&mut self, broker: usize) {
        let Running { node, cluster, service, .. } = self.running[broker].take().expect("it runs");
        node.stop().await;
        cluster.stop();
        service.await.expect("no panic");
        drop((node, cluster));
        self.disks[broker].restart();
    }

    /// Ends the connections of a broker as the end of its process does. Its node runs on, alone.
    pub(crate) fn kill(&mut self, broker: usize) -> Arc<Node> {
        let running = self.running[broker].take().expect("it runs");
        running.service.abort();
        running.node
    }

    /// Holds all operations on the log of a broker.
    pub(crate) fn hold_log(&self, broker: usize) -> Hold {
        let is_released = Arc::new(AtomicBool::new(false));
        let released = Arc::clone(&is_released);
        self.disks[broker].before_operations(move |_, path| {
            while path.starts_with("/data/wal") && !released.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Hold { is_released }
    }

    pub(crate) async fn stop_all(&mut self) {
        for broker in 0..self.running.len() {
            if self.running[broker].is_some() {
                self.stop(broker).await;
            }
        }
    }

    pub(crate) fn address(&self, broker: usize) -> PeerAddress {
        let cluster = self.cluster(broker);
        let port = |class| cluster.local_addr(class).expect("it is bound").port();
        PeerAddress { host: "127.0.0.1".to_owned(), ports: Class::ALL.map(port) }
    }

    pub(crate) fn catalog(&self, broker: usize) -> &Catalog {
        &self.catalogs[broker]
    }

    pub(crate) fn cluster(&self, broker: usize) -> &Arc<Cluster> {
        &self.running[broker].as_ref().expect("it runs").cluster
    }

    pub(crate) fn node(&self, broker: usize) -> &Arc<Node> {
        &self.running[broker].as_ref().expect("it runs").node
    }

    pub(crate) fn shard(&self, broker: usize) -> Option<Arc<ShardHandle>> {
        self.running[broker].as_ref()?.node.shard(SHARD).cloned()
    }

    /// The metrics of a broker's connections, as text.
    pub(crate) fn metrics(&self, broker: usize) -> impl Fn() -> String + use<> {
        let mut registry = Registry::with_prefix("ropewalk");
        let metrics = self.running[broker].as_ref().expect("it runs").metrics.clone();
        registry.register_collector(Box::new(metrics));
        move || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoded");
            text
        }
    }

    /// The broker that leads the shard.
    pub(crate) async fn leader(&self) -> usize {
        loop {
            let leads =
                |broker: &usize| self.shard(*broker).is_some_and(|held| held.leading().is_some());
            if let Some(leader) = (0..self.running.len()).find(leads) {
                return leader;
            }
            pause().await;
        }
    }

    /// Hands the shard over until this broker leads it. A broker that gives it up chooses the next.
    pub(crate) async fn moves_to(&self, broker: usize) {
        loop {
            match within("one leads", self.leader()).await {
                leader if leader == broker => return,
                other => {
                    let handed = within("the hand-over", self.cluster(other).hand_over()).await;
                    assert!(handed, "it led");
                }
            }
        }
    }

    /// Waits until a broker has applied what any has.
    pub(crate) async fn catches_up(&self, broker: usize) {
        until("it catches up", || self.has_caught_up(broker)).await;
    }

    fn has_caught_up(&self, broker: usize) -> bool {
        let applied = |broker| self.shard(broker).map(|held| held.applied_index());
        let all = (0..self.running.len()).filter_map(applied).max();
        applied(broker).is_some() && applied(broker) >= all
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

    pub(crate) async fn add_learner(&self, broker: usize) {
        self.change(MembersChange::AddLearner(REPLICAS[broker])).await;
    }

    /// A learner on this broker that becomes a voter.
    pub(crate) async fn join(&self, broker: usize) {
        self.add_learner(broker).await;
        self.catches_up(broker).await;
        self.change(MembersChange::Promote(REPLICAS[broker])).await;
    }

    /// All brokers become voters.
    pub(crate) async fn grow(&self) {
        for broker in 1..self.running.len() {
            self.join(broker).await;
        }
    }

    /// Appends a value at the leader until it is acknowledged.
    pub(crate) async fn append(&self, value: &[u8]) {
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

    /// Each acknowledged value of a broker's replica, in order; a value whose answer was lost may
    /// be there twice.
    pub(crate) fn distinct(&self, broker: usize) -> Vec<Vec<u8>> {
        let mut values = values(&self.shard(broker).expect("it has it"));
        values.dedup();
        values
    }
}

fn id(broker: usize) -> BrokerId {
    BrokerId(i32::try_from(broker).expect("it is small"))
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
    let (mut rest, mut values) = (Bytes::from(bytes), Vec::new());
    while !rest.is_empty() {
        let header = ropewalk_batch::Header::parse(&rest).expect("a batch");
        let batch = rest.split_to(header.size_bytes());
        for record in ropewalk_batch::records(&header, batch, 1 << 20).expect("records") {
            values.push(record.expect("a record").value.expect("a value").to_vec());
        }
    }
    values
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Waits for a condition that something else brings about.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    within(what, async {
        while !holds() {
            pause().await;
        }
    })
    .await;
}

/// A test that waits longer than this hangs.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), work).await;
    done.unwrap_or_else(|_| panic!("it takes too long: {what}"))
}
