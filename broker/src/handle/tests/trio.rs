//! Three brokers in one process, whose shards are replicated for real. They are asked without
//! sockets: a test calls the handlers. What they know of each other is true at once.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{OnceLock, Weak};

use ropewalk_disk::SimDisk;
use ropewalk_node::{NodeOptions, Observer, Peers, ShardHandle};
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::command::{CatalogCommand, Command, ShardCommand};
use ropewalk_shard::driver::ChangeError;
use ropewalk_shard::engine::{ChangeRejection, MembersChange};
use ropewalk_shard::message::Message as RaftMessage;
use ropewalk_shard::{BrokerId, Effect, HistoryId, PartitionId, ShardId};
use ropewalk_store::policy::Policy;
use ropewalk_store::transfer::message::Message as FilesMessage;
use ropewalk_store::{Identity, checkpoint, recovery, transfer};
use tokio::task::JoinSet;

use super::*;
use crate::catalog::Reconciler;
use crate::cluster::others::Others;
use crate::cluster::{Holders, KnownBroker, Leader, Seen};
use crate::group::Options;
use crate::listen::{Lane, Lanes};

/// The only shard of partitions and groups.
pub(super) const SHARD: ShardId = ShardId(1);

/// The listener that every broker has; the first lacks [`INTERNAL`].
pub(super) const PUBLIC: &str = "PUBLIC";
pub(super) const INTERNAL: &str = "INTERNAL";

/// Raft id of a broker's replica of a shard. The first broker of a cluster numbers its replicas
/// from 1.
pub(super) fn replica(broker: usize, shard: ShardId) -> u64 {
    u64::try_from(broker).expect("few") * 100 + u64::from(shard.0) + 1
}

fn broker_of(replica: u64) -> usize {
    usize::try_from(replica / 100).expect("few")
}

/// Passes the effects of a node on, as the broker's own listener does.
#[derive(Debug)]
struct Listener {
    view: Arc<View>,
    open: OnceLock<(Weak<Node>, Arc<Coordinator>)>,
}

impl Observer for Listener {
    fn applied(&self, _: ShardId, effects: &[Effect]) {
        let Some((node, _)) = self.open.get() else { return };
        let Some(node) = node.upgrade() else { return };
        for effect in effects {
            let Effect::CatalogChanged(change) = effect else { continue };
            let state = node.catalog().state();
            self.view.follow(state.catalog.as_ref().expect("of the catalog"), change);
        }
    }

    fn leads(&self, shard: ShardId, term: Option<u64>) {
        if let Some((_, groups)) = self.open.get() {
            groups.leads(shard, term);
        }
    }

    fn installed(&self, shard: &ShardHandle) {
        if let Some(catalog) = &shard.state().catalog {
            self.view.reload(catalog);
        }
    }
}

#[derive(Debug)]
struct Plain;

impl Policy for Plain {
    fn segments(&self, _: PartitionId) -> SegmentConfig {
        SegmentConfig::default()
    }
}

/// The nodes, and which of them are cut off.
struct Net {
    /// The zone of each broker.
    racks: [usize; 3],
    nodes: Mutex<Vec<Weak<Node>>>,
    cut: Mutex<BTreeSet<usize>>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").field("cut", &self.cut).finish_non_exhaustive()
    }
}

impl Net {
    fn new(racks: [usize; 3]) -> Self {
        Self { racks, nodes: Mutex::default(), cut: Mutex::default() }
    }

    fn known(&self, broker: usize) -> KnownBroker {
        let port = |base: i32| base + i32::try_from(broker).expect("few");
        let host = || Str::from(format!("broker-{broker}"));
        let public = (PUBLIC.into(), (host(), port(9092)));
        let internal = (broker > 0).then(|| (INTERNAL.into(), (host(), port(9192))));
        KnownBroker {
            id: id(broker),
            rack: Some(Str::from(format!("zone-{}", self.racks[broker]))),
            endpoints: [public].into_iter().chain(internal).collect::<HashMap<_, _>>(),
        }
    }

    fn node(&self, broker: usize) -> Option<Arc<Node>> {
        self.nodes.lock().get(broker)?.upgrade()
    }

