//! Entries of a damaged replica: the log continues without them, and a repair finds them.

use std::path::{Path, PathBuf};

use ropewalk_disk::{Disk, Fault, Operation, SimDisk};
use ropewalk_wal::{
    HardState, Options, Record, RecoveredLog, ReplicaKey, SetAsideError, Wal, WalError,
};

use super::faults::{created, entry, open};
use super::machine::{DIR, OPTIONS};
use super::model::{Model, compare};

const DAMAGED: ReplicaKey = ReplicaKey { shard: 1, replica: 11 };
const HEALTHY: ReplicaKey = ReplicaKey { shard: 2, replica: 22 };
/// Number of entries of each replica at the start.
const ENTRIES: u64 = 60;

fn write(wal: &mut Wal, model: &mut Model, records: &[Record]) {
    wal.write_round(records).expect("a healthy disk with room");
    records.iter().for_each(|record| model.apply(record));
}

/// A log of several files in which both replicas have entries.
fn prepared(seed: u64) -> (SimDisk, Model) {
    let disk = SimDisk::new(seed);
    let mut model = Model::default();
    let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
    write(&mut wal, &mut model, &[created(DAMAGED), created(HEALTHY)]);
    for index in 2..2 + ENTRIES {
        write(&mut wal, &mut model, &[entry(DAMAGED, index, 3000), entry(HEALTHY, index, 3000)]);
    }
    let state = HardState { term: 3, vote: 1, commit: 40 };
    write(&mut wal, &mut model, &[Record::HardState { key: DAMAGED, state }]);
    drop(wal);
    disk.power_cycle(seed);
    (disk, model)
}

fn aside() -> PathBuf {
    Path::new(DIR).join("00000001-000000000000000b.aside")
}

/// The healthy replica continues and checkpoints; the log behind it is released.
fn go_on(wal: &mut Wal, model: &mut Model, rounds: u64) {
    for _ in 0..rounds {
        let last = model.replicas[&HEALTHY].last_index();
        write(wal, model, &[entry(HEALTHY, last + 1, 5000)]);
        write(wal, model, &[Record::Truncated { key: HEALTHY, index: last, term: 1 }]);
        wal.release(&[(HEALTHY, last + 1)].into());
    }
}

fn check(model: &Model, wal: &Wal, recovered: &RecoveredLog, context: &str) {
    for (key, replica) in &model.replicas {
        let found = &recovered.replicas[key];
        assert_eq!(found.damage, None, "{context}");
        compare(replica, wal, found).unwrap_or_else(|wrong| panic!("{context}: {key:?}: {wrong}"));
    }
}

#[test]
fn d3_entries_that_are_set_aside_do_not_pin_the_log_and_stay_readable() {
    let (disk, mut model) = prepared(0);
    let options = Options { files_bytes_max: 16 * OPTIONS.file_bytes, ..OPTIONS };
    let (mut wal, recovered) = open(&disk, options).expect("it opens");
    check(&model, &wal, &recovered, "before");
    let before = wal.files();
    let known = wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect("there is room");
    let known = known.expect("it has entries");
    assert_eq!((known.first, known.last, &known.path), (2, 1 + ENTRIES, &aside()));
    check(&model, &wal, &recovered, "set aside");
    for life in 0..4 {
        // Ten times the limit of the log.
        go_on(&mut wal, &mut model, 2_000);
        assert!(wal.files() <= 3 && before > 4, "{} of {before} files", wal.files());
        drop(wal);
        disk.power_cycle(life);
        let opened = open(&disk, options).expect("it opens");
        wal = opened.0;
        check(&model, &wal, &opened.1, &format!("life {life}"));
        let again = wal.set_aside(DAMAGED, &opened.1.replicas[&DAMAGED]).expect("it is there");
        assert_eq!(again.as_ref(), Some(&known), "it is copied once");
    }

    // After a repair it continues from there, checkpoints, and the file is removed.
    let last = model.replicas[&DAMAGED].last_index();
    write(&mut wal, &mut model, &[Record::LossAccepted { key: DAMAGED, index: last }]);
    drop(wal);
    let (mut wal, recovered) = open(&disk, options).expect("it opens");
    check(&model, &wal, &recovered, "repaired");
    for index in last + 1..last + 30 {
        write(&mut wal, &mut model, &[entry(DAMAGED, index, 4000)]);
    }
    drop(wal);
    disk.power_cycle(9);
    let (mut wal, recovered) = open(&disk, options).expect("it opens");
    check(&model, &wal, &recovered, "gone on");
    assert!(disk.content(&aside()).is_some());
    write(&mut wal, &mut model, &[Record::Truncated { key: DAMAGED, index: last, term: 1 }]);
    drop(wal);
    let (wal, recovered) = open(&disk, options).expect("it opens");
    check(&model, &wal, &recovered, "checkpointed");
    assert!(disk.content(&aside()).is_none());
}

