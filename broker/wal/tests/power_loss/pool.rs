//! The pool of files: names that do not change, and files that begin and are reserved again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ropewalk_disk::{Disk, File, Lock, Open, SimDisk};
use ropewalk_wal::{Options, Record, ReplicaKey, Wal, WalError};

use super::damage::sequence_of;
use super::faults::{KEY, created, entry, open};
use super::machine::{DIR, OPTIONS};
use super::model::Model;

/// A disk that counts the operations on names.
#[derive(Debug)]
struct Counting {
    disk: SimDisk,
    names: AtomicU64,
}

impl Counting {
    fn count(&self) -> &SimDisk {
        self.names.fetch_add(1, Ordering::Relaxed);
        &self.disk
    }
}

impl Disk for Counting {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.count().create_dir_all(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.count().create_dir(path)
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        match how {
            Open::CreateNew | Open::CreateOrTruncate => self.count().open(path, how),
            Open::Read | Open::ReadWrite | Open::Durable => self.disk.open(path, how),
        }
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.count().remove(path)
    }
    fn sync_dir(&self, dir: &Path, why: &'static str) -> io::Result<()> {
        self.count().sync_dir(dir, why)
    }
    fn write_back(&self, dir: &Path) {
        self.disk.write_back(dir);
    }
    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }
    fn draw(&self) -> u64 {
        self.disk.draw()
    }
    fn sync_counts(&self) -> BTreeMap<&'static str, u64> {
        self.disk.sync_counts()
    }
}

/// Once there are enough files, writing changes no name, and a file begins with one sync.
#[test]
fn a_log_that_recycles_its_files_changes_no_name() {
    let disk = Arc::new(Counting { disk: SimDisk::new(0), names: AtomicU64::new(0) });
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as Arc<dyn Disk>;
    let (mut wal, _) = Wal::open(shared, Path::new(DIR), OPTIONS).expect("a new log");
    let files = || disk.list(Path::new(DIR)).expect("the directory").len() as u64;
    wal.write_round(&[created(KEY)]).expect("a healthy disk");
    let mut index = 1;
    let mut write_files = |more: u64| {
        let headers = || disk.sync_counts()["wal-header"];
        let until = headers() + more;
        while headers() < until {
            index += 1;
            wal.write_round(&[entry(KEY, index, 5000)]).expect("a healthy disk");
            wal.write_round(&[Record::Truncated { key: KEY, index, term: 1 }]).expect("as well");
            wal.release(&[(KEY, index + 1)].into());
        }
    };
    write_files(10);
    let created = disk.sync_counts()["preallocate"];
    assert!(created >= files(), "each file is preallocated with one sync");
    let (names, before) = (disk.names.load(Ordering::Relaxed), disk.sync_counts());
    write_files(100);
    assert_eq!(disk.names.load(Ordering::Relaxed), names, "no operation on a name");
    let after = disk.sync_counts();
    let more = |why: &str| after[why] - before.get(why).copied().unwrap_or_default();
    assert_eq!((more("preallocate"), more("wal-header")), (0, 100));
    // A mark when it begins, two copies when it is reserved again.
    assert!(more("wal-label") <= 3 * 101, "{}", more("wal-label"));
}

/// Writes several files; at the end one replica is destroyed and another one truncated.
fn script() -> Vec<Vec<Record>> {
    let other = ReplicaKey { shard: 9, replica: 90 };
    let mut rounds = vec![vec![created(KEY), created(other)]];
    for index in 2..26 {
        rounds.push(vec![entry(KEY, index, 5000), entry(other, index, 900)]);
        if index % 5 == 0 {
            rounds.push(vec![Record::Truncated { key: KEY, index: index - 1, term: 1 }]);
            rounds.push(vec![Record::Truncated { key: other, index: index - 1, term: 1 }]);
        }
    }
    rounds.push(vec![Record::ReplicaDestroyed { key: other }]);
    rounds.push(vec![created(ReplicaKey { replica: 91, ..other }), entry(KEY, 26, 5000)]);
    rounds
}

fn release(wal: &mut Wal, model: &Model) {
    let needed = model.replicas.iter();
    wal.release(&needed.map(|(key, replica)| (*key, replica.truncated.index + 1)).collect());
}

/// Writes the rounds until one fails. Returns the state without and with the failed one.
fn write(wal: &mut Wal, rounds: &[Vec<Record>], mut model: Model) -> (Model, Option<Model>) {
    for records in rounds {
        let mut after = model.clone();
        records.iter().for_each(|record| after.apply(record));
        match wal.write_round(records) {
            Ok(_) => model = after,
            Err(WalError::Failed(_)) => return (model, Some(after)),
            Err(error) => panic!("{error}"),
        }
        release(wal, &model);
    }
    (model, None)
}

