//! Log files with valid checksums and invalid content.
//!
//! Checksums keep damage away from all code behind them, so damage alone never tests that code.
//! Here a log is written, numbers in it are overwritten, and all checksums are computed again,
//! following only the documented format. Also used by the fuzz target `wal`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ropewalk_disk::{Disk, SimDisk};
use ropewalk_wal::{HardState, Options, Record, ReplicaKey, Wal};

const DIR: &str = "/forged";
const BLOCK: usize = 4096;
/// Position of the first preamble: after the two copies of the label.
const HEADER: usize = 2 * BLOCK;
/// Position of the first table.
const TABLE: usize = 4 * BLOCK;
const OPTIONS: Options = Options {
    file_bytes: 64 << 10,
    first_file_bytes: 64 << 10,
    files_bytes_max: 1 << 20,
    spares_max: 2,
    prefilled: 0,
};

type Files = Vec<(String, Vec<u8>)>;

/// Opens a log with the edits from `data`. It may be refused; it must not panic, and if it is
/// accepted, opening it again must give the same state.
pub(crate) fn open_forged(data: &[u8]) {
    let Some((&mode, edits)) = data.split_first() else { return };
    let mut files = base().clone();
    edits.chunks_exact(8).for_each(|edit| apply(&mut files, edit));
    if mode & 1 == 0 {
        files.iter_mut().for_each(|(_, content)| seal(content));
    }
    let disk = SimDisk::new(0);
    for (name, content) in files {
        disk.put(&Path::new(DIR).join(name), content);
    }
    let open = || {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        Wal::open(disk, Path::new(DIR), OPTIONS)
    };
    let Ok((mut wal, recovered)) = open() else { return };
    for replica in recovered.replicas.values() {
        for meta in &replica.entries {
            let data = wal.read(&meta.location).expect("a recovered entry can be read");
            assert_eq!(data.len(), meta.len_bytes as usize);
        }
    }
    let key = ReplicaKey { shard: 99, replica: 99 };
    // A table may fill the file, or a sequence may be at its maximum.
    let _ = wal.write_round(&[Record::Truncated { key, index: 1, term: 1 }]);
    wal.release(&recovered.replicas.keys().map(|key| (*key, u64::MAX)).collect());
    drop(wal);
    if let Ok((_, again)) = open() {
        for (key, replica) in &recovered.replicas {
            assert_eq!(
                again.replicas.get(key).map(|again| &again.hard_state),
                Some(&replica.hard_state)
            );
        }
    }
}

/// One edit: which file, where, and what.
fn apply(files: &mut Files, edit: &[u8]) {
    let at = files.len();
    let content = &mut files[usize::from(edit[0]) % at].1;
    let at = usize::from(u16::from_le_bytes([edit[1], edit[2]])) % content.len();
    let value = &edit[4..8];
    let written: Vec<u8> = match edit[3] % 5 {
        0 => value.to_vec(),
        1 => value[..1].to_vec(),
        2 => vec![0xff; 8],
        3 => vec![0; 8],
        _ => {
            content.truncate(at.max(1));
            return;
        }
    };
    let end = (at + written.len()).min(content.len());
    content[at..end].copy_from_slice(&written[..end - at]);
}

/// A small log in three files, oldest first, and its reserved files.
fn base() -> &'static Files {
    static BASE: OnceLock<Files> = OnceLock::new();
    BASE.get_or_init(|| {
        let disk = SimDisk::new(0);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (mut wal, _) = Wal::open(shared, Path::new(DIR), OPTIONS).expect("a new log");
        for records in history() {
            wal.write_round(&records).expect("a healthy disk");
        }
        let names = disk.list(Path::new(DIR)).expect("the directory").into_iter();
        let content = |name: &String| disk.content(&Path::new(DIR).join(name)).expect("a file");
        let mut files: Files = names.map(|name| (name.clone(), content(&name))).collect();
        let begun = |content: &[u8]| content[HEADER..].starts_with(b"RWALHEAD");
        files.sort_by_key(|(_, content)| (!begun(content), number(content, HEADER + 40)));
        let logs = files.iter().filter(|(_, content)| begun(content)).count();
        assert!(logs >= 3 && files.len() > logs, "{logs} of {} files", files.len());
        files
    })
}

