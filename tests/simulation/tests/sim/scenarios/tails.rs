//! Followers whose background work writes records to segments too slowly.
//!
//! What a follower keeps is bounded: it waits before it applies more than its budget of memory
//! allows, and then before it takes more entries. It acknowledges what is durable and answers
//! heartbeats meanwhile.

use ropewalk_shard::limits;

use super::space::{LARGE_BYTES, append_large};
use super::{MS, SECOND, holds};
use crate::mutation::Mutation;
use crate::world::World;

/// Memory for the records of a slow follower, bytes.
const BUDGET_BYTES: u64 = 4 << 20;

/// Records in memory: the budget, and what was applied when the last of it was used.
const TAIL_BYTES_MAX: u64 = BUDGET_BYTES + limits::APPLIED_AT_ONCE_BYTES_MAX;

/// What the core keeps: the log, one message more, those in the inbox, and those in two writes.
/// Before it has to wait, a follower takes all that its leader may leave uncommitted.
const CORE_BYTES_MAX: u64 = limits::LOG_WINDOW_BYTES
    + limits::UNCOMMITTED_BYTES_MAX
    + limits::INBOX_BYTES_MAX as u64
    + (1 + limits::WRITES_INFLIGHT_MAX as u64) * limits::MESSAGE_BYTES_MAX;

/// Records that are sent, more than a follower may keep.
const RECORDS: usize = (TAIL_BYTES_MAX + CORE_BYTES_MAX) as usize / LARGE_BYTES * 3 / 2;

/// A load with `count` slow followers; then they get as fast as the others.
fn slow(seed: u64, mutation: Option<Mutation>, count: usize) -> Result<(), String> {
    let mut world = World::roomy(seed, 3, mutation);
    let leader = world.elect();
    world.append_many(leader, 3);
    let mut slow = world.others(leader);
    slow.truncate(count);
    for node in &slow {
        world.node(*node).flushed_per_tick = 0;
        world.node(*node).disk.tail().set_budget(BUDGET_BYTES);
    }
    let elections = world.counts.elections;
    let before = world.applied(leader);
    for _ in 0..RECORDS {
        append_large(&mut world, leader);
        world.run_for(50 * MS);
    }
    world.run_for(SECOND);
    let leads = world.applied(leader) - before;
    for node in slow.iter().copied() {
        check_slow(&mut world, node, leader);
        let follows = world.applied(node) - before;
        // What it acknowledged and has not applied counts for the majority.
        if leads < follows + 5 {
            let text = format!("the leader applied {leads} records, replica {node} {follows}");
            world.oracle.violate(text);
        }
    }
    if (leads < RECORDS as u64) != (count == 2) {
        world.oracle.violate(format!("with {count} slow followers, {leads} records are applied"));
    }
    if world.counts.elections != elections {
        world.oracle.violate("slow followers cost the leadership".to_owned());
    }
    for node in &slow {
        world.node(*node).flushed_per_tick = 2 << 20;
    }
    world.until("the slow followers catch up", |world| {
        let replica = world.nodes[&leader].replica().expect("it runs");
        let end = replica.last_index();
        world.nodes.keys().all(|node| world.applied(*node) == end)
    });
    slow.iter().for_each(|node| check_slow(&mut world, *node, leader));
    world.finish()
}

/// A slow follower keeps its bounds and follows.
fn check_slow(world: &mut World, node: u64, leader: u64) {
    let found = &world.nodes[&node];
    let (tail, core) = (found.disk.tail().peak(), found.peak_bytes);
    let follows = found.replica().and_then(|replica| replica.leader());
    if tail > TAIL_BYTES_MAX || core > CORE_BYTES_MAX {
        let text = format!("replica {node} kept {tail} bytes of records and {core} in its core");
        world.oracle.violate(text);
    }
    if follows != Some(leader) {
        world.oracle.violate(format!("replica {node} does not hear of its leader"));
    }
}

fn one_slow(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    slow(seed, mutation, 1)
}

fn two_slow(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    slow(seed, mutation, 2)
}

#[test]
fn r1_a_follower_with_slow_background_work_keeps_bounded_memory() {
    holds(one_slow, &[]);
}

#[test]
fn r1_two_followers_with_slow_background_work_hold_the_leader_up() {
    holds(two_slow, &[]);
}