#[test]
fn d1_power_may_go_at_any_moment_while_entries_are_set_aside() {
    let operations = {
        let (disk, mut model) = prepared(0);
        let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
        wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect("there is room");
        go_on(&mut wal, &mut model, 60);
        disk.operations()
    };
    assert!(operations > 100, "{operations}");
    let mut crashes = 0;
    for at in (1..operations).step_by(2) {
        let (disk, mut model) = prepared(at);
        disk.crash_at(at);
        let crashed = (|| -> Option<()> {
            let (mut wal, recovered) = open(&disk, OPTIONS).ok()?;
            wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).ok()?;
            for _ in 0..60 {
                let last = model.replicas[&HEALTHY].last_index();
                let record = entry(HEALTHY, last + 1, 5000);
                wal.write_round(std::slice::from_ref(&record)).ok()?;
                model.apply(&record);
                let truncated = Record::Truncated { key: HEALTHY, index: last, term: 1 };
                wal.write_round(std::slice::from_ref(&truncated)).ok()?;
                model.apply(&truncated);
                wal.release(&[(HEALTHY, last + 1)].into());
            }
            Some(())
        })();
        crashes += u32::from(crashed.is_none());
        disk.power_cycle(at);
        let (wal, recovered) = open(&disk, OPTIONS).expect("it opens");
        let context = format!("at {at}");
        let found = &recovered.replicas[&DAMAGED];
        assert_eq!(found.damage, None, "{context}");
        compare(&model.replicas[&DAMAGED], &wal, found)
            .unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
    }
    assert!(crashes > 100, "{crashes}");
}

