//! The locations of entries while the log is written, for replicas of which others may lag behind.
//!
//! A shard keeps its newest entries in memory, and reads older ones from the log when a follower
//! needs them. Only replicas that [`Located::follow`] names have their entries located, because a
//! replica without peers never reads any.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::files::Location;
use crate::frame;
use crate::layout::u32_at;
use crate::record::{RECORD_HEADER_BYTES, Record, ReplicaKey};
use crate::recovered::EntryMeta;

/// Most entries of a replica that are located, about 48 bytes each. The oldest are dropped.
pub(crate) const LOCATED_MAX: usize = 1 << 16;

/// The located entries of all followed replicas. Clones share one set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Located {
    replicas: Arc<Mutex<BTreeMap<ReplicaKey, VecDeque<EntryMeta>>>>,
}

impl Located {
    /// Locates the entries of a replica from now on. `known` are entries that the log has already,
    /// in order and without a gap.
    pub(crate) fn follow(&self, key: ReplicaKey, known: &[EntryMeta]) {
        let newest = &known[known.len().saturating_sub(LOCATED_MAX)..];
        self.replicas.lock().entry(key).or_insert_with(|| newest.iter().copied().collect());
    }

    /// Locates the entries of a replica no longer.
    pub(crate) fn unfollow(&self, key: ReplicaKey) {
        self.replicas.lock().remove(&key);
    }

    /// An entry of a followed replica; `None` if it is not located.
    pub(crate) fn find(&self, key: ReplicaKey, index: u64) -> Option<EntryMeta> {
        let replicas = self.replicas.lock();
        let entries = replicas.get(&key)?;
        let at = index.checked_sub(entries.front()?.index)?;
        entries.get(usize::try_from(at).ok()?).copied()
    }

    /// Notes the records of a durable round: `frame` is its content, which was written at
    /// `position` of the file and has records of `keys` replicas.
    pub(crate) fn note_round<'a>(
        &self,
        file_sequence: u64,
        position: u64,
        (frame, keys): (&[u8], usize),
        records: impl Iterator<Item = &'a Record>,
    ) {
        let mut replicas = self.replicas.lock();
        if replicas.is_empty() {
            return;
        }
        let mut at = frame::frame_bytes(keys, 0);
        for record in records {
            if let Some(entries) = replicas.get_mut(&record.key()) {
                let location = Location {
                    file_sequence,
                    position: position + (at + RECORD_HEADER_BYTES) as u64,
                    len_bytes: u32::try_from(record.body_len()).expect("a round fits its file"),
                    crc: u32_at(frame, at + 4),
                };
                note(entries, record, location);
            }
            at += record.size_bytes();
        }
    }
}

