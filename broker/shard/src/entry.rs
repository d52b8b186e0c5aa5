//! The entries of a shard's log, which the engine keeps and the messages carry.

use crate::command;
use crate::payload::Payload;

/// Index and term of an entry, which together identify it in the log of any replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Index in the log, from 1; 0 for the position before the first entry.
    pub index: u64,
    /// The term in which the entry was proposed.
    pub term: u64,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index in the log.
    pub index: u64,
    /// The term in which the entry was proposed.
    pub term: u64,
    /// How `data` is encoded.
    pub kind: EntryKind,
    /// The payload; empty for the first entry of a term.
    pub data: Payload,
}

impl Entry {
    /// Index and term of the entry.
    #[must_use]
    pub fn id(&self) -> EntryId {
        EntryId { index: self.index, term: self.term }
    }

    /// Whether the entry carries record batches, which a full disk has no space for.
    #[must_use]
    pub fn has_batches(&self) -> bool {
        self.kind == EntryKind::Normal && command::is_append(&self.data)
    }

    /// Whether the entry frees space on the disk where it is applied.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        self.kind == EntryKind::Normal && command::frees_space(&self.data)
    }
}

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A [`command`], or empty.
    Normal = 0,
    /// A change of the shard's members.
    Members = 1,
}

impl EntryKind {
    /// The reverse of `as u8`; `None` for an unknown number.
    #[must_use]
    pub fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Normal),
            1 => Some(Self::Members),
            _ => None,
        }
    }
}
