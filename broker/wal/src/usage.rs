//! Tracks which files have entries that are still needed.
//!
//! For every file and replica it holds the highest index of an entry in the file that is still part
//! of the replica's log. A file can be released when all of these are covered.

use std::collections::{BTreeMap, VecDeque};

use crate::record::ReplicaKey;
use crate::replicas::Change;

/// The highest index per replica in one file.
#[derive(Debug, Default)]
pub(crate) struct FileUsage {
    pub(crate) sequence: u64,
    pub(crate) last_index: BTreeMap<ReplicaKey, u64>,
}

/// All files, oldest first; the last one is the active file.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) files: VecDeque<FileUsage>,
}

impl Usage {
    pub(crate) fn begin_file(&mut self, sequence: u64) {
        self.files.push_back(FileUsage { sequence, last_index: BTreeMap::new() });
    }

    /// Applies a record that was written to the newest file. `last_index` is the last index of the
    /// replica before it.
    pub(crate) fn apply(&mut self, key: ReplicaKey, change: &Change, last_index: u64) {
        match change {
            Change::Entry { index } => {
                if *index <= last_index {
                    self.cut(key, index.saturating_sub(1));
                }
                if let Some(file) = self.files.back_mut() {
                    file.last_index.insert(key, *index);
                }
            }
            Change::LossAccepted { index } => self.cut(key, *index),
            Change::Restart { .. } | Change::Destroyed => self.remove_replica(key),
            Change::HardState(_) | Change::ConfState(_) | Change::Truncated { .. } => {}
        }
    }

    /// Removes a replica from all files, because its log was replaced or is no longer needed.
    pub(crate) fn remove_replica(&mut self, key: ReplicaKey) {
        for file in &mut self.files {
            file.last_index.remove(&key);
        }
    }

    /// Cuts the log of a replica behind `index`.
    fn cut(&mut self, key: ReplicaKey, index: u64) {
        for file in &mut self.files {
            if let Some(last) = file.last_index.get_mut(&key) {
                *last = (*last).min(index);
            }
        }
    }
}
