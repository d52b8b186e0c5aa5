//! Whole brokers in one process and on one clock: every run is a function of its seed.
//!
//! Handlers, coordinator, reconciler, balancer, the loop of the members, the shards and their
//! threads are the real ones. Clients call the handlers; the network between the brokers, the disks
//! and the time are simulated. The threads of the brokers run one at a time (see [`threads`]).
//!
//! A run has a process of its own, because the order of hash tables and the ids that are drawn come
//! from the C library, whose random numbers the seed decides there (`random.c`).
//!
//! `ROPEWALK_SEEDS=FROM..TO` sets the seeds, and `ROPEWALK_SECONDS` the time after which none is
//! begun. A failing one prints itself and its last events. `ROPEWALK_SEED=N ROPEWALK_LOUD=1` with
//! `LD_PRELOAD=…/random.so` and the test `one_seed` prints every event of one run.

#![expect(clippy::disallowed_methods, reason = "it starts processes, and variables name the seeds")]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod client;
#[path = "../sim/dice.rs"]
mod dice;
mod faults;
mod gate;
mod group;
mod mutation;
mod network;
mod oracle;
mod runs;
mod threads;
mod trace;
mod work;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Client;
use mutation::Mutation;
use runs::{HASH, Runner, SEED, VIOLATION};
use threads::Threads;
use world::World;

/// Prints every event of a run at once.
const LOUD: &str = "ROPEWALK_LOUD";

/// The seeds of a run without `ROPEWALK_SEEDS`.
const SEEDS: u64 = 6;

/// So many seeds together do everything that is counted.
const ALL_COUNTED_FROM: u64 = 4;

/// How long faults are made, simulated time.
const FAULTS: Duration = Duration::from_secs(30);

async fn play(world: &Arc<World>) {
    tokio::spawn(Arc::clone(&world.net).run());
    tokio::spawn(faults::watch(Arc::clone(world)));
    world.start(1);
    if !faults::served_by(world, 1, Duration::from_secs(30)).await {
        return world.oracle.violated("the first broker does not serve".to_owned());
    }
    for broker in [2, 3] {
        world.start(broker);
    }
    if !faults::served_by(world, 3, Duration::from_secs(60)).await {
        return world.oracle.violated("three brokers do not serve".to_owned());
    }
    let mut client = Client::new("first", world);
    for (topic, partitions) in work::TOPICS {
        work::create(&mut client, topic, *partitions).await;
    }
    for number in 1..=3 {
        tokio::spawn(work::produce(Arc::clone(world), number));
    }
    for partition in work::partitions() {
        tokio::spawn(work::read(Arc::clone(world), partition));
    }
    for number in 1..=3 {
        tokio::spawn(group::member(Arc::clone(world), number));
    }
    tokio::spawn(work::change_topics(Arc::clone(world)));
    faults::make(world, FAULTS).await;
    faults::end(world).await;
}

/// The run of one seed. It is a process of its own: see [`runs`].
#[test]
#[ignore = "it is started by the other tests"]
fn one_seed() {
    let Ok(seed) = std::env::var(SEED) else { return };
    let seed = seed.parse().expect("a number");
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    let entered = runtime.enter();
    let _simulated = ropewalk_thread::simulate(Threads::new());
    drop(entered);
    runtime.block_on(async {
        let mutation = std::env::var(mutation::MUTATION).ok();
        let mutation = mutation.and_then(|name| Mutation::named(&name));
        let world = World::new(seed, std::env::var(LOUD).is_ok(), mutation);
        let limit = Duration::from_secs(900);
        if tokio::time::timeout(limit, play(&world)).await.is_err() {
            world.oracle.violated("the run does not end".to_owned());
        }
        let hash = world.trace.hash() ^ world.disks();
        let counts = world.oracle.counts().map(|(what, count)| format!(" {what}={count}")).concat();
        println!("\n{HASH}{hash:016x} messages={}{counts}", world.net.messages());
        if let Some(violation) = world.oracle.violation() {
            println!("the last events:\n{}\n{VIOLATION}{violation}", world.trace.newest());
        }
    });
    // The threads of the brokers wait for turns that do not come.
    std::process::exit(0);
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("ROPEWALK_SEEDS") else { return 0..SEEDS };
    let parsed =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("ROPEWALK_SEEDS is {text:?}, must be FROM..TO"))
}

/// When no other seed is begun.
fn end() -> Option<Instant> {
    let text = std::env::var("ROPEWALK_SECONDS").ok()?;
    let seconds = text.parse().expect("ROPEWALK_SECONDS is a number");
    Some(Instant::now() + Duration::from_secs(seconds))
}

#[test]
fn d1_o1_o3_every_seed_of_whole_brokers_keeps_what_was_promised() {
    let (runner, end) = (Runner::new("seeds"), end());
    let mut totals = BTreeMap::new();
    let mut count = 0;
    for seed in seeds() {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let (first, second) = runner.twice(seed);
        if let Some(violation) = &first.violation {
            panic!("seed {seed}: {violation}\n{}", first.text);
        }
        assert_eq!(first.result, second.result, "seed {seed} does not repeat itself");
        println!("seed {seed}: {}", first.result);
        for (what, number) in first.counts() {
            *totals.entry(what.to_owned()).or_insert(0) += number;
        }
        count += 1;
    }
    println!("{count} seeds: of whole brokers, {totals:?}");
    if count >= ALL_COUNTED_FROM {
        assert!(totals.values().all(|total| *total > 0), "{totals:?}");
    }
}

#[test]
fn the_oracle_notices_every_mutation_of_the_surroundings() {
    let runner = Runner::new("mutations");
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let seeds = mutation.seeds();
        let found =
            (0..seeds).find_map(|seed| Some((seed, runner.once(seed, mutation).violation?)));
        match found {
            Some((seed, violation)) => println!("{mutation:?}: seed {seed}: {violation}"),
            None => missed.push(format!("{mutation:?} in {seeds} seeds")),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