    fn reach(&self, from: usize, to: usize) -> Option<Arc<Node>> {
        let is_cut = [from, to].iter().any(|broker| self.cut.lock().contains(broker));
        if is_cut { None } else { self.node(to) }
    }
}

/// What one broker sees of the others.
#[derive(Debug)]
struct Side {
    me: usize,
    net: Arc<Net>,
}

impl Peers for Side {
    fn send(&self, shard: ShardId, history: HistoryId, message: RaftMessage) -> bool {
        let to = self.net.reach(self.me, broker_of(message.to));
        to.is_some_and(|node| {
            let encoded = message.encode(history).to_bytes();
            node.message(shard, RaftMessage::decode(encoded, history).expect("as encoded"))
        })
    }

    fn send_files(&self, message: FilesMessage) -> bool {
        let Some(node) = self.net.reach(self.me, broker_of(message.to)) else { return false };
        let encoded = message.encode().to_bytes();
        node.files_message(FilesMessage::decode(encoded).expect("as encoded"));
        true
    }
}

fn id(broker: usize) -> BrokerId {
    BrokerId(i32::try_from(broker).expect("few"))
}

impl Others for Side {
    fn brokers(&self) -> Vec<Arc<KnownBroker>> {
        (0..3).map(|broker| Arc::new(self.net.known(broker))).collect()
    }

    fn is_alive(&self, broker: BrokerId) -> bool {
        broker == id(self.me)
            || self.net.reach(self.me, usize::try_from(broker.0).expect("few")).is_some()
    }

    fn leader(&self, shard: ShardId) -> Option<Leader> {
        let leads = |broker| {
            let node = self.net.reach(self.me, broker)?;
            let term = node.shard(shard)?.leading()?;
            Some(Leader { broker: id(broker), term })
        };
        (0..3).filter_map(leads).max_by_key(|leader| leader.term)
    }

    fn last_leader(&self, shard: ShardId) -> Seen {
        if let Some(Leader { broker, term }) = self.leader(shard) {
            return Seen { term, leader: Some(broker) };
        }
        let term = self.net.node(self.me).and_then(|node| Some(node.shard(shard)?.leader_seen().0));
        Seen { term: term.unwrap_or_default(), leader: None }
    }

    fn holders(&self, shard: ShardId) -> Holders {
        let members = self.net.node(self.me).and_then(|node| {
            let shard = node.held_shard(shard)?;
            Some(shard.replication().members)
        });
        let members = members.unwrap_or_default();
        let brokers = |ids: Vec<u64>| ids.into_iter().map(|of| id(broker_of(of))).collect();
        let voters: Vec<BrokerId> = brokers(members.voters);
        let is_reached =
            |to: &BrokerId| self.net.reach(self.me, usize::try_from(to.0).expect("few")).is_some();
        let reachable: Vec<_> = voters.iter().copied().filter(is_reached).collect();
        let in_sync = reachable.clone();
        Holders { voters, learners: brokers(members.learners), reachable, in_sync }
    }

    fn broker_of(&self, _: ShardId, replica: u64) -> Option<BrokerId> {
        Some(id(broker_of(replica)))
    }

    fn led(&self, shard: ShardId) -> Option<Arc<ShardHandle>> {
        let leader = self.leader(shard)?;
        let node = self.net.node(usize::try_from(leader.broker.0).expect("few"))?;
        node.shard(shard).cloned()
    }
}

/// Three brokers.
pub(super) struct Trio {
    net: Arc<Net>,
    nodes: Vec<Arc<Node>>,
    pub(super) brokers: Vec<Arc<Context>>,
    _tasks: JoinSet<()>,
}

