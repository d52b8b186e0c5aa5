//! A replica sends messages that no correct replica sends: the others refuse them, and nothing
//! changes.

use bytes::Bytes;
use ropewalk_shard::HistoryId;
use ropewalk_shard::driver::Event;
use ropewalk_shard::engine::EntryId;
use ropewalk_shard::message::{Body, Message};

use super::{SECOND, holds};
use crate::forge::{self, Forged};
use crate::mutation::Mutation;
use crate::world::World;

/// What a refused message must leave as it is: term, leader, commit index and end of the log.
fn status(world: &World, node: u64) -> (u64, Option<u64>, u64, u64, Option<u64>) {
    let replica = world.nodes[&node].replica().expect("it runs");
    let ends = (replica.committed(), replica.last_index());
    (replica.term(), replica.leader(), ends.0, ends.1, replica.leading())
}

fn refuses(world: &mut World, node: u64, Forged { what, message, is_expected }: Forged) {
    let before = status(world, node);
    world.rejection = None;
    world.event(node, Event::Message(message));
    let rejection = world.rejection.take();
    if !rejection.is_some_and(|rejection| is_expected(&rejection)) {
        world.oracle.violate(format!("replica {node} gets {what}: {rejection:?}"));
    }
    if world.nodes[&node].process.is_none() || status(world, node) != before {
        world.oracle.violate(format!("replica {node} changes: it gets {what}"));
    }
}

fn bad_peer(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, mutation);
    let leader = world.elect();
    for round in 0..3 {
        world.append_many(leader, 5);
        world.run_for(SECOND);
        for node in [1, 2, 3] {
            let others = world.others(node);
            let other = others.into_iter().find(|other| *other != leader).expect("three replicas");
            let replica = world.nodes[&node].replica().expect("it runs");
            for forged in forge::forged(replica, leader, other) {
                refuses(&mut world, node, forged);
                if world.oracle.violation().is_some() {
                    return world.finish();
                }
            }
        }
        assert!(world.leader() == Some(leader), "seed {seed}, round {round}: it leads still");
    }
    world.finish()
}

#[test]
fn a_replica_refuses_what_no_correct_replica_sends() {
    holds(bad_peer, &[]);
}

#[test]
fn a_message_that_was_cut_or_belongs_to_another_history_is_not_decoded() {
    let mut world = World::calm(1, 3, None);
    let leader = world.elect();
    world.append_many(leader, 3);
    world.run_for(SECOND);
    let history = HistoryId(0);
    let last = world.nodes[&leader].replica().expect("it runs").applied();
    let disk = &world.nodes[&leader].disk;
    let entries = disk.read(last.index - 2, last.index).expect("they are in the log");
    let previous = EntryId { index: last.index - 3, term: last.term };
    let body = Body::Append { previous, commit: last.index, entries };
    let message = Message { from: leader, to: leader % 3 + 1, term: last.term, body };
    let encoded = message.encode(history).to_bytes();
    assert_eq!(Message::decode(encoded.clone(), history), Ok(message));
    for len in 0..encoded.len() {
        Message::decode(encoded.slice(..len), history).expect_err("it is cut");
    }
    let longer = [&encoded[..], b"x"].concat();
    Message::decode(Bytes::from(longer), history).expect_err("a byte is behind it");
    Message::decode(encoded, HistoryId(1)).expect_err("another history");
}
