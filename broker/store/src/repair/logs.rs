//! The write-ahead log of a shard that lost something: where it is cut, and what that costs.
//!
//! Invariant: what is kept follows the snapshot without a hole; everything behind the first hole goes,
//! because what it did depends on what is missing.

use ropewalk_shard::State;
use ropewalk_shard::command::Envelope;
use ropewalk_shard::engine::EntryKind;
use ropewalk_wal::{HardState, Record, RecoveredLog, Wal};

use super::{Loss, Names, topic};
use crate::recovery::{key_of, last_index};
use crate::snapshot::Snapshot;

/// The state as of the last entry that follows the snapshot without a hole.
pub(super) fn replayed(newest: &Snapshot, recovered: &RecoveredLog, wal: &Wal) -> State {
    let mut state = newest.state.clone();
    let Some(log) = recovered.replicas.get(&key_of(newest)) else { return state };
    if log.truncated.0 > newest.index {
        return state;
    }
    for entry in log.entries.iter().filter(|entry| entry.index > newest.index) {
        let is_command = EntryKind::from_u8(entry.kind) == Some(EntryKind::Normal);
        if !is_command || entry.len_bytes == 0 {
            continue;
        }
        // What cannot be read any more is the first hole.
        let Ok(bytes) = wal.read(&entry.location) else { break };
        let Ok(command) = Envelope::decode(&bytes) else { break };
        state.apply(entry.term, command, &mut Vec::new());
    }
    state
}

/// What was acked and is not known any more, as far as it can be told.
pub(super) fn losses(state: &State, names: &Names) -> Vec<Loss> {
    let partitions = state.partitions.iter();
    let from = partitions.map(|(id, known)| Loss::From(topic(names, *id), known.next_offset));
    let mut losses: Vec<_> = from.collect();
    losses.push(if state.catalog.is_some() { Loss::Catalog } else { Loss::Groups });
    losses
}

/// What is written so that the shard starts again: its log ends before the first hole, or begins anew behind
/// the snapshot where there is a hole right there.
pub(super) fn mend(newest: &Snapshot, recovered: &RecoveredLog) -> Vec<Record> {
    let key = key_of(newest);
    let log = recovered.replicas.get(&key);
    let follows = log.filter(|log| log.truncated.0 <= newest.index);
    let last = follows.map(last_index).filter(|last| *last >= newest.index);
    let seen = log.map_or(0, |log| log.hard_state.term);
    let written = follows.and_then(|log| log.entries.last()).map_or(0, |entry| entry.term);
    // Above every term that it may have voted in: the record that tells may be what is lost (D4).
    let term = seen.max(written).max(newest.term) + 1;
    let (index, first) = match last {
        Some(index) => (index, Record::LossAccepted { key, index }),
        None => {
            let members = postcard::to_allocvec(&newest.members).expect("members always encode");
            let (index, conf_state) = (newest.index, members.into());
            (index, Record::SnapshotInstalled { key, index, term: newest.term, conf_state })
        }
    };
    let state = HardState { term, vote: 0, commit: index };
    // A log that begins anew still carries its mark.
    let accepted = Record::LossAccepted { key, index };
    let last = Record::HardState { key, state };
    if matches!(first, Record::LossAccepted { .. }) {
        vec![first, last]
    } else {
        vec![first, accepted, last]
    }
}
