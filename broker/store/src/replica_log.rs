//! Converts a replica's entries and hard state to records of the write-ahead log and back.
//!
//! The write-ahead log stores numbers and bytes, the engine uses entries and members. Both
//! directions are in this module, so that they stay the reverse of each other.

use std::iter;

use bytes::Bytes;
use ropewalk_batch::Header;
use ropewalk_shard::engine::{Entry, EntryKind, HardState, StoredEntry};
use ropewalk_shard::replica::Write;
use ropewalk_shard::{Payload, ReplicaId, ShardId};
use ropewalk_wal::{Chunk, EntryMeta, Reader, Record, ReplicaKey};

/// The key of a replica in the write-ahead log.
#[must_use]
pub fn key(shard: ShardId, replica: ReplicaId) -> ReplicaKey {
    ReplicaKey { shard: shard.0, replica: replica.0 }
}

/// The records of a write of the replica `key`: its entries in order, then its hard state.
#[must_use]
pub fn records(key: ReplicaKey, write: Write) -> Vec<Record> {
    let Write { number: _, entries, hard_state } = write;
    let mut records = Vec::with_capacity(entries.len() + 1);
    records.extend(entries.into_iter().map(|Entry { index, term, kind, data }| Record::Entry {
        key,
        index,
        term,
        kind: kind as u8,
        data: payload(&data),
    }));
    records.extend(hard_state.map(|HardState { term, vote, commit }| {
        let state = ropewalk_wal::HardState { term, vote, commit };
        Record::HardState { key, state }
    }));
    records
}

/// A payload for the write-ahead log. The chunks behind the first are batches that this replica has
/// proposed, so they were validated here and the checksums in their headers hold: see
/// [`Append::batch`](ropewalk_shard::command::Append).
fn payload(data: &Payload) -> ropewalk_wal::Payload {
    let batch = |bytes: &Bytes| match Header::parse(bytes) {
        Ok(header) => Chunk::known(bytes.clone(), header.suffix_sum()),
        Err(_) => Chunk::from(bytes.clone()),
    };
    let (head, batches) = data.chunks().split_first().expect("there is a chunk");
    let head = Chunk::from(head.clone());
    iter::once(head).chain(batches.iter().map(batch)).collect::<Vec<Chunk>>().into()
}

/// The entry that the engine starts with: its payload stays in the write-ahead log. `None` for an
/// unknown kind of entry.
#[must_use]
pub fn stored(entry: &EntryMeta) -> Option<StoredEntry> {
    let EntryMeta { index, term, kind, len_bytes, .. } = *entry;
    Some(StoredEntry { index, term, kind: EntryKind::from_u8(kind)?, len_bytes })
}

/// Reads the entries from `first` through `last` for a follower; `None` if the log no longer has
/// them all, or one cannot be read. The replica is followed: see [`Reader::follow`].
#[must_use]
pub fn read(log: &Reader, key: ReplicaKey, first: u64, last: u64) -> Option<Vec<Entry>> {
    let entry = |index| match log.read_entry(key, index) {
        Ok(found) => {
            let (EntryMeta { index, term, kind, .. }, data) = found?;
            Some(Entry { index, term, kind: EntryKind::from_u8(kind)?, data: data.into() })
        }
        Err(error) => {
            let (shard, replica) = (key.shard, key.replica);
            tracing::warn!(shard, replica, index, %error, "an entry of the log cannot be read");
            None
        }
    };
    (first..=last).map(entry).collect()
}
