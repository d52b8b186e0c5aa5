//! Where the write-ahead log of a damaged shard is cut, and what that loses.
//!
//! Invariant: the kept entries follow the snapshot without a gap. All entries after the first gap
//! are cut, because their results depend on the missing ones.

use ropewalk_shard::State;
use ropewalk_shard::command::Envelope;
use ropewalk_shard::engine::{EntryId, EntryKind};
use ropewalk_wal::{HardState, Record, RecoveredLog, Wal};

use super::{Loss, TopicNames, named_partition};
use crate::recovery::{key_of, last_index};
use crate::snapshot::Snapshot;

/// The state as of the last entry that follows the snapshot without a gap.
pub(super) fn replayed(newest: &Snapshot, recovered: &RecoveredLog, wal: &Wal) -> State {
    let mut state = newest.state.clone();
    let Some(log) = recovered.replicas.get(&key_of(newest)) else { return state };
    if log.truncated.index > newest.index {
        return state;
    }
    for entry in log.entries.iter().filter(|entry| entry.index > newest.index) {
        let is_command = EntryKind::from_u8(entry.kind) == Some(EntryKind::Normal);
        if !is_command || entry.len_bytes == 0 {
            continue;
        }
        // The first entry that cannot be read is the first gap.
        let Ok(bytes) = wal.read(&entry.location) else { break };
        let Ok(command) = Envelope::decode(&bytes.into()) else { break };
        state.apply(entry.term, command, &mut Vec::new());
    }
    state
}

/// The acked data that is lost, as far as it can be derived from the state before the gap.
pub(super) fn losses(state: &State, names: &TopicNames) -> Vec<Loss> {
    let partitions = state.partitions.iter();
    let from =
        partitions.map(|(id, known)| Loss::From(named_partition(names, *id), known.next_offset));
    let mut losses: Vec<_> = from.collect();
    losses.push(if state.catalog.is_some() { Loss::Catalog } else { Loss::Groups });
    losses
}

/// The end of a repaired shard's log: before the first gap, or at the snapshot if the gap is right
/// there. The term is above every one in which the replica may have voted, because the record of a
/// vote may be lost (D4).
pub(super) fn repaired_end(newest: &Snapshot, recovered: &RecoveredLog) -> EntryId {
    let log = recovered.replicas.get(&key_of(newest));
    let follows = log.filter(|log| log.truncated.index <= newest.index);
    let last = follows.map(last_index).filter(|last| *last >= newest.index);
    let seen = log.map_or(0, |log| log.hard_state.term);
    let written = follows.and_then(|log| log.entries.last()).map_or(0, |entry| entry.term);
    let term = seen.max(written).max(newest.term) + 1;
    EntryId { index: last.unwrap_or(newest.index), term }
}

/// The records after which the shard can start: its log ends at [`repaired_end`].
pub(super) fn repair_records(newest: &Snapshot, recovered: &RecoveredLog) -> Vec<Record> {
    let key = key_of(newest);
    let follows = recovered.replicas.get(&key).filter(|log| log.truncated.index <= newest.index);
    let last = follows.map(last_index).filter(|last| *last >= newest.index);
    let term = repaired_end(newest, recovered).term;
    let (index, first) = match last {
        Some(index) => (index, Record::LossAccepted { key, index }),
        None => {
            let members = postcard::to_allocvec(&newest.members).expect("members always encode");
            let (index, conf_state) = (newest.index, members.into());
            (index, Record::SnapshotInstalled { key, index, term: newest.term, conf_state })
        }
    };
    let state = HardState { term, vote: 0, commit: index };
    // A log that starts again still has its damage recorded, which `LossAccepted` clears.
    let accepted = Record::LossAccepted { key, index };
    let last = Record::HardState { key, state };
    if matches!(first, Record::LossAccepted { .. }) {
        vec![first, last]
    } else {
        vec![first, accepted, last]
    }
}
