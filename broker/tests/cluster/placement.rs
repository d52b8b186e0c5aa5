//! Brokers whose catalog is replicated as well: replicas are placed, moved and destroyed, and
//! topics are created, through any of them.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use ropewalk_broker::catalog::{
    Balancer, MembersLoop, NewTopic, Placement, Reconciler, Topics, View,
};
use ropewalk_broker::cluster::metrics::PeerMetrics;
use ropewalk_broker::cluster::{Cluster, Link, Options};
use ropewalk_broker::settings::Settings;
use ropewalk_disk::SimDisk;
use ropewalk_node::{Node, Observer, ShardHandle};
use ropewalk_peer::{CertificateFiles, Class};
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::command::{BrokerInfo, CatalogCommand, Command, PeerEndpoint, Role, Standing};
use ropewalk_shard::state::catalog::{Answer, Refusal};
use ropewalk_shard::{BrokerId, Effect, Outcome, PartitionId, ShardId};
use ropewalk_store::policy::Policy;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::authority::{Authority, CLUSTER};
use crate::broker::{options, until, within};
use crate::catalog::known;

/// Shards beside the catalog.
const SHARDS: u32 = 3;

/// Passes the effects of a node on, as the broker's own listener does.
#[derive(Debug)]
struct Listener {
    view: Arc<View>,
    link: Arc<Link>,
    node: OnceLock<Weak<Node>>,
}

impl Observer for Listener {
    fn applied(&self, _: ShardId, effects: &[Effect]) {
        let Some(node) = self.node.get().and_then(Weak::upgrade) else { return };
        for effect in effects {
            let Effect::CatalogChanged(change) = effect else { continue };
            let state = node.catalog().state();
            self.view.follow(state.catalog.as_ref().expect("of the catalog"), change);
        }
    }

