//! Writes that the log of a follower refuses.

use super::{MS, SECOND, holds};
use crate::mutation::Mutation;
use crate::world::World;

/// A follower whose log takes `sync_us` for every write, and refuses the next batches. Returns the
/// leader, and the follower.
fn refusing(world: &mut World, sync_us: u64) -> (u64, u64) {
    let leader = world.elect();
    world.append_many(leader, 5);
    world.run_for(SECOND);
    let late = world.others(leader)[0];
    world.node(late).sync_us = sync_us;
    world.node(late).refuses_next = true;
    world.append_acked(leader);
    // It learns that the entry is committed.
    world.run_for(50 * MS);
    assert!(!world.node(late).refuses_next, "the follower has the entry");
    (leader, late)
}

/// The log refuses an entry that the others have committed. A hard state of a new term is written
/// meanwhile, and the replica crashes: its commit index must not be behind the end of its log, or
/// the log would count as lost.
fn commit_of_a_refused_entry(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let (leader, late) = refusing(&mut world, 5 * SECOND);
    world.crash(leader);
    world.start(leader);
    let full = world.counts.full;
    world.until("a refusal", |world| world.counts.full > full);
    // What was submitted behind the refused write is durable.
    let durable_at = world.nodes[&late].synced_at;
    world.run(durable_at);
    let submitted = world.nodes[&late].submitted;
    assert!(submitted > 0, "seed {seed}");
    world.crash(late);
    world.start(late);
    world.node(late).sync_us = 300;
    world.run_for(2 * SECOND);
    world.finish()
}

#[test]
fn d4_a_commit_index_never_runs_ahead_of_the_log() {
    holds(commit_of_a_refused_entry, &[Mutation::CommitAheadOfLog]);
}

/// The log refuses two writes in flight, which are submitted again in their order.
fn two_refused_writes(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let (leader, late) = refusing(&mut world, 300 * MS);
    let refused = world.counts.full;
    world.append_acked(leader);
    world.until("two refusals", |world| world.counts.full >= refused + 2);
    let end = world.applied(leader);
    world.until("all is written", |world| world.applied(late) >= end);
    world.finish()
}

#[test]
fn refused_writes_are_submitted_again_in_order() {
    holds(two_refused_writes, &[Mutation::RefusedWritesReversed]);
}
