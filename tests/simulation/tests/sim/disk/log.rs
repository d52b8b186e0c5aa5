//! The write-ahead log of one replica on a disk that loses power, tears writes, flips bits, fails
//! and fills up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_disk::{Disk as _, Fault, Operation, SimDisk};
use ropewalk_shard::engine::{Entry, EntryId, EntryKind, EntrySource, HardState, StoredEntry};
use ropewalk_shard::replica::Write;
use ropewalk_shard::{Payload, ReplicaId, ShardId};
use ropewalk_store::replica_log;
use ropewalk_wal::{
    EntryMeta, OpenError, Options, Reader, Record, RecoveredReplica, ReplicaKey, Wal, WalError,
};

use super::after_install;
use super::tail::Tail;
use crate::dice::Dice;

const DIR: &str = "/wal";
const SHARD: ShardId = ShardId(1);

/// The reason of the sync of a round.
const WHY_ROUND: &str = "wal-round";

/// A checkpoint releases the log when it takes more than so many files.
const FILES_WANTED: u64 = 4;

/// Blocks at which rounds begin, and what they begin with: see "the format" in `ropewalk-wal`.
const BLOCK_BYTES: usize = 4096;
const ROUND_MAGIC: &[u8] = b"RWRD";

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Durable,
    /// There is no space; nothing was written.
    Full,
    /// An entry does not follow the log; nothing was written.
    Hole,
    /// The disk failed, which is final.
    Failed,
}

/// Why a log cannot be used.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    /// There is no space to begin a file: the next start may succeed.
    Full,
    /// Durable records are lost.
    Damaged(String),
}

impl fmt::Display for OpenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "no space to open the log"),
            Self::Damaged(damage) => write!(f, "{damage}"),
        }
    }
}

/// What recovery found.
pub(super) struct Found {
    pub hard_state: HardState,
    /// The entries after the snapshot.
    pub entries: Vec<StoredEntry>,
    pub source: Box<dyn EntrySource>,
    pub damage: Option<String>,
}

/// Whose log it is, and on which disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub replica: u64,
    /// Decides the partial effects of failures.
    pub seed: u64,
    /// Size of a file of the log, bytes.
    pub file_bytes: u64,
}

