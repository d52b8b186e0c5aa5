//! Flipped bits and truncated files: damage is never accepted as data, and affects only the
//! replicas that it touches.
//!
//! A fixed history is written to several files. Then each position is damaged in turn, and the log
//! is opened. A replica is either reported as damaged and its entries are a prefix of the written
//! ones, or it is unchanged.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use ropewalk_disk::{Dice, Disk, SimDisk};
use ropewalk_wal::{HardState, Record, RecoveredReplica, ReplicaKey, Wal};

use super::faults::{created, entry, open};
use super::machine::{DIR, OPTIONS};
use super::model::{Model, Replica, compare, compare_entries};

const A: ReplicaKey = ReplicaKey { shard: 1, replica: 11 };
const B: ReplicaKey = ReplicaKey { shard: 2, replica: 22 };
const C: ReplicaKey = ReplicaKey { shard: 3, replica: 33 };

/// The written log, as files and as a history of states.
struct Written {
    files: Vec<(String, Vec<u8>)>,
    rounds: Vec<Vec<Record>>,
}

/// Position of a round.
#[derive(Debug, Clone)]
struct Place {
    file: usize,
    bytes: Range<usize>,
    round: usize,
}

fn history() -> Vec<Vec<Record>> {
    let state = |key, term| {
        let state = HardState { term, vote: key as u64, commit: 1 };
        Record::HardState { key: [A, B, C][key], state }
    };
    let mut rounds = vec![vec![created(A), created(B)], vec![created(C), state(0, 1)]];
    for index in 2..16 {
        rounds.push(vec![entry(A, index, 3000), entry(B, index, 700)]);
        rounds.push(vec![entry(C, index, 5000)]);
        match index {
            5 => rounds.push(vec![state(1, 2), state(2, 2)]),
            8 => rounds.push(vec![Record::ConfState { key: B, data: Bytes::from_static(b"new") }]),
            9 => rounds.push(vec![Record::Truncated { key: C, index: 6, term: 1 }]),
            _ => {}
        }
    }
    rounds.push(vec![state(0, 7), entry(C, 16, 10)]);
    rounds
}

fn write() -> Written {
    let disk = SimDisk::new(0);
    let (mut wal, _) = open(&disk, OPTIONS).expect("a new log");
    let rounds = history();
    for records in &rounds {
        wal.write_round(records).expect("a healthy disk");
    }
    drop(wal);
    disk.power_cycle(0);
    let names = disk.list(Path::new(DIR)).expect("the directory");
    let content = |name: &String| disk.content(&Path::new(DIR).join(name)).expect("a listed file");
    let files = names.into_iter().map(|name| (name.clone(), content(&name)));
    let mut files: Vec<_> = files.filter(|(_, content)| sequence_of(content).is_some()).collect();
    files.sort_by_key(|(_, content)| sequence_of(content));
    assert!(files.len() >= 3, "{}", files.len());
    Written { files, rounds }
}

/// The sequence of a file that has begun, by the documented format.
pub(crate) fn sequence_of(content: &[u8]) -> Option<u64> {
    let preamble = content.get(8192..12_288)?;
    let begun = preamble.starts_with(b"RWALHEAD") && preamble[16..32] == content[16..32];
    begun.then(|| number(preamble, 40, 8))
}

fn number(content: &[u8], at: usize, len: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(&content[at..at + len]);
    u64::from_le_bytes(bytes)
}

impl Written {
    fn disk(&self) -> SimDisk {
        let disk = SimDisk::new(0);
        for (name, content) in &self.files {
            disk.put(&Path::new(DIR).join(name), content.clone());
        }
        disk
    }

    fn path(&self, file: usize) -> std::path::PathBuf {
        Path::new(DIR).join(&self.files[file].0)
    }

    /// Finds the rounds by the documented format.
    fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for (file, (_, content)) in self.files.iter().enumerate() {
            let sequence = sequence_of(content).expect("it has begun");
            for at in (16_384..content.len()).step_by(4096) {
                let ours =
                    content[at..].starts_with(b"RWRD") && number(content, at + 8, 8) == sequence;
                if ours {
                    let round = number(content, at + 16, 8) as usize - 1;
                    let bytes = at..at + number(content, at + 24, 4) as usize;
                    places.push(Place { file, bytes, round });
                }
            }
        }
        assert_eq!(places.len(), self.rounds.len());
        places
    }

    /// The state after this many rounds.
    fn model(&self, rounds: usize) -> Model {
        let mut model = Model::default();
        self.rounds[..rounds].iter().flatten().for_each(|record| model.apply(record));
        model
    }
}

/// Checks the guarantee; returns the damaged replicas.
fn check(disk: &SimDisk, model: &Model, context: &str) -> BTreeSet<ReplicaKey> {
    let (wal, recovered) = open(disk, OPTIONS).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut damaged = BTreeSet::new();
    for key in [A, B, C] {
        let replica = model.replicas.get(&key).cloned().unwrap_or_default();
        match recovered.replicas.get(&key) {
            Some(found) if found.damage.is_some() => {
                damaged.insert(key);
                prefix(&replica, &wal, found).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
            }
            Some(found) => compare(&replica, &wal, found)
                .unwrap_or_else(|wrong| panic!("{context}: {key:?} is not marked, and {wrong}")),
            None => panic!("{context}: {key:?} is gone"),
        }
    }
    damaged
}

