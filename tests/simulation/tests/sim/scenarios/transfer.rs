//! Calls during a transfer of leadership wait: they are not refused.

use ropewalk_shard::driver::Event;

use super::{SECOND, holds};
use crate::mutation::Mutation;
use crate::world::World;

/// The replica that is to lead does not answer. The old leader continues after an election
/// timeout, and what came meanwhile is stored.
fn unreachable(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    world.append_many(leader, 3);
    let to = world.others(leader)[0];
    world.isolate(&[to]);
    let term = world.nodes[&leader].replica().expect("it leads").term();
    world.event(leader, Event::Transfer(to));
    // Before the timeout, and while an earlier one waits.
    let early = world.append(leader);
    let late = world.append(leader);
    if world.oracle.is_acked(early) {
        world.oracle.violate("nothing is proposed during a transfer".to_owned());
    }
    world.until("what came during the transfer", |world| {
        world.oracle.is_acked(early) && world.oracle.is_acked(late)
    });
    let replica = world.nodes[&leader].replica().expect("it runs");
    if (replica.leading(), replica.term()) != (Some(term), term) {
        world.oracle.violate("the leadership changed".to_owned());
    }
    world.network.heal();
    world.run_for(SECOND);
    world.finish()
}

#[test]
fn records_that_come_during_a_transfer_that_fails_are_stored_after_it() {
    holds(unreachable, &[]);
}
