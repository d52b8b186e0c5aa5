//! One checkpoint of one shard.
//!
//! 1. [`Pass::begin`] takes the shard's state at the applied index S and writes long tails through
//!    S to segments.
//! 2. [`Pass::sync`] makes the segments durable, as fast as the sync budget allows.
//! 3. [`Pass::finish`] writes small tails through S to one spill file, sorted by partition, and
//!    makes it durable. Then it writes the snapshot, which names the end of every file.
//!
//! # Invariants
//!
//! - A snapshot names only durable data, and every record through S that is kept.
//! - A partition with little to write costs no sync of its own.
//!
//! # After a crash
//!
//! Until the new snapshot is durable, recovery starts from the one before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use ropewalk_segment::spill::SpillWriter;
use ropewalk_shard::PartitionId;

use super::capture::Capture;
use super::files::ShardFiles;
use super::syncs::SyncBudget;
use super::unsynced::{UnsyncedLogs, sync_together};
use crate::directory::DataDir;
use crate::limits;
use crate::log::PartitionLog;
use crate::log::layers::SpillBatches;
use crate::policy::Policy;
use crate::snapshot::{Snapshot, SpillRun};
use crate::work::WorkError;

/// Syncs of [`Pass::finish`]: spill, its directory, snapshot, its directory, write-ahead log.
pub(crate) const FINISH_SYNCS: usize = 5;

/// The input of a checkpoint.
#[derive(Debug)]
pub(crate) struct PassInput<'a> {
    pub(crate) capture: Capture,
    /// Logs whose records have to become sealed segments, so that they can be compacted.
    pub(crate) overdue: &'a [Arc<PartitionLog>],
}

/// A running checkpoint.
#[derive(Debug)]
pub(crate) struct Pass {
    capture: Capture,
    /// The logs of the captured partitions, sorted.
    logs: BTreeMap<PartitionId, Arc<PartitionLog>>,
    to_sync: VecDeque<Arc<PartitionLog>>,
}

impl Pass {
    /// Writes the tails that are not small to segments. The tails of `overdue` logs are written
    /// however small they are, and their last segment is sealed, so that it can be compacted.
    pub(crate) fn begin(
        files: &mut ShardFiles,
        unsynced: &mut UnsyncedLogs,
        input: PassInput<'_>,
        now_ms: i64,
        policy: &dyn Policy,
    ) -> Result<Self, WorkError> {
        let PassInput { capture, overdue } = input;
        // Sorted, so that a seed of the simulator gives the same disk operations every time.
        let mut logs: BTreeMap<PartitionId, Arc<PartitionLog>> =
            capture.logs.iter().cloned().collect();
        logs.retain(|partition, _| capture.state.partitions.contains_key(partition));
        debug_assert_eq!(logs.len(), capture.state.partitions.len(), "each has a log");
        // Before the flush, which may fail.
        files.schedule_removal(logs.values().flat_map(|log| log.trim()).collect());
        let overdue: BTreeSet<PartitionId> = overdue.iter().map(|log| log.partition()).collect();
        let mut to_sync = VecDeque::new();
        for (partition, log) in &logs {
            let through = capture.state.partitions[partition].next_offset;
            let is_overdue = overdue.contains(partition);
            let is_long = log.loose_bytes(through) >= limits::SPILL_BYTES_MAX;
            let moved = (is_long || is_overdue)
                .then(|| unsynced.flush(log, through, now_ms, policy))
                .transpose()?;
            if is_overdue && moved == Some(true) {
                log.seal()?;
            }
            if log.sync_cost() > 0 {
                to_sync.push_back(Arc::clone(log));
            }
        }
        Ok(Self { capture, logs, to_sync })
    }

    /// The applied index that is checkpointed.
    pub(crate) fn index(&self) -> u64 {
        self.capture.index
    }

    /// Syncs segments while the budget lasts. Returns whether all are durable.
    pub(crate) fn sync(
        &mut self,
        data: &DataDir,
        budget: &mut SyncBudget,
        urgent: bool,
    ) -> Result<bool, WorkError> {
        if urgent {
            let syncs: usize = self.to_sync.iter().map(|log| log.sync_cost()).sum();
            if syncs >= limits::SYNCED_TOGETHER_MIN {
                budget.take(syncs);
                sync_together(data, self.to_sync.make_contiguous())?;
                self.to_sync.clear();
            }
        }
        while let Some(log) = self.to_sync.front() {
            if !urgent && !budget.is_left() {
                return Ok(false);
            }
            budget.take(log.sync_cost());
            log.sync()?;
            self.to_sync.pop_front();
        }
        Ok(true)
    }

