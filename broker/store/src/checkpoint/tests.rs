//! The checkpoint thread does not lose tails that fill again, nor work that failed.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use ropewalk_batch::{Builder, StampedBatch};
use ropewalk_disk::{Fault, Operation, SimDisk};

use super::*;
use crate::limits;
use crate::log::PartitionLog;
use crate::testing::{OneShard, Setup, partition, records};

fn append(log: &PartitionLog, value_bytes: usize) {
    let bytes = Builder::new().record(1, None, Some(&vec![7; value_bytes])).build();
    log.append(StampedBatch::new(bytes, log.high_watermark(), 1).expect("a batch"), 0);
}

/// Extends the next capture to everything that was appended to the log.
fn apply(shard: &OneShard, index: i32) {
    shard.append_some(std::iter::empty::<(Option<i64>, fn(i64) -> Option<Vec<u8>>)>(), 0);
    assert!(shard.log(index).high_watermark() > 0);
}

#[test]
fn r1_a_tail_that_fills_while_it_is_flushed_is_flushed_again() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    let log = shard.log(1);
    let producer = thread::spawn({
        let log = Arc::clone(&log);
        move || (0..60).for_each(|_| append(&log, 950_000))
    });
    while !producer.is_finished() {
        shard.step(0).expect("nothing fails");
    }
    producer.join().expect("it ends");
    while shard.step(0).expect("nothing fails") == Next::Now {}
    let left = log.tail_bytes();
    assert!(left < limits::TAIL_BYTES_TO_FLUSH, "{left} bytes stay in memory");
}

#[test]
fn r1_a_tail_that_is_long_after_a_checkpoint_is_flushed() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    let log = shard.log(1);
    append(&log, 100_000);
    apply(&shard, 1);
    // After the capture, and reported as full before the checkpoint begins.
    append(&log, 3_000_000);
    shard.checkpoint().expect("durable");
    assert!(log.tail_bytes() >= 3_000_000);
    append(&log, 100);
    while shard.step(0).expect("nothing fails") == Next::Now {}
    let left = log.tail_bytes();
    assert!(left < limits::TAIL_BYTES_TO_FLUSH, "{left} bytes stay in memory");
}

#[test]
fn r1_memory_is_relieved_after_a_checkpoint_that_failed() {
    for (operation, path) in [
        (Operation::Create, "partitions"),
        (Operation::Create, "spill"),
        (Operation::Write, "spill"),
    ] {
        let disk = SimDisk::new(1);
        let setup = Setup { tail_bytes_max: 40_000, ..Setup::default() };
        let mut shard = OneShard::open_with(&disk, setup).expect("it opens");
        // One for a segment, one for the spill file.
        append(&shard.log(0), 33_000);
        append(&shard.log(1), 31_000);
        apply(&shard, 1);
        let path_contains = path.to_owned();
        disk.inject(Fault { path_contains, ..Fault::next(operation) });
        shard.checkpoint().expect_err("the disk fails once");
        let budget = Arc::clone(shard.checkpointer.store.budget());
        assert!(budget.is_short(), "{operation:?} of {path}");
        for step in 1..5 {
            shard.step(step * 1_000).expect("the disk is well again");
        }
        assert!(!budget.is_short(), "{operation:?} of {path}: {} bytes", budget.pinned_bytes());
    }
}

/// A `Truncated` record that could not be written pins the files of the log until it is.
#[test]
fn d6_what_the_log_could_not_note_is_noted_at_the_next_step() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    for _ in 0..3 {
        shard.append(1);
        shard.checkpoint().expect("durable");
    }
    let noted = shard.notes.lock().count();
    assert!(noted > 0);
    shard.append(1);
    shard.notes.lock().refuse_next();
    shard.checkpoint().expect_err("it is refused once");
    shard.step(0).expect("nothing fails");
    assert!(shard.notes.lock().count() > noted);
}

/// Each log that is flushed and not synced keeps two files open.
#[test]
fn r1_a_tail_stays_in_memory_while_too_many_logs_are_unsynced() {
    let disk = SimDisk::new(1);
    let checkpoints = Options { unsynced_logs_max: 1, ..Options::default() };
    let setup = Setup { checkpoints, ..Setup::default() };
    let mut shard = OneShard::open_with(&disk, setup).expect("it opens");
    for index in [0, 1] {
        append(&shard.log(index), 2_000_000);
    }
    let tails = |shard: &OneShard| [0, 1].map(|index| shard.log(index).tail_bytes() > 0);
    for _ in 0..3 {
        shard.flush(0).expect("nothing fails");
        assert_eq!(tails(&shard), [false, true]);
    }
    // It may be written again, because its files are open anyway.
    append(&shard.log(0), 2_000_000);
    shard.flush(0).expect("nothing fails");
    assert_eq!(tails(&shard), [false, true]);
    shard.checkpointer.step(0).expect("nothing fails");
    assert_eq!(shard.log(0).sync_cost(), 0);
    shard.flush(0).expect("nothing fails");
    assert_eq!(tails(&shard), [false, false]);
}

