//! What is left, and what is in the way, in clusters of three and four brokers.

use super::*;

const DATA: ShardId = ShardId(1);

fn member(replica: u64, is_caught_up: bool) -> Member {
    Member { replica: ReplicaId(replica), is_voter: true, is_caught_up, matched: 5 }
}

/// Brokers 1 to `brokers`. The catalog and one shard have replicas 1 to 3 on brokers 1 to 3, and
/// replica 1 leads.
fn facts(brokers: i32) -> Facts {
    let brokers = || (1..=brokers).map(BrokerId);
    let placed = |id: i32| {
        let placed = PlacedReplica { broker: BrokerId(id), role: Role::Voter };
        (ReplicaId(u64::from(id.unsigned_abs())), placed)
    };
    let led = |shard| LedShard {
        shard,
        term: 4,
        replica: ReplicaId(1),
        bytes_per_second: 0,
        members: (1..=3).map(|replica| member(replica, true)).collect(),
    };
    let shard = |id| ShardFacts {
        placed: (1..=3).map(placed).collect(),
        leader: Some(BrokerId(1)),
        led: Some(led(id)),
        bytes: Some(10),
    };
    Facts {
        brokers: brokers().map(|id| (id, BrokerInfo::default())).collect(),
        alive: brokers().collect(),
        shards: [ShardId::CATALOG, DATA].map(|id| (id, shard(id))).into(),
    }
}

impl Facts {
    fn with(mut self, broker: i32, standing: Standing) -> Self {
        self.brokers.get_mut(&BrokerId(broker)).expect("listed").standing = standing;
        self
    }

    fn data(&mut self) -> &mut ShardFacts {
        self.shards.get_mut(&DATA).expect("it is there")
    }

    fn of(&self, broker: i32) -> BrokerProgress {
        self.progress(BrokerId(broker)).expect("listed")
    }
}

fn reasons(shards: &[ShardReason]) -> Vec<(u32, &str)> {
    shards.iter().map(|shard| (shard.shard, shard.reason.as_str())).collect()
}

fn restarting() -> Standing {
    Standing::Restarting { incarnation: 0, deadline_ms: 9_000 }
}

#[test]
fn a_broker_that_serves_has_nothing_left() {
    let facts = facts(3);
    assert_eq!(facts.progress(BrokerId(7)), None);
    let progress = facts.of(1);
    assert_eq!((progress.done, progress.leads, progress.replicas), (true, 2, 2));
    assert_eq!((progress.standing.as_str(), progress.bytes), ("Serving", None));
    let late = facts.with(1, Standing::NotRestarted { deadline_ms: 1 }).of(1);
    assert!(late.done && late.message.contains("before its deadline"), "{late:?}");
}

#[test]
fn a_drain_names_each_shard_and_why_it_is_left() {
    let mut facts = facts(4).with(2, Standing::Draining);
    let progress = facts.of(2);
    assert_eq!(reasons(&progress.shards), [(0, "WaitsForOthers"), (1, "Waits")]);
    assert_eq!((progress.done, progress.bytes), (false, Some(20)));
    let learner = PlacedReplica { broker: BrokerId(4), role: Role::Learner };
    facts.data().placed.insert(ReplicaId(4), learner);
    assert_eq!(reasons(&facts.of(2).shards)[1], (1, "CatchesUp"));
    facts.data().placed.remove(&ReplicaId(4));
    facts.alive.remove(&BrokerId(4));
    assert_eq!(reasons(&facts.of(2).shards)[1], (1, "NoBroker"));
    let to_fewer = facts.clone().with(2, Standing::DrainingToFewer).of(2);
    assert_eq!(reasons(&to_fewer.shards)[1], (1, "Waits"));
    assert!(to_fewer.accept_fewer_replicas);
    facts.data().placed.get_mut(&ReplicaId(2)).expect("placed").role = Role::Leaving;
    assert_eq!(reasons(&facts.of(2).shards)[1], (1, "Leaves"));
    facts.data().leader = None;
    assert_eq!(reasons(&facts.of(2).shards)[1], (1, "NoLeader"));
    facts.data().placed.remove(&ReplicaId(2));
    assert_eq!(reasons(&facts.of(2).shards), [(0, "Waits")]);
    facts.shards.clear();
    assert!(facts.of(2).done);
}

