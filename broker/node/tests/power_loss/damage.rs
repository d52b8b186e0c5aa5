//! Damage in every kind of file: a read returns what was written or an error (D3), and only the
//! damaged shard or partition is affected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Dice, Disk, SimDisk};
use ropewalk_shard::ShardId;
use ropewalk_store::DataDir;
use ropewalk_store::snapshot::Snapshots;

use super::broker::{self, Broker, ROOT, SHARDS};
use super::machine::{Machine, RunEnd};
use super::oracle::{Model, Op, SentBatch};

/// A machine that ran for a while and stopped, and its content.
pub(crate) fn lived(seed: u64) -> Machine {
    let mut machine = Machine::new(seed, RunEnd::Mixed, None);
    for _ in 0..3 {
        machine.live_in_peace();
        machine.disk.power_cycle(seed);
    }
    machine
}

/// The disk of a machine, started once since: the last round of the log holds no acked data. A
/// flipped bit in that round cannot be distinguished from a torn write, and is cut like one.
pub(crate) fn settled(machine: &Machine) -> SimDisk {
    let disk = copy(&machine.disk);
    let opened = broker::open(&disk).expect("it opens");
    drop(Broker::start(opened, 0).unwrap_or_else(|_| panic!("nothing fails")));
    disk
}

/// Another disk with the same files.
pub(crate) fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new(1);
    copy_dir(disk, Path::new(ROOT), &copy);
    copy
}

fn copy_dir(disk: &SimDisk, dir: &Path, to: &SimDisk) {
    to.create_dir_all(dir).expect("made");
    for name in disk.list(dir).expect("a directory") {
        let path = dir.join(name);
        match disk.content(&path) {
            Some(content) => to.put(&path, content),
            None => copy_dir(disk, &path, to),
        }
    }
}

/// All files below a directory.
pub(crate) fn files(disk: &SimDisk, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in disk.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        if disk.content(&path).is_some() {
            found.push(path)
        } else {
            found.extend(files(disk, &path))
        }
    }
    found
}

