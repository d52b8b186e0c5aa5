//! What the log of a replica keeps in memory, and what it reads back.

use bytes::Bytes;

use super::*;
use crate::engine::{HardState as Hard, Members};

const LARGE: usize = limits::MESSAGE_BYTES_MAX as usize / 2;

/// Entries as a disk returns them: the payload of an entry is its index, again and again.
#[derive(Debug)]
struct Disk;

impl EntrySource for Disk {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        Ok(vec![index as u8; LARGE].into())
    }
}

fn entry(index: u64, term: u64) -> Entry {
    let chunks = vec![Bytes::from_static(b""), vec![index as u8; LARGE].into()];
    Entry { index, term, kind: EntryKind::Normal, data: chunks.into() }
}

fn log() -> LogStore {
    let mut log = LogStore::new(Start {
        replica: 1,
        hard_state: Hard::default(),
        members: Members::lone(1),
        snapshot: EntryId { index: 1, term: 1 },
        entries: Vec::new(),
        source: Box::new(Disk),
        seed: 0,
    });
    log.append(&[entry(2, 1), entry(3, 1), entry(4, 1), entry(5, 2)]);
    log
}

fn read(log: &LogStore, low: u64, max_size: u64) -> Vec<eraftpb::Entry> {
    let context = GetEntriesContext::empty(true);
    log.entries(low, 6, Some(max_size), context).expect("they are in the log")
}

#[test]
fn a_bound_counts_payloads_that_the_crate_does_not_see() {
    let log = log();
    let entries = read(&log, 2, limits::MESSAGE_BYTES_MAX);
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry.data.len() < 10));
    assert_eq!(read(&log, 3, 1).len(), 1, "one entry is always returned");
    let whole: Vec<_> = entries.iter().map(|entry| log.complete(entry)).collect();
    assert_eq!(whole, [Some(entry(2, 1)), Some(entry(3, 1))]);
}

#[test]
fn a_payload_is_found_until_its_entry_is_replaced_or_released() {
    let mut log = log();
    let [second, last] = [&read(&log, 2, 1)[0], &read(&log, 5, 1)[0]].map(Clone::clone);
    log.append(&[entry(5, 3)]);
    log.discard_through(2);
    assert_eq!(log.complete(&second), Some(entry(2, 1)), "it is on its way to a follower");
    assert_eq!(log.complete(&last), Some(entry(5, 2)));
    log.passed();
    assert_eq!([log.complete(&second), log.complete(&last)], [None, None]);
    assert_eq!(log.complete(&read(&log, 5, 1)[0]), Some(entry(5, 3)));
}

#[test]
fn a_payload_that_was_released_is_read_back_when_it_is_applied() {
    let mut log = log();
    let many: Vec<_> = (6..30).map(|index| entry(index, 3)).collect();
    log.append(&many);
    log.release(29);
    let context = GetEntriesContext::empty(false);
    let outlines = log.entries(2, 3, Some(1), context).expect("it is in the log");
    assert_eq!(log.complete(&outlines[0]), None, "it is on the disk");
    assert_eq!(log.entry(2), Ok(entry(2, 1)));
    assert_eq!(log.entry(29), Ok(entry(29, 3)));
    log.entry(30).expect_err("the log ends before it");
    log.pass(EntryId { index: 30, term: 3 }, entry(30, 3).data);
    let next = convert::outline(EntryId { index: 30, term: 3 }, EntryKind::Normal, false);
    assert_eq!(log.complete(&next), Some(entry(30, 3)), "it is not in the log yet");
}
