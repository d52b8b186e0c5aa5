//! A crash at each step, and what is left of a replica.

use std::path::{Path, PathBuf};

use ropewalk_disk::{Disk, SimDisk};
use ropewalk_wal::HardState;

use super::*;
use crate::recovery::{self, OpenStore};
use crate::testing::OneShard;

const SHARD: ShardId = ShardId(1);
/// Raft id of the replica of [`SHARD`] in a directory that was just formatted.
const REPLICA: u64 = 2;

fn opened(disk: &SimDisk) -> Result<OpenStore, String> {
    let wal = ropewalk_wal::Options {
        file_bytes: 64 << 10,
        first_file_bytes: 64 << 10,
        ..ropewalk_wal::Options::default()
    };
    let options = recovery::Options { wal, ..recovery::Options::default() };
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    recovery::open(data, &options).map_err(|error| error.to_string())
}

/// A disk with a shard that has segments, spill files and two snapshots.
fn with_records(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let mut shard = OneShard::open(&disk).expect("it opens");
    for _ in 0..2 {
        shard.append_and_checkpoint(90).expect("durable");
        shard.append_and_checkpoint(3).expect("durable");
    }
    drop(shard);
    disk.restart();
    disk
}

fn destroy_it(disk: &SimDisk) -> Result<(), String> {
    let mut store = opened(disk)?;
    let data = store.store.data();
    destroyed::mark(data, SHARD, REPLICA).map_err(|error| error.to_string())?;
    let done = destroy(&store.store, SHARD, REPLICA, &[], &mut store.wal);
    done.map_err(|error| error.to_string())
}

/// The names of all files below a directory of the data directory.
fn files(disk: &SimDisk, dir: &str) -> Vec<String> {
    let dir = Path::new("/data").join(dir);
    let names = disk.list(&dir).unwrap_or_default();
    let below = |name: &String| disk.list(&dir.join(name)).ok();
    names.iter().flat_map(|name| below(name).unwrap_or_else(|| vec![name.clone()])).collect()
}

/// Whether the shard is on this disk. It is either whole or gone, and never damaged.
fn is_there(disk: &SimDisk) -> bool {
    let store = opened(disk).expect("it opens");
    assert_eq!(store.damaged, [], "D4: it is not damaged");
    assert_eq!(store.damaged_partitions, []);
    assert_eq!(store.receiving, []);
    let found = store.replicas.iter().find(|found| found.shard == SHARD);
    assert!(store.replicas.iter().any(|found| found.shard == ShardId::CATALOG), "the other stays");
    if let Some(found) = found {
        assert_eq!(found.logs.len(), 2, "it is whole");
        assert!(!store.destroyed.contains_key(&SHARD));
        return true;
    }
    assert_eq!(store.destroyed[&SHARD], REPLICA);
    let snapshots = files(disk, "snapshots");
    assert!(snapshots.iter().all(|name| !name.starts_with("1-")), "{snapshots:?}");
    assert_eq!(files(disk, "partitions"), [""; 0]);
    assert_eq!(files(disk, "shards/1/spill"), [""; 0]);
    false
}

/// Destroys the replica, and crashes at an operation. Returns whether it did crash.
fn destroy_through_a_crash(disk: &SimDisk, at: u64, seed: u64) -> bool {
    disk.crash_at(disk.operations() + at);
    let done = destroy_it(disk);
    let crashed = disk.crashed();
    assert!(done.is_ok() || crashed, "at operation {at}: {done:?}");
    if seed.is_multiple_of(3) {
        disk.restart()
    } else {
        disk.power_cycle(seed)
    }
    let is_left = is_there(disk);
    assert!(done.is_err() || !is_left, "at operation {at}: it was destroyed");
    disk.power_cycle(seed);
    if is_left {
        destroy_it(disk).expect("nothing fails");
    }
    assert!(!is_there(disk), "at operation {at}: it comes back");
    crashed
}

#[test]
fn d4_a_replica_is_whole_or_gone_whenever_power_goes_while_it_is_destroyed() {
    let mut at = 1;
    while (0..3).any(|seed| destroy_through_a_crash(&with_records(seed), at, at + seed)) {
        at += 1;
    }
    assert!(at > 30, "only {at} operations");
}

/// Without the sync of the mark, some crash leaves a shard that counts as damaged.
#[test]
fn d4_the_sync_of_the_mark_is_not_superfluous() {
    let is_found = (1..80).any(|at| {
        (1..6).any(|seed| {
            let disk = with_records(seed);
            disk.ignore_syncs("destroyed");
            let destroyed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                destroy_through_a_crash(&disk, at, seed)
            }));
            destroyed.is_err()
        })
    });
    assert!(is_found);
}

/// Recovery completes a destruction of which only the mark is durable.
#[test]
fn d4_a_marked_replica_does_not_start() {
    let disk = with_records(1);
    assert!(is_there(&disk));
    destroyed::mark(opened(&disk).expect("it opens").store.data(), SHARD, REPLICA).expect("marked");
    disk.power_cycle(2);
    assert!(!is_there(&disk));
    assert!(!is_there(&disk), "nor at the next start");
}

/// Also if the mark of the earlier one is still there, because its removal was not durable.
#[test]
fn d4_a_mark_does_not_concern_a_later_replica_of_the_shard() {
    let disk = with_records(1);
    let snapshot = {
        let snapshots = Snapshots::new(opened(&disk).expect("it opens").store.data(), SHARD);
        let newest = snapshots.numbers().expect("listed").pop().expect("there is one");
        snapshots.load(newest).expect("intact")
    };
    let later = crate::snapshot::Snapshot {
        replica: ReplicaId(77),
        // Its files are not those of the one before.
        partitions: Vec::new(),
        state: Default::default(),
        ..snapshot
    };
    destroy_it(&disk).expect("nothing fails");
    let mut store = opened(&disk).expect("it opens");
    Snapshots::new(store.store.data(), SHARD).write(1, &later).expect("durable");
    let (key, index, term) = (key_of(SHARD, 77), later.index, later.term);
    let state = HardState { term, vote: 0, commit: index };
    let created = Record::Created { key, index, term, conf_state: bytes::Bytes::new() };
    store.wal.write_round(&[created, Record::HardState { key, state }]).expect("durable");
    drop(store);
    disk.power_cycle(3);
    for _ in 0..2 {
        let store = opened(&disk).expect("it opens");
        assert_eq!(store.damaged, []);
        let found = store.replicas.iter().find(|found| found.shard == SHARD);
        assert_eq!(found.expect("it starts").start.replica, 77);
    }
}

#[test]
fn a_replica_that_is_damaged_can_be_destroyed() {
    let disk = with_records(1);
    for name in files(&disk, "snapshots").iter().filter(|name| name.starts_with("1-")) {
        disk.corrupt(&Path::new("/data/snapshots").join(name), 40, 1);
    }
    let store = opened(&disk).expect("it opens");
    assert!(matches!(&store.damaged[..], [damaged] if damaged.shard == SHARD));
    drop(store);
    destroy_it(&disk).expect("nothing fails");
    disk.power_cycle(3);
    assert!(!is_there(&disk));
}
