//! Disks that are full, slow, or report errors.

use ropewalk_shard::command::{OpenPartition, ShardCommand};

use super::{MS, SECOND, holds};
use crate::clients::{PARTITIONS, partition};
use crate::mutation::Mutation;
use crate::world::World;

/// A partition without records, which is deleted to free space.
pub(super) const DELETED: i32 = PARTITIONS;

/// Whether a replica has applied the deletion.
pub(super) fn has_deleted(world: &World, node: u64) -> bool {
    let process = world.nodes[&node].process.as_ref();
    process.is_some_and(|p| !p.state.0.borrow().partitions.contains_key(&partition(DELETED)))
}

/// A partition that can be deleted, in a shard without load.
pub(super) fn opened(mut world: World) -> (World, u64) {
    let leader = world.elect();
    world.append_many(leader, 3);
    let open = OpenPartition { partition: partition(DELETED), epoch_base: 0 };
    world.propose(leader, ShardCommand::OpenPartitions(vec![open]));
    (world, leader)
}

/// Three replicas under load, with a partition that can be deleted.
pub(super) fn loaded(seed: u64, mutation: Option<Mutation>) -> (World, u64) {
    let (mut world, leader) = opened(World::calm(seed, 3, mutation));
    world.begin_load(4);
    world.run_for(2 * SECOND);
    (world, leader)
}

/// Whether records are acknowledged in the next second.
fn takes_records(world: &mut World) -> bool {
    let acked = world.oracle.acked_count();
    world.run_for(SECOND);
    world.oracle.acked_count() > acked
}

/// Disks become full in the middle of a load. A partition is deleted, which gives space back. The
/// shard takes records again without help.
fn full(
    seed: u64,
    mutation: Option<Mutation>,
    of: fn(leader: u64, others: &[u64]) -> Vec<u64>,
) -> Result<(), String> {
    let (mut world, leader) = loaded(seed, mutation);
    let nodes = of(leader, &world.others(leader));
    for node in &nodes {
        world.node(*node).is_full = true;
    }
    // Longer than a proposal waits for space.
    world.run_for(8 * SECOND);
    let takes = takes_records(&mut world);
    if takes != (nodes.len() == 1 && nodes[0] != leader) {
        world.oracle.violate(format!("with full {nodes:?}, records are acknowledged: {takes}"));
    }
    let leader = world.elect();
    world.propose(leader, ShardCommand::ClosePartitions(vec![partition(DELETED)]));
    // A majority has it. A full follower may lack batches before it, and gets space another way.
    world.until("a delete with full disks", |world| {
        world.nodes.keys().filter(|node| has_deleted(world, **node)).count() >= 2
    });
    for node in nodes {
        world.node(node).is_full = false;
    }
    world.run_for(SECOND);
    if !takes_records(&mut world) {
        world.oracle.violate("no record is acknowledged after the delete".to_owned());
    }
    world.finish()
}

fn one_follower_is_full(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    full(seed, mutation, |_, others| vec![others[0]])
}

fn the_leader_is_full(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    full(seed, mutation, |leader, _| vec![leader])
}

fn both_followers_are_full(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    full(seed, mutation, |_, others| others.to_vec())
}

fn the_leader_and_a_follower_are_full(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    full(seed, mutation, |leader, others| vec![leader, others[0]])
}

#[test]
fn one_of_three_disks_is_full_and_deletes_work() {
    holds(one_follower_is_full, &[]);
    holds(the_leader_is_full, &[]);
}

#[test]
fn two_of_three_disks_are_full_and_deletes_work() {
    holds(both_followers_are_full, &[]);
    holds(the_leader_and_a_follower_are_full, &[]);
}

/// How long records wait for their acknowledgement at most, microseconds.
fn longest_gap(world: &mut World, us: u64) -> u64 {
    let (mut acked, mut since, mut longest) = (world.oracle.acked_count(), world.at_us, 0);
    let end_us = world.at_us + us;
    while world.at_us < end_us && world.oracle.violation().is_none() {
        world.run_for(MS);
        if world.oracle.acked_count() != acked {
            (acked, since) = (world.oracle.acked_count(), world.at_us);
        }
        longest = longest.max(world.at_us - since);
    }
    longest
}

fn slow(seed: u64, of_leader: bool, gap_us_max: u64) -> Result<(), String> {
    let (mut world, leader) = loaded(seed, None);
    let node = if of_leader { leader } else { world.others(leader)[0] };
    let before = longest_gap(&mut world, 5 * SECOND);
    let elections = world.counts.elections;
    world.node(node).sync_us = 500 * MS;
    let gap = longest_gap(&mut world, 20 * SECOND);
    if gap > gap_us_max.max(2 * before) {
        world.oracle.violate(format!("no acknowledgement for {gap} us, before {before} us"));
    }
    if world.counts.elections != elections {
        world.oracle.violate("a slow disk cost the leadership".to_owned());
    }
    world.finish()
}

#[test]
fn a_leader_whose_syncs_take_half_a_second_acknowledges_within_two() {
    holds(|seed, _| slow(seed, true, 2 * SECOND), &[]);
}

#[test]
fn a_follower_whose_syncs_take_half_a_second_delays_nothing() {
    holds(|seed, _| slow(seed, false, 20 * MS), &[]);
}

/// A sync reports an error: the process ends, and the others go on.
fn failed_sync(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    for of_leader in [false, true] {
        let (mut world, leader) = loaded(seed, mutation);
        let node = if of_leader { leader } else { world.others(leader)[0] };
        world.node(node).disk.fails_sync = true;
        world.run_for(5 * SECOND);
        if world.nodes[&node].process.is_some() {
            world.oracle.violate("a replica runs after a failed sync".to_owned());
        }
        if !takes_records(&mut world) {
            world.oracle.violate("the others do not go on".to_owned());
        }
        world.finish()?;
    }
    Ok(())
}

#[test]
fn d2_a_replica_whose_sync_fails_stops_and_the_others_go_on() {
    holds(failed_sync, &[Mutation::FailedSyncIsDurable]);
}
