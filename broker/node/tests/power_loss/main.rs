//! The whole store on a disk that loses power: replicas, write-ahead log, checkpoints, recovery.
//!
//! A run of the machine opens the directory (formatting it the first time), compares its content
//! with a model of everything that was answered, then produces, commits, deletes, reads and
//! checkpoints. It ends at a crash point, by a failed sync or by a stop; then the power is cycled
//! or the process restarted, and the next run begins. Only proposals without an answer are
//! uncertain: a shard may contain the first few of them.
//!
//! `ROPEWALK_SEEDS` is the number of seeds, 500 by default. `tests/power-loss/run` counts the
//! printed numbers of seeds.

mod broker;
mod damage;
mod machine;
mod oracle;
mod repair;
mod syncs;

use std::collections::BTreeSet;

use machine::{Machine, RunEnd};

fn seeds() -> u64 {
    std::env::var("ROPEWALK_SEEDS").map_or(500, |given| given.parse().expect("a number of seeds"))
}

/// Runs one machine several times; the error is the oracle's description of the violation.
fn run(seed: u64, ends: RunEnd, ignored: Option<&'static str>) -> Result<Machine, String> {
    let mut machine = Machine::new(seed, ends, ignored);
    for _ in 0..6 {
        machine.live()?;
        machine.end_life();
    }
    Ok(machine)
}

/// Runs a part of the seeds that no other test runs.
fn run_all(seeds: std::ops::Range<u64>, ends: RunEnd) {
    let count = seeds.end - seeds.start;
    let (mut acked, mut checkpoints, mut doubts_kept) = (0, 0, 0);
    for seed in seeds {
        let machine = run(seed, ends, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        acked += machine.acked;
        checkpoints += machine.checkpoints;
        doubts_kept += machine.doubts_kept;
    }
    println!("seeds lived: {count}");
    // Without operations the oracle would check nothing.
    assert!(acked > 50 * count, "{acked} answers");
    assert!(checkpoints > 5 * count, "{checkpoints} checkpoints");
    assert!(doubts_kept > count / 20, "{doubts_kept} unanswered proposals survived");
}

/// Also D5 (a batch that is sent again is a duplicate), D6 (no needed entry is released), O1
/// (offsets are dense and final), O3 (commits survive) and O4 (reads over all layers): each check
/// of the machine covers them all. The tests named after them show that a violation would be found.
#[test]
fn d1_acked_is_durable_wherever_the_power_goes() {
    run_all(0..seeds() * 2 / 5, RunEnd::Crashes);
}

#[test]
fn d2_a_failed_sync_is_final_and_costs_nothing_that_was_acked() {
    run_all(seeds() * 2 / 5..seeds() * 4 / 5, RunEnd::Failures);
}

#[test]
fn d1_d2_crashes_failures_and_peace_in_turn() {
    run_all(seeds() * 4 / 5..seeds(), RunEnd::Mixed);
}

/// A process that is killed repeatedly begins a file of the log each time, and may end between any
/// two steps of a checkpoint. The log must be released afterwards without a new write, because at
/// its limit it accepts no records.
#[test]
fn r1_after_many_short_lives_the_log_is_let_go() {
    let enough = broker::CHECKPOINTS.wal_used_bytes_soft_max;
    let mut longest = 0;
    for seed in 0..seeds() / 10 {
        let mut machine = Machine::new(seed, RunEnd::Crashes, None);
        for _ in 0..12 {
            machine.live().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            machine.end_life();
        }
        let (at_first, kept) = machine.rest(enough);
        longest = longest.max(at_first);
        assert!(kept <= enough, "seed {seed}: {kept} bytes");
    }
    assert!(longest > 2 * enough, "{longest} at most");
}

/// The oracle must find a violation when any one kind of sync is left out. The kinds are those that
/// a run counts, so that a new sync is covered as soon as it exists.
#[test]
fn d1_taking_out_any_one_sync_is_noticed() {
    let mut reasons = BTreeSet::new();
    for seed in 0..20 {
        let machine = run(seed, RunEnd::Mixed, None);
        let machine = machine.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        reasons.extend(ropewalk_disk::Disk::sync_counts(&machine.disk).into_keys());
    }
    assert!(reasons.len() >= 12, "{reasons:?}");
    // The log's own tests show that each of its syncs is needed; some take hundreds of seeds.
    let own = |why: &&'static str| !why.starts_with("wal-") && *why != "preallocate";
    for why in reasons.into_iter().filter(own) {
        let noticed = (0..2000).find_map(|seed| run(seed, RunEnd::Mixed, Some(why)).err());
        assert!(noticed.is_some(), "no seed finds that {why} is not synced");
    }
}

/// A failure can be debugged only if its seed repeats the same run: all operations of the disk,
/// with their arguments, in order.
#[test]
fn a_seed_replays() {
    for seed in 0..seeds() / 10 {
        for ends in [RunEnd::Crashes, RunEnd::Failures, RunEnd::Mixed] {
            let trace = || run(seed, ends, None).expect("nothing is wrong").disk.trace();
            assert_eq!(trace(), trace(), "seed {seed} with {ends:?} is another run each time");
        }
    }
    println!("seeds replayed: {}", seeds() / 10);
}
