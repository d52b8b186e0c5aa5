//! The whole store on a disk that loses power: replicas, write-ahead log, checkpoints, recovery.
//!
//! A life of the machine opens the directory (formatting it the first time), compares what is there with
//! a model of everything that was answered, goes on producing, committing, deleting, reading and
//! checkpointing, and ends by a crash point, a failed sync or in peace; then the power is cycled or
//! the process is restarted, and the next life begins. The only doubt that is allowed is about
//! proposals that nobody was answered: of these a shard may have the first few.
//!
//! `ROPEWALK_SOAK=1` runs 10,000 seeds instead of 500.

mod broker;
mod machine;
mod oracle;

use std::collections::BTreeSet;

use machine::Machine;

fn seeds() -> u64 {
    if std::env::var_os("ROPEWALK_SOAK").is_some() { 10_000 } else { 500 }
}

/// Runs one machine for some lives; the error is what an oracle found wrong.
fn run(seed: u64, ignored: Option<&'static str>) -> Result<Machine, String> {
    let mut machine = Machine::new(seed, ignored);
    for _ in 0..6 {
        machine.live()?;
        machine.end_life();
    }
    Ok(machine)
}

#[test]
fn d1_d2_d5_d6_o1_o3_o4_every_seed_keeps_what_was_acked() {
    let (mut acked, mut checkpoints, mut doubts_kept) = (0, 0, 0);
    for seed in 0..seeds() {
        let machine = run(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        acked += machine.acked;
        checkpoints += machine.checkpoints;
        doubts_kept += machine.doubts_kept;
    }
    // The oracle is worth nothing if the machines do nothing.
    assert!(acked > 50 * seeds(), "{acked} answers");
    assert!(checkpoints > 5 * seeds(), "{checkpoints} checkpoints");
    assert!(doubts_kept > seeds() / 20, "{doubts_kept} unanswered proposals survived");
}

/// The oracle must notice when any one sync is taken out. The reasons are those that a run counts,
/// so that a new sync is covered as soon as it exists.
#[test]
fn d1_taking_out_any_one_sync_is_noticed() {
    let mut reasons = BTreeSet::new();
    for seed in 0..20 {
        let machine = run(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        reasons.extend(ropewalk_disk::Disk::sync_counts(&machine.disk).into_keys());
    }
    let mut unnoticed = Vec::new();
    for why in reasons {
        let noticed = (0..2000).find_map(|seed| run(seed, Some(why)).err());
        if noticed.is_none() {
            unnoticed.push(why);
        }
    }
    assert!(unnoticed.is_empty(), "nobody notices that these are not synced: {unnoticed:?}");
}