fn history() -> Vec<Vec<Record>> {
    let keys = [1, 2].map(|shard| ReplicaKey { shard, replica: 5 });
    let conf_state = Bytes::from_static(b"voters");
    let [first, second] = keys;
    let mut rounds = vec![vec![
        Record::Created { key: first, index: 1, term: 1, conf_state: conf_state.clone() },
        Record::SnapshotInstalled {
            key: second,
            index: 1,
            term: 1,
            conf_state: conf_state.clone(),
        },
    ]];
    for index in 2..9 {
        let entry = |key, len| {
            let data = Bytes::from(vec![7; len]).into();
            Record::Entry { key, index, term: 1, kind: 0, data }
        };
        rounds.push(vec![entry(first, 100), entry(second, 3000)]);
        let state = HardState { term: index, vote: 1, commit: index };
        rounds.push(vec![Record::HardState { key: first, state }]);
        rounds.push(vec![Record::ConfState { key: second, data: conf_state.clone() }]);
    }
    rounds.push(vec![Record::Truncated { key: second, index: 3, term: 1 }]);
    rounds.push(vec![Record::LossAccepted { key: second, index: 7 }]);
    rounds.push(vec![Record::ReplicaDestroyed { key: second }]);
    rounds
}

fn number(content: &[u8], at: usize) -> usize {
    u32::from_le_bytes(content[at..at + 4].try_into().expect("four bytes")) as usize
}

fn put(content: &mut [u8], at: usize, crc: u32) {
    content[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Computes every checksum that can be computed.
fn seal(content: &mut [u8]) {
    if content.len() < TABLE + BLOCK {
        return;
    }
    let table = TABLE..TABLE + number(content, HEADER + 56);
    if let Some(table) = content.get(table).map(crc32c::crc32c) {
        put(content, HEADER + 60, table);
        put(content, HEADER + BLOCK + 60, table);
    }
    for at in (0..TABLE).step_by(BLOCK) {
        let crc = crc32c::crc32c(&content[at..at + 12]);
        let crc = crc32c::crc32c_append(crc, &content[at + 16..at + BLOCK]);
        put(content, at + 12, crc);
    }
    let salt = content[HEADER + 24..HEADER + 32].to_vec();
    for at in (TABLE..content.len() - BLOCK + 1).step_by(BLOCK) {
        if content[at..].starts_with(b"RWRD") {
            seal_round(content, at, crc32c::crc32c(&salt));
        }
    }
}

fn seal_round(content: &mut [u8], at: usize, salted: u32) {
    let end = at + number(content, at + 24);
    let seed = crc32c::crc32c_append(salted, &content[at + 16..at + 24]);
    if end <= content.len() && end >= at + 56 {
        let records = at + 56 + 16 * number(content, at + 44);
        if records <= end {
            let crc = crc32c::crc32c_append(seed, &content[at + 44..records]);
            put(content, at + 40, crc);
            let heads = crc32c::crc32c_append(seed, &content[at + 40..records]);
            let heads = seal_records(content, records..end, seed, heads);
            put(content, at + 28, heads);
        }
    }
    let crc = crc32c::crc32c_append(salted, &content[at + 8..at + 40]);
    put(content, at + 4, crc);
}

/// Returns the checksum `heads` continued over the headers of the records.
fn seal_records(
    content: &mut [u8],
    range: std::ops::Range<usize>,
    seed: u32,
    mut heads: u32,
) -> u32 {
    let mut at = range.start;
    while at + 48 <= range.end {
        let body = at + 48..at + 48 + number(content, at + 8);
        if body.end <= range.end {
            let crc = crc32c::crc32c(&content[body.clone()]);
            put(content, at + 4, crc);
        }
        let crc = crc32c::crc32c_append(seed, &content[at + 4..at + 48]);
        put(content, at, crc);
        heads = crc32c::crc32c_append(heads, &content[at..at + 48]);
        at = body.end.next_multiple_of(8);
    }
    heads
}
