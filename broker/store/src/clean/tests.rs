//! A compacted partition next to one that is not, on a disk that loses power.

use std::path::PathBuf;

use ropewalk_disk::SimDisk;

use super::*;
use crate::testing::{KEYS, OneShard, Setup, records};

/// Checks what compaction left of `count` records: at least the last of each key, and no others.
fn check_compacted(found: &[(i64, i64)], count: i64) {
    assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "O1");
    assert!(found.iter().all(|(offset, key)| offset % KEYS == *key));
    for offset in (count - KEYS).max(0)..count {
        assert!(found.contains(&(offset, offset % KEYS)), "the last record of a key is gone");
    }
}

#[test]
fn of_each_key_only_the_last_record_stays() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open(&disk).expect("it opens");
    for _ in 0..4 {
        shard.append(150);
        shard.checkpoint().expect("durable");
    }
    shard.clean(10_000).expect("cleaned");
    let left = records(&shard.log(0));
    check_compacted(&left, 600);
    assert!(left.len() < 300, "{} of 600 are left", left.len());
    assert_eq!(shard.log(0).visible_count(0, 600).expect("counted"), left.len() as u64);
    assert_eq!(records(&shard.log(1)).len(), 600, "the other partition is not compacted");
    let before = shard.log(0).size_bytes();
    assert!(before < shard.log(1).size_bytes() / 2);

    // The log grows, is checkpointed, and recovers unchanged.
    shard.append(10);
    shard.checkpoint().expect("durable");
    let left = records(&shard.log(0));
    drop(shard);
    disk.power_cycle(1);
    let shard = OneShard::open(&disk).expect("it opens");
    assert_eq!(records(&shard.log(0)), left);
    check_compacted(&left, 610);
}

#[test]
fn d1_power_may_go_at_any_moment_of_a_compaction() {
    let prepare = |seed| {
        let disk = SimDisk::new(seed);
        let mut shard = OneShard::open(&disk).expect("it opens");
        for _ in 0..3 {
            shard.append(100);
            shard.checkpoint().expect("durable");
        }
        shard
    };
    let operations = {
        let mut shard = prepare(0);
        let before = shard.disk.operations();
        shard.clean(10_000).expect("cleaned");
        shard.disk.operations() - before
    };
    assert!(operations > 10, "{operations}");
    for seed in 0..60 {
        let mut shard = prepare(seed);
        let disk = shard.disk.clone();
        disk.crash_at(disk.operations() + 1 + seed * 7 % operations);
        assert!(shard.clean(10_000).is_err(), "it was to crash");
        drop(shard);
        disk.power_cycle(seed);
        // Again from the older snapshot, which must be valid too.
        if seed % 2 == 0 {
            let newest = PathBuf::from("/data/snapshots/1-00000000000000000004.snapshot");
            assert!(disk.corrupt(&newest, 50, 1));
        }
        let shard = OneShard::open(&disk).expect("it opens");
        let log = shard.log(0);
        let count = log.high_watermark();
        assert_eq!(count, if seed % 2 == 0 { 200 } else { 300 });
        check_compacted(&records(&log), count);
        assert_eq!(records(&shard.log(1)).len() as i64, count);
    }
}

#[test]
fn only_what_is_old_enough_and_worth_it_is_compacted() {
    let info = |base_offset, max_timestamp_ms, is_compacted| SegmentInfo {
        base_offset,
        next_offset: base_offset + 10,
        size_bytes: 100,
        max_timestamp_ms: Some(max_timestamp_ms),
        created_ms: 0,
        records: 10,
        is_sealed: true,
        is_compacted,
    };
    let infos = [info(0, 5, true), info(10, 50, false), info(20, 90, false)];
    assert_eq!(settled(&infos, 30, 100), 30);
    assert_eq!(settled(&infos, 30, 60), 20);
    assert_eq!(settled(&infos, 15, 60), 15);
    let policy = CompactionPolicy {
        dirty_ratio_min: 0.6,
        delete_retention_ms: 0,
        lag_ms_min: 0,
        lag_ms_max: 1_000,
    };
    assert!(pays(&infos, 30, 500, &policy));
    assert!(!pays(&infos, 20, 500, &policy), "half is new");
    assert!(pays(&infos, 20, 1_500, &policy), "but it has waited long enough");
    assert!(!pays(&infos, 10, 1_500, &policy), "nothing is new there");
}

/// `max.compaction.lag.ms` guarantees the deletion of old values, also for a queue that is too
/// small for a segment, with traffic and without.
#[test]
fn what_was_overwritten_goes_in_time_from_a_small_queue() {
    const LAG_MS: i64 = 2_000;
    for trickles in [true, false] {
        let disk = SimDisk::new(1);
        let setup = Setup { lag_ms_max: LAG_MS, ..Setup::default() };
        let mut shard = OneShard::open_with(&disk, setup).expect("it opens");
        let mut now_ms = 1_000_000;
        let value = |some: &'static [u8]| move |_: i64| Some(some.to_vec());
        shard.append_some([(Some(1), value(b"secret"))].into_iter(), now_ms);
        shard.append_some([(Some(1), value(b"public"))].into_iter(), now_ms);
        let secret = |shard: &OneShard| records(&shard.log(0)).contains(&(0, 1));
        assert!(secret(&shard));
        let mut gone_ms = None;
        for second in 0..60 {
            now_ms += 1_000;
            if trickles {
                shard.append_some([(Some(2 + second), value(b"other"))].into_iter(), now_ms);
            }
            shard.work(now_ms).expect("nothing fails");
            if gone_ms.is_none() && !secret(&shard) {
                gone_ms = Some(now_ms - 1_000_000);
            }
        }
        let gone_ms = gone_ms.expect("it is removed");
        assert!(gone_ms <= LAG_MS + 3_000, "trickles {trickles}: {gone_ms} ms");
        let left = records(&shard.log(0));
        assert!(left.contains(&(1, 1)), "the last record of a key stays: {left:?}");
        assert_eq!(left.len(), if trickles { 61 } else { 1 }, "{left:?}");
        assert_eq!(records(&shard.log(1)).len(), if trickles { 62 } else { 2 });

        // The moved records are still durable, and both snapshots name them.
        drop(shard);
        disk.power_cycle(1);
        let shard = OneShard::open(&disk).expect("it opens");
        let found = records(&shard.log(0));
        assert!(!found.contains(&(0, 1)) && found.contains(&(1, 1)), "{found:?}");
    }
}

/// The records of a quiet queue are moved once; after that its checkpoints write nothing.
#[test]
fn a_queue_in_which_nothing_changes_is_not_checkpointed_for_its_lag_again() {
    let disk = SimDisk::new(1);
    let setup = Setup { lag_ms_max: 2_000, ..Setup::default() };
    let mut shard = OneShard::open_with(&disk, setup).expect("it opens");
    shard.append_some([(Some(1), |_: i64| Some(vec![1]))].into_iter(), 1_000_000);
    for second in 1..100 {
        shard.work(1_000_000 + second * 1_000).expect("nothing fails");
    }
    let before = disk.operations();
    for second in 100..200 {
        shard.work(1_000_000 + second * 1_000).expect("nothing fails");
    }
    assert_eq!(disk.operations(), before, "nothing is written");
}