/// Opens the log and compares it with what may be there. Returns the state that it has.
fn check(disk: &SimDisk, known: &Model, doubt: Option<&Model>, context: &str) -> (Wal, Model) {
    let (wal, recovered) = open(disk, OPTIONS).unwrap_or_else(|error| panic!("{context}: {error}"));
    match (known.compare(&wal, &recovered), doubt) {
        (Ok(()), _) => (wal, known.clone()),
        (Err(wrong), None) => panic!("{context}: {wrong}"),
        (Err(_), Some(doubt)) => {
            doubt.compare(&wal, &recovered).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
            (wal, doubt.clone())
        }
    }
}

fn end(disk: &SimDisk, seed: u64) {
    if seed.is_multiple_of(3) { disk.restart() } else { disk.power_cycle(seed) }
}

#[test]
fn d1_d6_power_may_go_at_any_moment_while_files_begin_and_are_reserved_again() {
    let rounds = script();
    let operations = {
        let disk = SimDisk::new(0);
        let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
        let (model, failed) = write(&mut wal, &rounds, Model::default());
        assert!(failed.is_none() && model.replicas.len() == 2);
        assert!(disk.sync_counts()["wal-header"] >= 4, "{:?}", disk.sync_counts());
        disk.operations()
    };
    for at in 1..=operations {
        for seed in 0..3 {
            let context = format!("at {at} with {seed}");
            let disk = SimDisk::new(seed);
            disk.crash_at(at);
            let (model, doubt) = match open(&disk, OPTIONS) {
                Ok((mut wal, _)) => write(&mut wal, &rounds, Model::default()),
                Err(_) => (Model::default(), None),
            };
            end(&disk, seed);
            let (mut wal, model) = check(&disk, &model, doubt.as_ref(), &context);
            // Writing continues, and what was not there does not come back.
            let key = ReplicaKey { shard: 50, replica: 50 };
            let more = (2..14).map(|index| vec![entry(key, index, 4000)]);
            let more: Vec<_> = std::iter::once(vec![created(key)]).chain(more).collect();
            let (model, failed) = write(&mut wal, &more, model);
            assert!(failed.is_none(), "{context}");
            drop(wal);
            disk.power_cycle(seed + 1);
            check(&disk, &model, None, &context);
        }
    }
}

#[test]
fn d1_d6_a_start_may_end_at_any_moment_and_twice() {
    let rounds = script();
    for written in [3, 20, rounds.len()] {
        let prepared = |seed| {
            let disk = SimDisk::new(seed);
            let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
            let (model, _) = write(&mut wal, &rounds[..written], Model::default());
            drop(wal);
            disk.power_cycle(seed);
            (disk, model)
        };
        let (disk, _) = prepared(0);
        drop(open(&disk, OPTIONS).expect("it opens"));
        for at in 1..=disk.operations() {
            for seed in 0..4 {
                let context = format!("{written} rounds, at {at} with {seed}");
                let (disk, model) = prepared(seed);
                disk.crash_at(at);
                assert!(open(&disk, OPTIONS).is_err(), "{context}");
                end(&disk, seed);
                disk.crash_at(at + seed);
                drop(open(&disk, OPTIONS));
                end(&disk, seed + 1);
                let (wal, _) = check(&disk, &model, None, &context);
                drop(wal);
                disk.power_cycle(seed);
                check(&disk, &model, None, &context);
            }
        }
    }
}

/// A log with files that were used before and are reserved again.
fn recycled() -> (SimDisk, Model) {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
    let (model, failed) = write(&mut wal, &script(), Model::default());
    assert!(failed.is_none());
    drop(wal);
    disk.power_cycle(0);
    (disk, model)
}

#[test]
fn d3_damage_to_a_reserved_file_costs_nothing() {
    let (disk, _) = recycled();
    let names = disk.list(Path::new(DIR)).expect("the directory");
    let content = |name: &str| disk.content(&Path::new(DIR).join(name)).expect("a listed file");
    let reserved = names.iter().filter(|name| sequence_of(&content(name)).is_none());
    let used = reserved.filter(|name| content(name)[8192..].starts_with(b"RWALHEAD"));
    let used: Vec<_> = used.collect();
    assert!(!used.is_empty(), "{names:?}");
    for name in used {
        for at in (0..24_576).step_by(97) {
            let (disk, model) = recycled();
            assert!(disk.corrupt(&Path::new(DIR).join(name), at, 0x20));
            check(&disk, &model, None, &format!("{name} at {at}"));
        }
    }
}