    /// Writes the spill file and the snapshot. After an error the pass is over.
    pub(crate) fn finish(&mut self, files: &mut ShardFiles) -> Result<(), WorkError> {
        self.spill(files)?;
        let mut partitions = Vec::with_capacity(self.logs.len());
        for (partition, log) in &self.logs {
            partitions.push(log.files(self.next_offset(partition))?);
        }
        let snapshot = Snapshot {
            shard: files.shard(),
            replica: files.replica(),
            index: self.capture.index,
            term: self.capture.term,
            members: self.capture.members.clone(),
            replicas: files.replicas().clone(),
            state: mem::take(&mut self.capture.state),
            partitions,
        };
        Ok(files.keep(&snapshot)?)
    }

    fn next_offset(&self, partition: &PartitionId) -> i64 {
        self.capture.state.partitions[partition].next_offset
    }

    fn spill(&self, files: &mut ShardFiles) -> Result<(), WorkError> {
        let mut needed = BTreeMap::new();
        for run in self.logs.values().flat_map(|log| log.spill_runs()) {
            *needed.entry(run.file).or_default() += u64::from(run.length_bytes);
        }
        let wasted = files.wasted_spill(&needed);
        let mut spillable = Vec::new();
        for (partition, log) in &self.logs {
            let through = self.next_offset(partition);
            if let Some(batches) = spillable_of(log, through, &wasted)? {
                spillable.push((log, batches));
            }
        }
        if spillable.is_empty() {
            return Ok(());
        }
        let (file, path) = files.begin_spill();
        let disk = Arc::clone(files.partition_logs().store().data().disk());
        let written = SpillWriter::create(disk, path.clone())
            .map_err(WorkError::from)
            .and_then(|writer| write_spill(writer, file, &spillable));
        let runs = written.inspect_err(|error| {
            if !error.is_final() {
                files.abandon_spill(path);
            }
        })?;
        files.finish_spill(file, runs.iter().map(|run| u64::from(run.length_bytes)).sum());
        for ((log, _), run) in spillable.into_iter().zip(runs) {
            log.spilled(run);
        }
        Ok(())
    }
}

/// Writes batches of the logs to a spill file, durably.
fn write_spill(
    mut writer: SpillWriter,
    file: u64,
    spillable: &[(&Arc<PartitionLog>, SpillBatches)],
) -> Result<Vec<SpillRun>, WorkError> {
    let added = spillable.iter().map(|(log, batches)| add(&mut writer, file, log, batches));
    let runs = added.collect::<Result<Vec<_>, _>>()?;
    writer.finish()?;
    Ok(runs)
}

/// The batches of a log for the spill file. If its older spill files are damaged, their runs stay
/// there, where reads report the damage, and only the tail is spilled.
fn spillable_of(
    log: &PartitionLog,
    through: i64,
    wasted: &BTreeSet<u64>,
) -> Result<Option<SpillBatches>, WorkError> {
    match log.spillable(through, |file| wasted.contains(&file)) {
        Err(ropewalk_segment::SegmentError::Damaged(damage)) => {
            tracing::error!(partition = %log.partition(), %damage, "spill file is damaged");
            Ok(log.spillable_tail(through))
        }
        result => Ok(result?),
    }
}

/// Adds a log's batches to a spill file.
pub(crate) fn add(
    writer: &mut SpillWriter,
    file: u64,
    log: &PartitionLog,
    spillable: &SpillBatches,
) -> Result<SpillRun, WorkError> {
    let extent = writer.add(log.partition().to_bytes(), &spillable.batches)?;
    let youngest = spillable.batches.iter().map(|batch| batch.max_timestamp_ms).max();
    Ok(SpillRun::new(
        file,
        extent,
        u32::try_from(spillable.records).unwrap_or(u32::MAX),
        youngest.unwrap_or(ropewalk_batch::NO_TIMESTAMP),
        spillable.appended_ms,
    ))
}
