//! The log as the engine reads it: the newest entries in memory, older ones in the WAL.
//!
//! After a start only index, term and length of the entries after the snapshot are in memory. Their
//! payloads are read when they are applied, so that recovery needs no memory for the whole WAL.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use raft::eraftpb::{self, ConfState, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::{EntryId, EntryKind, Start};

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

    /// Whether there is memory for the records of another applied entry. A replay of entries from
    /// this source waits for it, because their records may need more memory than the budget.
    fn has_room(&self) -> bool {
        true
    }
}

/// The engine's view of its own log.
pub(super) struct LogStore {
    hard_state: HardState,
    members: ConfState,
    /// The entry before the first one held.
    base: EntryId,
    slots: VecDeque<Slot>,
    source: Box<dyn EntrySource>,
}

enum Slot {
    Memory(eraftpb::Entry),
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
}

impl LogStore {
    pub(super) fn new(start: Start) -> Self {
        let base = start.snapshot;
        let slots: VecDeque<Slot> = start.entries.into_iter().map(Slot::Disk).collect();
        let last = base.index + slots.len() as u64;
        let mut hard_state = HardState::default();
        hard_state.term = start.hard_state.term.max(slots.back().map_or(base.term, Slot::term));
        hard_state.vote = start.hard_state.vote;
        hard_state.commit = start.hard_state.commit.clamp(base.index, last);
        let members = start.members.to_conf_state();
        Self { hard_state, members, base, slots, source: start.source }
    }

    pub(super) fn set_hard_state(&mut self, state: HardState) {
        self.hard_state = state;
    }

    /// Appends new entries; those at the first one's index or above are replaced.
    pub(super) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.base.index + 1);
        self.slots.truncate(usize::try_from(keep).expect("a log in memory"));
        self.slots.extend(entries.iter().cloned().map(Slot::Memory));
    }

    /// Drops entries through `index`.
    pub(super) fn discard_through(&mut self, index: u64) {
        while self.base.index < index {
            let Some(slot) = self.slots.pop_front() else { return };
            self.base = EntryId { index: self.base.index + 1, term: slot.term() };
        }
    }

    /// Whether the entry after `applied` has to be read back and there is no memory to apply it.
    pub(super) fn waits_for_room(&self, applied: u64) -> bool {
        match self.slot(applied + 1) {
            Some(Slot::Disk(_)) => !self.source.has_room(),
            Some(Slot::Memory(_)) | None => false,
        }
    }

    fn last(&self) -> u64 {
        self.base.index + self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.base.index + 1)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// An entry; without its payload if `is_outline` is set and the payload is on disk.
    fn load(&self, index: u64, slot: &Slot, is_outline: bool) -> raft::Result<eraftpb::Entry> {
        let stored = match slot {
            Slot::Memory(entry) => return Ok(entry.clone()),
            Slot::Disk(stored) => stored,
        };
        let mut entry = eraftpb::Entry { index, term: stored.term, ..Default::default() };
        entry.set_entry_type(match stored.kind {
            EntryKind::Normal => EntryType::EntryNormal,
            EntryKind::Members => EntryType::EntryConfChangeV2,
        });
        if !is_outline {
            let data = self.source.read(index);
            entry.set_data(
                data.map_err(|error| raft::Error::Store(StorageError::Other(error.into())))?,
            );
        }
        Ok(entry)
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
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        // The engine reads without a bound only before a campaign, to count the membership changes
        // among all entries that are not applied. These may be the whole log, and it needs no
        // payloads.
        let max_size = max_size.into();
        let is_outline = max_size.is_none();
        let max_size = max_size.unwrap_or(u64::MAX);
        let mut out = Vec::new();
        let mut size = 0;
        for index in low..high {
            let slot = self.slot(index).ok_or(raft::Error::Store(StorageError::Unavailable))?;
            size += slot.len_bytes();
            if size > max_size && !out.is_empty() {
                break;
            }
            out.push(self.load(index, slot, is_outline)?);
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

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // A follower that needs a snapshot gets a checkpoint, not through the engine.
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