/// The entries of a damaged replica were written, and begin at the start.
fn prefix(replica: &Replica, wal: &Wal, found: &RecoveredReplica) -> Result<(), String> {
    compare_entries(replica, wal, found).or_else(|wrong| {
        // Its truncation may be lost, too.
        let all_new = found.entries.iter().all(|entry| replica.entries.contains_key(&entry.index));
        if all_new { Err(wrong) } else { Ok(()) }
    })
}

#[test]
fn d3_a_flipped_bit_costs_at_most_the_replica_it_hit() {
    let written = write();
    let (all, before_last) =
        (written.model(written.rounds.len()), written.model(written.rounds.len() - 1));
    let mut dice = Dice::new(1);
    let (mut none, mut one) = (0, 0);
    for place in written.places() {
        let is_last = place.round + 1 == written.rounds.len();
        let model = if is_last { &before_last } else { &all };
        let keys: BTreeSet<_> = written.rounds[place.round].iter().map(Record::key).collect();
        let head = place.bytes.start..place.bytes.end.min(place.bytes.start + 140);
        let deep =
            (0..12).map(|_| place.bytes.start + dice.below(place.bytes.len() as u64) as usize);
        let positions: BTreeSet<usize> = head.step_by(3).chain(deep.collect::<Vec<_>>()).collect();
        for at in positions {
            let disk = written.disk();
            assert!(disk.corrupt(&written.path(place.file), at as u64, 1 << dice.below(8)));
            let context = format!("{place:?} at {at}");
            let damaged = check(&disk, model, &context);
            assert!(damaged.is_subset(&keys), "{context}: {damaged:?}");
            assert!(damaged.len() <= 1, "{context}: {damaged:?}");
            assert!(!is_last || damaged.is_empty(), "{context}: a torn tail is no damage");
            if damaged.is_empty() { none += 1 } else { one += 1 }
        }
    }
    assert!(none > 100 && one > 100, "harmless {none}, damage {one}");
}

#[test]
fn d3_a_header_with_one_bad_copy_costs_nothing() {
    let written = write();
    let all = written.model(written.rounds.len());
    for file in 0..written.files.len() {
        let rounds_at = written.places().iter().find(|place| place.file == file).cloned();
        let end = rounds_at.map_or(24_576, |place| place.bytes.start);
        for at in (0..end).step_by(61) {
            let disk = written.disk();
            disk.corrupt(&written.path(file), at as u64, 0x10);
            let damaged = check(&disk, &all, &format!("header of file {file} at {at}"));
            assert!(damaged.is_empty(), "file {file} at {at}: {damaged:?}");
        }
    }
}

#[test]
fn d3_a_lost_sector_or_block_costs_only_its_rounds() {
    let written = write();
    let all = written.model(written.rounds.len());
    let before_last = written.model(written.rounds.len() - 1);
    for place in written.places() {
        let is_last = place.round + 1 == written.rounds.len();
        let model = if is_last { &before_last } else { &all };
        let keys: BTreeSet<_> = written.rounds[place.round].iter().map(Record::key).collect();
        for (step, filler) in [(512, 0), (4096, 0xff)] {
            for at in place.bytes.clone().step_by(step) {
                let disk = written.disk();
                let end = (at + step).min(place.bytes.end);
                let (name, mut content) = written.files[place.file].clone();
                content[at..end].fill(filler);
                let changed = content != written.files[place.file].1;
                disk.put(&Path::new(DIR).join(name), content);
                let context = format!("{place:?} from {at} to {end} with {filler}");
                let damaged = check(&disk, if changed { model } else { &all }, &context);
                let beyond_recognition = at == place.bytes.start;
                assert!(beyond_recognition || damaged.is_subset(&keys), "{context}: {damaged:?}");
            }
        }
    }
}

#[test]
fn d3_a_cut_or_missing_file_loses_nothing_silently() {
    let written = write();
    let all = written.model(written.rounds.len());
    for file in 0..written.files.len() {
        let len = written.files[file].1.len();
        for cut in (0..len).step_by(2048).chain([len - 1]) {
            let disk = written.disk();
            disk.truncate(&written.path(file), cut as u64);
            let damaged = check(&disk, &all, &format!("file {file} cut at {cut}"));
            let is_newest = file + 1 == written.files.len();
            assert!(!is_newest || damaged.len() == 3, "the content of the newest file is unknown");
        }
        // The oldest file may have been released; otherwise entries are missing and the replica is
        // damaged.
        let mut without = write();
        without.files.remove(file);
        if file + 1 < written.files.len() {
            let damaged = check(&without.disk(), &all, &format!("file {file} removed"));
            assert!(!damaged.is_empty());
        }
    }
}