/// The snapshots of a shard, oldest first.
fn snapshots_of(disk: &SimDisk, shard: u32) -> Vec<PathBuf> {
    let dir = Path::new(ROOT).join("snapshots");
    let mut names = disk.list(&dir).expect("a directory");
    names.retain(|name| name.starts_with(&format!("{shard}-")));
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Checks the content of every shard that starts. Returns the shards that do not.
fn check(disk: &SimDisk, models: &BTreeMap<ShardId, Model>) -> Result<Vec<ShardId>, String> {
    let opened = broker::open(disk).map_err(|error| error.to_string())?;
    let damaged: Vec<ShardId> = opened.damaged.iter().map(|damaged| damaged.shard).collect();
    let broker = Broker::start(opened, 0).map_err(|_| "the disk failed".to_owned())?;
    for (shard, model) in models.iter().filter(|(shard, _)| !damaged.contains(shard)) {
        let compared = broker
            .look(*shard, |state, logs| model.compare(state, |id| logs.get(id).map(|log| &**log)));
        match compared {
            Ok(()) => {}
            // A read of damaged records is an error.
            Err(error) if error.contains("is damaged") => return Err(error),
            Err(wrong) => panic!("D3: {shard}: {wrong}"),
        }
    }
    Ok(damaged)
}

#[test]
fn d3_a_flipped_bit_or_a_cut_in_any_file_is_never_believed() {
    let mut dice = Dice::new(7);
    let mut noticed = BTreeMap::new();
    for seed in 0..4 {
        let machine = lived(seed);
        let settled = settled(&machine);
        let all = files(&settled, Path::new(ROOT));
        for path in all.iter().filter(|path| !path.ends_with("lock")) {
            let content = settled.content(path).expect("it is there");
            if content.is_empty() {
                continue;
            }
            for _ in 0..2 {
                let disk = copy(&settled);
                let at = dice.below(content.len() as u64);
                if dice.one_in(3) {
                    disk.truncate(path, at);
                } else {
                    disk.corrupt(path, at, 1 << dice.below(8));
                }
                println!("seed {seed}: {} at {at} of {}", path.display(), content.len());
                let kind = path.strip_prefix(ROOT).expect("below").iter().next().expect("a name");
                let kind = kind.to_string_lossy().into_owned();
                match check(&disk, machine.models()) {
                    Ok(damaged) => {
                        assert!(damaged.len() <= 1 || kind == "wal", "{path:?}: {damaged:?}");
                        *noticed.entry(kind).or_insert(0) += damaged.len();
                    }
                    Err(_) => *noticed.entry(kind).or_insert(0) += 1,
                }
            }
        }
    }
    for kind in ["meta", "partitions", "shards", "wal"] {
        assert!(noticed.get(kind).is_some_and(|count| *count > 0), "{kind}: {noticed:?}");
    }
}

#[test]
fn d6_without_its_newest_snapshot_a_shard_comes_back_from_the_older_one() {
    for seed in 0..60 {
        let mut machine = Machine::new(seed, RunEnd::Crashes, None);
        for _ in 0..4 {
            machine.live().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            machine.end_life();
            let shard = machine.dice.below(u64::from(SHARDS) + 1) as u32;
            let data = DataDir::new(Arc::new(machine.disk.clone()), PathBuf::from(ROOT));
            let snapshots = Snapshots::new(&data, ShardId(shard));
            let numbers = snapshots.numbers().expect("readable");
            if numbers.len() >= 2 && numbers.iter().all(|number| snapshots.load(*number).is_ok()) {
                let newest = snapshots_of(&machine.disk, shard).pop().expect("a snapshot");
                machine.disk.corrupt(&newest, 30, 1);
            }
        }
    }
}

#[test]
fn d4_a_replica_that_lost_its_log_is_not_started_and_the_others_serve() {
    let machine = lived(3);
    // All of the log: no replica may vote again.
    let disk = copy(&machine.disk);
    for path in files(&disk, Path::new("/data/wal")) {
        disk.remove(&path).expect("removed");
    }
    let damaged = check(&disk, machine.models()).expect("it opens");
    assert_eq!(damaged, (0..=SHARDS).map(ShardId).collect::<Vec<_>>());
    // Both snapshots of one shard.
    let disk = copy(&machine.disk);
    for path in snapshots_of(&disk, 2) {
        disk.corrupt(&path, 40, 1);
    }
    assert_eq!(check(&disk, machine.models()).expect("it opens"), [ShardId(2)]);
    // The next start gives the same result: no file of the damaged shard was changed.
    disk.power_cycle(1);
    assert_eq!(check(&disk, machine.models()).expect("it opens"), [ShardId(2)]);
}

/// A shard that is not started makes no checkpoints. Its entries must not fill the log for the
/// others, and must be kept for a repair.
#[test]
fn d3_a_damaged_shard_does_not_fill_the_log_of_the_others() {
    let machine = lived(3);
    let disk = copy(&machine.disk);
    let snapshots = snapshots_of(&disk, 2);
    let flip = |disk: &SimDisk| {
        for path in &snapshots {
            disk.corrupt(path, 40, 1);
        }
    };
    flip(&disk);
    for life in 0..2 {
        let opened = broker::open(&disk).expect("it opens");
        let damaged: Vec<&str> = opened.damaged.iter().map(|shard| &shard.what[..]).collect();
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].contains("are kept for a repair in /data/wal/00000002-"), "{damaged:?}");
        let mut broker = Broker::start(opened, 0).unwrap_or_else(|_| panic!("nothing fails"));
        let topic = ropewalk_shard::TopicId(uuid::Uuid::from_u128(1 << 100 | life));
        let partition = ropewalk_shard::PartitionId { topic, index: 0 };
        broker.propose(ShardId(1), Op::Open(partition));
        broker.settle().unwrap_or_else(|_| panic!("nothing fails"));
        // More than the limit of the log.
        let value = vec![7; 30_000];
        let rounds = broker::OPTIONS.wal.files_bytes_max / 30_000 + 50;
        for sequence in 0..i32::try_from(rounds).expect("few") {
            let sent = SentBatch::new(1, sequence, 1, &value);
            broker.propose(ShardId(1), Op::Append(vec![(partition, sent)]));
            let decided = broker.settle().unwrap_or_else(|_| panic!("nothing fails"));
            assert!(decided.iter().all(|decided| decided.outcome.is_ok()));
            broker.pass(200);
            for _ in 0..3 {
                broker.step().unwrap_or_else(|_| panic!("nothing fails"));
            }
        }
        assert!(broker.log_bytes() < broker::OPTIONS.wal.files_bytes_max / 4);
        drop(broker);
        disk.power_cycle(life as u64);
    }
    // With its snapshots restored the shard is complete: no entry of its log is lost.
    flip(&disk);
    let mut models = machine.models().clone();
    models.retain(|shard, _| *shard == ShardId(2));
    assert_eq!(check(&disk, &models).expect("it opens"), []);
}

/// The partitions of a damaged shard are unknown, so no files of partitions are removed.
#[test]
fn d3_a_start_with_a_damaged_shard_leaves_the_files_that_a_repair_needs() {
    let machine = lived(3);
    let mut seen = 0;
    for (shard, model) in machine.models() {
        // Recovery cuts the files of the other shards where their snapshots end.
        let names: Vec<String> = model.partitions.keys().map(|id| format!("/{id}.")).collect();
        let kept = |disk: &SimDisk| -> Vec<PathBuf> {
            let mut all = files(disk, &Path::new(ROOT).join("partitions"));
            all.retain(|path| names.iter().any(|name| path.to_string_lossy().contains(name)));
            all.extend(files(disk, Path::new(&format!("/data/shards/{}/spill", shard.0))));
            all
        };
        let disk = copy(&machine.disk);
        let before = kept(&disk);
        seen += before.len();
        for path in snapshots_of(&disk, shard.0) {
            disk.corrupt(&path, 40, 1);
        }
        let opened = broker::open(&disk).expect("it opens");
        assert_eq!(opened.damaged.iter().map(|d| d.shard).collect::<Vec<_>>(), [*shard]);
        drop(Broker::start(opened, 0));
        assert_eq!(kept(&disk), before, "{shard}");
    }
    assert!(seen > 10, "{seen} files");
}
