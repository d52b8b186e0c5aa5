//! Replicas of different versions of the broker.

use ropewalk_shard::command::{FORMAT_MAX, FORMAT_WITHOUT_LEVEL};

use super::{SECOND, holds};
use crate::alteration::Alteration;
use crate::mutation::Mutation;
use crate::world::World;

impl World {
    /// Sets the feature level that every node knows.
    pub(super) fn set_level(&mut self, level: u8) {
        self.nodes.values_mut().for_each(|node| node.set_level(level));
    }

    /// Whether the state of every replica has been checked.
    fn is_checked(&self) -> bool {
        let processes = self.nodes.values().filter_map(|node| node.process.as_ref());
        processes.map(|process| process.state.0.borrow().log_sum).all(|sum| sum.is_some())
    }
}

/// The level was raised although one of three replicas is of an older version. It stops with a
/// reason, also after a restart, and the others continue.
fn older_replica(seed: u64, _: Option<Mutation>) -> Result<(), String> {
    let mut world = World::calm(seed, 3, None);
    let leader = world.elect();
    let older = world.others(leader)[0];
    world.altered = Some((older, Alteration::NewerFormat));
    world.may_stop.insert(older);
    world.append_many(leader, 5);
    world.stops(older, "was written by a newer version of the broker: it has format 255");
    world.append_many(leader, 5);
    let applied = world.applied(leader);
    world.node(older).is_lost = false;
    world.start(older);
    world.stops(older, "was written by a newer version of the broker: it has format 255");
    world.append_many(leader, 5);
    if world.applied(leader) < applied + 5 {
        world.oracle.violate("the others do not continue".to_owned());
    }
    world.finish()
}

#[test]
fn a_replica_of_an_older_version_stops_with_a_reason_and_the_others_continue() {
    holds(older_replica, &[]);
}

#[test]
fn a_newer_command_is_written_only_at_its_feature_level() {
    let mut world = World::calm(1, 3, None);
    world.set_level(FORMAT_WITHOUT_LEVEL);
    let leader = world.elect();
    world.append_many(leader, 5);
    world.run_for(30 * SECOND);
    let states = || world.nodes.values().filter_map(|node| node.process.as_ref());
    let is_begun = states().any(|process| process.state.0.borrow().log_sum.is_some());
    assert!(!is_begun, "a broker of an older version would stop");
    world.set_level(FORMAT_MAX);
    world.append_many(leader, 1);
    world.until("a check", World::is_checked);
    world.finish().unwrap_or_else(|violation| panic!("{violation}"));
}