#[test]
fn d4_damage_stays_until_somebody_accepts_it_or_the_replica_goes() {
    let written = write();
    let places = written.places();
    // One record is hit in its header, the other in its body.
    let place = places.iter().find(|place| place.round == 4).expect("it was written");
    let disk = written.disk();
    disk.corrupt(&written.path(place.file), place.bytes.start as u64 + 40 + 16 + 32 + 8, 1);
    disk.corrupt(&written.path(place.file), place.bytes.end as u64 - 600, 1);
    let (mut wal, recovered) = open(&disk, OPTIONS).unwrap();
    let damage =
        |recovered: &ropewalk_wal::RecoveredLog, key| recovered.replicas[&key].damage.clone();
    assert!(damage(&recovered, A).is_some() && damage(&recovered, B).is_some());
    assert_eq!(damage(&recovered, C), None);
    assert!(!recovered.notes.is_empty(), "the damage is reported");

    // The mark outlasts the files: all files that can be released are.
    for (key, last) in [(A, 15), (B, 15), (C, 16)] {
        wal.write_round(&[Record::Truncated { key, index: last, term: 1 }]).unwrap();
    }
    for index in 17..40 {
        wal.write_round(&[entry(C, index, 5000)]).unwrap();
        wal.write_round(&[Record::Truncated { key: C, index, term: 1 }]).unwrap();
        wal.release(&[(A, 99), (B, 99), (C, index + 1)].into());
    }
    drop(wal);
    disk.power_cycle(0);
    let now = disk.content(&written.path(place.file)).and_then(|content| sequence_of(&content));
    assert_ne!(now, sequence_of(&written.files[place.file].1), "it is gone or used again");
    let (mut wal, recovered) = open(&disk, OPTIONS).unwrap();
    assert!(damage(&recovered, A).is_some() && damage(&recovered, B).is_some());

    wal.write_round(&[Record::LossAccepted { key: A, index: 15 }]).unwrap();
    wal.write_round(&[Record::ReplicaDestroyed { key: B }]).unwrap();
    wal.write_round(&[entry(A, 16, 10)]).unwrap();
    drop(wal);
    disk.power_cycle(1);
    let (_, recovered) = open(&disk, OPTIONS).unwrap();
    assert_eq!(damage(&recovered, A), None);
    assert_eq!(recovered.replicas[&A].entries.len(), 1);
    assert!(!recovered.replicas.contains_key(&B));
}

#[test]
fn d3_a_payload_that_is_damaged_after_opening_is_not_given_out() {
    let written = write();
    let disk = written.disk();
    let (wal, recovered) = open(&disk, OPTIONS).unwrap();
    let meta = recovered.replicas[&A].entries[0];
    assert_eq!(wal.read(&meta.location).unwrap().len(), 3000);
    let place = &written.places()[2];
    disk.corrupt(&written.path(place.file), place.bytes.start as u64 + 1000, 1);
    let error = wal.read(&meta.location).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

/// Numbers at their limits, each with right checksums: the file, the position (u16), and what is
/// written (2: the highest number, 3: zero).
#[test]
fn d3_a_number_that_nothing_follows_does_not_panic() {
    let edit = |file: u8, at: u16, what: u8| {
        let [low, high] = at.to_le_bytes();
        [file, low, high, what, 0, 0, 0, 0]
    };
    let forged = |edits: &[[u8; 8]]| {
        super::forge::open_forged(&[&[0][..], &edits.concat()].concat());
    };
    // The truncated index in the table of a file, and a record of a later file.
    forged(&[edit(2, 28_816, 3), edit(1, 16_424, 2)]);
    for what in [2, 3] {
        // Each number of a preamble and of a label, of the newest and of a reserved file.
        for file in [0, 2, 3] {
            for at in (16..72).step_by(8) {
                for block in [0, 4096, 8192, 12_288] {
                    forged(&[edit(file, block + at, what)]);
                }
                forged(&[edit(file, at, what), edit(file, 4096 + at, what)]);
                forged(&[edit(file, 8192 + at, what), edit(file, 12_288 + at, what)]);
            }
        }
    }
}

/// The label of a file claims the sequence of another one: found by the fuzzer.
#[test]
fn d3_a_sequence_that_two_files_claim_is_read_from_one_of_them() {
    for file in 0..8 {
        for sequence in 1..6 {
            super::forge::open_forged(&[0, file, 48, 0, 1, sequence, 0, 0, 0]);
        }
    }
}

#[test]
fn d3_a_log_with_right_checksums_and_wrong_content_never_panics() {
    for seed in 0..20 * super::seeds() {
        let mut dice = Dice::new(seed);
        let mut data = vec![u8::from(dice.one_in(8))];
        for _ in 0..=dice.below(3) {
            let mut edit = dice.draw().to_le_bytes();
            // Mostly the starts of blocks, where the numbers are.
            if !dice.one_in(4) {
                let at = dice.below(8) * 4096 + dice.below(200);
                edit[1..3].copy_from_slice(&(at as u16).to_le_bytes());
            }
            data.extend(edit);
        }
        let opened = std::panic::catch_unwind(|| super::forge::open_forged(&data));
        assert!(opened.is_ok(), "seed {seed}: {data:?}");
    }
}