impl Trio {
    /// Three brokers with topic `t`, which has one partition. The first broker leads everything.
    pub(super) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same with settings beside those that every broker of a test has.
    pub(super) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::in_racks([0, 1, 2], settings).await
    }

    /// The same with the number of each broker's zone.
    pub(super) async fn in_racks(racks: [usize; 3], settings: &[(&str, &str)]) -> Self {
        let net = Arc::new(Net::new(racks));
        let opened: Vec<_> = (0..3).map(|me| open(me, &net, settings)).collect();
        let nodes: Vec<_> = opened.iter().map(|(node, ..)| Arc::clone(node)).collect();
        let mut trio = Self { net, nodes, brokers: Vec::new(), _tasks: JoinSet::new() };
        for shard in [ShardId::CATALOG, SHARD] {
            trio.within("it leads", || trio.leader_of(shard)).await;
            for broker in [1, 2] {
                let replica = replica(broker, shard);
                trio.change(shard, MembersChange::AddLearner(replica)).await;
                trio.catch_up(shard, broker).await;
                trio.change(shard, MembersChange::Promote(replica)).await;
            }
        }
        for (me, (node, listener, settings)) in opened.into_iter().enumerate() {
            let context = context(me, node, &listener, settings, &trio.net);
            trio._tasks.spawn(Arc::clone(&context.groups).run());
            trio.brokers.push(context);
        }
        let topic = crate::catalog::NewTopic {
            name: "t".to_owned(),
            partitions: Some(1),
            configs: Vec::new(),
            owner: None,
        };
        trio.lead(ShardId::CATALOG, 0).await;
        trio.lead(SHARD, 0).await;
        let made = trio.brokers[0].topics.create(vec![topic], false).await;
        made[0].as_ref().expect("it is created");
        for broker in 0..3 {
            trio.within("it is known", || trio.brokers[broker].view.by_name("t").map(drop)).await;
        }
        trio
    }

    /// The broker that leads a shard, among those that are not cut off.
    pub(super) fn leader_of(&self, shard: ShardId) -> Option<usize> {
        let cut = self.net.cut.lock().clone();
        let leads =
            |me: &usize| self.nodes[*me].shard(shard).is_some_and(|s| s.leading().is_some());
        (0..3).filter(|me| !cut.contains(me)).find(leads)
    }

    /// Moves the leadership of a shard.
    pub(super) async fn lead(&self, shard: ShardId, to: usize) {
        let moved = || {
            let leader = self.leader_of(shard)?;
            if leader != to {
                let handle = self.nodes[leader].shard(shard).expect("it leads");
                handle.transfer_leadership(replica(to, shard));
                return None;
            }
            Some(())
        };
        self.within("it leads", moved).await;
    }

    /// Cuts a broker off from the others, or connects it again.
    pub(super) fn cut(&self, broker: usize, is_cut: bool) {
        let mut cut = self.net.cut.lock();
        if is_cut {
            cut.insert(broker);
        } else {
            cut.remove(&broker);
        }
    }

    /// Waits until `look` finds something.
    pub(super) async fn within<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let due = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < due, "it takes too long: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn change(&self, shard: ShardId, change: MembersChange) {
        let due = Instant::now() + Duration::from_secs(60);
        loop {
            let leader = self.within("one leads", || self.leader_of(shard)).await;
            let handle = self.nodes[leader].shard(shard).expect("it leads");
            match handle.change_members(change).await {
                Ok(()) | Err(ChangeError::Rejected(ChangeRejection::NoChange)) => return,
                Err(error) => assert!(Instant::now() < due, "{shard}, {change:?}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a learner has the whole log. It begins with a checkpoint, and one is made after
    /// a change.
    async fn catch_up(&self, shard: ShardId, broker: usize) {
        let due = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < due, "broker {broker} does not catch up with {shard}");
            let leader = self.within("one leads", || self.leader_of(shard)).await;
            let leader = Arc::clone(self.nodes[leader].shard(shard).expect("it leads"));
            let changed = leader.propose(harmless(shard)).await;
            changed.expect("a majority is there");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let has = self.nodes[broker].shard(shard).map(|held| held.applied_index());
            if has.is_some_and(|has| has >= leader.applied_index()) {
                return;
            }
        }
    }

    /// A call of one of the brokers' handlers.
    pub(super) async fn call(&self, api: ApiKey, version: i16, listener: &str) -> Arc<Call> {
        let share = Lanes::new(1 << 20).acquire(Lane::Bulk, 1).await;
        let mut call = Call::of_test(api, share);
        call.version = version;
        let peer = Arc::get_mut(&mut call.peer).expect("it is new");
        peer.listener = listener.into();
        Arc::new(call)
    }

    pub(super) async fn stop(self) {
        for node in &self.nodes {
            node.stop().await;
        }
    }
}

