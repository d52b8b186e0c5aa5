//! What was found in Redpanda, Bufstream, Apache Kafka and etcd.

use ropewalk_shard::driver::Event;
use ropewalk_shard::engine::MembersChange;

use super::{MS, SECOND, holds};
use crate::mutation::Mutation;
use crate::world::World;

/// Jepsen's Redpanda 21.10.1: idempotent producers retry at a new leader what the old one may have
/// stored, and records were stored twice.
fn retries_at_a_new_leader(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    world.pace_us = 5 * MS;
    for producer in 0..6 {
        world.add_client(Some(1000 + producer));
    }
    for round in 0..8 {
        world.run_for(1_500 * MS);
        let Some(leader) = world.leader() else { continue };
        let others = world.others(leader);
        match round % 4 {
            0 => {
                world.crash(leader);
                world.run_for(500 * MS);
                world.start(leader);
            }
            1 => {
                // The new leader knows earlier batches from its snapshot alone.
                world.checkpoint(others[0]);
                world.crash(others[0]);
                world.start(others[0]);
                world.run_for(500 * MS);
                world.event(leader, Event::Transfer(others[0]));
            }
            2 => world.pause(leader, 2 * SECOND),
            _ => {
                // It is alone with what it takes from now on.
                world.isolate(&[leader]);
                world.run_for(2 * SECOND);
                world.network.heal();
            }
        }
        world.checkpoint(others[1]);
    }
    world.run_for(8 * SECOND);
    world.finish()
}

#[test]
fn o1_redpanda_21_10_1_a_retry_at_a_new_leader_is_stored_once() {
    holds(retries_at_a_new_leader, &[Mutation::SnapshotForgetsProducers]);
}

/// Jepsen's Bufstream 0.1.0: in a healthy cluster, a producer got offset 0 for a record that
/// was elsewhere, or nowhere.
fn offsets_of_a_healthy_cluster(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    world.begin_load(8);
    world.run_for(5 * SECOND);
    // The same request of an idempotent producer twice: both answers name where it is.
    for producer in 0..20 {
        let client = world.clients.len();
        world.clients.push(crate::clients::Client::new(Some(5000 + producer)));
        let value = world.request(client, leader, 1);
        world.clients[client].timed_out();
        world.run_for(20 * MS);
        world.request(client, leader, 1);
        world.until("an acknowledgement", |world| world.oracle.is_acked(value));
    }
    if world.counts.elections > 1 {
        world.oracle.violate("the leader of a healthy cluster changed".to_owned());
    }
    world.finish()
}

#[test]
fn o1_bufstream_0_1_0_an_acknowledgement_names_the_offset_of_its_record() {
    holds(offsets_of_a_healthy_cluster, &[Mutation::AnswersSwapped]);
}

/// KAFKA-14077: v1 leads, v2 acknowledges a record that v3 lacks. The disk of v1 fails and is
/// replaced by an empty one: v1 must not vote for v3.
fn replaced_disk(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    world.append_many(leader, 5);
    let others = world.others(leader);
    world.isolate(&[others[1]]);
    world.append_many(leader, 1);
    world.crash(leader);
    world.crash(others[0]);
    world.replace_disk(leader);
    world.network.heal();
    world.start(leader);
    world.run_for(8 * SECOND);
    world.start(others[0]);
    world.run_for(5 * SECOND);
    world.finish()
}

#[test]
fn d4_kafka_14077_a_replaced_disk_does_not_vote() {
    holds(replaced_disk, &[Mutation::EmptyDiskKeepsId]);
}

/// etcd #14143: a replica restarts with members that a later entry has changed. Here the first of
/// what are three now restarts after each change, without the others.
fn old_members(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 1, mutation);
    world.elect();
    world.append_many(1, 3);
    for _ in 0..2 {
        let change = world.new_learner();
        for change in [change, MembersChange::Promote(change.replica())] {
            world.reach_member(change);
            if world.dice.one_in(2) {
                world.checkpoint(1);
            }
            let others = world.others(1);
            world.isolate(&others);
            world.crash(1);
            world.start(1);
            let value = world.append(1);
            world.run_for(4 * SECOND);
            let is_alone = matches!(change, MembersChange::Promote(_));
            if is_alone && (world.oracle.is_acked(value) || world.nodes[&1].is_leader()) {
                world.oracle.violate(format!("replica 1 leads alone after {change:?}"));
            }
            world.network.heal();
            world.run_for(4 * SECOND);
        }
    }
    world.finish()
}

/// Three voters and two learners restart, and only one voter reaches the learners: they must not
/// elect it, because the two others may lead.
fn learners_do_not_elect(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    for _ in 0..2 {
        let change = world.new_learner();
        world.reach_member(change);
    }
    world.append_many(leader, 5);
    world.run_for(SECOND);
    let ids: Vec<u64> = world.nodes.keys().copied().collect();
    ids.iter().for_each(|id| world.checkpoint(*id));
    ids.iter().for_each(|id| world.crash(*id));
    let alone = if leader == 1 { 2 } else { 1 };
    let (with_learners, others): (Vec<u64>, Vec<u64>) =
        ids.iter().partition(|id| **id == alone || **id > 3);
    world.isolate(&with_learners);
    with_learners.iter().for_each(|id| world.start(*id));
    world.run_for(8 * SECOND);
    if let Some(leader) = world.leader() {
        world.oracle.violate(format!("learners elect replica {leader}"));
    }
    others.iter().for_each(|id| world.start(*id));
    world.run_for(5 * SECOND);
    world.finish()
}

#[test]
fn d4_learners_do_not_elect() {
    holds(learners_do_not_elect, &[Mutation::LearnerVotes]);
}

#[test]
fn d4_etcd_14143_no_election_with_members_that_have_changed() {
    holds(old_members, &[Mutation::OldMembers]);
}
