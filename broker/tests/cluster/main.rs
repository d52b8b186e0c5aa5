//! Brokers in one process that replicate a shard over QUIC on the loopback device, with nodes on
//! simulated disks and a catalog that the test writes.

mod authority;
mod broker;
mod catalog;
mod impostor;
mod placement;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use ropewalk_broker::cluster::metrics::PeerMetrics;
use ropewalk_broker::cluster::{Entrance, Holders, Leader, Seen};
use ropewalk_peer::limits::BULK_FRAME_BYTES_MAX;
use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::{BrokerId, Outcome, ProposeError, ReplicaId, ShardId};

use crate::broker::{Brokers, REPLICAS, SHARD, until, within};

/// Deletes a group that does not exist: a command that any leader can apply.
fn a_command() -> Command {
    Command::Shard(ShardCommand::DeleteGroup { group: "absent".to_owned() })
}

/// The value of a metric with its labels.
fn value(metrics: &str, name: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().expect("a number")
}

fn id(broker: usize) -> BrokerId {
    BrokerId(i32::try_from(broker).expect("it is small"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_a_shard_on_three_brokers_survives_the_loss_of_any() {
    let mut brokers = Brokers::start(3).await;
    within("the shard grows", brokers.grow()).await;
    let mut expected = Vec::new();
    let append = async |brokers: &Brokers, expected: &mut Vec<Vec<u8>>| {
        for _ in 0..20 {
            let value = [&expected.len().to_le_bytes()[..], &[7; 2000]].concat();
            within("an append", brokers.append(&value)).await;
            expected.push(value);
        }
    };
    append(&brokers, &mut expected).await;
    for lost in 0..3 {
        brokers.stop(lost).await;
        let leader = within("another leads", brokers.leader()).await;
        assert_ne!(leader, lost);
        append(&brokers, &mut expected).await;
        brokers.restart(lost);
        for broker in 0..3 {
            within("it follows", brokers.catches_up(broker)).await;
            assert_eq!(brokers.distinct(broker), expected, "broker {broker}");
        }
    }
    brokers.stop_all().await;
}

/// Without the hand-over a shard waits for an election timeout, and this test for a leader that
/// does not stop by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_hands_its_leaderships_over() {
    let mut brokers = Brokers::start(3).await;
    within("the shard grows", brokers.grow()).await;
    for round in 0..3 {
        let leader = within("one leads", brokers.leader()).await;
        let term = brokers.shard(leader).and_then(|held| held.leading()).expect("it leads");
        assert!(within("the hand-over", brokers.cluster(leader).hand_over()).await, "it led");
        assert!(!within("no hand-over", brokers.cluster(leader).hand_over()).await, "nothing");
        assert_eq!(brokers.shard(leader).and_then(|held| held.leading()), None, "round {round}");
        let next = within("another leads", brokers.leader()).await;
        assert_ne!(next, leader);
        let replication = brokers.shard(next).expect("it leads").replication();
        assert_eq!(replication.term, term + 1, "there was no other election");
        within("an append", brokers.append(b"goes on")).await;
        within("all follow", brokers.catches_up(leader)).await;
    }
    brokers.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broker_knows_the_leader_and_can_propose() {
    let mut brokers = Brokers::start(3).await;
    // Two of them have no replica yet: they know the leader only from its reports.
    for broker in 0..3 {
        let cluster = Arc::clone(brokers.cluster(broker));
        until("the leader is known", || cluster.leader(SHARD).map(|l| l.broker) == Some(id(0)))
            .await;
        let outcome = within("a proposal", cluster.propose(SHARD, a_command())).await;
        assert!(matches!(outcome, Ok(Outcome::GroupRefused(_))), "{outcome:?}");
        until("the report is here", || !cluster.holders(SHARD).voters.is_empty()).await;
        assert_eq!(cluster.holders(SHARD).voters, [id(0)]);
        assert!(cluster.is_alive(id(0)) && !cluster.is_alive(id(9)));
        let known: Vec<_> = cluster.brokers().iter().map(|broker| broker.id).collect();
        assert_eq!(known, [id(0), id(1), id(2)]);
        assert_eq!(cluster.broker(id(2)).map(|broker| broker.id), Some(id(2)));
        assert_eq!(cluster.broker(id(9)), None);
    }
    within("the shard grows", brokers.grow()).await;
    let all = vec![id(0), id(1), id(2)];
    let (voters, reachable, learners) = (all.clone(), all.clone(), Vec::new());
    let expected = Holders { voters, learners, reachable, in_sync: all };
    for broker in 0..3 {
        let cluster = brokers.cluster(broker);
        until("all are members", || cluster.holders(SHARD) == expected).await;
    }
    let followers = |broker: usize| {
        let held = brokers.shard(broker).expect("it has a replica");
        let mut found = brokers.cluster(broker).followers_in_sync(&held);
        found.sort_unstable();
        found
    };
    until("the leader knows how far they are", || followers(0) == [id(1), id(2)]).await;
    assert_eq!(followers(1), [], "it does not lead");
    // The leadership is handed over through a broker that has nothing to do with it.
    let to = ReplicaId(REPLICAS[1]);
    within("it is taken", async { while brokers.cluster(2).transfer(SHARD, to).await.is_err() {} })
        .await;
    let mut found = None;
    for broker in 0..3 {
        let cluster = brokers.cluster(broker);
        let leads = |leader: Option<Leader>| leader.map(|leader| leader.broker) == Some(id(1));
        until("the new leader is known", || leads(cluster.leader(SHARD))).await;
        let leader = cluster.leader(SHARD);
        assert!(found.is_none() || found == leader, "{found:?}, {leader:?}");
        found = leader;
    }
    // A report says how far the replicas are, and reaches the others.
    let seen_by_another = || {
        let reports = brokers.cluster(2).reports();
        let led = reports.iter().find(|report| report.broker == id(1))?.led.clone();
        let led = led.into_iter().find(|led| led.shard == SHARD)?;
        (led.members.iter().filter(|member| member.is_caught_up).count() == 3).then_some(led)
    };
    until("the report is here", || seen_by_another().is_some()).await;
    assert_eq!(seen_by_another().map(|led| led.replica), Some(to));
    // The leader is lost: a proposal that begins now waits for the next one.
    brokers.stop(1).await;
    let cluster = Arc::clone(brokers.cluster(2));
    let outcome = within("a proposal", cluster.propose(SHARD, a_command())).await;
    assert!(matches!(outcome, Ok(Outcome::GroupRefused(_))), "{outcome:?}");
    until("it is dead", || !cluster.is_alive(id(1))).await;
    assert!(cluster.reports().iter().all(|report| report.broker != id(1)));
    assert!(!cluster.holders(SHARD).reachable.contains(&id(1)));
    for broker in [0, 2] {
        let cluster = brokers.cluster(broker);
        until("it is no longer in sync", || cluster.holders(SHARD).in_sync == [id(0), id(2)]).await;
    }
    brokers.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_whose_leader_is_lost_is_reported_as_unknown() {
    let mut brokers = Brokers::start(2).await;
    let cluster = Arc::clone(brokers.cluster(1));
    let known = || cluster.leader(SHARD).map(|found| found.broker) == Some(id(0));
    until("the leader is known", known).await;
    let log = brokers.hold_log(0);
    let proposals: Vec<_> = (0..3)
        .map(|_| {
            let proposer = Arc::clone(&cluster);
            tokio::spawn(async move { proposer.propose(SHARD, a_command()).await })
        })
        .collect();
    // Each request reserves the largest frame for its answer; one may be a report.
    let metrics = brokers.metrics(1);
    let queued = "ropewalk_peer_queued_bytes{broker=\"0\",lane=\"bulk\"} ";
    let under_way = || value(&metrics(), queued) >= (3 * BULK_FRAME_BYTES_MAX) as f64;
    until("two are under way", under_way).await;
    let node = brokers.kill(0);
    let mut unknown = 0;
    for proposal in proposals {
        match within("the proposal", proposal).await.expect("no panic") {
            Err(ProposeError::Unknown) => unknown += 1,
            // It was not sent in time.
            outcome => assert_eq!(outcome, Err(ProposeError::NotLeader)),
        }
    }
    assert!(unknown >= 2, "{unknown} of those under way");
    let connected = "ropewalk_peer_connected{broker=\"0\",class=\"bulk\"} ";
    until("the end is noticed", || value(&metrics(), connected) == 0.0).await;
    // No broker leads any more, so the next one is not sent.
    let outcome = within("a proposal", cluster.propose(SHARD, a_command())).await;
    assert_eq!(outcome, Err(ProposeError::NotLeader));
    log.release();
    node.stop().await;
    brokers.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_replica_of_another_broker_are_refused_and_counted() {
    let mut brokers = Brokers::start(3).await;
    // To broker 1, the leader's replica is on broker 2.
    brokers.catalog(1).place(SHARD, ReplicaId(REPLICAS[0]), id(2));
    brokers.add_learner(1).await;
    let metrics = brokers.metrics(1);
    until("it refuses", || {
        let refused = "ropewalk_peer_messages_refused_total{reason=\"other_broker\"} ";
        value(&metrics(), refused) > 0.0
    })
    .await;
    assert!(brokers.node(1).shard(SHARD).is_none(), "it has begun with the files");
    // The catalog is corrected.
    brokers.catalog(1).place(SHARD, ReplicaId(REPLICAS[0]), id(0));
    within("it joins", brokers.join(1)).await;
    let text = metrics();
    for expected in [
        "ropewalk_peer_connected{broker=\"0\",class=\"raft\"} 1",
        "ropewalk_peer_connected{broker=\"2\",class=\"bulk\"} 1",
        "ropewalk_peer_queued_bytes{broker=\"2\",lane=\"append\"} 0",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    brokers.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joining_broker_without_a_catalog_learns_who_sends_to_it() {
    let mut brokers = Brokers::start(2).await;
    // All that broker 1 knows is where broker 0 is.
    brokers.catalog(1).forget_all();
    let cluster = brokers.cluster(1);
    cluster.seed([(id(0), brokers.address(0))].into());
    within("it joins", brokers.join(1)).await;
    assert!(brokers.node(1).shard(SHARD).is_some());
    brokers.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_alone_leads_all_that_it_has() {
    let broker = broker::alone();
    let cluster = &broker.cluster;
    until("it leads", || cluster.leader(SHARD).is_some()).await;
    let own = vec![BrokerId(0)];
    let (voters, reachable, learners) = (own.clone(), own.clone(), Vec::new());
    let expected = Holders { voters, learners, reachable, in_sync: own };
    assert_eq!(cluster.holders(SHARD), expected);
    let outcome = cluster.propose(SHARD, a_command()).await;
    assert!(matches!(outcome, Ok(Outcome::GroupRefused(_))), "{outcome:?}");
    assert_eq!(cluster.propose(ShardId(99), a_command()).await, Err(ProposeError::NotLeader));
    let reports = cluster.reports();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].led.len(), 2, "the catalog and one shard");
    let mut registry = Registry::with_prefix("ropewalk");
    let metrics = PeerMetrics::default();
    metrics.set(cluster);
    registry.register_collector(Box::new(metrics));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("it is encoded");
    assert_eq!(text, "# EOF\n");
    broker.node.stop().await;
}

/// Clients are informed of the last leader, while nothing is decided by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_loses_the_others_remembers_who_led() {
    let mut brokers = Brokers::start(3).await;
    within("the shard grows", brokers.grow()).await;
    // The first broker leads the catalog all the time.
    let (leader, other) = (1, 0);
    brokers.moves_to(leader).await;
    let term = brokers.shard(leader).and_then(|held| held.leading()).expect("it leads");
    let cluster = Arc::clone(brokers.cluster(2));
    let led = Some(Leader { broker: id(leader), term });
    until("it is known", || cluster.leader(SHARD) == led).await;
    assert!(!cluster.lacks_majority(SHARD));

    brokers.stop(other).await;
    until("one is lost", || !cluster.is_alive(id(other))).await;
    assert!(!cluster.lacks_majority(SHARD), "two of three");
    drop(brokers.kill(leader));
    until("both are lost", || cluster.lacks_majority(SHARD)).await;
    until("no broker is known to lead", || cluster.leader(SHARD).is_none()).await;
    assert_eq!(cluster.last_leader(SHARD), Seen { term, leader: Some(id(leader)) });
    assert!(cluster.leads_any(id(leader)) && !cluster.leads_any(id(2)));

    brokers.restart(other);
    let next = within("another leads", brokers.leader()).await;
    let is_new = || cluster.leader(SHARD).is_some_and(|found| found.broker == id(next));
    until("it is known", is_new).await;
    assert!(cluster.last_leader(SHARD).term > term);
    assert!(!cluster.leads_any(id(leader)), "also if this broker leads now");
    assert!(!cluster.lacks_majority(SHARD));
    drop(cluster);
    brokers.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_served_unless_the_broker_is_cut_off() {
    let mut brokers = Brokers::start(3).await;
    // The catalog is on the first broker only.
    for of in 0..3 {
        brokers.catalog(of).place(ShardId::CATALOG, ReplicaId(1), id(0));
    }
    within("the shard grows", brokers.grow()).await;
    let cluster = Arc::clone(brokers.cluster(2));
    let (entrance, serving) = Entrance::new(&cluster, brokers.node(2));
    let watch = tokio::spawn(async move {
        entrance.open().await;
        entrance.watch().await;
    });
    until("the catalog is led", || *serving.borrow()).await;
    brokers.moves_to(2).await;
    brokers.stop(0).await;
    until("the catalog is lost", || cluster.lacks_majority(ShardId::CATALOG)).await;
    let mut seen = serving.clone();
    seen.mark_unchanged();
    let closed = tokio::time::timeout(Duration::from_secs(2), seen.changed()).await;
    assert!(closed.is_err() && *serving.borrow(), "it leads a shard");
    brokers.stop(1).await;
    until("it leads nothing", || !*serving.borrow()).await;
    brokers.restart(1);
    within("one leads", brokers.leader()).await;
    brokers.restart(0);
    until("the catalog is led again", || *serving.borrow()).await;
    watch.abort();
    let _ = watch.await;
    drop(cluster);
    brokers.stop_all().await;
}