/// A command that no test observes.
fn harmless(shard: ShardId) -> Command {
    if shard == ShardId::CATALOG {
        return Command::Catalog(CatalogCommand::AllocateProducerIds { count: 1 });
    }
    let (group, partitions) = ("none".to_owned(), Vec::new());
    Command::Shard(ShardCommand::DeleteOffsets { group, partitions })
}

type Opened = (Arc<Node>, Arc<Listener>, Arc<Settings>);

fn open(me: usize, net: &Arc<Net>, settings: &[(&str, &str)]) -> Opened {
    let node_id = me.to_string();
    let own = [("group.initial.rebalance.delay.ms", "0"), ("node.id", &node_id)];
    let pairs = own.iter().chain(settings);
    let pairs = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let settings = Arc::new(Settings::new(pairs).expect("valid"));
    let view = Arc::new(View::new(Arc::clone(&settings)));
    let listener = Arc::new(Listener { view, open: OnceLock::new() });
    let identity = match me {
        0 => Identity::first("test".to_owned(), id(me), SHARD.0),
        _ => Identity::joining("test".to_owned(), id(me), SHARD.0),
    };
    let wal = ropewalk_wal::Options {
        file_bytes: 1 << 20,
        first_file_bytes: 1 << 20,
        files_bytes_max: 64 << 20,
        spares_max: 2,
        prefilled: 0,
    };
    let node = Node::open(NodeOptions {
        disk: Arc::new(SimDisk::new(u64::try_from(me).expect("few") + 1)),
        dir: PathBuf::from("/data"),
        format: Some(identity),
        observer: Arc::clone(&listener) as _,
        peers: Arc::new(Side { me, net: Arc::clone(net) }),
        policy: Arc::new(Plain),
        on_fatal: Arc::new(|error| panic!("{error}")),
        on_round: Arc::new(|_| ()),
        clock_ms: crate::clock::now_ms,
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
    for shard in [ShardId::CATALOG, SHARD] {
        node.expect(shard, replica(me, shard));
    }
    net.nodes.lock().push(Arc::downgrade(&node));
    (node, listener, settings)
}

fn context(
    me: usize,
    node: Arc<Node>,
    listener: &Listener,
    settings: Arc<Settings>,
    net: &Arc<Net>,
) -> Arc<Context> {
    let view = Arc::clone(&listener.view);
    let groups = Coordinator::new(Arc::clone(&node), Arc::clone(&view), Options::new(&settings));
    let open = (Arc::downgrade(&node), Arc::clone(&groups));
    listener.open.set(open).expect("a node is opened once");
    view.reload(node.catalog().state().catalog.as_ref().expect("it has the catalog"));
    let side = Arc::new(Side { me, net: Arc::clone(net) });
    let cluster = Cluster::among(Arc::clone(&node), net.known(me), side);
    let reconciler =
        Arc::new(Reconciler::new(Arc::clone(&node), Arc::clone(&view), Arc::clone(&cluster)));
    let topics =
        Topics::new(Arc::clone(&node), Arc::clone(&view), Arc::clone(&settings), reconciler);
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    Arc::new(Context {
        broker_id: id(me).0,
        cluster_id: "test".into(),
        cluster,
        log_dir: "/data".into(),
        settings,
        node,
        view,
        topics,
        groups,
        load: Arc::default(),
        answers: Budget::new(limits::ANSWER_BYTES_MAX),
        remote: OnceLock::new(),
        cold: Budget::new(limits::COLD_BYTES_MAX),
        fetch_sessions: fetch::Sessions::new(10, metrics.fetch_sessions.clone()),
        buffers: Buffers::default(),
        producer_ids: init_producer_id::ProducerIds::default(),
        metrics,
        refusals: LogLimit::default(),
    })
}
