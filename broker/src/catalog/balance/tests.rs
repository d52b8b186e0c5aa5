//! What the balancer sees, and when it may change anything.

use ropewalk_shard::command::Standing as Wanted;
use ropewalk_shard::state::catalog::PlacedReplica;

use super::*;
use crate::cluster::report::{Flags, Member as Reported};

const SHARD: ShardId = ShardId(1);

/// Brokers 1 to 4. Replicas 1 to 3 of the shard are on brokers 1 to 3 and vote; replica 1 leads.
struct Scene {
    now: Instant,
    brokers: BTreeMap<BrokerId, BrokerInfo>,
    placement: Placement,
    reports: Vec<Report>,
    history: History,
}

fn report(broker: i32) -> Report {
    let broker = BrokerId(broker);
    Report { broker, incarnation: 1, sequence: 1, flags: Flags::default(), led: Vec::new() }
}

fn reported(replica: u64, is_voter: bool) -> Reported {
    Reported { replica: ReplicaId(replica), is_voter, is_caught_up: true, matched: 5 }
}

fn placed(broker: i32, role: Role) -> PlacedReplica {
    PlacedReplica { broker: BrokerId(broker), role }
}

impl Scene {
    fn new() -> Self {
        let replica = |id: i32| (ReplicaId(u64::from(id.unsigned_abs())), placed(id, Role::Voter));
        let mut scene = Self {
            now: Instant::now() + Duration::from_secs(1000),
            brokers: (1..=4).map(|id| (BrokerId(id), BrokerInfo::default())).collect(),
            placement: (1..=3).map(replica).collect(),
            reports: (1..=4).map(report).collect(),
            history: History::default(),
        };
        let members = (1..=3).map(|id| reported(id, true)).collect();
        scene.reports[0].led.push(led(1, 7, members));
        scene
    }

