//! One checkpoint of the shards that are due.
//!
//! 1. [`Pass::add`] takes a shard's state at the applied index S, writes long tails through S to
//!    segments, and takes the ends of all files of the shard.
//! 2. [`Pass::sync`] makes the segments of all shards durable, as fast as the sync budget allows.
//!    Their tails are flushed on meanwhile.
//! 3. [`ShardPass::snapshot`] writes small tails through S to one spill file of each shard, sorted
//!    by partition, and makes it durable. The snapshot names the ends of step 1.
//!
//! # Invariants
//!
//! - A snapshot names only durable data, nothing above S, and every record through S that is kept.
//! - A partition with little to write costs no sync of its own.
//! - A shard that fails does not prevent the others.
//!
//! # After a crash
//!
//! Until the new snapshot is durable, recovery starts from the one before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use ropewalk_segment::PendingSync;
use ropewalk_segment::spill::SpillWriter;
use ropewalk_shard::{PartitionId, ShardId};

use super::backlog::{CheckpointWork, ShardBacklog};
use super::capture::Capture;
use super::files::ShardFiles;
use super::syncs::SyncBudget;
use crate::directory::DataDir;
use crate::limits;
use crate::log::PartitionLog;
use crate::log::layers::{CapturedLog, SpillBatches};
use crate::policy::Policy;
use crate::snapshot::{PartitionFiles, Snapshot, SpillRun};
use crate::store::Store;
use crate::unsynced::{TailFlush, UnsyncedLogs, sync_all};
use crate::work::WorkError;

/// Syncs of each shard after those of its segments: spill, its directory, snapshot.
pub(crate) const SHARD_SYNCS: usize = 3;
/// Syncs at the end of a pass: names of the snapshots, write-ahead log.
pub(crate) const END_SYNCS: usize = 2;

/// What a pass needs from its caller to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassContext<'a> {
    pub(crate) store: &'a Store,
    pub(crate) unsynced: &'a UnsyncedLogs,
    pub(crate) policy: &'a dyn Policy,
    pub(crate) now_ms: i64,
}

/// A running checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    shards: Vec<ShardPass>,
    to_sync: VecDeque<(Arc<PartitionLog>, PendingSync)>,
}

/// The part of a running checkpoint that belongs to one shard.
#[derive(Debug)]
pub(crate) struct ShardPass {
    pub(crate) shard: ShardId,
    pub(crate) work: CheckpointWork,
    capture: Capture,
    /// The logs of the captured partitions, sorted.
    logs: BTreeMap<PartitionId, (Arc<PartitionLog>, CapturedLog)>,
}

impl Pass {
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Adds a shard as of `capture`. The caller holds the shard's flush lock since before the
    /// capture.
    ///
    /// # Errors
    /// When tails cannot be written; the shard is not added, and its work is given back.
    pub(crate) fn add(
        &mut self,
        backlog: &mut ShardBacklog,
        capture: Capture,
        work: CheckpointWork,
        context: PassContext<'_>,
    ) -> Result<(), WorkError> {
        let shard = backlog.files.shard();
        match capture_logs(&mut backlog.files, &capture, &work.overdue, context) {
            Ok((logs, to_sync)) => {
                self.shards.push(ShardPass { shard, work, capture, logs });
                self.to_sync.extend(to_sync);
                Ok(())
            }
            Err(error) => {
                backlog.give_back(work, context.now_ms);
                Err(error)
            }
        }
    }

    /// Syncs segments while the budget lasts. Returns whether all are durable.
    pub(crate) fn sync(
        &mut self,
        data: &DataDir,
        budget: &mut SyncBudget,
        urgent: bool,
    ) -> Result<bool, WorkError> {
        // A log may have been synced since, because many others were unsynced.
        self.to_sync.retain(|(log, _)| log.sync_cost() > 0);
        while !self.to_sync.is_empty() {
            if !urgent && !budget.is_left() {
                return Ok(false);
            }
            let all = self.to_sync.make_contiguous();
            let mut cost = 0;
            let fits = all.iter().take_while(|(_, pending)| {
                cost += pending.cost();
                urgent || cost <= budget.left()
            });
            let some = fits.count().max(1);
            budget.take(all[..some].iter().map(|(_, pending)| pending.cost()).sum());
            sync_all(data, &all[..some], urgent)?;
            self.to_sync.drain(..some);
        }
        Ok(true)
    }

    /// Drops the shards that need no checkpoint, with their work.
    pub(crate) fn keep_shards(&mut self, keep: impl Fn(&ShardPass) -> bool) {
        self.shards.retain(keep);
    }

    /// The shards, when all segments are durable.
    pub(crate) fn into_shards(self) -> Vec<ShardPass> {
        self.shards
    }

    /// Returns the work of all shards, because the pass failed.
    pub(crate) fn give_back(self, backlogs: &mut BTreeMap<ShardId, ShardBacklog>, now_ms: i64) {
        for ShardPass { shard, work, .. } in self.shards {
            if let Some(backlog) = backlogs.get_mut(&shard) {
                backlog.give_back(work, now_ms);
            }
        }
    }
}

