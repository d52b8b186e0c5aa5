//! Brokers are drained, restarted and slow.

use super::*;

#[test]
fn a_broker_that_is_just_back_keeps_what_it_leads_and_gets_no_more_for_balance() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0, 1, 2]; 9]);
    set_leadership(&mut world, 0, Leadership::Keeps);
    set_leadership(&mut world, 2, Leadership::Keeps);
    world.settle();
    let led = world.led();
    assert_eq!((led[&BrokerId(0)], led[&BrokerId(1)], led[&BrokerId(2)]), (5, 4, 0));
    // What has to be moved is moved there, if no better broker has a replica.
    set_leadership(&mut world, 0, Leadership::GivesUp);
    set_standing(&mut world, 1, Standing::Away);
    world.settle();
    let led = world.led();
    assert_eq!((led[&BrokerId(0)], led[&BrokerId(2)]), (0, 9));
}

#[test]
fn leaders_stay_where_all_brokers_are_slow() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0, 1, 2]; 3]);
    (0..3).for_each(|broker| set_leadership(&mut world, broker, Leadership::GivesUp));
    assert_eq!(next_steps(&world.cluster), []);
}

#[test]
fn a_replica_does_not_move_for_balance_to_a_broker_that_takes_no_leadership() {
    let mut world = World::new(&[SERVING; 4], vec![vec![0, 1, 2]; 8]);
    set_leadership(&mut world, 3, Leadership::Keeps);
    world.settle();
    assert_eq!((world.adds, world.held()[&BrokerId(3)]), (0, 0));
    // A replica that is missing is placed there.
    world.lose(2);
    world.cluster.brokers.remove(&BrokerId(2));
    world.settle();
    assert_eq!((world.adds, world.held()[&BrokerId(3)]), (8, 8));
}

#[test]
fn a_drain_of_one_of_three_keeps_three_replicas_unless_fewer_are_accepted() {
    let mut world = World::new(&[SERVING; 3], vec![vec![0, 1, 2]; 4]).with_catalog(0);
    world.settle();
    set_standing(&mut world, 2, Standing::Draining);
    world.settle();
    assert_eq!(world.held()[&BrokerId(2)], 5, "no replica has another place");
    set_standing(&mut world, 2, Standing::DrainingToFewer);
    world.settle();
    assert_eq!(world.held()[&BrokerId(2)], 0);
    let data = world.cluster.shards.iter().filter(|(id, _)| **id != CATALOG);
    assert!(data.clone().all(|(_, shard)| shard.members.len() == 1));
    assert_eq!(world.of_catalog(), (vec![0, 1], vec![]));
    // It serves again.
    set_standing(&mut world, 2, Standing::Serving);
    world.settle();
    assert!(world.cluster.shards.values().all(|shard| shard.members.len() == 3));
}

#[test]
fn what_is_left_with_two_voters_by_a_drain_goes_on_to_one_when_the_broker_is_gone() {
    let mut world = World::new(&[SERVING, SERVING, TO_FEWER], vec![vec![0, 1, 2]]);
    while world.held()[&BrokerId(2)] > 0 {
        world.turn();
    }
    world.cluster.brokers.remove(&BrokerId(2));
    world.settle();
    assert_eq!(world.cluster.shards[&ShardId(1)].members.len(), 1);
}

/// 3 to 5 to 3 brokers: two of five are drained, one of them while it is away.
#[test]
fn two_of_five_brokers_are_drained_and_every_shard_keeps_three_replicas() {
    for away in [None, Some(1)] {
        let mut world = World::new(&[SERVING; 5], vec![vec![0, 1, 2]; 24]).with_catalog(0);
        world.settle();
        for broker in [1, 3] {
            set_standing(&mut world, broker, Standing::Draining);
            if away == Some(broker) {
                world.lose(broker);
            }
            world.settle();
            assert_eq!(world.held()[&BrokerId(broker)], 0, "{away:?}");
            world.cluster.brokers.remove(&BrokerId(broker));
        }
        world.settle();
        for shard in world.cluster.shards.values() {
            let brokers: BTreeSet<_> = shard.members.iter().map(|m| m.broker.0).collect();
            assert_eq!(brokers, BTreeSet::from([0, 2, 4]));
            assert!(shard.members.iter().all(|member| member.is_voter));
        }
        assert!(spread(&world.led()) <= 1, "{:?}", world.led());
    }
}