/// Entries of an old log of a replica must not fill a gap in its new one.
#[test]
fn d3_what_was_set_aside_goes_before_a_log_begins_anew() {
    let (disk, mut model) = prepared(5);
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect("there is room");
    drop(wal);
    let (mut wal, _) = open(&disk, OPTIONS).expect("it opens");
    let conf_state = bytes::Bytes::new();
    let anew = Record::SnapshotInstalled { key: DAMAGED, index: 20, term: 1, conf_state };
    write(&mut wal, &mut model, &[anew]);
    assert!(disk.content(&aside()).is_none());
    write(&mut wal, &mut model, &[entry(DAMAGED, 21, 10)]);
    drop(wal);
    disk.power_cycle(1);
    let (wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    check(&model, &wal, &recovered, "again");
}

#[test]
fn r1_what_is_set_aside_has_a_bound_and_stays_in_the_log_beyond_it() {
    let (disk, model) = prepared(6);
    let options = Options { files_bytes_max: 5 * OPTIONS.file_bytes, ..OPTIONS };
    let (mut wal, recovered) = open(&disk, options).expect("it opens");
    let error = wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect_err("too much");
    assert!(matches!(error, SetAsideError::Stays(_)), "{error}");
    assert!(disk.content(&aside()).is_none());
    wal.release(&[(HEALTHY, u64::MAX)].into());
    drop(wal);
    let (wal, recovered) = open(&disk, options).expect("it opens");
    check(&model, &wal, &recovered, "refused");

    // The same on a full disk, and no file remains of the attempt.
    let (disk, model) = prepared(7);
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    let used = disk.list(Path::new(DIR)).expect("the directory");
    disk.set_capacity(Some(1));
    wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect_err("no room");
    assert_eq!(disk.list(Path::new(DIR)).expect("the directory"), used);
    disk.set_capacity(None);
    drop(wal);
    let (wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    check(&model, &wal, &recovered, "full");
}

/// Only a lack of space, descriptors or memory leaves the log unchanged.
#[test]
fn d2_a_disk_that_fails_while_entries_are_set_aside_ends_the_log() {
    let name = Fault { why: "wal-aside-name", ..Fault::next(Operation::SyncDir) };
    let rename = Fault { path_contains: "creating-".to_owned(), ..Fault::next(Operation::Rename) };
    // The disk knows the file by the name under which it was opened; it is preallocated first.
    let path_contains = "creating-".to_owned();
    let write = Fault { path_contains, skip: 1, ..Fault::next(Operation::Write) };
    let faults = [name, rename, write.clone()];
    for fault in faults {
        let (disk, _) = prepared(8);
        let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
        disk.inject(fault.clone());
        let failed = wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect_err("it fails");
        assert!(matches!(failed, SetAsideError::Failed(_)), "{fault:?}: {failed:?}");
        let refused = wal.write_round(&[entry(HEALTHY, 2 + ENTRIES, 10)]).expect_err("it is over");
        assert!(matches!(refused, WalError::Failed(_)), "{fault:?}");
    }

    let (disk, mut model) = prepared(8);
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    let before = disk.list(Path::new(DIR)).expect("the directory");
    disk.inject(Fault { kind: std::io::ErrorKind::StorageFull, ..write });
    let stays = wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect_err("no room");
    assert!(matches!(stays, SetAsideError::Stays(_)), "{stays:?}");
    assert_eq!(disk.list(Path::new(DIR)).expect("the directory"), before, "nothing is left of it");
    go_on(&mut wal, &mut model, 10);
}

/// The log's own copy may be damaged before it is released.
#[test]
fn d3_what_is_set_aside_stands_in_for_a_damaged_copy_in_the_log() {
    let (disk, model) = prepared(9);
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect("there is room");
    drop(wal);
    let payload = [40; 3000];
    let damaged = disk.list(Path::new(DIR)).expect("the directory").into_iter().find(|name| {
        let path = Path::new(DIR).join(name);
        let content = disk.content(&path).unwrap_or_default();
        let found = content.windows(payload.len()).position(|bytes| bytes == payload);
        !name.ends_with(".aside")
            && found.is_some_and(|at| disk.corrupt(&path, at as u64 + 1000, 1))
    });
    assert!(damaged.is_some());
    let (wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    check(&model, &wal, &recovered, "damaged in the log");
}

#[test]
fn a_file_of_set_aside_entries_that_cannot_be_read_is_named_and_goes_after_a_repair() {
    let (disk, mut model) = prepared(10);
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    wal.set_aside(DAMAGED, &recovered.replicas[&DAMAGED]).expect("there is room");
    go_on(&mut wal, &mut model, 500);
    drop(wal);
    disk.put(&aside(), vec![0; 64 << 10]);
    let stranger = Path::new(DIR).join("00000009-0000000000000009.aside");
    disk.put(&stranger, vec![0; 64 << 10]);
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    let lost = &recovered.replicas[&DAMAGED];
    assert!(lost.damage.is_some() && lost.entries.is_empty());
    assert!(disk.content(&aside()).is_some(), "a person may want it");
    assert!(disk.content(&stranger).is_none(), "the log knows no such replica");
    for path in [aside(), stranger] {
        let path = path.display().to_string();
        assert!(recovered.notes.iter().any(|note| note.contains(&path)), "{:?}", recovered.notes);
    }
    assert_eq!(wal.set_aside(DAMAGED, lost).expect("there is nothing to copy"), None);
    write(&mut wal, &mut model, &[Record::LossAccepted { key: DAMAGED, index: 1 }]);
    drop(wal);
    let (_, recovered) = open(&disk, OPTIONS).expect("it opens");
    assert_eq!(recovered.replicas[&DAMAGED].damage, None);
    assert!(disk.content(&aside()).is_none());
}
