//! One fault per test, and its exact consequence.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_disk::{Disk, Fault, Operation, SimDisk};
use ropewalk_wal::{
    HardState, OpenError, Options, Record, RecoveredLog, ReplicaKey, Wal, WalError,
};

use super::machine::{DIR, OPTIONS};

pub(crate) const KEY: ReplicaKey = ReplicaKey { shard: 7, replica: 70 };

pub(crate) fn created(key: ReplicaKey) -> Record {
    Record::Created { key, index: 1, term: 1, conf_state: Bytes::from_static(b"voters") }
}

pub(crate) fn entry(key: ReplicaKey, index: u64, len: usize) -> Record {
    let data = Bytes::from(vec![index as u8; len]).into();
    Record::Entry { key, index, term: 1, kind: 0, data }
}

pub(crate) fn open(disk: &SimDisk, options: Options) -> Result<(Wal, RecoveredLog), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Wal::open(disk, Path::new(DIR), options)
}

/// The purposes of the reserved files, by the documented format.
fn purposes(disk: &SimDisk) -> Vec<u8> {
    let names = disk.list(Path::new(DIR)).expect("the directory").into_iter();
    let contents = names.filter_map(|name| disk.content(&Path::new(DIR).join(name)));
    let reserved = contents.filter(|content| super::damage::sequence_of(content).is_none());
    reserved.map(|content| content[64]).collect()
}

fn last_index(recovered: &RecoveredLog) -> u64 {
    let replica = &recovered.replicas[&KEY];
    assert_eq!(replica.damage, None);
    replica.entries.last().map_or(replica.truncated.index, |entry| entry.index)
}

#[test]
fn d2_a_failed_sync_is_final_and_what_the_cache_shows_is_proved_before_it_is_believed() {
    let (mut kept, mut gone) = (0, 0);
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let (mut wal, _) = open(&disk, OPTIONS).unwrap();
        wal.write_round(&[created(KEY), entry(KEY, 2, 3000)]).unwrap();
        disk.inject(Fault { why: "wal-round", ..Fault::next(Operation::Sync) });
        let failed = wal.write_round(&[entry(KEY, 3, 3000)]).unwrap_err();
        assert!(failed.is_final());
        let again = wal.write_round(&[entry(KEY, 3, 3000)]).unwrap_err();
        assert!(matches!(again, WalError::Failed(_)));
        drop(wal);
        if seed % 2 == 0 {
            // The machine reboots: only the disk counts.
            disk.power_cycle(seed);
            let (_, recovered) = open(&disk, OPTIONS).unwrap();
            if last_index(&recovered) == 3 { kept += 1 } else { gone += 1 }
        } else {
            // Only the process restarts: the cache has the round as if it were durable.
            disk.restart();
            let (wal, recovered) = open(&disk, OPTIONS).unwrap();
            assert_eq!(last_index(&recovered), 3);
            drop(wal);
            disk.power_cycle(seed);
            let (_, recovered) = open(&disk, OPTIONS).unwrap();
            assert_eq!(last_index(&recovered), 3, "once accepted, it must stay");
        }
    }
    assert!(kept > 5 && gone > 5, "kept {kept}, gone {gone}");
}

#[test]
fn a_full_disk_refuses_before_it_writes_and_keeps_a_reserve() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    disk.set_capacity(Some(7 * OPTIONS.file_bytes));
    let mut last = 1;
    let refused = loop {
        match wal.write_round(&[entry(KEY, last + 1, 5000)]) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, WalError::Full { .. }) && !refused.is_final(), "{refused}");
    assert!(wal.is_full());
    assert!(last > 10, "{last}");

    // Refused repeatedly, without harm.
    let before = disk.operations();
    wal.write_round(&[entry(KEY, last + 1, 5000)]).unwrap_err();
    assert_eq!(disk.operations(), before, "nothing was touched");

    // Records that free space are written, also after a restart on the full disk.
    wal.write_round_from_reserve(&[Record::Truncated { key: KEY, index: last - 1, term: 1 }])
        .unwrap();
    drop(wal);
    disk.power_cycle(1);
    let (mut wal, recovered) = open(&disk, OPTIONS).unwrap();
    assert_eq!(last_index(&recovered), last);
    wal.release(&[(KEY, last)].into());
    for index in last + 1..last + 5 {
        wal.write_round(&[entry(KEY, index, 5000)]).unwrap();
    }
}

#[test]
fn the_bound_on_all_files_holds() {
    let disk = SimDisk::new(0);
    let options = Options { files_bytes_max: 4 * OPTIONS.file_bytes, ..OPTIONS };
    let (mut wal, _) = open(&disk, options).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    let mut last = 1;
    while wal.write_round(&[entry(KEY, last + 1, 5000)]).is_ok() {
        last += 1;
        assert!(wal.bytes() <= options.files_bytes_max);
    }
    wal.write_round_from_reserve(&[Record::Truncated { key: KEY, index: last, term: 1 }]).unwrap();
    wal.release(&[(KEY, last + 1)].into());
    wal.write_round(&[entry(KEY, last + 1, 5000)]).unwrap();
}