#[test]
fn a_drained_broker_sees_from_the_leader_that_its_replica_of_the_catalog_is_gone() {
    let facts = facts(4).with(2, Standing::Draining);
    let catalog = |role, members: usize| {
        let mut shard = facts.shards[&ShardId::CATALOG].clone();
        shard.placed.get_mut(&ReplicaId(2)).expect("placed").role = role;
        shard.led.as_mut().expect("led").members.retain(|m| m.replica.0 != 2 || members == 3);
        let shards = [(ShardId::CATALOG, shard.without_gone(BrokerId(2)))].into();
        Facts { shards, ..facts.clone() }.of(2)
    };
    assert!(!catalog(Role::Leaving, 3).done, "it is a member");
    assert!(!catalog(Role::Voter, 2).done, "the catalog wants it to vote");
    let gone = catalog(Role::Leaving, 2);
    assert_eq!((gone.done, gone.replicas), (true, 0));
}

#[test]
fn a_restart_waits_until_nothing_is_led_there() {
    let mut facts = facts(3).with(1, restarting());
    let progress = facts.of(1);
    assert_eq!(reasons(&progress.shards), [(0, "Leads"), (1, "Leads")]);
    assert_eq!((progress.done, progress.deadline_ms), (false, Some(9_000)));
    facts.shards.values_mut().for_each(|shard| shard.leader = Some(BrokerId(2)));
    assert!(facts.of(1).done);
    facts.brokers.get_mut(&BrokerId(1)).expect("listed").incarnation = 1;
    assert!(facts.of(1).message.contains("was restarted"));
}

#[test]
fn k2_a_restart_is_in_the_way_of_a_majority_when_another_voter_is_away_or_behind() {
    let mut facts = facts(3);
    assert_eq!(facts.at_risk(BrokerId(1)), []);
    facts.data().led.as_mut().expect("led").members[1] = member(2, false);
    let at_risk = facts.at_risk(BrokerId(1));
    assert_eq!(reasons(&at_risk), [(1, "TooFewReplicas")]);
    assert_eq!(at_risk[0].message, "broker 2 lacks entries");
    assert_eq!(facts.at_risk(BrokerId(2)), [], "its own restart makes nothing worse");
    facts.alive.remove(&BrokerId(3));
    let messages: Vec<_> =
        facts.at_risk(BrokerId(1)).into_iter().map(|shard| shard.message).collect();
    assert_eq!(messages, ["broker 3 is away", "broker 2 lacks entries, broker 3 is away"]);
    facts.data().led = None;
    assert_eq!(reasons(&facts.at_risk(BrokerId(1)))[1], (1, "NoLeader"));
    // What was prepared before is not done any more.
    let facts = facts.with(1, restarting());
    assert_eq!(reasons(&facts.of(1).shards), [(0, "TooFewReplicas"), (1, "NoLeader")]);
}

#[test]
fn the_members_that_vote_count_and_not_those_that_the_catalog_wants() {
    let mut facts = facts(3);
    facts.data().led.as_mut().expect("led").members.truncate(1);
    let at_risk = facts.at_risk(BrokerId(1));
    assert_eq!(reasons(&at_risk), [(1, "TooFewReplicas")]);
    assert_eq!(at_risk[0].message, "too few other replicas vote yet");
}

#[test]
fn a_shard_without_another_replica_does_not_hold_up_a_restart() {
    let mut facts = facts(3).with(1, restarting());
    facts.shards.remove(&ShardId::CATALOG);
    facts.data().placed.retain(|replica, _| *replica == ReplicaId(1));
    facts.data().led.as_mut().expect("led").members.truncate(1);
    let progress = facts.of(1);
    assert!(progress.done && progress.message.contains("1 shards have no other replica"));
}