/// The format has the number of the file in its label.
#[test]
fn d3_a_copy_of_a_file_under_another_name_is_not_taken_for_a_part_of_the_log() {
    let (disk, _) = recycled();
    let names = disk.list(Path::new(DIR)).expect("the directory");
    let content = |name: &String| disk.content(&Path::new(DIR).join(name)).expect("a listed file");
    let begun = names.iter().map(content).find(|content| sequence_of(content).is_some());
    disk.put(&Path::new(DIR).join("00000000000000ff.wal"), begun.expect("one has begun"));
    let (_, recovered) = open(&disk, OPTIONS).expect("it opens");
    assert!(recovered.replicas.values().all(|replica| replica.damage.is_some()));
    assert!(recovered.notes.iter().any(|note| note.contains("00ff.wal")), "{:?}", recovered.notes);
}

/// Damage to a file whose sequence is not readable is accepted once, not at each start.
#[test]
fn d4_an_unreadable_file_of_unknown_sequence_damages_once() {
    for lost in 0..3 {
        let disk = SimDisk::new(0);
        let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
        let rounds = (2..30).map(|index| vec![entry(KEY, index, 5000)]);
        let rounds: Vec<_> = std::iter::once(vec![created(KEY)]).chain(rounds).collect();
        write(&mut wal, &rounds, Model::default());
        drop(wal);
        let names = disk.list(Path::new(DIR)).expect("the directory").into_iter();
        let paths = names.map(|name| Path::new(DIR).join(name));
        let mut begun: Vec<_> =
            paths.filter_map(|path| Some((sequence_of(&disk.content(&path)?)?, path))).collect();
        begun.sort();
        assert!(begun.len() >= 3);
        let (_, path) = &begun[lost * (begun.len() - 1) / 2];
        let mut content = disk.content(path).expect("a file");
        content[..16_384].fill(0);
        disk.put(path, content);
        let (mut wal, recovered) = open(&disk, OPTIONS).expect("it opens");
        let replica = &recovered.replicas[&KEY];
        assert!(replica.damage.is_some(), "file {lost}");
        let last = replica.entries.last().map_or(1, |entry| entry.index);
        wal.write_round(&[Record::LossAccepted { key: KEY, index: last }]).expect("a healthy disk");
        for life in 0..3 {
            drop(wal);
            disk.power_cycle(life);
            let opened = open(&disk, OPTIONS).expect("it opens");
            assert_eq!(opened.1.replicas[&KEY].damage, None, "file {lost}, life {life}");
            wal = opened.0;
            let next = last + 1 + life;
            wal.write_round(&[entry(KEY, next, 100)]).expect("a healthy disk");
        }
    }
}

/// A file that a start has begun holds rounds whose older copies are released, so it must not pass
/// for one that has not begun.
#[test]
fn d4_a_begun_file_without_a_header_is_damage() {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
    write(&mut wal, &script()[..3], Model::default());
    drop(wal);
    disk.power_cycle(0);
    drop(open(&disk, OPTIONS).expect("it opens"));
    disk.power_cycle(0);
    let names = disk.list(Path::new(DIR)).expect("the directory").into_iter();
    for path in names.map(|name| Path::new(DIR).join(name)) {
        let mut content = disk.content(&path).expect("a listed file");
        if sequence_of(&content).is_some() {
            content[8192..24_576].fill(0);
            disk.put(&path, content);
        }
    }
    let (_, recovered) = open(&disk, OPTIONS).expect("it opens");
    assert!(recovered.notes.iter().any(|note| note.contains("header")), "{:?}", recovered.notes);
}

/// The first version is no damage, and its files stay as they are.
#[test]
fn a_log_of_version_1_is_refused_with_what_to_do() {
    let disk = SimDisk::new(0);
    let mut block = vec![0; 4096];
    block[..8].copy_from_slice(b"RWALFILE");
    block[8..12].copy_from_slice(&1_u32.to_le_bytes());
    block[16] = 1;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    let file = [&block[..], &block, &[0; 57_344]].concat();
    let path = Path::new(DIR).join("0000000000000001.wal");
    disk.put(&path, file.clone());
    let error = open(&disk, Options { ..OPTIONS }).expect_err("it is refused").to_string();
    for word in ["0000000000000001.wal", "version 1;", "version 2:", "the program that wrote it"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert_eq!(disk.content(&path), Some(file));
}
