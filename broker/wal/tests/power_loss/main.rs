//! The log on a disk that loses power: acknowledged records are there, and others are never
//! accepted.
//!
//! Each start of the machine opens the log, compares it with the model, writes and releases, and
//! ends with a crash point, a failed sync or a shutdown. Then the power is cycled or the process is
//! restarted. The only permitted uncertainty is the one round that was being written at the end: it
//! may be there completely or not at all.
//!
//! `ROPEWALK_SEEDS` is the number of seeds, 500 by default. The test prints what was run, and
//! `tests/power-loss/run` counts it.

mod aside;
mod damage;
mod faults;
mod forge;
mod machine;
mod model;
mod pool;
mod seal;

use std::collections::BTreeSet;

use machine::Machine;

fn seeds() -> u64 {
    std::env::var("ROPEWALK_SEEDS").map_or(500, |given| given.parse().expect("a number of seeds"))
}

/// Runs one machine for some starts. The error is what an oracle found wrong.
fn run(seed: u64, ignored: Option<&'static str>) -> Result<Machine, String> {
    let mut machine = Machine::new(seed, ignored);
    for _ in 0..6 {
        machine.live()?;
        machine.end_life();
    }
    Ok(machine)
}

#[test]
fn d1_d3_d6_every_seed_keeps_what_was_acknowledged() {
    let mut rounds = 0;
    let mut recycled = 0;
    let mut doubts_kept = 0;
    for seed in 0..seeds() {
        let machine = run(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        rounds += machine.rounds_written;
        recycled += machine.files_released;
        doubts_kept += machine.doubts_kept;
    }
    println!("seeds lived: {}", seeds());
    // The oracle shows nothing if the machines do nothing.
    assert!(rounds > 20 * seeds(), "{rounds} rounds");
    assert!(recycled > seeds() / 2, "{recycled} files");
    assert!(doubts_kept > seeds() / 20, "{doubts_kept} unacknowledged rounds survived");
}

/// The oracle must notice if any one sync is disabled. The reasons are those that a run counts, so
/// that a new sync is covered as soon as it exists.
#[test]
fn d1_taking_out_any_one_sync_is_noticed() {
    let mut reasons = BTreeSet::new();
    for seed in 0..20 {
        let machine = run(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        reasons.extend(machine.sync_reasons());
    }
    assert!(reasons.len() >= 5, "{reasons:?}");
    for why in reasons {
        let noticed = (0..2000).find_map(|seed| run(seed, Some(why)).err());
        assert!(noticed.is_some(), "no oracle notices that {why} is not synced");
    }
}

/// A failure that a seed found can be analysed only if the seed repeats it: all operations of the
/// disk with their arguments, in order.
#[test]
fn a_seed_replays() {
    for seed in 0..seeds() / 5 {
        let trace = || run(seed, None).expect("nothing is wrong").trace();
        assert_eq!(trace(), trace(), "seed {seed} is another run each time");
    }
    println!("seeds replayed: {}", seeds() / 5);
}
