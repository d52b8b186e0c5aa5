//! Reads at replicas that take themselves for the leader.

use super::{MS, SECOND, holds};
use crate::mutation::Mutation;
use crate::world::World;

/// A leader is cut off and its process stops for so long that another replica leads and takes
/// records. Its own clock did not run: when it continues, it takes itself for the leader. A read
/// there must not be answered from what it has.
fn deposed_leader(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let old = world.elect();
    world.append_many(old, 3);
    world.run_for(SECOND);
    world.isolate(&[old]);
    let resumes_at = world.at_us + 6 * SECOND;
    world.pause(old, 6 * SECOND);
    let others = world.others(old);
    let newer = |world: &World| others.iter().copied().find(|id| world.nodes[id].is_leader());
    world.until("another leader", |world| newer(world).is_some());
    if let Some(leader) = newer(&world) {
        world.append_acked(leader);
    }
    world.run(resumes_at + MS);
    assert!(world.nodes[&old].is_leader(), "seed {seed}: it knows that it was deposed");
    let reads = world.counts.reads;
    world.read(old, 0);
    world.run_for(3 * SECOND);
    if world.counts.reads != reads {
        world.oracle.violate(format!("replica {old} answers a read without a majority"));
    }
    world.network.heal();
    world.run_for(SECOND);
    let leader = world.elect();
    world.read(leader, 0);
    world.until("a read at the new leader", |world| world.counts.reads > reads);
    world.finish()
}

#[test]
fn a_deposed_leader_answers_no_read() {
    holds(deposed_leader, &[Mutation::ReadWithoutRound]);
}