/// Files of the log go only after the records that say so are durable.
#[test]
fn d6_nothing_is_released_before_it_is_noted() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    for round in 0..6 {
        shard.append(1);
        if round % 2 == 1 {
            shard.notes.lock().refuse_next();
        }
        let refused = shard.checkpoint().is_err();
        assert_eq!(refused, round % 2 == 1);
        assert!(!shard.notes.lock().released_too_much(), "round {round}");
        shard.step(0).expect("nothing fails");
        assert!(!shard.notes.lock().released_too_much(), "round {round}");
    }
    assert!(shard.notes.lock().releases() > 3);
}

/// The syncs of a checkpoint wait for their budget. Tails are flushed on meanwhile; the snapshot
/// names what was applied when it began, and readers see everything once.
#[test]
fn d1_o4_a_log_is_flushed_on_while_its_checkpoint_waits() {
    for (before, during) in [(100, 150), (1, 150), (100, 1), (1, 1)] {
        let disk = SimDisk::new(1);
        let checkpoints =
            Options { checkpoint_age_ms: 0, syncs_per_second: 20, ..Options::default() };
        let setup = Setup { checkpoints, ..Setup::default() };
        let mut shard = OneShard::open_with(&disk, setup).expect("it opens");
        shard.append(300);
        // The budget suffices for the first log only.
        shard.checkpointer.step(0).expect("nothing fails");
        assert!(shard.log(0).sync_cost() == 0 && shard.log(1).sync_cost() > 0);
        shard.append(before);
        for flusher in &mut shard.flushers {
            flusher.flush_all(0).expect("nothing fails");
        }
        assert_eq!(shard.log(1).tail_bytes(), 0, "the flusher does not wait");
        shard.append(during);
        let end = shard.log(1).high_watermark();
        let mut snapshots = 0;
        for second in 1..30 {
            shard.checkpointer.step(second * 1_000).expect("nothing fails");
            let found = records(&shard.log(1));
            assert!(found.iter().map(|(offset, _)| *offset).eq(0..end), "O4");
            let newest = shard.checkpointer.shards[&ShardId(1)].files.newest().number;
            if snapshots == 0 && newest == 2 {
                disk.power_cycle(second.unsigned_abs());
                break;
            }
            snapshots = newest - 1;
        }
        drop(shard);
        let shard = OneShard::open(&disk).expect("it opens");
        for index in 0..2 {
            assert!(shard.log(index).damages().is_empty());
            assert_eq!(records(&shard.log(index)).len(), 300, "nothing above the captured index");
        }
    }
}

/// As above, with a crash at every operation and a flush between any two of them.
#[test]
fn d1_power_may_go_at_any_operation_of_a_checkpoint_beside_a_flusher() {
    let prepare = |disk: &SimDisk| {
        let mut shard = OneShard::open(disk).expect("it opens");
        shard.append(120);
        shard.checkpoint().expect("durable");
        // A small tail for the spill file in one partition, a long one in the other.
        append(&shard.log(0), 40_000);
        append(&shard.log(1), 900);
        apply(&shard, 1);
        shard
    };
    let checkpoint = |shard: &mut OneShard, seed: u64| {
        let beside = Mutex::new((std::mem::take(&mut shard.flushers), seed));
        let logs = [shard.log(0), shard.log(1)];
        shard.disk.before_operations(move |_, _| {
            // None during the operations of the flushers.
            let Some(mut beside) = beside.try_lock() else { return };
            let (flushers, calls) = &mut *beside;
            *calls += 1;
            if *calls % 4 == 0 {
                // Not applied yet when the checkpoint began.
                logs.iter().for_each(|log| append(log, 500));
            }
            if *calls % 3 != 0 {
                for flusher in flushers {
                    let _ = flusher.flush_all(0);
                }
            }
        });
        let done = shard.checkpoint();
        shard.disk.no_more_before_operations();
        done
    };
    let operations = {
        let mut shard = prepare(&SimDisk::new(0));
        let before = shard.disk.operations();
        checkpoint(&mut shard, 0).expect("nothing fails");
        shard.disk.operations() - before
    };
    assert!(operations > 20, "{operations}");
    let mut completed = 0;
    for crash in 1..=operations + 1 {
        let disk = SimDisk::new(crash);
        let mut shard = prepare(&disk);
        let captured = shard.log(1).high_watermark();
        disk.crash_at(disk.operations() + crash);
        let is_done = checkpoint(&mut shard, crash).is_ok();
        completed += usize::from(is_done);
        drop(shard);
        disk.power_cycle(crash);
        let shard = OneShard::open(&disk).expect("it opens");
        for index in 0..2 {
            let log = shard.log(index);
            assert!(log.damages().is_empty(), "crash {crash}: {:?}", log.damages());
            assert_eq!(read_all(&log), log.high_watermark(), "crash {crash}: O4");
        }
        let end = shard.log(1).high_watermark();
        assert!(end == captured || end == 120 && !is_done, "crash {crash}: {end} of {captured}");
    }
    assert!(completed > 0);
}

