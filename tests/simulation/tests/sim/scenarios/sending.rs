//! A broker bounds the bytes that it has on their way to others.

use ropewalk_shard::send_budget::SendLimits;

use super::space::append_large;
use super::{MS, SECOND, holds};
use crate::mutation::Mutation;
use crate::world::World;

const LIMITS: SendLimits = SendLimits { peer_bytes: 4 << 20, node_bytes: 6 << 20 };

const RECORDS: u64 = 30;

/// A follower takes nothing for a while. The leader has a bounded number of bytes on their way to
/// it, the other follower gets everything, and afterwards the first one catches up.
fn paused(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::roomy(seed, 3, mutation);
    let leader = world.elect();
    world.append_many(leader, 3);
    world.run_for(SECOND);
    world.limit_sends(LIMITS);
    let paused = world.others(leader)[0];
    world.pause(paused, 5 * SECOND);
    let before = world.applied(leader);
    for _ in 0..RECORDS {
        append_large(&mut world, leader);
        world.run_for(50 * MS);
    }
    world.run_for(SECOND);
    if world.applied(leader) < before + RECORDS || world.counts.held == 0 {
        let text = format!("{} messages held, the others wait", world.counts.held);
        world.oracle.violate(text);
    }
    let end = world.applied(leader);
    world.until("the follower catches up", |world| world.applied(paused) >= end);
    let flying = world.network.flying_bytes_max;
    if flying > LIMITS.node_bytes {
        world.oracle.violate(format!("{flying} bytes were on their way"));
    }
    world.finish()
}

#[test]
fn r1_a_follower_that_takes_nothing_has_bounded_bytes_on_their_way() {
    holds(paused, &[]);
}
