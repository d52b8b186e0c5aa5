//! A shard of several replicas in one thread: every run is a function of its seed.
//!
//! The cores, their state machines, their messages and their write-ahead logs are the real ones.
//! Disks, network, clocks, clients and the operator are simulated: messages are lost, doubled,
//! reordered, forged and cut off in one direction; processes crash, pause and restart; disks are
//! slow or full, lose and tear what was not synced, fail syncs and flip bits; records are written
//! to segments slowly; members come and go. An oracle compares the answers to clients with what
//! every replica holds.
//!
//! `ROPEWALK_SEEDS=FROM..TO` sets the seeds; a failing one prints itself and its last events.

#![expect(clippy::disallowed_methods, reason = "a variable names the seeds")]

/// Most of what a run allocates is small and short-lived.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod alteration;
mod bucket;
mod chaos;
mod check;
mod clients;
mod contest;
mod dice;
mod disk;
mod forge;
mod host;
mod mutation;
mod network;
mod node;
mod operator;
mod oracle;
mod process;
mod scenarios;
mod sending;
mod steps;
mod tier;
mod trace;
mod traffic;
mod world;

use std::ops::Range;

use mutation::Mutation;
use tier::TierCounts;
use world::{Counts, World};

/// The seeds of a test: those of `ROPEWALK_SEEDS`, or the first `count`.
fn seeds(count: u64) -> Range<u64> {
    let Ok(text) = std::env::var("ROPEWALK_SEEDS") else { return 0..count };
    let parsed =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("ROPEWALK_SEEDS is {text:?}, must be FROM..TO"))
}

/// Up to so many seeds each runs twice, of more one in [`SAMPLE`].
const EACH_TWICE_MAX: u64 = 5_000;
const SAMPLE: u64 = 8;

/// The result of a run.
struct Run {
    violation: Option<String>,
    hash: u64,
    counts: Counts,
    trace: String,
}

fn run(seed: u64, mutation: Option<Mutation>) -> Run {
    let voters = if seed % 4 == 3 { 5 } else { 3 };
    let mut world = World::wild(seed, voters, mutation);
    if mutation.is_some_and(Mutation::is_of_tier) {
        world.begin_tier();
    }
    world.play();
    Run {
        violation: world.oracle.violation().map(str::to_owned),
        hash: world.hash(),
        counts: world.counts,
        trace: world.trace.newest(),
    }
}

#[test]
fn d1_d5_o1_every_seed_keeps_what_was_promised() {
    let mut total = Counts::default();
    let seeds = seeds(150);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let Run { violation, hash, counts, trace } = run(seed, None);
        if let Some(violation) = violation {
            panic!("seed {seed}: {violation}\nthe last events:\n{trace}");
        }
        if count <= EACH_TWICE_MAX || seed % SAMPLE == 0 {
            assert_eq!(run(seed, None).hash, hash, "seed {seed} does not repeat itself");
        }
        total.acked += counts.acked;
        total.crashes += counts.crashes;
        total.elections += counts.elections;
        total.contests += counts.contests;
        total.messages += counts.messages;
        total.snapshots += counts.snapshots;
        total.fetches += counts.fetches;
        total.changes += counts.changes;
        total.refused += counts.refused;
        total.full += counts.full;
        total.held += counts.held;
        total.reads += counts.reads;
        total.digests += counts.digests;
        total.merged += counts.merged;
        total.ended += counts.ended;
        total.events += counts.events;
    }
    println!("{count} seeds: {total:?}");
    assert!(total.acked > 0 && total.snapshots > 0 && total.reads > 0, "{total:?}");
    assert!(total.digests > 0, "no state was compared: {total:?}");
    assert!(total.ended > 0, "no end of a process was reported: {total:?}");
}

/// The same faults, while leaders move records to a bucket and replicas remove them.
#[test]
fn t1_o4_with_every_seed_records_are_on_disks_or_in_the_bucket() {
    let (mut total, mut hashes) = (TierCounts::default(), Vec::new());
    let seeds = seeds(40);
    for seed in seeds.clone().chain(seeds.clone().take(2)) {
        let voters = if seed % 4 == 3 { 5 } else { 3 };
        let mut world = World::wild(seed, voters, None);
        world.begin_tier();
        world.play();
        if let Some(violation) = world.oracle.violation() {
            panic!("seed {seed}: {violation}\nthe last events:\n{}", world.trace.newest());
        }
        hashes.push(world.hash());
        total.add(world.tier().counts);
    }
    println!("{} seeds: {total:?}", seeds.end - seeds.start);
    let again = hashes.split_off(hashes.len() - seeds.clone().count().min(2));
    assert!(hashes.starts_with(&again), "a seed does not repeat itself");
    assert!(total.trimmed > 0 && total.pages > 0 && total.deleted > 0, "{total:?}");
    assert!(total.applied > 0 && total.found > 0, "{total:?}");
}

#[test]
fn the_oracle_notices_every_mutation() {
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let seeds = mutation.seeds();
        let found = (0..seeds).find_map(|seed| Some((seed, run(seed, Some(mutation)).violation?)));
        match found {
            Some((seed, violation)) => println!("{mutation:?}: seed {seed}: {violation}"),
            None => missed.push(format!("{mutation:?} in {seeds} seeds")),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
