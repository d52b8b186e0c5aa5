//! Which files hold entries that somebody may still need.
//!
//! For every file and replica the highest entry index in the file that is still part of the
//! replica's log. A file may go when each of them is covered.

use std::collections::{BTreeMap, VecDeque};

use crate::record::ReplicaKey;
use crate::replicas::Change;

/// The entries of one file.
#[derive(Debug, Default)]
pub(crate) struct FileUsage {
    pub(crate) sequence: u64,
    pub(crate) last_index: BTreeMap<ReplicaKey, u64>,
}

/// The entries of all files, oldest first; the last one is being written.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) files: VecDeque<FileUsage>,
}

impl Usage {
    pub(crate) fn begin_file(&mut self, sequence: u64) {
        self.files.push_back(FileUsage { sequence, last_index: BTreeMap::new() });
    }

    /// Takes note of a record that is in the newest file. `last_index` is the replica's end
    /// before it.
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
            Change::Restart { .. } | Change::Destroyed => self.forget(key),
            Change::HardState(_) | Change::ConfState(_) | Change::Truncated { .. } => {}
        }
    }

    /// A replica's log is gone from all files.
    pub(crate) fn forget(&mut self, key: ReplicaKey) {
        for file in &mut self.files {
            file.last_index.remove(&key);
        }
    }

    /// The log of a replica now ends at `index`.
    fn cut(&mut self, key: ReplicaKey, index: u64) {
        for file in &mut self.files {
            if let Some(last) = file.last_index.get_mut(&key) {
                *last = (*last).min(index);
            }
        }
    }
}