    fn leads(&self, _: ShardId, _: Option<u64>) {
        self.link.leads();
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

/// A broker with all loops of its catalog.
struct Broker {
    id: BrokerId,
    node: Arc<Node>,
    view: Arc<View>,
    cluster: Arc<Cluster>,
    topics: Topics,
    tasks: JoinSet<()>,
    _files: TempDir,
}

impl Broker {
    fn start(number: i32, (files, certificates): (TempDir, CertificateFiles)) -> Self {
        let id = BrokerId(number);
        let settings = Arc::new(Settings::new([]).expect("valid"));
        let view = Arc::new(View::new(Arc::clone(&settings)));
        let link = Link::new(id, Arc::clone(&view) as _);
        let listener =
            Listener { view: Arc::clone(&view), link: Arc::clone(&link), node: OnceLock::new() };
        let listener = Arc::new(listener);
        let disk = SimDisk::new(u64::from(number.unsigned_abs()) + 1);
        let (peers, observer) = (Arc::clone(&link) as _, Arc::clone(&listener) as _);
        let node = Node::open(options(disk, (id, SHARDS), peers, observer, Arc::new(Plain)));
        let node = Arc::new(node.expect("it opens"));
        listener.node.set(Arc::downgrade(&node)).expect("once");
        if let Some(catalog) = node.try_catalog() {
            view.reload(catalog.state().catalog.as_ref().expect("of the catalog"));
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let peers = ropewalk_peer::Options {
            broker: id,
            cluster_id: CLUSTER.to_owned(),
            incarnation: 1,
            started: None,
            features: 1,
            listen: [any, any],
            certificates,
        };
        let options = Options { node: Arc::clone(&node), link, own: known(id), peers };
        let (cluster, service) = Cluster::open(options).expect("it opens");
        let (n, v, c) = (|| Arc::clone(&node), || Arc::clone(&view), || Arc::clone(&cluster));
        let reconciler = Arc::new(Reconciler::new(n(), v(), c()));
        let topics = Topics::new(n(), v(), settings, Arc::clone(&reconciler));
        let mut tasks = JoinSet::new();
        tasks.spawn(async { service.run().await.expect("no task ends") });
        tasks.spawn(Arc::new(MembersLoop::new(c(), n(), v())).run());
        tasks.spawn(Arc::new(Balancer::new(c(), n(), v())).run());
        let waits = n();
        tasks.spawn(async move {
            waits.catalog_arrived().await;
            reconciler.run().await;
        });
        Self { id, node, view, cluster, topics, tasks, _files: files }
    }

    /// How often another broker has refused this one.
    fn hellos_rejected(&self) -> f64 {
        let mut registry = Registry::default();
        let metrics = PeerMetrics::default();
        metrics.set(&self.cluster);
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoded");
        let rejected = text.lines().filter(|line| line.starts_with("peer_hellos_rejected_total{"));
        let number = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok());
        rejected.filter_map(number).sum()
    }

    fn endpoint(&self) -> PeerEndpoint {
        let port = |class| self.cluster.local_addr(class).expect("it is bound").port();
        PeerEndpoint { host: "127.0.0.1".to_owned(), ports: Class::ALL.map(port) }
    }

    async fn change(&self, command: CatalogCommand) -> Answer {
        loop {
            let command = Command::Catalog(command.clone());
            match self.cluster.propose(ShardId::CATALOG, command).await {
                Ok(Outcome::Catalog { answer, .. }) => return answer,
                // The leader was replaced, and nothing was changed.
                Ok(Outcome::TermChanged) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Changes the standing of a broker, as this one sees it.
    async fn stand(&self, broker: BrokerId, to: Standing) -> Answer {
        let from = self.view.brokers()[&broker].standing;
        self.change(CatalogCommand::ChangeStanding { broker, from, to }).await
    }

    /// The replicas that a broker has in this one's view.
    fn held_by(&self, broker: BrokerId) -> usize {
        let placements = self.view.placements();
        let all = placements.values().flat_map(|placement| placement.values());
        all.filter(|placed| placed.broker == broker).count()
    }

    /// Lets another broker join through this one.
    async fn admit(&self, joining: &Self) {
        let listed = self.view.brokers();
        let others = listed.iter().filter_map(|(id, info)| Some((*id, info.peer.clone()?)));
        let own = (self.id, self.endpoint());
        let seeds = others.chain([own]).map(|(id, PeerEndpoint { host, ports })| {
            (id, ropewalk_peer::PeerAddress { host, ports })
        });
        joining.cluster.seed(seeds.collect());
        self.register(joining).await;
        let shard = ShardId::CATALOG;
        let place = CatalogCommand::PlaceReplica { shard, broker: joining.id };
        let answer = self.change(place).await;
        let Answer::Replica(replica) = answer else { panic!("{answer:?}") };
        joining.node.expect(shard, replica.0);
    }

    async fn register(&self, of: &Self) {
        let peer = Some(of.endpoint());
        let info = BrokerInfo { peer, incarnation: 1, ..BrokerInfo::default() };
        let command = CatalogCommand::RegisterBroker { broker: of.id, info };
        assert_eq!(self.change(command).await, Answer::Done);
    }

    /// Whether the view shows so many voters of every shard, and nothing else but learners of the
    /// catalog.
    fn shows_voters(&self, voters: usize) -> bool {
        let is_settled = |(shard, placement): (&ShardId, &Arc<Placement>)| {
            let with = |role| placement.values().filter(|placed| placed.role == role).count();
            let learners = with(Role::Learner);
            with(Role::Voter) == voters
                && with(Role::Leaving) == 0
                && (learners == 0 || *shard == ShardId::CATALOG)
        };
        let placements = self.view.placements();
        !placements.is_empty() && placements.iter().all(is_settled)
    }

    /// The shards that this broker leads.
    fn led(&self) -> usize {
        self.node.shards().filter(|shard| shard.leading().is_some()).count()
    }

    async fn stop(mut self) {
        self.node.stop().await;
        self.cluster.stop();
        self.tasks.shutdown().await;
    }
}

fn topic(name: &str) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions: Some(3), configs: vec![], owner: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_to_three_brokers_and_a_drained_one_is_left_and_forgotten() {
    let authority = Authority::new();
    let brokers: Vec<_> = (0..3).map(|id| Broker::start(id, authority.files(id))).collect();
    let first = &brokers[0];
    until("the first leads", || first.led() == 4).await;
    let created = first.topics.create(vec![topic("early")], false).await;
    created[0].as_ref().expect("it is created");
    first.register(first).await;
    for joining in &brokers[1..] {
        first.admit(joining).await;
    }
    until("all replicas vote", || brokers.iter().all(|broker| broker.shows_voters(3))).await;
    let has_four = |broker: &Broker| broker.node.shard_ids_held().len() == 4;
    until("all hold all", || brokers.iter().all(has_four)).await;
    until("leaders are spread", || brokers.iter().all(|broker| broker.led() >= 1)).await;

    // Any broker creates topics and deletes them, whichever broker leads.
    for broker in &brokers {
        let created = within("it is created", async {
            broker.topics.create(vec![topic(&format!("by-{}", broker.id.0))], false).await
        });
        let made = created.await.remove(0).expect("it is created");
        let seen = broker.view.by_id(made.id).expect("its own view has it");
        for (index, home) in (0..).zip(&seen.partitions) {
            let partition = PartitionId { topic: made.id, index };
            let leader = broker.cluster.leader(home.shard).expect("it was asked");
            let leader = &brokers[usize::try_from(leader.broker.0).expect("few")];
            assert!(leader.node.shard(home.shard).expect("it leads").log(&partition).is_some());
        }
        let deleted = broker.topics.delete(vec![made.id]).await.expect("the catalog is led");
        assert_eq!(deleted, [Ok(made.id)]);
        let is_closed = |broker: &Broker| {
            broker.node.shards().all(|shard| shard.partitions().iter().all(|p| p.topic != made.id))
        };
        until("it is closed everywhere", || brokers.iter().all(is_closed)).await;
    }

    // The first broker, which held everything, is drained and then removed.
    let (drained, other) = (first.id, &brokers[1]);
    let refused = other.stand(drained, Standing::Draining).await;
    let is_refused = matches!(&refused, Answer::Refused(Refusal::TooFewBrokers { shards, .. }) if shards.len() == 4);
    assert!(is_refused, "{refused:?}");
    assert_eq!(other.stand(drained, Standing::DrainingToFewer).await, Answer::Done);
    until("it is left", || other.held_by(drained) == 0).await;
    until("it destroys its replicas", || {
        first.node.shard_ids_held().keys().all(|shard| *shard == ShardId::CATALOG)
    })
    .await;
    let forget = CatalogCommand::ForgetBroker { broker: drained };
    assert_eq!(other.change(forget).await, Answer::Done);
    // It comes back, and is neither connected nor registered.
    until("its connections are refused", || first.hellos_rejected() > 0.0).await;
    let info = BrokerInfo { incarnation: 2, ..BrokerInfo::default() };
    let back = CatalogCommand::RegisterBroker { broker: drained, info };
    let refused = other.change(back).await;
    assert_eq!(refused, Answer::Refused(Refusal::BrokerForgotten { broker: drained }));
    let early = other.view.by_name("early").expect("it is still there");
    for home in &early.partitions {
        until("its shard is led", || other.cluster.leader(home.shard).is_some()).await;
    }
    for broker in brokers {
        broker.stop().await;
    }
}

/// A cluster of so many brokers, in which each shard has three voters.
async fn grown(authority: &Authority, count: i32) -> Vec<Broker> {
    let brokers: Vec<_> = (0..count).map(|id| Broker::start(id, authority.files(id))).collect();
    until("the first leads", || brokers[0].led() == 4).await;
    brokers[0].register(&brokers[0]).await;
    for joining in &brokers[1..] {
        brokers[0].admit(joining).await;
    }
    until("three replicas vote", || brokers.iter().all(|broker| broker.shows_voters(3))).await;
    brokers
}

/// The disk of a broker is lost. Its id cannot come back with an empty directory (D4): a broker
/// with another id takes its replicas, and then it is removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_a_broker_that_lost_its_disk_is_replaced_by_one_with_another_id() {
    let authority = Authority::new();
    let mut brokers = grown(&authority, 3).await;
    let created = brokers[0].topics.create(vec![topic("kept")], false).await;
    created[0].as_ref().expect("it is created");
    let lost = brokers.pop().expect("there are three");
    let id = lost.id;
    lost.stop().await;
    let first = &brokers[0];
    let leader = || first.cluster.leader(ShardId::CATALOG).map(|leader| leader.broker);
    until("another leads", || leader().is_some_and(|leader| leader != id)).await;
    let refused = within("an answer", first.stand(id, Standing::Draining)).await;
    assert!(matches!(refused, Answer::Refused(Refusal::TooFewBrokers { .. })), "{refused:?}");
    let replacement = Broker::start(7, authority.files(7));
    within("it joins", first.admit(&replacement)).await;
    let drained = within("an answer", first.stand(id, Standing::Draining)).await;
    assert_eq!(drained, Answer::Done);
    until("the replicas are replaced", || first.held_by(id) == 0).await;
    until("three vote", || first.shows_voters(3) && replacement.shows_voters(3)).await;
    assert_eq!(first.held_by(replacement.id), 4);
    until("they are there", || replacement.node.shard_ids_held().len() == 4).await;
    let removed = first.change(CatalogCommand::ForgetBroker { broker: id }).await;
    assert_eq!(removed, Answer::Done);
    assert!(replacement.view.by_name("kept").is_some());
    for broker in brokers.into_iter().chain([replacement]) {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_become_five_and_three_again_with_three_replicas_of_each_shard() {
    let authority = Authority::new();
    let brokers = grown(&authority, 5).await;
    let last = &brokers[4];
    let data = |broker: &Broker| {
        let held = broker.node.shard_ids_held();
        held.keys().filter(|shard| **shard != ShardId::CATALOG).count()
    };
    // Nine replicas of data shards on five brokers.
    until("replicas are spread", || brokers.iter().all(|broker| (1..=2).contains(&data(broker))))
        .await;
    for drained in [&brokers[0], &brokers[2]] {
        let answer = within("an answer", last.stand(drained.id, Standing::Draining)).await;
        assert_eq!(answer, Answer::Done);
        until("it is left", || last.held_by(drained.id) == 0).await;
    }
    let refused = within("an answer", last.stand(id_of(1), Standing::Draining)).await;
    assert!(matches!(refused, Answer::Refused(Refusal::TooFewBrokers { .. })), "{refused:?}");
    for drained in [0, 2] {
        let forget = CatalogCommand::ForgetBroker { broker: id_of(drained) };
        assert_eq!(within("an answer", last.change(forget)).await, Answer::Done);
    }
    until("three vote", || last.shows_voters(3)).await;
    for broker in brokers {
        broker.stop().await;
    }
}

fn id_of(broker: i32) -> BrokerId {
    BrokerId(broker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_to_be_restarted_leads_nothing_until_the_deadline() {
    let authority = Authority::new();
    let brokers = grown(&authority, 3).await;
    let muted = brokers.iter().find(|broker| broker.led() > 0).expect("one leads");
    let other = brokers.iter().find(|broker| broker.id != muted.id).expect("there are three");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let deadline_ms = i64::try_from(now.as_millis()).expect("it fits") + 20_000;
    let prepared = Standing::Restarting { incarnation: 1, deadline_ms };
    assert_eq!(within("an answer", other.stand(muted.id, prepared)).await, Answer::Done);
    until("it leads nothing", || muted.led() == 0).await;
    let all_led = || {
        other.view.placements().keys().all(|shard| {
            other.cluster.leader(*shard).is_some_and(|leader| leader.broker != muted.id)
        })
    };
    until("the others lead", all_led).await;
    let standing = || other.view.brokers()[&muted.id].standing;
    assert_eq!(standing(), prepared, "the deadline has not passed");
    let late = Standing::NotRestarted { deadline_ms };
    until("the preparation ends", || standing() == late).await;
    for broker in brokers {
        broker.stop().await;
    }
}
