//! The expected state of a log, in its simplest form.

use std::collections::BTreeMap;

use bytes::Bytes;
use ropewalk_wal::{HardState, LogId, Record, RecoveredLog, RecoveredReplica, ReplicaKey, Wal};

/// Term, kind and payload of an entry.
type Entry = (u64, u8, Bytes);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) hard_state: HardState,
    pub(crate) conf_state: Bytes,
    pub(crate) truncated: LogId,
    pub(crate) entries: BTreeMap<u64, Entry>,
}

impl Replica {
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(self.truncated.index)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) replicas: BTreeMap<ReplicaKey, Replica>,
}

impl Model {
    pub(crate) fn apply(&mut self, record: &Record) {
        let key = record.key();
        let replica = self.replicas.entry(key).or_default();
        match record {
            Record::Entry { index, term, kind, data, .. } => {
                replica.entries.split_off(index);
                let chunks = data.chunks().iter().map(|chunk| chunk.bytes());
                let data = Bytes::from(chunks.flatten().copied().collect::<Vec<u8>>());
                replica.entries.insert(*index, (*term, *kind, data));
            }
            Record::HardState { state, .. } => replica.hard_state = *state,
            Record::ConfState { data, .. } => replica.conf_state = data.clone(),
            Record::Created { index, term, conf_state, .. }
            | Record::SnapshotInstalled { index, term, conf_state, .. } => {
                replica.truncated = LogId { index: *index, term: *term };
                replica.conf_state = conf_state.clone();
                replica.entries.clear();
            }
            Record::Truncated { index, term, .. } => {
                replica.truncated = LogId { index: *index, term: *term };
                replica.entries = replica.entries.split_off(&(index + 1));
            }
            Record::ReplicaDestroyed { .. } => {
                self.replicas.remove(&key);
            }
            Record::LossAccepted { index, .. } => {
                replica.entries.split_off(&(index + 1));
            }
        }
    }

    /// The difference of the recovered log; `Ok` if there is none.
    pub(crate) fn compare(&self, wal: &Wal, recovered: &RecoveredLog) -> Result<(), String> {
        let ours: Vec<_> = self.replicas.keys().collect();
        let theirs: Vec<_> = recovered.replicas.keys().collect();
        if ours != theirs {
            return Err(format!("replicas are {theirs:?}, not {ours:?}"));
        }
        for (key, replica) in &self.replicas {
            let found = &recovered.replicas[key];
            if let Some(damage) = &found.damage {
                return Err(format!("{key:?} is said to be damaged: {damage}"));
            }
            self::compare(replica, wal, found).map_err(|wrong| format!("{key:?}: {wrong}"))?;
        }
        Ok(())
    }
}

/// The difference of a recovered replica, apart from its damage.
pub(crate) fn compare(
    replica: &Replica,
    wal: &Wal,
    found: &RecoveredReplica,
) -> Result<(), String> {
    let state = (&found.hard_state, &found.conf_state, &found.truncated);
    let expected = (&replica.hard_state, &replica.conf_state, &replica.truncated);
    if state != expected {
        return Err(format!("state is {state:?}, not {expected:?}"));
    }
    let indices: Vec<u64> = found.entries.iter().map(|entry| entry.index).collect();
    let expected: Vec<u64> = replica.entries.keys().copied().collect();
    if indices != expected {
        return Err(format!("entries are {indices:?}, not {expected:?}"));
    }
    compare_entries(replica, wal, found)
}

/// Whether every recovered entry equals the written one.
pub(crate) fn compare_entries(
    replica: &Replica,
    wal: &Wal,
    found: &RecoveredReplica,
) -> Result<(), String> {
    for meta in &found.entries {
        let data = wal.read(&meta.location).map_err(|error| error.to_string())?;
        let entry = (meta.term, meta.kind, data);
        if replica.entries.get(&meta.index) != Some(&entry) {
            return Err(format!("entry {} is not what was written", meta.index));
        }
    }
    Ok(())
}
