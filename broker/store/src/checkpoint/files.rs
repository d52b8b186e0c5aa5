//! The files of one shard, and when they may be removed.
//!
//! # Invariants
//!
//! - A file is removed only when neither kept snapshot names it: a file that snapshot number n is
//!   the first not to name is removed when the older kept one is n or newer.
//! - A file that a pinned snapshot names stays as well, unless the disk is full
//!   ([`crate::transfer`]).
//! - **D6** the write-ahead log is released below the older kept snapshot, never below the newest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ropewalk_shard::engine::EntryId;
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};
use ropewalk_wal::ReplicaKey;

use crate::directory::{DataDir, DirectoryError};
use crate::partition_logs::PartitionLogs;
use crate::pins::ShardPins;
use crate::replica_log;
use crate::snapshot::{PartitionIncarnation, Snapshot, Snapshots};

/// Number of snapshots that are kept.
const KEPT: usize = 2;

/// The files of one shard.
#[derive(Debug)]
pub struct ShardFiles {
    partition_logs: Arc<PartitionLogs>,
    replica: ReplicaId,
    replicas: BTreeMap<ReplicaId, BrokerId>,
    snapshots: Snapshots,
    /// The kept snapshots, oldest first.
    kept: VecDeque<KeptSnapshot>,
    next_number: u64,
    next_spill: u64,
    /// Length of each spill file.
    spill_bytes: BTreeMap<u64, u64>,
    removals: Vec<Removal>,
    closed: Vec<PartitionIncarnation>,
    released_through: u64,
}

/// What is known of a snapshot on disk.
#[derive(Debug, Clone)]
pub(crate) struct KeptSnapshot {
    pub(crate) number: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// Bytes of each spill file that the snapshot names.
    pub(crate) spill: BTreeMap<u64, u64>,
}

/// A file or a partition's directory that is to be removed.
#[derive(Debug)]
struct Removal {
    /// Number of the first snapshot that does not name it.
    since: u64,
    what: RemovalTarget,
}

#[derive(Debug)]
enum RemovalTarget {
    File(PathBuf),
    Partition(PartitionIncarnation),
}

impl KeptSnapshot {
    pub(crate) fn of(number: u64, snapshot: &Snapshot) -> Self {
        let mut spill = BTreeMap::new();
        for run in snapshot.partitions.iter().flat_map(|partition| &partition.spill) {
            *spill.entry(run.file).or_default() += u64::from(run.length_bytes);
        }
        Self { number, index: snapshot.index, term: snapshot.term, spill }
    }
}

impl ShardFiles {
    /// The files at start: the kept snapshots, oldest first, and the lengths of the spill files
    /// that they name. `truncated` is the index of the last `Truncated` record in the write-ahead
    /// log, which an earlier process may not have written for its newest snapshots.
    pub(crate) fn new(
        partition_logs: Arc<PartitionLogs>,
        snapshot: &Snapshot,
        kept: VecDeque<KeptSnapshot>,
        spill_bytes: BTreeMap<u64, u64>,
        truncated: u64,
    ) -> Self {
        let snapshots = Snapshots::new(partition_logs.store().data(), partition_logs.shard());
        Self {
            replica: snapshot.replica,
            replicas: snapshot.replicas.clone(),
            snapshots,
            next_number: kept.back().map_or(0, |newest| newest.number) + 1,
            next_spill: spill_bytes.keys().next_back().map_or(0, |last| last + 1),
            spill_bytes,
            removals: Vec::new(),
            closed: Vec::new(),
            released_through: if kept.len() == KEPT { kept[0].index.min(truncated) } else { 0 },
            kept,
            partition_logs,
        }
    }

