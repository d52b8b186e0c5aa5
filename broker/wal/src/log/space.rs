//! Releases files of the log and reports its size.

use std::collections::BTreeMap;

use super::{SPARES_WANTED, Wal};
use crate::files::{RetiredFile, SealedFile};
use crate::label::Purpose;
use crate::record::ReplicaKey;

impl Wal {
    /// Releases the files that are no longer needed, oldest first.
    ///
    /// `needed` has the first index that each replica still needs; a replica that is not in it
    /// needs all of its entries. In any case an entry is needed until a `Truncated`,
    /// `SnapshotInstalled` or `ReplicaDestroyed` record that covers it is durable in this log. An
    /// entry that was [set aside](Wal::set_aside) is not needed here.
    pub fn release(&mut self, needed: &BTreeMap<ReplicaKey, u64>) {
        while let Some(oldest) = self.sealed.front().copied() {
            let Some(usage) = self.usage.files.front() else { return };
            let free = usage.last_index.iter().all(|(key, last)| {
                let start = self.replicas.span(*key).start;
                *last <= start && needed.get(key).is_some_and(|needed| last < needed)
            });
            if !free {
                return;
            }
            self.usage.files.pop_front();
            self.sealed.pop_front();
            self.retire(oldest);
        }
    }

    pub(super) fn retire(&mut self, file: SealedFile) {
        self.reader.remove(file.sequence);
        let reusable = file.bytes == self.options.file_bytes;
        let is_surplus = reusable && self.spares.count_expected() >= self.options.spares_max;
        let starts = file.bytes >= self.options.start_bytes() && self.spares.wants_start();
        let purpose = match (reusable, starts) {
            (true, _) => Some(Purpose::Spare),
            (false, true) => Some(Purpose::Start),
            (false, false) => None,
        };
        let becomes = purpose.zip(file.reservation.map(|former| former.saturating_add(1)));
        let (number, bytes) = (file.number, file.bytes);
        self.spares.retire(RetiredFile { number, bytes, becomes, is_surplus });
    }

    /// The replicas that prevent the release of the oldest file, each with its last index in it: a
    /// checkpoint of these allows the release. Empty if there is only one file.
    pub fn pinned_by_oldest(&self) -> Vec<(ReplicaKey, u64)> {
        let oldest = self.usage.files.front().filter(|_| !self.sealed.is_empty());
        let pinned = oldest.into_iter().flat_map(|usage| &usage.last_index);
        let mut pinned: Vec<(ReplicaKey, u64)> = pinned
            .filter(|(key, last)| **last > self.replicas.span(**key).start)
            .map(|(key, last)| (*key, *last))
            .collect();
        pinned.sort_unstable();
        pinned
    }

    /// Size of all files in bytes, including spare files.
    pub fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|file| file.bytes).sum();
        sealed + self.active.bytes() + self.spares.bytes()
    }

    /// Bytes of the log that cannot be released yet: full files and the written part of the active
    /// file.
    pub fn used_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|file| file.bytes).sum();
        sealed + self.active.position
    }

    /// Number of files with rounds.
    pub fn files(&self) -> usize {
        self.sealed.len() + 1
    }

    /// Whether the last attempt to get another file found no space, on the disk or within the
    /// limit.
    pub fn is_full(&self) -> bool {
        let at_limit = self.bytes() + self.options.file_bytes > self.options.files_bytes_max
            && !self.chore_in_flight();
        self.spares.ready.len() < SPARES_WANTED && (self.spares.full || at_limit)
    }

    /// Whether the last attempt to create another file found the disk full.
    pub fn is_disk_full(&self) -> bool {
        self.spares.full
    }
}
