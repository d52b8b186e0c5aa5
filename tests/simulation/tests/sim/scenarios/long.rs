//! Long times and long logs: what a replica keeps in memory, and what it sends while idle.

use bytes::Bytes;
use ropewalk_shard::command::{self, Append, Command, FORMAT_WITHOUT_LEVEL};
use ropewalk_shard::limits;

use super::{MS, SECOND};
use crate::clients::{filler, partition};
use crate::world::{Counts, Happening, World};

const HOUR: u64 = 3600 * SECOND;

/// Open calls, messages and writes that a replica keeps at most under the load of these tests.
const ITEMS_MAX: usize = 1000;

/// Bytes of payloads that a replica keeps at most: applied entries for followers that are a little
/// behind, messages that wait for its own writes, and entries that are not committed.
const BYTES_MAX: u64 =
    limits::LOG_WINDOW_BYTES + limits::INBOX_BYTES_MAX as u64 + limits::UNCOMMITTED_BYTES_MAX;

impl World {
    fn end_in_peace(&mut self, items_max: usize) {
        if let Some(violation) = self.oracle.violation() {
            panic!("{violation}\n{}", self.trace.newest());
        }
        let peak = self.peak;
        assert!(peak.items <= items_max && peak.bytes <= BYTES_MAX, "{peak:?}");
    }
}

#[test]
fn a_day_without_work_leaves_memory_as_it_was() {
    let mut world = World::calm(1, 3, None);
    let leader = world.elect();
    world.append_many(leader, 5);
    world.run_for(HOUR);
    let footprints = |world: &World| -> Vec<_> {
        let cores = world.nodes.values().map(|n| &n.process.as_ref().expect("it runs").core);
        cores.map(|core| core.footprint()).collect()
    };
    let (footprint, messages, elections) =
        (footprints(&world), world.counts.messages, world.counts.elections);
    let applied = world.applied(leader);
    world.run_for(23 * HOUR);
    let per_hour = (world.counts.messages - messages) / 23;
    println!("idle: {footprint:?}, {per_hour} messages per hour");
    assert_eq!(footprints(&world), footprint);
    assert_eq!(world.counts.elections, elections);
    assert_eq!(world.applied(leader), applied, "without changes there is nothing to compare");
    // A heartbeat to each follower and its answer, every 200 ms by the leader's clock.
    assert!((60_000..80_000).contains(&per_hour), "{per_hour} messages per hour");
    world.end_in_peace(ITEMS_MAX);
}

#[test]
fn a_peer_that_is_paused_for_ten_minutes_costs_bounded_memory() {
    let mut world = World::calm(2, 3, None);
    let leader = world.elect();
    world.append_many(leader, 3);
    world.begin_load(4);
    world.pace_us = 100 * MS;
    for node in world.nodes.keys().copied().collect::<Vec<_>>() {
        world.after(30 * SECOND, Happening::Checkpoint { node, every_us: 30 * SECOND });
    }
    let paused = world.others(leader)[0];
    world.pause(paused, 600 * SECOND);
    world.run_for(600 * SECOND);
    assert!(world.applied(leader) > world.applied(paused) + 5_000, "there was no load");
    world.run_for(20 * SECOND);
    assert!(world.applied(leader) < world.applied(paused) + 100, "it lags still");
    assert!(world.counts.snapshots > 0, "the log that it lacked was released");
    let peak = world.peak;
    let Counts { merged, .. } = world.counts;
    println!("paused: {peak:?}, {} acked, {merged} merged", world.oracle.acked_count());
    // Of the heartbeats of ten minutes it gets the newest one.
    assert!(merged > 2_500, "{merged} of 3,000 heartbeats merged");
    world.end_in_peace(ITEMS_MAX);
    let now = world.nodes[&paused].process.as_ref().expect("it runs").core.footprint();
    assert!(now.items < 100, "{now:?}");
    world.finish().unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_follower_64_gib_behind_costs_bounded_memory() {
    const ENTRIES: u64 = 60_000;
    const ENTRY_BYTES: u64 = (64 << 30) / ENTRIES;
    let mut world = World::calm(3, 3, None);
    // The log that replaces that of two replicas has no comparison of states, so neither may this.
    world.set_level(FORMAT_WITHOUT_LEVEL);
    world.elect();
    world.run_for(SECOND);
    (1..=3).for_each(|id| world.crash(id));
    // All have the same payload, so that they need no memory here. Its term is none of the log:
    // applying it changes nothing.
    let batch = filler(usize::try_from(ENTRY_BYTES).expect("small") - 200);
    let append = Command::Append(vec![Append { partition: partition(0), batch }]);
    let payload: Bytes = command::encode(u64::MAX, 0, &append).to_bytes();
    for id in [1, 2] {
        world.node(id).disk.preload(&payload, ENTRIES);
        world.start(id);
    }
    let leader = world.elect();
    let end = world.applied(leader);
    assert!(end > ENTRIES, "{end} entries");
    // Through the simulated disk, 64 GiB would take minutes.
    world.node(3).disk.drop_payloads();
    world.start(3);
    while world.applied(3) < end && world.oracle.violation().is_none() {
        assert!(world.at_us < HOUR, "it has only {} of {end}", world.applied(3));
        world.run_for(SECOND);
    }
    let (peak, flying) = (world.peak, world.network.flying_bytes_max);
    println!("64 GiB behind: {peak:?}, {flying} bytes in flight, {} s", world.at_us / SECOND);
    world.end_in_peace(ITEMS_MAX);
    assert!(flying <= limits::PEER_BYTES_INFLIGHT_MAX, "{flying}");
    assert!(world.counts.snapshots == 0 && world.counts.fetches as u64 > ENTRIES / 2);
}