/// Reads a log to its end.
fn read_all(log: &PartitionLog) -> i64 {
    let mut at = log.log_start();
    while at < log.high_watermark() {
        let chunk = log.read(at, 1 << 20, true).expect("readable");
        assert!(chunk.next_offset > at, "O4: a read at {at} gives nothing");
        at = chunk.next_offset;
    }
    at
}

/// Released files may free the space that the remaining `Truncated` records need.
#[test]
fn r1_the_log_is_released_also_where_a_shard_cannot_be_noted() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    for _ in 0..3 {
        shard.append(1);
        shard.checkpoint().expect("durable");
    }
    shard.append(1);
    shard.notes.lock().refuse_next();
    shard.checkpoint().expect_err("it is refused once");
    let before = shard.notes.lock().releases();
    shard.notes.lock().refuse_next();
    shard.step(0).expect_err("it is refused again");
    assert_eq!(shard.notes.lock().releases(), before + 1);
    shard.step(1_000).expect("nothing fails");
    shard.step(2_000).expect("nothing fails");
    assert_eq!(shard.notes.lock().releases(), before + 2, "it is done");
}

/// A file that cannot be removed now is removed later, and the checkpoint still succeeds.
#[test]
fn a_file_that_cannot_be_unlinked_is_tried_again() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    let files = |disk: &SimDisk| {
        let dir = format!("/data/partitions/{}.2", partition(1));
        ropewalk_disk::Disk::list(disk, std::path::Path::new(&dir)).expect("a directory").len()
    };
    shard.append(300);
    shard.checkpoint().expect("durable");
    let before = files(&disk);
    shard.log(1).set_log_start(300);
    let skip = 1;
    let path_contains = "partitions".to_owned();
    disk.inject(Fault { skip, path_contains, ..Fault::next(Operation::Remove) });
    for _ in 0..3 {
        shard.append(1);
        shard.checkpoint().expect("durable");
    }
    assert!(files(&disk) < before / 4, "{} of {before} files are left", files(&disk));
}

#[test]
fn one_log_that_cannot_be_flushed_does_not_hold_up_the_others() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    for index in [0, 1] {
        append(&shard.log(index), 2_000_000);
    }
    let broken = format!("{}.", partition(1));
    for _ in 0..10 {
        let path_contains = broken.clone();
        disk.inject(Fault { path_contains, ..Fault::next(Operation::Create) });
    }
    shard.step(0).expect_err("one of them fails");
    assert_eq!(shard.log(0).tail_bytes(), 0, "the other one is flushed");
    disk.clear_faults();
    shard.step(1_000).expect("it is tried again");
    assert_eq!(shard.log(1).tail_bytes(), 0);
}

/// Records may be deleted during a checkpoint whose capture does not include them.
#[test]
fn d1_a_log_start_beyond_the_capture_is_named_as_its_end() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open(&disk).expect("it opens");
    shard.append(10);
    let log = shard.log(1);
    for _ in 0..5 {
        append(&log, 10);
    }
    log.set_log_start(13);
    shard.checkpoint().expect("durable");
    drop((shard, log));
    disk.power_cycle(1);
    let shard = OneShard::open(&disk).expect("it opens");
    let log = shard.log(1);
    assert_eq!((log.log_start(), log.high_watermark()), (10, 10));
}