fn note(entries: &mut VecDeque<EntryMeta>, record: &Record, location: Location) {
    match record {
        Record::Entry { index, term, kind, .. } => {
            // A later entry replaces those at its index and above.
            while entries.back().is_some_and(|last| last.index >= *index) {
                entries.pop_back();
            }
            if entries.len() == LOCATED_MAX {
                entries.pop_front();
            }
            let (index, term, kind, len_bytes) = (*index, *term, *kind, location.len_bytes);
            entries.push_back(EntryMeta { index, term, kind, len_bytes, location });
        }
        Record::Truncated { index, .. } => {
            while entries.front().is_some_and(|first| first.index <= *index) {
                entries.pop_front();
            }
        }
        Record::Created { .. }
        | Record::SnapshotInstalled { .. }
        | Record::ReplicaDestroyed { .. }
        | Record::LossAccepted { .. } => entries.clear(),
        Record::HardState { .. } | Record::ConfState { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use proptest::prelude::*;
    use ropewalk_disk::{Disk, SimDisk};

    use super::*;
    use crate::{Options, Wal};

    const KEYS: [ReplicaKey; 2] =
        [ReplicaKey { shard: 1, replica: 10 }, ReplicaKey { shard: 2, replica: 20 }];

    fn log() -> Wal {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let options =
            Options { file_bytes: 256 << 10, first_file_bytes: 64 << 10, ..Options::default() };
        Wal::open(disk, &PathBuf::from("/wal"), options).expect("an empty directory").0
    }

    fn entry(key: ReplicaKey, index: u64, term: u64, data: Vec<u8>) -> Record {
        Record::Entry { key, index, term, kind: 0, data: Bytes::from(data).into() }
    }

    fn created(key: ReplicaKey) -> Record {
        Record::Created { key, index: 0, term: 0, conf_state: Bytes::new() }
    }

    /// What a replica's log does.
    #[derive(Debug, Clone)]
    enum Step {
        /// Appends entries, the first of them this far below the end.
        Append {
            below: u64,
            sizes: Vec<usize>,
        },
        Truncate {
            through: prop::sample::Index,
        },
        HardState,
    }

    fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
        let sizes = prop::collection::vec(0..3000_usize, 1..6);
        let step = prop_oneof![
            6 => (0..3_u64, sizes).prop_map(|(below, sizes)| Step::Append { below, sizes }),
            1 => any::<prop::sample::Index>().prop_map(|through| Step::Truncate { through }),
            1 => Just(Step::HardState),
        ];
        prop::collection::vec((0..KEYS.len(), step), 1..40)
    }

    proptest! {
        /// Against a model that keeps every payload: what is located is read back as it was
        /// written, through files that are full, and only entries that are truncated, or whose
        /// file was recycled, are not.
        #[test]
        fn located_entries_are_read_back(steps in steps()) {
            let mut log = log();
            let reader = log.reader();
            let mut model: [Vec<(u64, Vec<u8>)>; 2] = Default::default();
            let mut start = [0_u64; 2];
            for key in KEYS {
                log.write_round(&[created(key)]).expect("a write");
                reader.follow(key, &[]);
            }
            for (term, (of, step)) in (1_u64..).zip(steps) {
                let key = KEYS[of];
                let entries = &mut model[of];
                let end = start[of] + entries.len() as u64;
                let records = match step {
                    Step::Append { below, sizes } => {
                        let first = (end + 1).saturating_sub(below).max(start[of] + 1);
                        entries.truncate(usize::try_from(first - start[of] - 1).unwrap());
                        let fill = u8::try_from(term).unwrap();
                        entries.extend(sizes.into_iter().map(|size| (term, vec![fill; size])));
                        let new = &entries[usize::try_from(first - start[of] - 1).unwrap()..];
                        let new = (first..).zip(new);
                        new.map(|(index, (term, data))| entry(key, index, *term, data.clone()))
                            .collect()
                    }
                    Step::Truncate { through } if !entries.is_empty() => {
                        let count = through.index(entries.len());
                        let gone: Vec<_> = entries.drain(..=count).collect();
                        start[of] += gone.len() as u64;
                        let term = gone.last().unwrap().0;
                        vec![Record::Truncated { key, index: start[of], term }]
                    }
                    Step::Truncate { .. } | Step::HardState => {
                        vec![Record::HardState { key, state: crate::HardState::default() }]
                    }
                };
                log.write_round(&records).expect("a write");
            }
            for (of, key) in KEYS.into_iter().enumerate() {
                prop_assert_eq!(reader.read_entry(key, start[of]).unwrap(), None);
                for (index, (term, data)) in (start[of] + 1..).zip(&model[of]) {
                    let (meta, payload) = reader.read_entry(key, index).unwrap().unwrap();
                    prop_assert_eq!((meta.index, meta.term), (index, *term));
                    prop_assert_eq!(payload.as_ref(), data.as_slice());
                }
                let end = start[of] + model[of].len() as u64;
                prop_assert_eq!(reader.read_entry(key, end + 1).unwrap(), None);
            }
        }
    }

    #[test]
    fn an_entry_of_a_recycled_file_is_not_there() {
        let mut log = log();
        let (key, other) = (KEYS[0], KEYS[1]);
        let reader = log.reader();
        log.write_round(&[created(key), created(other)]).expect("a write");
        // Its truncation would drop the entry, so it is located as if there had been none.
        reader.follow(other, &[]);
        log.write_round(&[entry(other, 1, 1, vec![7; 1000])]).expect("a write");
        let (meta, _) = reader.read_entry(other, 1).unwrap().expect("it is there");
        reader.unfollow(other);
        log.write_round(&[Record::Truncated { key: other, index: 1, term: 1 }]).expect("a write");
        log.release(&BTreeMap::from([(key, u64::MAX), (other, u64::MAX)]));
        let file = meta.location.file_sequence;
        for index in 1.. {
            let truncated = Record::Truncated { key, index, term: 1 };
            log.write_round(&[entry(key, index, 1, vec![1; 30_000])]).expect("a write");
            log.write_round(&[truncated]).expect("a write");
            log.release(&BTreeMap::from([(key, u64::MAX), (other, u64::MAX)]));
            if log.reader().read(&meta.location).is_err() {
                break;
            }
            assert!(index < 100, "file {file} is never recycled");
        }
        reader.follow(other, &[meta]);
        assert_eq!(reader.read_entry(other, 1).unwrap(), None);
    }

    #[test]
    fn a_replica_that_is_not_followed_has_no_located_entry_and_its_memory_is_bounded() {
        let located = Located::default();
        let key = KEYS[0];
        let frame = vec![0; 4096];
        let note = |index| {
            let record = entry(key, index, 1, Vec::new());
            located.note_round(1, 0, (&frame, 1), std::iter::once(&record));
        };
        note(1);
        assert_eq!(located.find(key, 1), None);
        located.follow(key, &[]);
        let count = LOCATED_MAX as u64;
        (1..=count + 10).for_each(note);
        assert_eq!(located.find(key, 10), None);
        assert_eq!(located.find(key, 11).map(|meta| meta.index), Some(11));
        assert_eq!(located.find(key, count + 10).map(|meta| meta.index), Some(count + 10));
        located.unfollow(key);
        assert_eq!(located.find(key, 11), None);
    }
}
