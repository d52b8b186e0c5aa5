//! The state of every local replica besides its entries: the table at the start of each file.
//!
//! The same code updates the table while rounds are written and while they are replayed, so a
//! recovered table is the one that the broker had.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::layout::{u32_at, u64_at};
use crate::record::{HardState, LogId, Record, ReplicaKey};

const ROW_FIXED_BYTES: usize = 4 + 7 * 8;

/// The state of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Row {
    pub(crate) hard_state: HardState,
    pub(crate) conf_state: Bytes,
    /// The log starts after this entry.
    pub(crate) truncated: LogId,
    /// The last index of the log; `truncated.index` if the log is empty.
    pub(crate) last_index: u64,
    /// The reason, if records of this replica are lost.
    pub(crate) damage: Option<String>,
}

/// The change of a row by a record, both when it is written and when it is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Entry {
        index: u64,
    },
    HardState(HardState),
    ConfState(Bytes),
    /// The log is replaced and starts after `index`.
    Restart {
        index: u64,
        term: u64,
        conf_state: Bytes,
    },
    Truncated {
        index: u64,
        term: u64,
    },
    Destroyed,
    LossAccepted {
        index: u64,
    },
}

impl From<&Record> for Change {
    fn from(record: &Record) -> Self {
        match record {
            Record::Entry { index, .. } => Self::Entry { index: *index },
            Record::HardState { state, .. } => Self::HardState(*state),
            Record::ConfState { data, .. } => Self::ConfState(data.clone()),
            Record::Created { index, term, conf_state, .. }
            | Record::SnapshotInstalled { index, term, conf_state, .. } => {
                Self::Restart { index: *index, term: *term, conf_state: conf_state.clone() }
            }
            Record::Truncated { index, term, .. } => Self::Truncated { index: *index, term: *term },
            Record::ReplicaDestroyed { .. } => Self::Destroyed,
            Record::LossAccepted { index, .. } => Self::LossAccepted { index: *index },
        }
    }
}

impl Change {
    /// Whether the change may change the size of the row.
    pub(crate) fn resizes_row(&self) -> bool {
        match self {
            Self::ConfState(_) | Self::Restart { .. } | Self::Destroyed => true,
            Self::LossAccepted { .. } => true,
            Self::Entry { .. } | Self::HardState(_) | Self::Truncated { .. } => false,
        }
    }
}

/// The indexes of a log: after `start`, up to and including `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) last: u64,
}

impl Span {
    /// Whether an entry with this index leaves no gap.
    pub(crate) fn takes(self, index: u64) -> bool {
        self.start < index && index <= self.last.saturating_add(1)
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match *change {
            Change::Entry { index } => self.last = index,
            Change::Restart { index, .. } => *self = Self { start: index, last: index },
            Change::Truncated { index, .. } => {
                self.start = self.start.max(index);
                self.last = self.last.max(index);
            }
            Change::LossAccepted { index } => self.last = self.last.min(index).max(self.start),
            Change::Destroyed => *self = Self::default(),
            Change::HardState(_) | Change::ConfState(_) => {}
        }
    }
}

impl Row {
    pub(crate) fn span(&self) -> Span {
        Span { start: self.truncated.index, last: self.last_index }
    }

    fn apply(&mut self, change: Change) {
        let mut span = self.span();
        span.apply(&change);
        self.last_index = span.last;
        match change {
            Change::HardState(state) => self.hard_state = state,
            Change::ConfState(conf_state) => self.conf_state = conf_state,
            Change::Restart { index, term, conf_state } => {
                self.truncated = LogId { index, term };
                self.conf_state = conf_state;
            }
            Change::Truncated { index, term } if index > self.truncated.index => {
                self.truncated = LogId { index, term };
            }
            Change::LossAccepted { .. } => self.damage = None,
            Change::Entry { .. } | Change::Truncated { .. } | Change::Destroyed => {}
        }
    }
}

/// The rows of all local replicas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Replicas {
    pub(crate) rows: BTreeMap<ReplicaKey, Row>,
}

impl Replicas {
    pub(crate) fn apply(&mut self, key: ReplicaKey, change: Change) {
        if change == Change::Destroyed {
            self.rows.remove(&key);
        } else {
            self.rows.entry(key).or_default().apply(change);
        }
    }

    pub(crate) fn span(&self, key: ReplicaKey) -> Span {
        self.rows.get(&key).map_or(Span::default(), Row::span)
    }

    /// Number of bytes that [`Replicas::encode`] returns.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        let rows = self.rows.values().map(|row| {
            let damage = row.damage.as_ref().map_or(0, String::len);
            (ROW_FIXED_BYTES + 8 + damage + row.conf_state.len()) as u64
        });
        4 + rows.sum::<u64>()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_len(&mut out, self.rows.len());
        for (key, row) in &self.rows {
            out.extend_from_slice(&key.shard.to_le_bytes());
            let numbers = [
                key.replica,
                row.hard_state.term,
                row.hard_state.vote,
                row.hard_state.commit,
                row.truncated.index,
                row.truncated.term,
                row.last_index,
            ];
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
            for bytes in [row.damage.as_deref().unwrap_or_default().as_bytes(), &row.conf_state] {
                put_len(&mut out, bytes.len());
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    /// Decodes a table with a valid checksum. `None` if the bytes are not in this format.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let count = u32_at(take(&mut rest, 4)?, 0);
        let mut rows = BTreeMap::new();
        for _ in 0..count {
            let fixed = take(&mut rest, ROW_FIXED_BYTES)?;
            let number = |at: usize| u64_at(fixed, 4 + at * 8);
            let key = ReplicaKey { shard: u32_at(fixed, 0), replica: number(0) };
            let damage = take_sized(&mut rest)?;
            let conf_state = Bytes::copy_from_slice(take_sized(&mut rest)?);
            let row = Row {
                hard_state: HardState { term: number(1), vote: number(2), commit: number(3) },
                conf_state,
                truncated: LogId { index: number(4), term: number(5) },
                last_index: number(6),
                damage: (!damage.is_empty()).then(|| String::from_utf8_lossy(damage).into_owned()),
            };
            rows.insert(key, row);
        }
        rest.is_empty().then_some(Self { rows })
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a table is smaller than its file");
    out.extend_from_slice(&len.to_le_bytes());
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn take_sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32_at(take(rest, 4)?, 0);
    take(rest, usize::try_from(len).ok()?)
}
