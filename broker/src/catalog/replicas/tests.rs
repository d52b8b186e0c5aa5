//! The steps are executed on a model of a cluster until there are none, from random beginnings.

use proptest::prelude::*;

use super::*;

mod operations;
mod world;

use world::World;

fn spread(counts: &BTreeMap<BrokerId, usize>) -> usize {
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

const SERVING: (Option<&str>, Standing) = (None, Standing::Serving);
const DRAINING: (Option<&str>, Standing) = (None, Standing::Draining);
const TO_FEWER: (Option<&str>, Standing) = (None, Standing::DrainingToFewer);
const AWAY: (Option<&str>, Standing) = (None, Standing::Away);

#[test]
fn one_broker_needs_no_step_and_two_keep_one_replica() {
    let mut world = World::new(&[SERVING], vec![vec![0]; 25]);
    world.settle();
    assert_eq!((world.adds, world.transfers), (0, 0));
    let mut world = World::new(&[SERVING, SERVING], vec![vec![0]; 24]);
    world.settle();
    assert!(world.cluster.shards.values().all(|shard| shard.members.len() == 1));
    assert_eq!(spread(&world.held()), 0);
}

#[test]
fn a_third_broker_gives_every_shard_three_replicas_and_the_leaders_are_spread() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0]; 24]);
    world.settle();
    assert!(world.cluster.shards.values().all(|shard| shard.members.len() == 3));
    assert_eq!(world.adds, 48);
    assert_eq!(spread(&world.led()), 0);
    assert_eq!(world.transfers, 16);
}

#[test]
fn growth_from_three_to_five_moves_no_more_than_the_share_of_the_new_ones() {
    let mut world = World::new(&[SERVING; 5], vec![vec![0, 1, 2]; 25]);
    world.settle();
    assert!(world.cluster.shards.values().all(|shard| shard.members.len() == 3));
    assert!(spread(&world.held()) <= 1, "{:?}", world.held());
    assert_eq!(world.adds, 30);
}

#[test]
fn a_drained_broker_is_left_and_nothing_else_moves() {
    let holders: Vec<_> = (0..20).map(|shard| (0..3).map(|i| (shard + i) % 5).collect()).collect();
    let mut world = World::new(&[SERVING, SERVING, DRAINING, SERVING, SERVING], holders);
    world.settle();
    let held = world.held();
    assert_eq!(held[&BrokerId(2)], 0);
    assert_eq!(world.led()[&BrokerId(2)], 0);
    assert_eq!(world.adds, 12);
}

#[test]
fn a_broker_that_is_away_keeps_its_replicas_and_gets_none() {
    let mut world = World::new(&[SERVING, SERVING, AWAY, SERVING], vec![vec![0, 1, 2]; 4]);
    world.settle();
    assert_eq!(world.held()[&BrokerId(2)], 4);
}

#[test]
fn a_learner_waits_for_its_broker_and_is_given_up_when_that_is_missing() {
    let mut world = World::new(&[SERVING; 4], vec![vec![0]]);
    world.turn();
    let learner = world.cluster.shards[&ShardId(1)].members[1];
    assert!(!learner.is_voter);
    let standing = |world: &mut World, standing| {
        world.cluster.brokers.get_mut(&learner.broker).unwrap().standing = standing;
        next_steps(&world.cluster)
    };
    let remove = Step::Remove { shard: ShardId(1), replica: learner.replica };
    assert!(!standing(&mut world, Standing::Away).contains(&remove));
    assert_eq!(standing(&mut world, Standing::Missing), [remove]);
}

#[test]
fn a_broker_that_was_removed_is_replaced() {
    let mut world = World::new(&[SERVING; 4], vec![vec![0, 1, 2]; 6]);
    world.cluster.brokers.remove(&BrokerId(2));
    world.settle();
    for shard in world.cluster.shards.values() {
        let brokers: BTreeSet<_> = shard.members.iter().map(|m| m.broker.0).collect();
        assert_eq!(brokers, BTreeSet::from([0, 1, 3]));
    }
    assert_eq!(world.adds, 6);
}

#[test]
fn replicas_are_spread_over_racks() {
    let in_rack = |rack| (Some(rack), Standing::Serving);
    let brokers = [in_rack("a"), in_rack("a"), in_rack("b"), in_rack("b"), in_rack("c")];
    let mut world = World::new(&brokers, vec![vec![0, 1, 2]; 10]);
    world.settle();
    for shard in world.cluster.shards.values() {
        assert_eq!(world.racks_of(shard), 3);
    }
}

#[test]
fn without_a_leader_nothing_is_changed() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0]]);
    world.shard(ShardId(1)).leader = None;
    assert_eq!(next_steps(&world.cluster), []);
}

