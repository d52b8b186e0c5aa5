//! The log as the engine reads it: the newest entries in memory, older ones in the WAL.
//!
//! After a start only index, term and length of the entries after the snapshot are in memory. Their
//! payloads are read when they are applied, so that recovery needs no memory for the whole WAL.
//!
//! The `raft` crate gets entries with a mark in place of their payload, because a payload may be in
//! chunks and the crate never needs one. What it passes to its storage and takes from it is found
//! again by index and term: in `slots`, or in `passing` while the entry is on its way.
//!
//! Payloads of applied entries stay in memory while they fit [`limits::LOG_WINDOW_BYTES`], because
//! followers need them soon. For a follower that needs older ones the engine asks its caller to
//! read them ([`Fetch`]), so that no disk is read while a message is handled.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;
use raft::eraftpb::{self, ConfState, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::convert;
use super::{Entry, EntryId, EntryKind, Start};
use crate::footprint::Footprint;
use crate::limits;
use crate::payload::Payload;

/// An entry whose payload is in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEntry {
    /// Index in the log.
    pub index: u64,
    /// The term in which the entry was proposed.
    pub term: u64,
    /// How the payload is encoded.
    pub kind: EntryKind,
    /// Length of the payload, bytes.
    pub len_bytes: u32,
}

/// Reads payloads back from the WAL.
pub trait EntrySource: Send + Sync + fmt::Debug {
    /// The payload of the entry at `index`, with its checksum verified.
    ///
    /// # Errors
    /// When it cannot be read, or its checksum does not match.
    fn read(&self, index: u64) -> Result<Bytes, String>;

    /// Whether there is memory for the records of another applied entry. A replica that does not
    /// serve waits for it: one that starts, and a follower.
    fn has_room(&self) -> bool {
        true
    }
}

/// Entries that the engine needs for a follower and that are not in memory. The caller reads them
/// and answers with [`Engine::fetched`](super::Engine::fetched).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// Identifies the request.
    pub id: u64,
    /// The first index.
    pub first: u64,
    /// The last index.
    pub last: u64,
}

/// The engine's view of its own log.
pub(super) struct LogStore {
    hard_state: HardState,
    members: ConfState,
    /// The entry before the first one held.
    base: EntryId,
    slots: VecDeque<Slot>,
    /// Bytes of the payloads in `slots`.
    memory_bytes: u64,
    /// Entries through this index have no payload in memory.
    evicted: u64,
    source: Box<dyn EntrySource>,
    /// Payloads of entries that the `raft` crate was given, until the next
    /// [`Ready`](super::Ready) returns what it made of them.
    passing: RefCell<BTreeMap<EntryId, Payload>>,
    /// What the engine asked for through `&self`: the `raft` crate reads its storage that way.
    requests: RefCell<Requests>,
}

#[derive(Default)]
struct Requests {
    next_id: u64,
    /// Fetches that the caller has not been asked for yet.
    fetches: Vec<Fetch>,
    /// The engine's context of every fetch that is not answered, by id, with its first index.
    contexts: BTreeMap<u64, (u64, GetEntriesContext)>,
    /// The answer that is being passed to the engine: its first index and the entries, or `None`
    /// if they are no longer in the log.
    answer: Option<(u64, Option<Vec<Entry>>)>,
    /// Replicas that need a snapshot, because the log begins after what they have.
    snapshots: BTreeSet<u64>,
}

enum Slot {
    Memory(Entry),
    Disk(StoredEntry),
}

impl Slot {
    fn term(&self) -> u64 {
        match self {
            Self::Memory(entry) => entry.term,
            Self::Disk(stored) => stored.term,
        }
    }

    fn len_bytes(&self) -> u64 {
        match self {
            Self::Memory(entry) => entry.data.len() as u64,
            Self::Disk(stored) => u64::from(stored.len_bytes),
        }
    }

    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Memory(entry) => entry.data.len() as u64,
            Self::Disk(_) => 0,
        }
    }
}

impl LogStore {
    pub(super) fn new(start: Start) -> Self {
        let base = start.snapshot;
        let slots: VecDeque<Slot> = start.entries.into_iter().map(Slot::Disk).collect();
        let last = base.index + slots.len() as u64;
        // A shard that has only a snapshot may have no hard state yet.
        let mut hard_state = HardState::default();
        hard_state.term = start.hard_state.term.max(slots.back().map_or(base.term, Slot::term));
        hard_state.vote = start.hard_state.vote;
        hard_state.commit = start.hard_state.commit.max(base.index);
        let members = start.members.to_conf_state();
        Self {
            hard_state,
            members,
            base,
            slots,
            memory_bytes: 0,
            evicted: last,
            source: start.source,
            passing: RefCell::default(),
            requests: RefCell::default(),
        }
    }