impl Place {
    fn options(self) -> Options {
        Options {
            file_bytes: self.file_bytes,
            first_file_bytes: self.file_bytes / 2,
            files_bytes_max: 256 * self.file_bytes,
            spares_max: 3,
            prefilled: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Log {
    place: Place,
    disk: SimDisk,
    key: ReplicaKey,
    /// Open while the process runs.
    wal: Option<Wal>,
    hard_state: HardState,
    /// The entries that recovery found, by index.
    places: Arc<BTreeMap<u64, EntryMeta>>,
    reader: Reader,
    tail: Arc<Tail>,
    /// Entries before those of the log, which all have this payload.
    preloaded: Option<Preloaded>,
    /// Whether the log stores entries without their payloads, which would take too long.
    has_no_payloads: bool,
    /// The newest round that was reported as durable.
    last_round: u64,
    /// Rounds since the last one that the label names as durable.
    unsealed: u64,
}

#[derive(Debug, Clone)]
struct Preloaded {
    first: u64,
    last: EntryId,
    payload: Bytes,
}

/// Reads the entries that recovery found.
#[derive(Debug)]
struct Source {
    reader: Reader,
    places: Arc<BTreeMap<u64, EntryMeta>>,
    preloaded: Option<Preloaded>,
    tail: Arc<Tail>,
}

impl Source {
    fn bytes(&self, index: u64) -> Result<Bytes, String> {
        if let Some(preloaded) = &self.preloaded
            && (preloaded.first..=preloaded.last.index).contains(&index)
        {
            return Ok(preloaded.payload.clone());
        }
        let place = self.places.get(&index).ok_or_else(|| format!("no entry {index}"))?;
        self.reader.read(&place.location).map_err(|error| error.to_string())
    }
}

impl EntrySource for Source {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        self.bytes(index)
    }

    fn has_room(&self) -> bool {
        self.tail.has_room()
    }
}

/// A round of the log in a file.
#[derive(Debug, Clone)]
struct RoundPlace {
    file_sequence: u64,
    path: PathBuf,
    at: usize,
    length: usize,
}

impl Log {
    /// The log of a new replica that starts with a snapshot through `last`.
    pub(super) fn create(place: Place, last: EntryId) -> Self {
        let mut log = Self {
            place,
            disk: SimDisk::new(place.seed),
            key: replica_log::key(SHARD, ReplicaId(place.replica)),
            wal: None,
            hard_state: HardState::default(),
            places: Arc::default(),
            reader: Reader::default(),
            tail: Arc::default(),
            preloaded: None,
            has_no_payloads: false,
            last_round: 0,
            unsealed: 0,
        };
        let (wal, _) = log.open_wal().expect("an empty disk has space");
        log.wal = Some(wal);
        let EntryId { index, term } = last;
        let created = Record::Created { key: log.key, index, term, conf_state: Bytes::new() };
        assert_eq!(log.write_records(&[created]), Outcome::Durable);
        log.seal();
        log.wal = None;
        log
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    fn open_wal(&self) -> Result<(Wal, ropewalk_wal::RecoveredLog), OpenError> {
        Wal::open(Arc::new(self.disk.clone()), Path::new(DIR), self.place.options())
    }

    /// Opens the log after the process ended.
    pub(super) fn open(&mut self, snapshot: EntryId) -> Result<Found, OpenFailure> {
        self.wal = None;
        self.tail.flush(u64::MAX);
        let (wal, mut recovered) = self.open_wal().map_err(|error| match error {
            OpenError::Full { .. } => OpenFailure::Full,
            error @ (OpenError::Version { .. } | OpenError::Io { .. }) => {
                OpenFailure::Damaged(error.to_string())
            }
        })?;
        let missing = || OpenFailure::Damaged("the log has no records of this replica".to_owned());
        let replica = recovered.replicas.remove(&self.key).ok_or_else(missing)?;
        let RecoveredReplica { hard_state, truncated, entries, damage, .. } = replica;
        self.reader = wal.reader();
        self.reader.follow(self.key, &entries);
        self.wal = Some(wal);
        self.unsealed = 0;
        let ropewalk_wal::HardState { term, vote, commit } = hard_state;
        self.hard_state = HardState { term, vote, commit };
        let begins =
            self.preloaded.as_ref().map_or(truncated.index, |preloaded| preloaded.first - 1);
        let last = entries.last().map_or(truncated.index, |entry| entry.index);
        if begins > snapshot.index || last < snapshot.index {
            let text = format!("the log has {begins}+1 to {last}, the snapshot is of {snapshot:?}");
            return Err(OpenFailure::Damaged(damage.unwrap_or(text)));
        }
        self.places = Arc::new(entries.iter().map(|entry| (entry.index, *entry)).collect());
        let mut stored = Vec::new();
        if let Some(Preloaded { first, last, payload }) = &self.preloaded {
            let len_bytes = u32::try_from(payload.len()).expect("small");
            let (kind, term) = (EntryKind::Normal, last.term);
            let entry = |index| StoredEntry { index, term, kind, len_bytes };
            stored.extend((*first.max(&(snapshot.index + 1))..=last.index).map(entry));
        }
        let after = entries.iter().filter(|entry| entry.index > snapshot.index);
        stored.extend(after.map(|entry| replica_log::stored(entry).expect("a kind of ours")));
        let source = Box::new(self.source());
        Ok(Found { hard_state: self.hard_state, entries: stored, source, damage })
    }

    fn source(&self) -> Source {
        Source {
            reader: self.reader.clone(),
            places: Arc::clone(&self.places),
            preloaded: self.preloaded.clone(),
            tail: Arc::clone(&self.tail),
        }
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The entries of the log with these indexes; `None` if it does not have them all.
    pub(super) fn read(&self, first: u64, last: u64) -> Option<Vec<Entry>> {
        let preloaded = self.preloaded.as_ref().map_or(first, |held| held.last.index + 1);
        let mut entries = Vec::new();
        for index in first..=last.min(preloaded.saturating_sub(1)) {
            let Preloaded { last: EntryId { term, .. }, .. } = self.preloaded.as_ref()?;
            let data = self.source().bytes(index).ok()?.into();
            entries.push(Entry { index, term: *term, kind: EntryKind::Normal, data });
        }
        let first = first.max(preloaded);
        if first <= last {
            if self.has_no_payloads {
                return None;
            }
            entries.extend(replica_log::read(&self.reader, self.key, first, last)?);
        }
        Some(entries)
    }

    /// Makes a write durable, as a round of its own.
    pub(super) fn write(&mut self, mut write: Write) -> Outcome {
        if self.has_no_payloads {
            write.entries.iter_mut().for_each(|entry| entry.data = Payload::default());
        }
        let hard_state = write.hard_state.unwrap_or(self.hard_state);
        let outcome = self.write_records(&replica_log::records(self.key, write));
        if outcome == Outcome::Durable {
            self.hard_state = hard_state;
        }
        outcome
    }

    fn write_records(&mut self, records: &[Record]) -> Outcome {
        // A driver checks for space before it proposes, so its writes may use the reserve.
        let result = self.wal.as_mut().expect("it runs").write_round_from_reserve(records);
        self.take(result)
    }

    fn take(&mut self, result: Result<ropewalk_wal::Round, WalError>) -> Outcome {
        match result {
            Ok(round) => {
                self.last_round = round.sequence;
                self.unsealed += 1;
                Outcome::Durable
            }
            Err(WalError::Full { .. }) => Outcome::Full,
            Err(WalError::NotContiguous { .. }) => Outcome::Hole,
            Err(WalError::Failed(_) | WalError::Closed) => Outcome::Failed,
            Err(error @ WalError::TooLarge { .. }) => panic!("{error}"),
        }
    }

    pub(super) fn fail_next_sync(&mut self) {
        self.disk.inject(Fault { why: WHY_ROUND, ..Fault::next(Operation::Sync) });
    }

    /// A write that was refused has synced nothing.
    pub(super) fn clear_faults(&self) {
        self.disk.clear_faults();
    }

    /// The process ends while it writes `torn`.
    pub(super) fn crash(&mut self, torn: Option<Write>, dice: &mut Dice) {
        if let (Some(wal), Some(write)) = (&mut self.wal, torn) {
            self.disk.crash_at(self.disk.operations() + dice.between(1, 3));
            // It may be durable, but no replica learns of it.
            let _ = wal.write_round_from_reserve(&replica_log::records(self.key, write));
        }
        self.wal = None;
        if dice.one_in(2) {
            self.disk.power_cycle(dice.draw());
        } else {
            self.disk.restart();
        }
    }

    pub(super) fn seal(&mut self) {
        if let Some(wal) = self.wal.as_mut().filter(|_| self.unsealed > 0) {
            // A log that has failed cannot be sealed; its process is about to end.
            if wal.seal().is_ok() {
                self.unsealed = 0;
            }
        }
    }

    pub(super) fn wants_release(&self) -> bool {
        let used_bytes = self.wal.as_ref().map_or(0, Wal::used_bytes);
        used_bytes > FILES_WANTED * self.place.file_bytes
    }

    pub(super) fn set_full(&mut self, is_full: bool) {
        self.disk.set_capacity(is_full.then_some(0));
    }

    /// A snapshot through `last` is durable.
    pub(super) fn release(&mut self, last: EntryId) {
        let Some(wal) = &mut self.wal else { return };
        let EntryId { index, term } = last;
        if self.preloaded.as_ref().is_some_and(|preloaded| preloaded.last.index <= index) {
            self.preloaded = None;
        }
        let covered = Record::Truncated { key: self.key, index, term };
        let result = wal.write_round_to_release(&[covered]);
        wal.release(&BTreeMap::from([(self.key, index + 1)]));
        self.take(result);
    }

    /// The log of another replica continues after `last`. Returns whether there was space to
    /// record it.
    pub(super) fn install(&mut self, last: EntryId) -> bool {
        let (key, conf_state) = (self.key, Bytes::new());
        let EntryId { index, term } = last;
        let hard_state = after_install(self.hard_state, last);
        let HardState { term: seen, vote, commit } = hard_state;
        let state = ropewalk_wal::HardState { term: seen, vote, commit };
        let records = [
            Record::SnapshotInstalled { key, index, term, conf_state },
            Record::HardState { key, state },
        ];
        if self.write_records(&records) != Outcome::Durable {
            return false;
        }
        self.hard_state = hard_state;
        self.preloaded = None;
        true
    }

    /// See [`super::Disk::drop_payloads`].
    pub(super) fn drop_payloads(&mut self) {
        self.has_no_payloads = true;
    }

    /// See [`super::Disk::preload`]. The log itself then begins after these entries.
    pub(super) fn preload(&mut self, payload: &Bytes, count: u64) {
        let (wal, recovered) = self.open_wal().expect("the disk has space");
        self.wal = Some(wal);
        let replica = &recovered.replicas[&self.key];
        let first = replica.truncated.index + 1;
        let last = EntryId { index: first + count - 1, term: replica.hard_state.term };
        assert!(self.install(last), "the disk has space");
        self.preloaded = Some(Preloaded { first, last, payload: payload.clone() });
        self.wal = None;
    }

    /// The durable rounds in the files, oldest first.
    fn rounds(&self) -> Vec<RoundPlace> {
        let mut found: BTreeMap<u64, RoundPlace> = BTreeMap::new();
        for name in self.disk.list(Path::new(DIR)).expect("the machine is up") {
            let path = Path::new(DIR).join(name);
            let content = self.disk.content(&path).expect("it is listed");
            for (block, bytes) in content.chunks_exact(BLOCK_BYTES).enumerate() {
                if !bytes.starts_with(ROUND_MAGIC) {
                    continue;
                }
                let number = |at: usize| {
                    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
                };
                let (file_sequence, round) = (number(8), number(16));
                let length = usize::try_from(number(24) & 0xffff_ffff).expect("small");
                let (path, at) = (path.clone(), block * BLOCK_BYTES);
                let place = RoundPlace { file_sequence, path, at, length };
                let is_newer = |other: &RoundPlace| other.file_sequence < file_sequence;
                if round <= self.last_round && found.get(&round).is_none_or(is_newer) {
                    found.insert(round, place);
                }
            }
        }
        found.into_values().collect()
    }

    pub(super) fn has_unsealed(&self) -> bool {
        self.unsealed > 0
    }

    /// See [`super::Disk::flip`].
    pub(super) fn flip(&mut self, back: usize, dice: &mut Dice) -> bool {
        let rounds = self.rounds();
        let Some(place) = rounds.iter().rev().nth(back) else { return false };
        let at = place.at as u64 + dice.below(place.length as u64);
        self.disk.corrupt(&place.path, at, 1 << dice.below(8));
        back > 0 || self.unsealed == 0
    }

    /// See [`super::Disk::cut`].
    pub(super) fn cut(&mut self, count: usize) -> bool {
        let rounds = self.rounds();
        for RoundPlace { path, at, length, .. } in rounds.iter().rev().take(count) {
            let mut content = self.disk.content(path).expect("it is there");
            content[*at..at + length].fill(0);
            self.disk.put(path, content);
        }
        !rounds.is_empty() && count as u64 > self.unsealed
    }

    pub(super) fn trace(&self) -> u64 {
        self.disk.trace()
    }
}