#[test]
fn a_leader_on_a_broker_that_should_not_lead_moves_before_others() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0, 1, 2]; 9]);
    set_leadership(&mut world, 1, Leadership::GivesUp);
    let of_broker_1 = world.cluster.shards[&ShardId(7)].members[1].replica;
    world.shard(ShardId(7)).leader = Some(of_broker_1);
    // It also moves while it rests.
    world.shard(ShardId(7)).moved_ago = Some(Duration::ZERO);
    let to = world.cluster.shards[&ShardId(7)].members[2].replica;
    assert_eq!(next_steps(&world.cluster), [Step::Transfer { shard: ShardId(7), to }]);
    world.settle();
    assert_eq!(world.led()[&BrokerId(1)], 0);
}

fn set_leadership(world: &mut World, broker: i32, leadership: Leadership) {
    world.cluster.brokers.get_mut(&BrokerId(broker)).unwrap().leadership = leadership;
}

fn set_standing(world: &mut World, broker: i32, standing: Standing) {
    world.cluster.brokers.get_mut(&BrokerId(broker)).unwrap().standing = standing;
}

#[test]
fn a_leader_rests_after_a_move_and_moves_one_at_a_time() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0, 1, 2]; 3]);
    assert_eq!(next_steps(&world.cluster).len(), 1);
    world.cluster.is_transferring = true;
    assert_eq!(next_steps(&world.cluster), []);
    world.cluster.is_transferring = false;
    for shard in world.cluster.shards.values_mut() {
        shard.moved_ago = Some(LEADER_STAYS - Duration::from_secs(1));
    }
    assert_eq!(next_steps(&world.cluster), []);
}

#[test]
fn leaders_are_balanced_by_load() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0, 1, 2]; 5]);
    let loads = [300, 100, 100, 50, 50];
    for (load, shard) in loads.into_iter().zip(world.cluster.shards.values_mut()) {
        shard.load = load << 20;
    }
    world.settle();
    let mut of_broker = BTreeMap::<BrokerId, u64>::new();
    for shard in world.cluster.shards.values() {
        let leader = shard.members.iter().find(|m| Some(m.replica) == shard.leader).unwrap();
        *of_broker.entry(leader.broker).or_default() += shard.load >> 20;
    }
    let mut loads: Vec<_> = of_broker.into_values().collect();
    loads.sort_unstable();
    assert_eq!(loads, [150, 150, 300]);
}

/// Brokers with and without racks, most of them serving, and shards on some of them.
fn worlds() -> impl Strategy<Value = World> {
    let standing = prop_oneof![
        8 => Just(Standing::Serving), 1 => Just(Standing::Draining),
        1 => Just(Standing::DrainingToFewer), 1 => Just(Standing::Away),
    ];
    let rack = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("c"))];
    (prop::collection::vec((rack, standing), 1..8), any::<bool>()).prop_flat_map(
        |(brokers, named)| {
            let brokers: Vec<_> =
                brokers.into_iter().map(|(rack, s)| (rack.filter(|_| named), s)).collect();
            let all: Vec<_> = (0..i32::try_from(brokers.len()).unwrap()).collect();
            let most = all.len().min(4);
            let holders = prop::sample::subsequence(all, 1..=most).prop_shuffle();
            prop::collection::vec(holders, 1..25)
                .prop_map(move |shards| World::new(&brokers, shards))
        },
    )
}

#[test]
fn every_broker_holds_the_catalog_and_three_of_them_vote() {
    for (brokers, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (6, 3)] {
        let mut world = World::new(&vec![SERVING; brokers], vec![vec![0]]).with_catalog(0);
        world.settle();
        let (voting, learning) = world.of_catalog();
        assert_eq!((voting.len(), learning.len()), (voters, brokers - voters));
        assert!(voting.contains(&0), "the first voter stays");
    }
}

#[test]
fn a_drained_broker_gives_up_the_catalog_last() {
    let mut world = World::new(&[SERVING; 4], vec![vec![0]; 6]).with_catalog(0);
    world.settle();
    let leader = BrokerId(0);
    world.cluster.brokers.get_mut(&leader).unwrap().standing = Standing::Draining;
    while world.held()[&leader] > 1 {
        assert!(world.of_catalog().0.contains(&0), "{:?}", world.held());
        assert!(world.turn() || world.turn(), "nothing is done: {:?}", world.held());
    }
    world.settle();
    assert_eq!(world.held()[&leader], 0);
    assert_eq!(world.of_catalog(), (vec![1, 2, 3], vec![]));
}