    pub(super) fn set_hard_state(&mut self, state: HardState) {
        self.hard_state = state;
    }

    /// Keeps the payload of an entry that the `raft` crate is given, for the next
    /// [`Ready`](super::Ready).
    pub(super) fn pass(&self, id: EntryId, payload: Payload) {
        if !payload.is_empty() {
            self.passing.borrow_mut().insert(id, payload);
        }
    }

    /// The entry that the `raft` crate returned; `None` if its payload is no longer in memory, as
    /// that of an entry which was replaced.
    pub(super) fn complete(&self, entry: &eraftpb::Entry) -> Option<Entry> {
        let id = EntryId { index: entry.index, term: entry.term };
        let data = if entry.data.is_empty() {
            Payload::default()
        } else if let Some(payload) = self.passing.borrow().get(&id) {
            payload.clone()
        } else {
            match self.slot(id.index)? {
                Slot::Memory(held) if held.id() == id => held.data.clone(),
                Slot::Memory(_) | Slot::Disk(_) => return None,
            }
        };
        let EntryId { index, term } = id;
        Some(Entry { index, term, kind: convert::entry_kind(entry), data })
    }

    /// Releases the payloads that were kept for this [`Ready`](super::Ready).
    pub(super) fn passed(&mut self) {
        self.passing.get_mut().clear();
    }

