//! A replica's log as the write-ahead log keeps it: what is written of entries and votes, and what is
//! read back of them.
//!
//! The write-ahead log knows numbers and bytes, the replica knows entries and members. Both
//! directions stand here, so that what one broker wrote the next one reads alike.

use ropewalk_shard::engine::{Entry, EntryKind, HardState, StoredEntry};
use ropewalk_shard::replica::Write;
use ropewalk_shard::{ReplicaId, ShardId};
use ropewalk_wal::{EntryMeta, Record, ReplicaKey};

/// Whose log: a replica of a shard, as the write-ahead log names it.
#[must_use]
pub fn key(shard: ShardId, replica: ReplicaId) -> ReplicaKey {
    ReplicaKey { shard: shard.0, replica: replica.0 }
}

/// The records of a write of the replica `key`: its entries in order, then its votes.
#[must_use]
pub fn records(key: ReplicaKey, write: Write) -> Vec<Record> {
    let Write { number: _, entries, hard_state } = write;
    let mut records = Vec::with_capacity(entries.len() + 1);
    records.extend(entries.into_iter().map(|Entry { index, term, kind, data }| Record::Entry {
        key,
        index,
        term,
        kind: kind as u8,
        data: data.into(),
    }));
    records.extend(hard_state.map(|HardState { term, vote, commit }| {
        let state = ropewalk_wal::HardState { term, vote, commit };
        Record::HardState { key, state }
    }));
    records
}

/// An entry as the engine begins with it: its payload stays in the write-ahead log. `None` if it is of
/// a kind that this broker does not know.
pub(crate) fn stored(entry: &EntryMeta) -> Option<StoredEntry> {
    let EntryMeta { index, term, kind, len_bytes, .. } = *entry;
    Some(StoredEntry { index, term, kind: EntryKind::from_u8(kind)?, len_bytes })
}
