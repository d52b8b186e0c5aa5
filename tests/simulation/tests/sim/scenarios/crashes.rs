//! A crash before every step of a change of the members, a transfer of leadership, and the
//! installation of a snapshot.
//!
//! A first run counts the writes, answers, messages and snapshots of the script. Then the script
//! runs once for each of them: the replica that is about to do it crashes instead.

use ropewalk_shard::driver::Event;
use ropewalk_shard::engine::MembersChange;

use super::{MS, SECOND};
use crate::steps::Steps;
use crate::world::World;

/// A script, and what is done before its steps count.
struct Script {
    voters: u64,
    prepare: fn(&mut World),
    act: fn(&mut World),
}

impl Script {
    fn run(&self, crash_at: Option<usize>, down_us: u64) -> (Steps, Result<(), String>) {
        let mut world = World::calm(1, self.voters, None);
        let leader = world.elect();
        world.append_many(leader, 3);
        (self.prepare)(&mut world);
        world.steps = Steps { is_counted: true, crash_at, down_us, ..Steps::default() };
        (self.act)(&mut world);
        let steps = std::mem::take(&mut world.steps);
        (steps, world.finish())
    }

    /// Crashes before every step, with a short and a long time until the restart.
    fn crash_at_every_step(&self) {
        let (steps, result) = self.run(None, 0);
        result.unwrap_or_else(|violation| panic!("without a crash: {violation}"));
        let count = steps.reached;
        for down_us in [10 * MS, 3 * SECOND] {
            for step in 1..=count {
                let (steps, result) = self.run(Some(step), down_us);
                let prevented = steps.prevented.expect("runs are equal up to the crash");
                result.unwrap_or_else(|violation| {
                    panic!("step {step} of {count}, down {down_us} us, {prevented}: {violation}")
                });
            }
        }
        println!("a crash before each of {count} steps");
        assert!(count > 10, "the script has {count} steps");
    }
}

fn nothing(_: &mut World) {}

fn append(world: &mut World) {
    let leader = world.elect();
    world.append(leader);
}

#[test]
fn d1_a_crash_at_every_step_from_learner_to_voter_to_removed() {
    let act = |world: &mut World| {
        let first = world.leader().expect("it is elected");
        let change = world.new_learner();
        world.reach_member(change);
        append(world);
        world.reach_member(MembersChange::Promote(change.replica()));
        append(world);
        // The one that led when it began, which leads still if nothing crashed.
        world.reach_member(MembersChange::Remove(first));
        append(world);
        world.reach_member(MembersChange::Remove(change.replica()));
    };
    Script { voters: 3, prepare: nothing, act }.crash_at_every_step();
}

#[test]
fn d1_a_crash_at_every_step_from_one_to_three_to_one() {
    let act = |world: &mut World| {
        let mut added = Vec::new();
        for _ in 0..2 {
            let change = world.new_learner();
            world.reach_member(change);
            world.reach_member(MembersChange::Promote(change.replica()));
            append(world);
            added.push(change.replica());
        }
        for replica in added {
            world.reach_member(MembersChange::Remove(replica));
            append(world);
        }
    };
    Script { voters: 1, prepare: nothing, act }.crash_at_every_step();
}

#[test]
fn d1_a_crash_at_every_step_of_a_transfer_of_leadership() {
    let act = |world: &mut World| {
        let first = world.leader().expect("it is elected");
        let to = world.others(first)[0];
        for _ in 0..30 {
            append(world);
            match world.leader() {
                Some(leader) if leader == to => return,
                Some(leader) => world.event(leader, Event::Transfer(to)),
                None => {}
            }
            world.run_for(SECOND);
        }
        world.oracle.violate(format!("replica {to} never leads"));
    };
    Script { voters: 3, prepare: nothing, act }.crash_at_every_step();
}

#[test]
fn d1_a_crash_at_every_step_of_the_installation_of_a_snapshot() {
    // A follower lags, and the log that it lacks is released.
    let prepare = |world: &mut World| {
        let leader = world.leader().expect("it is elected");
        let others = world.others(leader);
        world.isolate(&others[..1]);
        world.append_many(leader, 5);
        world.run_for(SECOND);
        world.checkpoint(leader);
        world.checkpoint(others[1]);
    };
    let act = |world: &mut World| {
        let installed = world.counts.snapshots;
        world.network.heal();
        append(world);
        world.until("a snapshot", |world| world.counts.snapshots > installed);
        append(world);
        world.run_for(SECOND);
    };
    Script { voters: 3, prepare, act }.crash_at_every_step();
}