    fn seen<T>(&self, look: impl FnOnce(&Seen<'_>) -> T) -> T {
        let shards = BTreeMap::from([(SHARD, Arc::new(self.placement.clone()))]);
        let reports: Vec<_> = self.reports.iter().cloned().map(Arc::new).collect();
        look(&Seen { now: self.now, brokers: &self.brokers, shards: &shards, reports: &reports })
    }

    fn cluster(&self) -> replicas::Cluster {
        self.seen(|seen| seen.cluster(&self.history))
    }

    fn shard(&self) -> Shard {
        self.cluster().shards.remove(&SHARD).expect("listed")
    }

    fn hear(&mut self, silent: &[i32]) {
        let mut history = std::mem::take(&mut self.history);
        self.seen(|seen| history.hear(seen, |broker| !silent.contains(&broker.0)));
        self.history = history;
    }

    fn standing(&self, broker: i32) -> Standing {
        self.cluster().brokers[&BrokerId(broker)].standing
    }
}

fn led(replica: u64, term: u64, members: Vec<Reported>) -> LedShard {
    LedShard { shard: SHARD, term, replica: ReplicaId(replica), bytes_per_second: 30, members }
}

#[test]
fn a_shard_whose_members_are_as_wanted_is_seen_with_its_leader() {
    let mut scene = Scene::new();
    let shard = scene.shard();
    assert_eq!((shard.leader, shard.load, shard.moved_ago), (Some(ReplicaId(1)), 30, None));
    assert!(shard.members.iter().all(|member| member.is_voter && member.is_caught_up));
    assert_eq!(replicas::next_steps(&scene.cluster()), []);
    // A broker that has lost the leadership, and does not know it.
    let members = (1..=3).map(|id| reported(id, true)).collect();
    scene.reports[1].led.push(led(2, 8, members));
    assert_eq!(scene.shard().leader, Some(ReplicaId(2)));
}

#[test]
fn a_shard_is_left_alone_until_its_members_are_as_wanted() {
    let mut scene = Scene::new();
    let list = |scene: &mut Scene, role| scene.placement.insert(ReplicaId(4), placed(4, role));
    list(&mut scene, Role::Learner);
    assert_eq!(scene.shard().leader, Some(ReplicaId(1)), "a learner may come late");
    assert!(!scene.shard().members[3].is_caught_up);
    list(&mut scene, Role::Voter);
    assert_eq!(scene.shard().leader, None, "it does not vote yet");
    scene.reports[0].led[0].members.push(reported(4, false));
    assert_eq!(scene.shard().leader, None);
    assert!(!scene.shard().members[3].is_caught_up, "as a voter");
    scene.reports[0].led[0].members[3].is_voter = true;
    assert_eq!(scene.shard().leader, Some(ReplicaId(1)));
    list(&mut scene, Role::Leaving);
    let shard = scene.shard();
    assert_eq!((shard.leader, shard.leaving), (None, vec![BrokerId(4)]));
    assert_eq!(shard.members.len(), 3);
    scene.reports[0].led[0].members.pop();
    assert_eq!(scene.shard().leader, Some(ReplicaId(1)), "it is no member any more");
}

#[test]
fn a_voter_that_never_came_does_not_hold_up_its_replacement() {
    let mut scene = Scene::new();
    scene.placement.insert(ReplicaId(4), placed(4, Role::Voter));
    scene.brokers.get_mut(&BrokerId(4)).expect("listed").standing = Wanted::Draining;
    assert_eq!(scene.shard().leader, Some(ReplicaId(1)));
    let remove = Step::Remove { shard: SHARD, replica: ReplicaId(4) };
    assert_eq!(replicas::next_steps(&scene.cluster()), [remove]);
}

#[test]
fn a_shard_that_a_leaving_replica_leads_is_left_alone() {
    let mut scene = Scene::new();
    scene.placement.insert(ReplicaId(1), placed(1, Role::Leaving));
    assert_eq!(scene.shard().leader, None);
    scene.reports.clear();
    assert_eq!(scene.shard().leader, None, "no replica leads");
}

#[test]
fn a_silent_broker_is_away_at_once_and_missing_after_a_minute() {
    let mut scene = Scene::new();
    scene.hear(&[2]);
    assert_eq!((scene.standing(1), scene.standing(2)), (Standing::Serving, Standing::Away));
    scene.now += MISSING_AFTER;
    scene.hear(&[2]);
    assert_eq!(scene.standing(2), Standing::Missing);
    scene.brokers.get_mut(&BrokerId(2)).expect("listed").standing = Wanted::Draining;
    assert_eq!(scene.standing(2), Standing::Draining);
    scene.brokers.get_mut(&BrokerId(2)).expect("listed").standing = Wanted::Serving;
    scene.hear(&[]);
    assert_eq!(scene.standing(2), Standing::Serving);
    scene.hear(&[2]);
    assert_eq!(scene.standing(2), Standing::Away, "counted from the start");
}

#[test]
fn a_broker_gives_leaderships_up_when_its_report_or_the_catalog_says_so() {
    let mut scene = Scene::new();
    let leadership = |scene: &Scene| scene.cluster().brokers[&BrokerId(3)].leadership;
    assert_eq!(leadership(&scene), Leadership::Takes);
    for (flags, expected) in [
        (Flags { is_just_started: true, ..Flags::default() }, Leadership::Keeps),
        (Flags { has_slow_disk: true, ..Flags::default() }, Leadership::GivesUp),
        (Flags { is_draining: true, ..Flags::default() }, Leadership::GivesUp),
    ] {
        scene.reports[2].flags = flags;
        assert_eq!(leadership(&scene), expected, "{flags:?}");
    }
    scene.reports.remove(2);
    assert_eq!(leadership(&scene), Leadership::Keeps, "it has not reported");
    let scene = restarting(3);
    assert_eq!(leadership(&scene), Leadership::GivesUp);
    assert_eq!(scene.standing(3), Standing::Serving, "it keeps its replicas");
}

const DEADLINE_MS: i64 = 50_000;

/// Broker `broker`, whose start 1 is to be ended.
fn restarting(broker: i32) -> Scene {
    let mut scene = Scene::new();
    let info = scene.brokers.get_mut(&BrokerId(broker)).expect("listed");
    info.incarnation = 1;
    info.standing = Wanted::Restarting { incarnation: 1, deadline_ms: DEADLINE_MS };
    scene
}

/// The standing of broker 3 when its restart is over.
fn after_restart(scene: &Scene, now_ms: i64) -> Option<Wanted> {
    let ended = scene.seen(|seen| seen.ended_restarts(&scene.history, now_ms));
    assert!(ended.iter().all(|(broker, from, _)| {
        *broker == BrokerId(3) && *from == scene.brokers[broker].standing
    }));
    ended.first().map(|(_, _, to)| *to)
}

#[test]
fn a_restart_is_over_when_the_next_start_has_caught_up() {
    let mut scene = restarting(3);
    assert_eq!(after_restart(&scene, 0), None);
    scene.hear(&[3]);
    assert_eq!(after_restart(&scene, 0), None, "it is away");
    scene.brokers.get_mut(&BrokerId(3)).expect("listed").incarnation = 2;
    assert_eq!(after_restart(&scene, 0), None, "it registers, and is not heard of yet");
    scene.hear(&[]);
    assert_eq!(after_restart(&scene, 0), None, "the report is of the start before");
    scene.reports[2].incarnation = 2;
    scene.reports[0].led[0].members[2].is_caught_up = false;
    assert_eq!(after_restart(&scene, 0), None, "it lacks entries");
    scene.reports[0].led[0].members[2].is_caught_up = true;
    assert_eq!(after_restart(&scene, 0), Some(Wanted::Serving));
    let led = std::mem::take(&mut scene.reports[0].led);
    assert_eq!(after_restart(&scene, 0), None, "no leader says so");
    scene.reports[0].led = led;
    // Of a shard without a replica of it nothing is expected.
    scene.placement.remove(&ReplicaId(3));
    assert_eq!(after_restart(&scene, 0), Some(Wanted::Serving));
}

#[test]
fn a_restart_that_does_not_happen_ends_at_its_deadline() {
    let scene = restarting(3);
    assert_eq!(after_restart(&scene, DEADLINE_MS - 1), None);
    let late = Wanted::NotRestarted { deadline_ms: DEADLINE_MS };
    assert_eq!(after_restart(&scene, DEADLINE_MS), Some(late));
}

#[test]
fn a_transfer_ends_when_the_other_leads_or_after_some_time() {
    let mut scene = Scene::new();
    let at = scene.now;
    scene.history.transfer = Some((SHARD, ReplicaId(2), at));
    scene.history.moved.insert(SHARD, at);
    scene.hear(&[]);
    assert!(scene.cluster().is_transferring);
    scene.now += TRANSFER_TIME_MAX;
    scene.hear(&[]);
    assert!(!scene.cluster().is_transferring, "it failed");
    assert_eq!(scene.shard().moved_ago, Some(TRANSFER_TIME_MAX));
    scene.history.transfer = Some((SHARD, ReplicaId(1), scene.now));
    scene.hear(&[]);
    assert!(!scene.cluster().is_transferring, "replica 1 leads");
    scene.now += replicas::LEADER_STAYS;
    scene.hear(&[]);
    assert_eq!(scene.shard().moved_ago, None);
}

/// What a leader of the catalog knows of moves, the next one does not know: two brokers of nearly
/// equal load would move the catalog to and fro.
#[test]
fn the_catalog_stays_for_some_time_where_it_is_led_now() {
    let mut scene = Scene::new();
    let moved_ago = |scene: &Scene| {
        let members = (1..=3).map(|id| reported(id, true)).collect();
        let led = LedShard { shard: ShardId::CATALOG, ..led(1, 7, members) };
        let reports = [Arc::new(Report { led: vec![led], ..report(1) })];
        let shards = BTreeMap::from([(ShardId::CATALOG, Arc::new(scene.placement.clone()))]);
        let seen =
            Seen { now: scene.now, brokers: &scene.brokers, shards: &shards, reports: &reports };
        seen.cluster(&scene.history).shards[&ShardId::CATALOG].moved_ago
    };
    assert_eq!(moved_ago(&scene), None);
    for _ in 0..2 {
        scene.history.may_change(true, scene.now);
        scene.now += LISTENS;
        assert!(scene.history.may_change(true, scene.now));
        assert_eq!(moved_ago(&scene), Some(LISTENS));
        scene.history.may_change(false, scene.now);
    }
}

#[test]
fn nothing_is_changed_before_all_brokers_had_time_to_report() {
    let (mut history, now) = (History::default(), Instant::now());
    assert!(!history.may_change(true, now));
    assert!(!history.may_change(true, now + LISTENS / 2));
    assert!(history.may_change(true, now + LISTENS));
    history.moved.insert(SHARD, now);
    assert!(!history.may_change(false, now + LISTENS));
    assert!(history.moved.is_empty(), "another broker decides meanwhile");
    assert!(!history.may_change(true, now + LISTENS), "its leadership is new");
}