#[test]
fn a_full_disk_at_the_start_is_said_so() {
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(10_000));
    let error = open(&disk, OPTIONS).unwrap_err();
    assert!(matches!(error, OpenError::Full { .. }), "{error}");
    disk.set_capacity(None);
    open(&disk, OPTIONS).unwrap();
}

#[test]
fn an_unknown_version_is_refused_by_path_and_numbers() {
    let disk = SimDisk::new(0);
    drop(open(&disk, OPTIONS).unwrap());
    let path = Path::new(DIR).join("0000000000000001.wal");
    let mut content = disk.content(&path).unwrap();
    for block in [0, 4096] {
        content[block + 8..block + 12].copy_from_slice(&9_u32.to_le_bytes());
    }
    disk.put(&path, content.clone());
    let error = open(&disk, OPTIONS).unwrap_err().to_string();
    assert!(error.contains("0000000000000001.wal") && error.contains("version 9"), "{error}");
    assert!(error.contains("version 2"), "{error}");
    assert_eq!(disk.content(&path).unwrap(), content, "and it is left as it is");
}

#[test]
fn a_hole_and_an_oversized_round_are_refused_and_harm_nothing() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    for index in [0, 1, 3] {
        let refused = wal.write_round(&[entry(KEY, index, 10)]).unwrap_err();
        assert!(matches!(refused, WalError::NotContiguous { last: 1, .. }), "{refused}");
    }
    let refused = wal.write_round(&[entry(KEY, 2, 70_000)]).unwrap_err();
    assert!(matches!(refused, WalError::TooLarge { .. }), "{refused}");
    wal.write_round(&[entry(KEY, 2, 30_000)]).unwrap();
}

#[test]
fn d6_a_vote_outlives_the_files_it_was_written_in() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    let idle = ReplicaKey { shard: 1, replica: 2 };
    let state = HardState { term: 5, vote: 3, commit: 1 };
    wal.write_round(&[created(KEY), created(idle), Record::HardState { key: idle, state }])
        .unwrap();
    let mut released = 0;
    for index in 2..200 {
        wal.write_round(&[entry(KEY, index, 5000)]).unwrap();
        wal.write_round(&[Record::Truncated { key: KEY, index, term: 1 }]).unwrap();
        let files = wal.files();
        wal.release(&[(KEY, index + 1), (idle, 2)].into());
        released += files - wal.files();
    }
    assert!(released > 10);
    drop(wal);
    disk.power_cycle(0);
    let (_, recovered) = open(&disk, OPTIONS).unwrap();
    assert_eq!(recovered.replicas[&idle].hard_state, state);
    assert_eq!(&recovered.replicas[&idle].conf_state[..], b"voters");
}

#[test]
fn d6_nothing_is_released_before_it_is_truncated() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    for index in 2..60 {
        wal.write_round(&[entry(KEY, index, 5000)]).unwrap();
    }
    let files = wal.files();
    assert!(files > 2);
    wal.release(&[(KEY, 60)].into());
    assert_eq!(wal.files(), files, "no durable record covers the entries");
    assert_eq!(wal.pinned_by_oldest().first().map(|(key, _)| *key), Some(KEY));
    wal.write_round(&[Record::Truncated { key: KEY, index: 59, term: 1 }]).unwrap();
    assert!(wal.pinned_by_oldest().is_empty());
    wal.release(&[].into());
    assert_eq!(wal.files(), files, "a replica that says nothing needs everything");
    wal.release(&[(KEY, 60)].into());
    assert_eq!(wal.files(), 1);
}

#[test]
fn a_broker_that_keeps_crashing_gathers_no_files() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    for index in 2..40 {
        wal.write_round(&[entry(KEY, index, 5000)]).unwrap();
    }
    drop(wal);
    let mut bytes = Vec::new();
    for seed in 0..20 {
        disk.power_cycle(seed);
        let (wal, recovered) = open(&disk, OPTIONS).unwrap();
        assert_eq!(last_index(&recovered), 39);
        bytes.push(wal.bytes());
    }
    assert!(bytes[19] <= bytes[1], "{bytes:?}");
}

#[test]
fn a_table_of_thousands_of_replicas_works() {
    let disk = SimDisk::new(0);
    let options = Options { file_bytes: 4 << 20, files_bytes_max: 64 << 20, ..OPTIONS };
    let (mut wal, _) = open(&disk, options).unwrap();
    let keys: Vec<_> =
        (0..5000_u32).map(|shard| ReplicaKey { shard, replica: 9 + u64::from(shard) }).collect();
    for some in keys.chunks(500) {
        wal.write_round(&some.iter().map(|key| created(*key)).collect::<Vec<_>>()).unwrap();
    }
    let mut index = 1;
    while wal.files() < 4 {
        index += 1;
        wal.write_round(&[entry(keys[0], index, 100_000)]).unwrap();
    }
    drop(wal);
    disk.power_cycle(0);
    let (_, recovered) = open(&disk, options).unwrap();
    assert_eq!(recovered.replicas.len(), 5000);
    assert!(recovered.replicas.values().all(|replica| replica.damage.is_none()));
    assert_eq!(recovered.replicas[&keys[0]].entries.len() as u64, index - 1);
}

