//! A full disk has space again only when its replica applies a command that frees some.

use ropewalk_batch::Builder;
use ropewalk_shard::command::{Append, OpenPartition, ShardCommand};
use ropewalk_shard::driver::Event;
use ropewalk_shard::limits;
use ropewalk_shard::proposal::SendOrder;

use super::disks::{DELETED, has_deleted, loaded, opened};
use super::{MS, SECOND, holds};
use crate::clients::partition;
use crate::mutation::Mutation;
use crate::node::Call;
use crate::world::World;

/// Deletes the partition, and runs until each of `full` has applied that and has space again.
fn delete_and_recover(world: &mut World, leader: u64, mut full: Vec<u64>) {
    world.propose(leader, ShardCommand::ClosePartitions(vec![partition(DELETED)]));
    for _ in 0..3_000 {
        full.retain(|node| !has_deleted(world, *node));
        for node in world.nodes.keys().copied().collect::<Vec<_>>() {
            if has_deleted(world, node) {
                world.node(node).is_full = false;
            }
        }
        if full.is_empty() || world.oracle.violation().is_some() {
            return;
        }
        world.run_for(10 * MS);
    }
    world.oracle.violate(format!("replicas {full:?} never get to the delete"));
}

fn takes_records(world: &mut World) {
    let acked = world.oracle.acked_count();
    world.run_for(SECOND);
    if world.oracle.acked_count() == acked {
        world.oracle.violate("no record is acknowledged".to_owned());
    }
}

/// Three replicas with so little load that no log is released before the end of the script: what a
/// full follower gets depends only on how its leader treats it.
fn lightly_loaded(seed: u64, mutation: Option<Mutation>) -> (World, u64) {
    let (mut world, leader) = opened(World::calm(seed, 3, mutation));
    world.begin_load(4);
    world.pace_us = 200 * MS;
    world.run_for(2 * SECOND);
    (world, leader)
}

/// Bytes of the record that [`append_large`] sends.
pub(super) const LARGE_BYTES: usize = 900 << 10;

pub(super) fn append_large(world: &mut World, leader: u64) {
    append_sized(world, leader, LARGE_BYTES);
}

fn append_sized(world: &mut World, leader: u64, bytes: usize) {
    let value = world.next_value;
    world.next_value += 1;
    let text = format!("value:{value};{}", "x".repeat(bytes));
    let batch = Builder::new().record(0, None, Some(text.as_bytes())).build();
    let items = vec![Append { partition: partition(0), batch }];
    if let Some(caller) = world.node(leader).call(Call::Command) {
        let order = SendOrder::default();
        world.event(leader, Event::Append { caller, items, order });
    }
}

fn full_follower(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = lightly_loaded(seed, mutation);
    let full = world.others(leader)[0];
    world.node(full).is_full = true;
    world.run_for(8 * SECOND);
    takes_records(&mut world);
    let leader = world.elect();
    let snapshots = world.counts.snapshots;
    delete_and_recover(&mut world, leader, vec![full]);
    if world.counts.snapshots != snapshots {
        let text = format!("replica {full} gets a snapshot in place of a few batches");
        world.oracle.violate(text);
    }
    takes_records(&mut world);
    world.finish()
}

#[test]
fn a_follower_that_is_full_alone_gets_to_a_delete_behind_batches() {
    holds(full_follower, &[]);
}

/// More than the leader sends into a reserve is before the delete.
fn full_follower_far_behind(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = lightly_loaded(seed, mutation);
    let full = world.others(leader)[0];
    world.node(full).is_full = true;
    world.run_for(SECOND);
    let snapshots = world.counts.snapshots;
    for _ in 0..=limits::RESERVE_CATCH_UP_BYTES_MAX / LARGE_BYTES as u64 {
        append_large(&mut world, leader);
        world.run_for(200 * MS);
    }
    let taken = world.applied(full);
    let leader = world.elect();
    delete_and_recover(&mut world, leader, vec![full]);
    if world.counts.snapshots == snapshots {
        let text = format!("replica {full} took batches from {taken} on into its reserve");
        world.oracle.violate(text);
    }
    takes_records(&mut world);
    world.finish()
}

#[test]
fn a_full_follower_far_behind_gets_a_snapshot_and_keeps_its_reserve() {
    holds(full_follower_far_behind, &[]);
}

fn two_of_three(seed: u64, mutation: Option<Mutation>, of_leader: bool) -> Result<(), String> {
    let (mut world, leader) = loaded(seed, mutation);
    let others = world.others(leader);
    let full = vec![others[0], if of_leader { leader } else { others[1] }];
    full.iter().for_each(|node| world.node(*node).is_full = true);
    world.run_for(8 * SECOND);
    let leader = world.elect();
    delete_and_recover(&mut world, leader, full);
    takes_records(&mut world);
    world.finish()
}

#[test]
fn two_of_three_that_are_full_get_to_a_delete() {
    holds(|seed, mutation| two_of_three(seed, mutation, false), &[]);
    holds(|seed, mutation| two_of_three(seed, mutation, true), &[]);
}

/// One follower is full and the other is dead: batches that wait for them must not hold up a
/// delete.
fn full_and_dead(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = loaded(seed, mutation);
    let others = world.others(leader);
    world.node(others[0]).is_full = true;
    world.run_for(SECOND);
    world.crash(others[1]);
    world.run_for(8 * SECOND);
    let leader = world.elect();
    // A command that frees nothing is behind the batches, too.
    let opened = partition(DELETED + 1);
    let open = OpenPartition { partition: opened, epoch_base: 0 };
    world.propose(leader, ShardCommand::OpenPartitions(vec![open]));
    world.until("a command behind batches", |world| {
        let process = world.nodes[&leader].process.as_ref();
        process.is_some_and(|p| p.state.0.borrow().partitions.contains_key(&opened))
    });
    delete_and_recover(&mut world, leader, vec![others[0]]);
    takes_records(&mut world);
    world.start(others[1]);
    world.finish()
}

#[test]
fn one_full_and_one_dead_follower_get_to_a_delete() {
    holds(full_and_dead, &[]);
}

/// A batch that uses up what may be uncommitted waits for two full followers. The delete must be
/// proposed all the same, and reach them behind the batch.
fn uncommitted_and_full(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = opened(World::roomy(seed, 3, mutation));
    world.run_for(SECOND);
    let full = world.others(leader);
    // What the leader sends is lost until it knows of the full disks.
    world.isolate(&[leader]);
    let common = limits::UNCOMMITTED_BYTES_MAX - limits::UNCOMMITTED_RESERVE_BYTES;
    append_sized(&mut world, leader, usize::try_from(common).expect("small"));
    full.iter().for_each(|node| world.node(*node).is_full = true);
    world.run_for(250 * MS);
    world.network.heal();
    world.run_for(SECOND);
    let replica = world.nodes[&leader].replica().expect("it leads");
    assert!(replica.last_index() > replica.committed(), "seed {seed}: the batch is committed");
    // Longer than a proposal waits.
    world.run_for(8 * SECOND);
    let leader = world.elect();
    delete_and_recover(&mut world, leader, full);
    world.begin_load(4);
    world.run_for(SECOND);
    takes_records(&mut world);
    world.finish()
}

#[test]
fn a_delete_is_proposed_although_as_much_as_may_be_is_uncommitted() {
    holds(uncommitted_and_full, &[]);
}
