//! One replica applies something else than the others. It stops, and the others continue.

use super::{SECOND, holds};
use crate::alteration::Alteration;
use crate::mutation::Mutation;
use crate::scenarios::nats::is_whole;
use crate::world::{Happening, World};

impl World {
    /// Runs until a replica stops for a reason with this text. Nothing else may stop.
    pub(super) fn stops(&mut self, node: u64, text: &str) {
        self.until("a replica stops", |world| !world.stops.is_empty());
        match self.stops.pop() {
            Some((stopped, reason)) if stopped == node && reason.contains(text) => {}
            other => self.oracle.violate(format!("replica {node} has to stop: {text}: {other:?}")),
        }
    }

    /// A replica stops because it has diverged, and is replaced. The others take records meanwhile.
    fn stops_and_is_replaced(mut self, node: u64) -> Result<(), String> {
        self.stops(node, "differs from that of the majority");
        let leader = self.elect();
        self.append_many(leader, 5);
        self.after(SECOND, Happening::Operator);
        self.run_for(20 * SECOND);
        if !is_whole(&self) {
            self.oracle.violate(format!("replica {node} is not replaced"));
        }
        self.finish()
    }
}

/// A shard of so many voters that has begun to compare states, and its leader.
fn compared(seed: u64, voters: u64) -> (World, u64) {
    let mut world = World::calm(seed, voters, None);
    let leader = world.elect();
    world.append_many(leader, 10);
    world.run_for(10 * SECOND);
    (world, leader)
}

fn flipped_bit_of_a_follower(seed: u64, _: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = compared(seed, 3);
    let follower = world.others(leader)[0];
    world.may_stop.insert(follower);
    world.flip_state(follower);
    world.append_many(leader, 1);
    world.stops_and_is_replaced(follower)
}

/// Both followers agree, so the leader is wrong.
fn flipped_bit_of_the_leader(seed: u64, _: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = compared(seed, 3);
    world.may_stop.insert(leader);
    world.flip_state(leader);
    world.append(leader);
    world.stops_and_is_replaced(leader)
}

/// The state is the same, and the log has another batch.
fn other_batch_of_a_follower(seed: u64, _: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = compared(seed, 5);
    let follower = world.others(leader)[2];
    world.may_stop.insert(follower);
    world.oracle.excused.insert(follower);
    world.altered = Some((follower, Alteration::Batch));
    world.append_many(leader, 1);
    world.stops_and_is_replaced(follower)
}

/// Of three replicas one is down, and the others differ: none of them may decide. When the third
/// one is back, the next check does.
fn no_majority(seed: u64, _: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = compared(seed, 3);
    let others = world.others(leader);
    world.crash(others[0]);
    world.flip_state(others[1]);
    let reported = world.counts.refused;
    world.append_many(leader, 5);
    world.run_for(10 * SECOND);
    if world.counts.refused == reported {
        world.oracle.violate("the difference is not reported".to_owned());
    }
    world.may_stop.insert(others[1]);
    world.start(others[0]);
    world.append(leader);
    world.stops_and_is_replaced(others[1])
}

#[test]
fn a_flipped_bit_in_the_state_of_a_follower_stops_it() {
    holds(flipped_bit_of_a_follower, &[]);
}

#[test]
fn a_flipped_bit_in_the_state_of_the_leader_stops_it() {
    holds(flipped_bit_of_the_leader, &[]);
}

#[test]
fn a_batch_that_only_one_follower_has_stops_it() {
    holds(other_batch_of_a_follower, &[]);
}

#[test]
fn replicas_that_differ_continue_until_a_majority_decides() {
    holds(no_majority, &[]);
}