#[test]
fn an_error_while_reading_is_not_taken_for_a_torn_tail() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    wal.write_round(&[created(KEY), entry(KEY, 2, 100)]).unwrap();
    drop(wal);
    disk.restart();
    for skip in 0..5 {
        disk.inject(Fault { skip, ..Fault::next(Operation::Read) });
        let error = open(&disk, OPTIONS).unwrap_err();
        assert!(
            matches!(&error, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::Other)
        );
        disk.clear_faults();
    }
    assert_eq!(last_index(&open(&disk, OPTIONS).unwrap().1), 2);
}

/// Records that allow files to be released can be written even if the reserve is used up.
#[test]
fn r1_the_log_can_be_emptied_when_the_reserve_is_spent() {
    let disk = SimDisk::new(0);
    let options = Options { files_bytes_max: 4 * OPTIONS.file_bytes, ..OPTIONS };
    let (mut wal, _) = open(&disk, options).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    let mut last = 1;
    // As with shards that all asked for space before one of them took it.
    while wal.write_round_from_reserve(&[entry(KEY, last + 1, 3000)]).is_ok() {
        last += 1;
    }
    assert!(last > 10, "{last}");
    let other = ReplicaKey { shard: 9, replica: 9 };
    wal.write_round_from_reserve(&[created(other)]).expect_err("it is spent");
    wal.write_round_to_release(&[Record::Truncated { key: KEY, index: last, term: 1 }]).unwrap();
    wal.release(&[(KEY, last + 1)].into());
    wal.write_round(&[entry(KEY, last + 1, 3000)]).unwrap();
}

/// Every start writes a little, as a broker does that elects itself, and no file can be released.
#[test]
fn a_log_on_a_full_disk_can_be_opened_again_and_again() {
    let options = Options {
        file_bytes: 1 << 20,
        first_file_bytes: 512 << 10,
        files_bytes_max: 16 << 20,
        ..OPTIONS
    };
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, options).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    let mut last = 1;
    while wal.files() < 4 {
        wal.write_round(&[entry(KEY, last + 1, 100_000)]).unwrap();
        last += 1;
    }
    // The disk is full from here on, also for the reserve.
    disk.set_capacity(Some(1));
    for len in [100_000, 5_000] {
        while wal.write_round_from_reserve(&[entry(KEY, last + 1, len)]).is_ok() {
            last += 1;
        }
    }
    drop(wal);
    for life in 0..20 {
        disk.power_cycle(life);
        let (mut wal, recovered) = open(&disk, options).expect("it opens");
        assert_eq!(last_index(&recovered), last, "life {life}");
        assert_eq!(recovered.replicas[&KEY].hard_state.term, life);
        let state = HardState { term: life + 1, vote: 1, commit: last };
        let elected = [Record::HardState { key: KEY, state }];
        wal.write_round_from_reserve(&elected).expect("there is room for that");
    }
    // Then it is emptied and continues.
    let (mut wal, _) = open(&disk, options).expect("it opens");
    wal.write_round_to_release(&[Record::Truncated { key: KEY, index: last, term: 1 }]).unwrap();
    wal.release(&[(KEY, last + 1)].into());
    for index in last + 1..last + 10 {
        wal.write_round(&[entry(KEY, index, 5000)]).unwrap();
    }
}

/// A lack of descriptors or memory is temporary; the log continues with its files.
#[test]
fn d2_a_want_of_descriptors_for_a_spare_file_is_not_final() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    wal.write_round(&[created(KEY)]).unwrap();
    for index in 2..100 {
        if index % 10 == 0 {
            let (kind, path_contains) = (io::ErrorKind::OutOfMemory, "creating-".to_owned());
            disk.inject(Fault { kind, path_contains, ..Fault::next(Operation::Create) });
        }
        if let Err(error) = wal.write_round(&[entry(KEY, index, 5000)]) {
            assert!(!error.is_final(), "{error}");
            wal.write_round(&[entry(KEY, index, 5000)]).expect("it has passed");
        }
    }
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(!names.iter().any(|name| name.starts_with("creating-")), "{names:?}");
}

/// A failed creation of a file for the next start does not affect the room for rounds.
#[test]
fn r1_a_file_for_a_start_that_could_not_be_created_does_not_refuse_rounds() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).unwrap();
    // After two spare files.
    let (kind, path_contains) = (io::ErrorKind::OutOfMemory, "creating-".to_owned());
    disk.inject(Fault { kind, path_contains, skip: 2, ..Fault::next(Operation::Create) });
    wal.write_round(&[created(KEY)]).unwrap();
    assert!(!purposes(&disk).contains(&2), "{:?}", purposes(&disk));
    for index in 2..100 {
        wal.write_round(&[entry(KEY, index, 5000)]).unwrap();
        assert!(!wal.is_full(), "after entry {index}");
    }
}
