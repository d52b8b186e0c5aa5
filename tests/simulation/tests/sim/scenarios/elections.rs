//! How long a shard has no leader after its process has ended, and after it receives nothing any
//! more. The times are those of the simulated clock.

use ropewalk_shard::limits::{ELECTION_TICKS, TICK_MS, TURN_TICKS};

use super::{MS, SECOND, holds};
use crate::mutation::Mutation;
use crate::world::{Happening, World};

/// The longest interval between two ticks of a replica, microseconds.
const TICK_US: u64 = TICK_MS * MS * 11 / 10;

fn ticks_us(ticks: usize) -> u64 {
    u64::try_from(ticks).expect("few") * TICK_US
}

/// Runs until another replica leads. A violation if that takes longer than `us_max`.
fn follow(world: &mut World, leader: u64, us_max: u64) {
    let begun_us = world.at_us;
    world.until("another leader", |world| {
        world.nodes.values().any(|node| node.is_leader() && node.id != leader)
    });
    let took_us = world.at_us - begun_us;
    if took_us > us_max {
        world.oracle.violate(format!("another leader after {took_us} us, at most {us_max} us"));
    }
}

/// The voters that are left are informed, and take turns: the first is elected before the second
/// campaigns.
fn ended(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    world.append_many(leader, 3);
    world.crash(leader);
    for (others, node) in (1..).zip(world.others(leader)) {
        world.after(others * 20 * MS, Happening::Ended { node, of: leader });
    }
    follow(&mut world, leader, 40 * MS + ticks_us(2 * TURN_TICKS + 1));
    let next = world.elect();
    world.append_acked(next);
    world.start(leader);
    world.finish()
}

/// A leader that is heard is kept, whatever is reported of it.
fn taken_for_ended(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    let term = world.nodes[&leader].replica().expect("it leads").term();
    for round in 0..10 {
        let others = world.others(leader);
        let node = others[round % others.len()];
        world.after(0, Happening::Ended { node, of: leader });
        world.append_acked(leader);
        world.run_for(SECOND);
    }
    let replica = world.nodes[&leader].replica().expect("it runs");
    if (replica.leading(), replica.term()) != (Some(term), term) {
        world.oracle.violate(format!("the leadership of {leader} ended"));
    }
    world.finish()
}

/// A leader that is heard and receives nothing gives up and asks another one to lead.
fn deaf(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    world.append_many(leader, 3);
    for other in world.others(leader) {
        world.network.cut(other, leader);
    }
    // It has heard of them a heartbeat ago at most. An election takes a few messages.
    follow(&mut world, leader, ticks_us(ELECTION_TICKS + 4));
    world.run_for(SECOND);
    world.network.heal();
    world.finish()
}

#[test]
fn a_leader_whose_process_has_ended_is_followed_within_two_turns() {
    holds(ended, &[]);
}

#[test]
fn a_leader_that_is_taken_for_ended_by_one_follower_goes_on() {
    holds(taken_for_ended, &[]);
}

#[test]
fn a_leader_that_receives_nothing_is_followed_after_one_election_timeout() {
    holds(deaf, &[]);
}