#[test]
fn a_drained_broker_of_three_leaves_two_voters_of_the_catalog() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0]; 2]).with_catalog(0);
    world.settle();
    set_standing(&mut world, 1, Standing::DrainingToFewer);
    world.settle();
    assert_eq!(world.of_catalog(), (vec![0, 2], vec![]));
}

#[test]
fn a_replica_that_is_being_removed_keeps_its_broker_from_another() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0]]).with_catalog(0);
    for shard in world.cluster.shards.values_mut() {
        shard.leaving = vec![BrokerId(1)];
    }
    let on_two = |shard| Step::Add { shard, broker: BrokerId(2) };
    assert_eq!(next_steps(&world.cluster), [on_two(CATALOG), on_two(ShardId(1))]);
}

proptest! {
    /// The same as below for the catalog.
    #[test]
    fn the_steps_end_with_the_catalog_on_every_broker(world in worlds(), first in 0_i32..8) {
        let count = i32::try_from(world.cluster.brokers.len()).unwrap();
        let mut world = world.with_catalog(first % count);
        let needed = world.kept().into_values().max().expect("there are shards");
        world.settle();
        prop_assume!(world.cluster.shards[&CATALOG].leader.is_some());
        let (voting, learning) = world.of_catalog();
        let standing = |standing| {
            let brokers = world.cluster.brokers.iter();
            brokers.filter(move |(_, b)| b.standing == standing).map(|(id, _)| id.0)
        };
        let mut draining = standing(Standing::Draining).chain(standing(Standing::DrainingToFewer));
        let holders: BTreeSet<_> = voting.iter().chain(&learning).copied().collect();
        prop_assert!(standing(Standing::Serving).all(|id| holders.contains(&id)));
        let factor = world.factor();
        if standing(Standing::Serving).count() >= factor {
            prop_assert!(voting.len() >= factor, "{voting:?}");
        }
        let away = standing(Standing::Away).count();
        // A broker that cannot give up its other replicas keeps the catalog.
        if away == 0 && standing(Standing::Serving).count() >= needed {
            prop_assert!(draining.all(|id| !holders.contains(&id)));
        }
    }

    #[test]
    fn the_steps_end_with_everything_in_its_place(mut world in worlds()) {
        let (before, kept) = (world.voters(), world.kept());
        world.settle();
        let serving: BTreeSet<_> = world.cluster.brokers.iter()
            .filter(|(_, broker)| broker.standing == Standing::Serving)
            .map(|(id, _)| *id).collect();
        let mut standings = world.cluster.brokers.values().map(|broker| broker.standing);
        let is_any_away = standings.any(|standing| standing == Standing::Away);
        for (id, shard) in world.cluster.shards.iter().filter(|(_, s)| s.leader.is_some()) {
            let brokers: BTreeSet<_> = shard.members.iter().map(|m| m.broker).collect();
            prop_assert_eq!(brokers.len(), shard.members.len());
            let voters = shard.members.iter().filter(|m| m.is_voter).count();
            let away = brokers.iter().filter(|b| world.cluster.brokers[b].standing == Standing::Away).count();
            let factor = kept[id];
            prop_assert!(voters >= factor.min(before[id]), "too few: {:?}: {:?}", id, shard);
            if serving.len() + away >= factor && serving.len() >= factor {
                prop_assert_eq!(voters, factor, "{:?}: {:?}", id, shard);
            }
            if serving.len() >= factor && away == 0 {
                prop_assert!(brokers.is_subset(&serving), "{:?}: {:?}", id, shard);
            }
            // Nothing moves for balance while a broker is away.
            if serving.len() >= factor && !is_any_away {
                let racks: BTreeSet<_> = world.cluster.brokers.iter()
                    .filter(|(id, _)| serving.contains(id))
                    .map(|(id, b)| b.rack.clone().unwrap_or(format!("{id:?}"))).collect();
                prop_assert_eq!(world.racks_of(shard), factor.min(racks.len()), "{:?}: {:?}", id, shard);
            }
        }
    }

    #[test]
    fn without_racks_brokers_hold_and_lead_about_the_same(shards in 1..40_usize, brokers in 3..8_usize) {
        let mut world = World::new(&vec![SERVING; brokers], vec![vec![0]; shards]);
        world.settle();
        prop_assert!(spread(&world.held()) <= 1, "{:?}", world.held());
        if brokers == 3 {
            prop_assert!(spread(&world.led()) <= 1, "{:?}", world.led());
        }
    }

    #[test]
    fn a_cluster_at_rest_stays_at_rest(mut world in worlds()) {
        world.settle();
        prop_assert_eq!(next_steps(&world.cluster), []);
    }
}