/// The logs of a shard with what a snapshot names, and the syncs that it needs.
type CapturedLogs = (
    BTreeMap<PartitionId, (Arc<PartitionLog>, CapturedLog)>,
    Vec<(Arc<PartitionLog>, PendingSync)>,
);

/// Writes the tails that are not small to segments, and takes the ends of all files. The tails of
/// `overdue` logs are written however small they are, and their last segment is sealed, so that it
/// can be compacted.
fn capture_logs(
    files: &mut ShardFiles,
    capture: &Capture,
    overdue: &[Arc<PartitionLog>],
    context: PassContext<'_>,
) -> Result<CapturedLogs, WorkError> {
    // Sorted, so that a seed of the simulator gives the same disk operations every time.
    let mut logs: BTreeMap<PartitionId, Arc<PartitionLog>> = capture.logs.iter().cloned().collect();
    logs.retain(|partition, _| capture.state.partitions.contains_key(partition));
    debug_assert_eq!(logs.len(), capture.state.partitions.len(), "each has a log");
    // Before the flush, which may fail.
    files.schedule_removal(logs.values().flat_map(|log| log.trim()).collect());
    let overdue: BTreeSet<PartitionId> = overdue.iter().map(|log| log.partition()).collect();
    let (mut captured, mut to_sync) = (BTreeMap::new(), Vec::new());
    for (partition, log) in logs {
        let through = capture.state.partitions[&partition].next_offset;
        let is_overdue = overdue.contains(&partition);
        let loose_bytes = log.loose_bytes(through);
        if is_overdue || loose_bytes >= limits::SPILL_BYTES_MAX {
            context.unsynced.keep_bound(context.store.data())?;
            let PassContext { now_ms, policy, .. } = context;
            context.store.pause_before(loose_bytes);
            let flushed = context.unsynced.flush(&log, through, now_ms, policy)?;
            if is_overdue && flushed == TailFlush::Moved {
                log.seal()?;
            }
        }
        let mut named = log.capture(through)?;
        to_sync.extend(named.sync.take().map(|sync| (Arc::clone(&log), sync)));
        captured.insert(partition, (log, named));
    }
    Ok((captured, to_sync))
}

impl ShardPass {
    /// The applied index that is checkpointed.
    pub(crate) fn index(&self) -> u64 {
        self.capture.index
    }

    /// Writes the spill file, and returns the snapshot, of which everything is durable then.
    ///
    /// # Errors
    /// When the spill file cannot be written.
    pub(crate) fn snapshot(&mut self, files: &mut ShardFiles) -> Result<Snapshot, WorkError> {
        self.spill(files)?;
        let partitions: Vec<PartitionFiles> =
            mem::take(&mut self.logs).into_values().map(|(_, captured)| captured.files).collect();
        Ok(Snapshot {
            shard: files.shard(),
            replica: files.replica(),
            index: self.capture.index,
            term: self.capture.term,
            members: self.capture.members.clone(),
            replicas: files.replicas().clone(),
            state: mem::take(&mut self.capture.state),
            partitions,
        })
    }

    fn spill(&mut self, files: &mut ShardFiles) -> Result<(), WorkError> {
        let mut needed = BTreeMap::new();
        for run in self.logs.values().flat_map(|(_, captured)| &captured.files.spill) {
            *needed.entry(run.file).or_default() += u64::from(run.length_bytes);
        }
        let wasted = files.wasted_spill(&needed);
        let mut spillable = Vec::new();
        for (log, captured) in self.logs.values_mut() {
            if let Some(batches) = spillable_of(log, captured, &wasted)? {
                spillable.push((&*log, batches, captured));
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
        for ((log, _, captured), run) in spillable.into_iter().zip(runs) {
            captured.files.spill.push(run);
            log.spilled(run);
        }
        Ok(())
    }
}

/// Writes batches of the logs to a spill file, durably.
fn write_spill(
    mut writer: SpillWriter,
    file: u64,
    spillable: &[(&Arc<PartitionLog>, SpillBatches, &mut CapturedLog)],
) -> Result<Vec<SpillRun>, WorkError> {
    let added = spillable.iter().map(|(log, batches, _)| add(&mut writer, file, log, batches));
    let runs = added.collect::<Result<Vec<_>, _>>()?;
    writer.finish()?;
    Ok(runs)
}

/// The batches of a log for the spill file. If its older spill files are damaged, their runs stay
/// there, where reads report the damage, and only the tail is spilled.
fn spillable_of(
    log: &PartitionLog,
    captured: &mut CapturedLog,
    wasted: &BTreeSet<u64>,
) -> Result<Option<SpillBatches>, WorkError> {
    match log.spillable(captured, |file| wasted.contains(&file)) {
        Err(ropewalk_segment::SegmentError::Damaged(damage)) => {
            tracing::error!(partition = %log.partition(), %damage, "spill file is damaged");
            Ok(captured.tail.take())
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