/// The log may be pinned by an entry of a shard in which no partition changes.
#[test]
fn r1_a_full_log_is_emptied_however_little_is_in_it() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    shard.fill_log();
    for step in 0..10 {
        shard.step(step * 1_000).expect("nothing fails");
    }
    assert!(!shard.notes.lock().is_full());
}

/// A failed checkpoint frees the space of the files that it wrote.
#[test]
fn r1_a_checkpoint_that_failed_leaves_no_file_behind() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    let files = |dir: PathBuf| ropewalk_disk::Disk::list(&disk, &dir).expect("a directory");
    let data = shard.checkpointer.store.data().clone();
    let (spill, snapshots) = (data.spill(ShardId(1)), data.snapshots());
    let before = (files(spill.clone()), files(snapshots.clone()));
    shard.append(1);
    for path in ["spill", "unfinished"] {
        for _ in 0..3 {
            let path_contains = path.to_owned();
            disk.inject(Fault { path_contains, ..Fault::next(Operation::Write) });
            shard.checkpoint().expect_err("the disk fails once");
            if path == "spill" {
                assert_eq!((files(spill.clone()), files(snapshots.clone())), before);
            }
            assert_eq!(files(snapshots.clone()), before.1);
        }
    }
    shard.checkpoint().expect("durable");
    assert_eq!(files(spill).len(), before.0.len() + 1);
}

/// A replay that waits for memory continues when flushing fails: its entries may free space.
#[test]
fn a_replay_goes_on_while_no_memory_can_be_made_free() {
    let disk = SimDisk::new(1);
    let setup = Setup { tail_bytes_max: 40_000, ..Setup::default() };
    let mut shard = OneShard::open_with(&disk, setup).expect("it opens");
    let budget = Arc::clone(shard.checkpointer.store.budget());
    let fill = |shard: &OneShard| {
        append(&shard.log(0), 33_000);
        append(&shard.log(1), 31_000);
        apply(shard, 1);
    };
    fill(&shard);
    assert!(!budget.has_room_to_replay(), "the checkpoint thread has not been asked yet");
    for _ in 0..20 {
        let path_contains = "partitions".to_owned();
        disk.inject(Fault { path_contains, ..Fault::next(Operation::Create) });
    }
    assert!(!budget.set_disk_full(true));
    assert!(!budget.has_room_to_replay(), "it counts as full, and can be written to");
    assert!(budget.set_disk_full(false));
    shard.step(0).expect_err("no file can be created");
    assert!(budget.is_over() && budget.has_room_to_replay());

    disk.clear_faults();
    for step in 1..5 {
        shard.step(step * 1_000).expect("the disk is well again");
    }
    fill(&shard);
    assert!(budget.is_over() && !budget.has_room_to_replay(), "it makes room again");
}

#[test]
fn a_shard_that_cannot_seal_does_not_hold_up_the_others() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    shard.keep_catalog();
    let catalog =
        |shard: &OneShard| shard.checkpointer.shards[&ShardId::CATALOG].files.newest().index;
    let before = catalog(&shard);
    shard.append(1);
    shard.log(0).ask_to_seal();
    for _ in 0..40 {
        let path_contains = "partitions".to_owned();
        disk.inject(Fault { path_contains, ..Fault::next(Operation::Create) });
    }
    shard.step(0).expect_err("it cannot seal");
    let kept = shard.checkpointer.shards.get_mut(&ShardId::CATALOG).expect("it is kept");
    kept.dirty_since_ms = Some(0);
    for step in 60..70 {
        // One of them fails.
        let _ = shard.step(step * 1_000);
    }
    assert!(catalog(&shard) > before);
    assert!(shard.checkpointer.shards[&ShardId(1)].wants_to_seal());
}

#[test]
fn a_checkpoint_that_is_asked_for_is_made_at_once() {
    let disk = SimDisk::new(1);
    let mut shard = OneShard::open_with(&disk, Setup::default()).expect("it opens");
    shard.append(3);
    let newest = |shard: &OneShard| {
        let snapshots =
            crate::snapshot::Snapshots::new(shard.checkpointer.store().data(), ShardId(1));
        snapshots.numbers().expect("listed").pop()
    };
    let before = newest(&shard);
    shard.work(0).expect("nothing fails");
    assert_eq!(newest(&shard), before, "none is due");
    shard.ask_for_checkpoint();
    shard.work(0).expect("nothing fails");
    let after = newest(&shard);
    assert!(after > before, "{after:?} follows {before:?}");
    shard.work(1).expect("nothing fails");
    assert_eq!(newest(&shard), after, "it was asked for once");
}