    /// The shard that the files belong to.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.partition_logs.shard()
    }

    pub(crate) fn key(&self) -> ReplicaKey {
        replica_log::key(self.shard(), self.replica)
    }

    pub(crate) fn partition_logs(&self) -> &Arc<PartitionLogs> {
        &self.partition_logs
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.replica
    }

    pub(crate) fn replicas(&self) -> &BTreeMap<ReplicaId, BrokerId> {
        &self.replicas
    }

    /// The newest snapshot.
    pub(crate) fn newest(&self) -> &KeptSnapshot {
        self.kept.back().expect("a shard is created with a snapshot")
    }

    /// The last entry that both kept snapshots cover, if the log is not released through it yet.
    pub(crate) fn releasable(&self) -> Option<EntryId> {
        let older = self.kept.front().filter(|_| self.kept.len() == KEPT)?;
        let covered = EntryId { index: older.index, term: older.term };
        (older.index > self.released_through).then_some(covered)
    }

    pub(crate) fn released_through(&self) -> u64 {
        self.released_through
    }

    pub(crate) fn set_released_through(&mut self, index: u64) {
        self.released_through = index;
    }

    /// Adds partitions that were closed before the next capture.
    pub(crate) fn closed(&mut self, closed: Vec<PartitionIncarnation>) {
        self.closed.extend(closed);
    }

    /// Schedules the removal of files that the next snapshot will not name: those of closed
    /// partitions, and `unneeded`.
    pub(crate) fn schedule_removal(&mut self, unneeded: Vec<PathBuf>) {
        let since = self.next_number;
        let files = unneeded.into_iter().map(RemovalTarget::File);
        let partitions = self.closed.drain(..).map(RemovalTarget::Partition);
        self.removals.extend(files.chain(partitions).map(|what| Removal { since, what }));
    }

    /// Whether files wait for another snapshot to be removed.
    pub(crate) fn has_removals(&self) -> bool {
        !self.removals.is_empty()
    }

    /// Number and path of the next spill file: the same until [`Self::finish_spill`].
    pub(crate) fn begin_spill(&self) -> (u64, PathBuf) {
        let number = self.next_spill;
        (number, self.partition_logs.store().data().spill_file(self.shard(), number))
    }

    /// Adds a spill file that is durable, so that a snapshot may name it.
    pub(crate) fn finish_spill(&mut self, number: u64, bytes: u64) {
        self.next_spill = number + 1;
        self.spill_bytes.insert(number, bytes);
    }

    /// Removes a partially written spill file, to free its space. If that fails, the next attempt
    /// overwrites it.
    pub(crate) fn abandon_spill(&self, path: PathBuf) {
        if let Err(error) = remove(self.partition_logs.store().data(), path) {
            tracing::warn!(shard = %self.shard(), %error, "removing a partial spill file failed");
        }
    }

    /// Spill files of which more than half is unused.
    pub(crate) fn wasted_spill(&self, needed: &BTreeMap<u64, u64>) -> BTreeSet<u64> {
        let wasted = |file: &u64, bytes: &u64| needed.get(file).is_some_and(|n| 2 * n < *bytes);
        self.spill_bytes.iter().filter(|(f, b)| wasted(f, b)).map(|(file, _)| *file).collect()
    }

    /// Writes a snapshot, whose name is durable after [`Self::sync_names`] of any shard.
    ///
    /// # Errors
    /// When the snapshot cannot be written.
    pub(crate) fn write(&self, snapshot: &Snapshot) -> Result<(), DirectoryError> {
        self.snapshots.write_unnamed(self.next_number, snapshot)
    }

    /// Makes the names of the snapshots of all shards durable.
    ///
    /// # Errors
    /// A failed sync is final (D2).
    pub(crate) fn sync_names(&self) -> Result<(), DirectoryError> {
        self.snapshots.sync_names()
    }

    /// Keeps the written snapshot, which is durable, and removes files that neither kept snapshot
    /// names. A removal that fails is retried with the next snapshot.
    pub(crate) fn keep(&mut self, snapshot: &Snapshot) {
        self.kept.push_back(KeptSnapshot::of(self.next_number, snapshot));
        self.next_number += 1;
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        let store = Arc::clone(self.partition_logs.store());
        let mut pins = store.pins().hold(self.shard());
        if store.budget().is_disk_full() {
            pins.end();
        }
        let mut numbers = pins.snapshots();
        numbers.extend(self.kept.iter().map(|kept| kept.number));
        let numbers: Vec<u64> = numbers.into_iter().collect();
        let removed = self.snapshots.remove_all_but(&numbers);
        for error in removed.err().into_iter().chain(self.run_removals(&pins)) {
            tracing::warn!(shard = %self.shard(), %error, "unlinking a file failed, will retry");
        }
    }

    /// Runs the removals that are due. Returns the errors.
    fn run_removals(&mut self, pins: &ShardPins<'_>) -> Vec<DirectoryError> {
        let data = self.partition_logs.store().data().clone();
        let shard = self.shard();
        let mut failed = Vec::new();
        let mut is_gone = |removed: Result<(), DirectoryError>| match removed {
            Ok(()) => true,
            Err(error) => {
                failed.push(error);
                false
            }
        };
        let kept = &self.kept;
        let named = |file: &u64| kept.iter().any(|kept| kept.spill.contains_key(file));
        self.spill_bytes.retain(|file, _| {
            named(file)
                || pins.names_spill(*file)
                || !is_gone(remove(&data, data.spill_file(shard, *file)))
        });
        let oldest = kept.front().filter(|_| kept.len() == KEPT).map_or(0, |kept| kept.number);
        let oldest = pins.snapshots().first().map_or(oldest, |pinned| oldest.min(*pinned));
        self.removals.retain(|removal| {
            removal.since > oldest
                || !is_gone(match &removal.what {
                    RemovalTarget::File(path) => remove(&data, path.clone()),
                    RemovalTarget::Partition(of) => {
                        data.remove_all_in(&data.partition(of.partition, of.incarnation))
                    }
                })
        });
        failed
    }
}

/// Removes a file; a missing one was removed before.
fn remove(data: &DataDir, path: PathBuf) -> Result<(), DirectoryError> {
    match data.disk().remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DirectoryError::io(&path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