    /// Appends new entries; those at the first one's index or above are replaced.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.base.index + 1);
        let keep = usize::try_from(keep).expect("a log in memory");
        self.memory_bytes -= self.slots.iter().skip(keep).map(Slot::memory_bytes).sum::<u64>();
        self.slots.truncate(keep);
        self.evicted = self.evicted.min(self.last());
        self.memory_bytes += entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        self.slots.extend(entries.iter().cloned().map(Slot::Memory));
    }

    /// Drops entries through `index`.
    pub(super) fn discard_through(&mut self, index: u64) {
        while self.base.index < index {
            let Some(slot) = self.slots.pop_front() else { return };
            self.memory_bytes -= slot.memory_bytes();
            self.base = EntryId { index: self.base.index + 1, term: slot.term() };
        }
    }

    /// Releases the memory of the oldest entries that are applied, as far as the bounds demand it.
    pub(super) fn release(&mut self, applied: u64) {
        while self.slots.len() > limits::LOG_ENTRIES_MAX && self.base.index < applied {
            self.discard_through(self.base.index + 1);
        }
        self.evicted = self.evicted.max(self.base.index);
        while self.memory_bytes > limits::LOG_WINDOW_BYTES && self.evicted < applied {
            self.evicted += 1;
            let at = usize::try_from(self.evicted - self.base.index - 1).expect("a log in memory");
            let slot = &mut self.slots[at];
            self.memory_bytes -= slot.memory_bytes();
            if let Slot::Memory(entry) = slot {
                *slot = Slot::Disk(StoredEntry {
                    index: entry.index,
                    term: entry.term,
                    kind: entry.kind,
                    len_bytes: u32::try_from(entry.data.len()).expect("an entry is bounded"),
                });
            }
        }
    }

    /// Entries held, bytes of their payloads in memory, and requests that are not answered.
    pub(super) fn footprint(&self) -> Footprint {
        let requests = self.requests.borrow();
        let items = requests.fetches.len() + requests.contexts.len() + requests.snapshots.len();
        Footprint { entries: self.slots.len(), items, bytes: self.memory_bytes }
    }

    /// The fetches that the engine asked for since the last call.
    pub(super) fn take_fetches(&mut self) -> Vec<Fetch> {
        std::mem::take(&mut self.requests.get_mut().fetches)
    }

    /// The replicas for which the engine asked for a snapshot since the last call.
    pub(super) fn take_snapshot_requests(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.requests.get_mut().snapshots).into_iter().collect()
    }

    /// Bytes of the payloads in memory.
    pub(super) fn payload_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Asks for a snapshot for a replica.
    pub(super) fn request_snapshot(&mut self, replica: u64) {
        self.requests.get_mut().snapshots.insert(replica);
    }

    /// Bytes of the payloads from `first` through `last`; `None` if the log no longer has them all.
    pub(super) fn bytes_of(&self, first: u64, last: u64) -> Option<u64> {
        (first..=last).map(|index| self.slot(index).map(Slot::len_bytes)).sum()
    }

    /// Stores the answer to a fetch until [`Self::clear_answer`]; returns the engine's context.
    pub(super) fn answer(
        &mut self,
        id: u64,
        entries: Option<Vec<Entry>>,
    ) -> Option<GetEntriesContext> {
        let requests = self.requests.get_mut();
        let (first, context) = requests.contexts.remove(&id)?;
        requests.answer = Some((first, entries));
        Some(context)
    }

    pub(super) fn clear_answer(&mut self) {
        self.requests.get_mut().answer = None;
    }

    /// Requests the entries from `first` on for a follower, unless they were requested already.
    fn request(&self, first: u64, last: u64, context: GetEntriesContext) {
        let mut requests = self.requests.borrow_mut();
        if requests.contexts.values().any(|(requested, _)| *requested == first)
            || requests.contexts.len() >= limits::FETCHES_MAX
        {
            // The follower's next heartbeat response asks again.
            return;
        }
        let id = requests.next_id;
        requests.next_id += 1;
        requests.fetches.push(Fetch { id, first, last });
        requests.contexts.insert(id, (first, context));
    }

    /// Whether there is no memory to apply the entry at `index`. One that has to be read back may
    /// carry batches.
    pub(super) fn waits_for_room(&self, index: u64) -> bool {
        let needs_memory = match self.slot(index) {
            Some(Slot::Memory(entry)) => entry.has_batches(),
            Some(Slot::Disk(_)) => true,
            None => false,
        };
        needs_memory && !self.source.has_room()
    }

    /// The entry at `index`, with its payload.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, String> {
        match self.slot(index) {
            Some(Slot::Memory(entry)) => Ok(entry.clone()),
            Some(Slot::Disk(StoredEntry { term, kind, .. })) => {
                let data = self.source.read(index)?.into();
                Ok(Entry { index, term: *term, kind: *kind, data })
            }
            None => Err("it is not in the log".to_owned()),
        }
    }

    /// The last index below `high` for which the payloads from `low` on fit `max_size`, at least
    /// `low`, of the entries whose payloads are on disk.
    fn last_within(&self, low: u64, high: u64, max_size: u64) -> u64 {
        let mut size = 0;
        let within = (low..high).take_while(|index| {
            let slot = self.slot(*index);
            size += slot.map_or(0, Slot::len_bytes);
            matches!(slot, Some(Slot::Disk(_))) && (size <= max_size || *index == low)
        });
        within.last().unwrap_or(low)
    }

    fn last(&self) -> u64 {
        self.base.index + self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.base.index + 1)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// An entry for the `raft` crate; the payload is kept if it is for a message.
    fn outline(&self, slot: &Slot, is_for_message: bool) -> eraftpb::Entry {
        let (id, kind) = match slot {
            Slot::Memory(entry) => {
                if is_for_message {
                    self.pass(entry.id(), entry.data.clone());
                }
                (entry.id(), entry.kind)
            }
            Slot::Disk(StoredEntry { index, term, kind, .. }) => {
                (EntryId { index: *index, term: *term }, *kind)
            }
        };
        convert::outline(id, kind, slot.len_bytes() == 0)
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        // Whatever else the crate reads, it needs no payloads for: committed entries are applied
        // from here, and before a campaign it counts the changes of members among those that are
        // not applied, which may be the whole log.
        let is_for_message = context.can_async();
        if is_for_message
            && let Some((first, entries)) = &self.requests.borrow().answer
            && *first == low
        {
            let entries = entries.as_ref().ok_or(raft::Error::Store(StorageError::Compacted))?;
            let outlines = entries.iter().map(|entry| {
                self.pass(entry.id(), entry.data.clone());
                convert::outline(entry.id(), entry.kind, entry.data.is_empty())
            });
            return Ok(outlines.collect());
        }
        let max_size: Option<u64> = max_size.into();
        let max_size = max_size.unwrap_or(u64::MAX);
        let mut out = Vec::new();
        let mut size = 0;
        for index in low..high {
            let slot = self.slot(index).ok_or(raft::Error::Store(StorageError::Unavailable))?;
            size += slot.len_bytes();
            if size > max_size && !out.is_empty() {
                break;
            }
            if is_for_message && matches!(slot, Slot::Disk(_)) {
                // What is in memory before it is sent first.
                if out.is_empty() {
                    self.request(low, self.last_within(low, high, max_size), context);
                    return Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable));
                }
                break;
            }
            out.push(self.outline(slot, is_for_message));
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let slot = self.slot(index).ok_or(raft::Error::Store(StorageError::Unavailable))?;
        Ok(slot.term())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A follower that needs a snapshot gets a checkpoint, not through the engine.
        self.requests.borrow_mut().snapshots.insert(to);
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests;
