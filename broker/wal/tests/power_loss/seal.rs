//! Rounds that vanish from the disk without a trace.

use std::path::{Path, PathBuf};

use ropewalk_disk::{Disk, SimDisk};
use ropewalk_wal::{Record, Wal};

use super::damage::sequence_of;
use super::faults::{KEY, created, entry, open};
use super::machine::{DIR, OPTIONS};

/// The newest file.
fn newest(disk: &SimDisk) -> (PathBuf, Vec<u8>) {
    let names = disk.list(Path::new(DIR)).expect("the directory").into_iter();
    let files = names.map(|name| Path::new(DIR).join(name));
    let files = files.filter_map(|path| Some((path.clone(), disk.content(&path)?)));
    files.max_by_key(|(_, content)| sequence_of(content)).expect("there is one")
}

/// A log with some rounds, and its newest file as it was before the last two.
fn written(seal: impl FnOnce(&mut Wal)) -> (SimDisk, PathBuf, Vec<u8>) {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
    wal.write_round(&[created(KEY), entry(KEY, 2, 100)]).expect("a healthy disk");
    let (path, before) = newest(&disk);
    wal.write_round(&[entry(KEY, 3, 100)]).expect("a healthy disk");
    wal.write_round(&[entry(KEY, 4, 100)]).expect("a healthy disk");
    seal(&mut wal);
    drop(wal);
    disk.power_cycle(0);
    (disk, path, before)
}

/// Restores the rounds, not the label, of an earlier content.
fn lose(disk: &SimDisk, path: &Path, before: &[u8]) {
    let mut content = disk.content(path).expect("a file");
    content[8192..].copy_from_slice(&before[8192..]);
    disk.put(path, content);
}

#[test]
fn d4_rounds_that_were_sealed_and_are_gone_are_damage() {
    let (disk, path, before) = written(|wal| wal.seal().expect("a healthy disk"));
    lose(&disk, &path, &before);
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    let replica = &recovered.replicas[&KEY];
    assert!(replica.damage.is_some(), "{replica:?}");
    assert_eq!(replica.entries.len(), 1);
    assert!(!recovered.notes.is_empty(), "it is reported");
    // The damage stays until the loss is accepted, and no longer.
    drop(wal);
    disk.power_cycle(1);
    let opened = open(&disk, OPTIONS).expect("it opens");
    assert!(opened.1.replicas[&KEY].damage.is_some());
    wal = opened.0;
    wal.write_round(&[Record::LossAccepted { key: KEY, index: 2 }]).expect("a healthy disk");
    wal.write_round(&[entry(KEY, 3, 50)]).expect("a healthy disk");
    drop(wal);
    disk.power_cycle(2);
    let (_, recovered) = open(&disk, OPTIONS).expect("it opens");
    let replica = &recovered.replicas[&KEY];
    assert_eq!((&replica.damage, replica.entries.len()), (&None, 2));
}

/// The limit of the seal: what was written after it may vanish like a torn tail.
#[test]
fn rounds_after_the_seal_are_cut_like_a_torn_tail() {
    let (disk, path, before) = written(|_| {});
    lose(&disk, &path, &before);
    let (_, recovered) = open(&disk, OPTIONS).expect("it opens");
    let replica = &recovered.replicas[&KEY];
    assert_eq!((&replica.damage, replica.entries.len()), (&None, 1));
}

#[test]
fn a_seal_costs_one_write_and_only_after_a_round() {
    let (disk, ..) = written(|wal| wal.seal().expect("a healthy disk"));
    let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
    assert_eq!((&recovered.replicas[&KEY].damage, recovered.torn_tail_bytes), (&None, 0));
    let labels = || disk.sync_counts()["wal-label"];
    let before = labels();
    wal.seal().expect("a healthy disk");
    assert_eq!(labels(), before, "the start has sealed the rounds that it found");
    wal.write_round(&[entry(KEY, 5, 100)]).expect("a healthy disk");
    let before = labels();
    wal.seal().expect("a healthy disk");
    wal.seal().expect("a healthy disk");
    assert_eq!(labels(), before + 1);
}
