//! Compaction in the background: of each key only the last record stays (`cleanup.policy=compact`).
//!
//! A thread of its own, because rewriting a segment takes longer than producers want to wait for a
//! flush. [`Cleaner::step`] does one piece of work and never sleeps.
//!
//! # Place in the walk
//!
//! Every now and then it looks which partitions are to be compacted and have segments that never were,
//! reads from the shard's older snapshot how far it may go, and rewrites segment by segment
//! (`ropewalk_segment::compaction`). The partition's writer is held only to put a finished segment in its
//! place. Records that have waited for `max.compaction.lag.ms` and are in no sealed segment yet, as in a queue
//! with little traffic, are made one by two checkpoints that this asks for: the second one lets the older kept
//! snapshot name it.
//!
//! # Invariants
//!
//! - Only segments that lie wholly below the one in which the *older* kept snapshot ends are touched: both
//!   snapshots stay true, because offsets and segment ends do not move.
//! - **D2** a failed sync is final: the thread ends and says so, and the process ends.
//! - A broker without compacted topics pays a look at its list of partitions.
//!
//! # After a crash
//!
//! A replacement is there wholly or not at all; the next look begins again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ropewalk_segment::SegmentInfo;
use ropewalk_segment::compaction::{Compaction, CompactionJob, dirty_ratio};
use ropewalk_shard::state::Partition;
use ropewalk_shard::{PartitionId, ShardId};

use crate::directory::DataDir;
use crate::limits;
use crate::log::PartitionLog;
use crate::policy::{CompactionPolicy, Policy};
use crate::snapshot::{PartitionFiles, Snapshot, SnapshotError, Snapshots};
use crate::work::{Next, WorkError};

/// The logs of a shard at this moment.
pub type LogsOf = Box<dyn Fn() -> Vec<(PartitionId, Arc<PartitionLog>)> + Send>;

/// A log that is to be compacted, how, and what it consists of.
type CompactionCandidate = (Arc<PartitionLog>, CompactionPolicy, Vec<SegmentInfo>);

/// A partition is inspected so often within its `max.compaction.lag.ms`, but not more often than every
/// [`PAUSE_MS_MIN`] and not less often than every [`limits::COMPACTION_INTERVAL_MS`].
const LOOKS_PER_LAG: i64 = 4;
/// The least time between two looks at all partitions, milliseconds.
const PAUSE_MS_MIN: i64 = 1_000;

/// The background compaction of a broker's store.
pub struct Cleaner {
    data: DataDir,
    policy: Arc<dyn Policy>,
    shards: Vec<(ShardId, LogsOf)>,
    /// Shards that this round still has to look at.
    left: usize,
    looked_ms: Option<i64>,
    /// Until the next round.
    pause_ms: i64,
    due: Vec<(Arc<PartitionLog>, Compaction)>,
    job: Option<(Arc<PartitionLog>, CompactionJob)>,
}

impl fmt::Debug for Cleaner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaner").field("job", &self.job).finish_non_exhaustive()
    }
}

impl Cleaner {
    /// A cleaner without shards.
    #[must_use]
    pub fn new(data: DataDir, policy: Arc<dyn Policy>) -> Self {
        let (shards, due) = (Vec::new(), Vec::new());
        let pause_ms = limits::COMPACTION_INTERVAL_MS;
        Self { data, policy, shards, left: 0, looked_ms: None, pause_ms, due, job: None }
    }

    /// Looks after a shard from now on.
    pub fn add(&mut self, shard: ShardId, logs: LogsOf) {
        self.shards.push((shard, logs));
    }

    /// Does one piece of work.
    ///
    /// # Errors
    /// See [`WorkError`]. After one that is not final, `step` may be called again and goes on with
    /// something else.
    pub fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        if let Some((log, mut job)) = self.job.take() {
            if let Some(replacement) = job.next()? {
                let saved_bytes = replacement.saved_bytes();
                log.install(replacement)?;
                tracing::debug!(partition = %log.partition(), saved_bytes, "compacted");
                self.job = Some((log, job));
            }
        } else if let Some((log, request)) = self.due.pop() {
            self.job = log.plan_compaction(request).map(|job| (log, job));
        } else if self.left > 0 {
            self.left -= 1;
            let (shard, logs) = &self.shards[self.left];
            let compacted = self.compacted(logs());
            self.pause_ms = compacted.iter().fold(self.pause_ms, |pause_ms, (_, policy, _)| {
                pause_ms.min(policy.lag_ms_max / LOOKS_PER_LAG)
            });
            self.due = self.look(*shard, compacted, now_ms)?;
        } else if self.looked_ms.is_none_or(|at| now_ms - at >= self.pause_ms.max(PAUSE_MS_MIN)) {
            self.looked_ms = Some(now_ms);
            self.left = self.shards.len();
            self.pause_ms = limits::COMPACTION_INTERVAL_MS;
        } else {
            return Ok(Next::Wait);
        }
        Ok(Next::Now)
    }

    /// Those of the logs that are to be compacted.
    fn compacted(&self, logs: Vec<(PartitionId, Arc<PartitionLog>)>) -> Vec<CompactionCandidate> {
        let mut logs = logs;
        logs.sort_unstable_by_key(|(partition, _)| *partition);
        let compacted = logs.into_iter().filter_map(|(partition, log)| {
            let policy = self.policy.compaction(partition)?;
            let infos = log.segment_infos();
            Some((log, policy, infos))
        });
        compacted.collect()
    }

    /// What is worth compacting in a shard. Records that wait longer than they may and lie where they cannot
    /// be compacted (in memory, in a spill file, in the segment that takes more) are asked to move.
    fn look(
        &self,
        shard: ShardId,
        compacted: Vec<CompactionCandidate>,
        now_ms: i64,
    ) -> Result<Vec<(Arc<PartitionLog>, Compaction)>, WorkError> {
        let mut wanted = Vec::new();
        for (log, policy, infos) in compacted {
            if infos.iter().any(|info| !info.is_sealed && is_overdue(info, now_ms, &policy)) {
                log.ask_to_seal();
            }
            if infos.iter().any(|info| info.is_sealed && !info.is_compacted) {
                wanted.push((log, policy, infos));
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let Some(older) = self.older_snapshot(shard)? else { return Ok(Vec::new()) };
        let mut due = Vec::new();
        for (log, policy, infos) in wanted {
            let Some(files) = files_of(&older, &log) else { continue };
            let Some(end) = files.segments.map(|end| end.segment_base()) else { continue };
            let end = settled(&infos, end, now_ms - policy.lag_ms_min);
            if pays(&infos, end, now_ms, &policy) {
                let producers =
                    older.state.partitions.get(&log.partition()).map(|known| last_batches(known));
                let request = Compaction {
                    end,
                    now_ms,
                    delete_retention_ms: policy.delete_retention_ms,
                    segment_bytes: self.policy.segments(log.partition()).segment_bytes,
                    keys_bytes_max: limits::COMPACTION_KEYS_BYTES_MAX,
                    records_bytes_max: limits::COMPACTION_RECORDS_BYTES_MAX,
                    aborted: Vec::new(),
                    producers: producers.unwrap_or_default(),
                };
                due.push((log, request));
            }
        }
        Ok(due)
    }

    /// The older kept snapshot. A checkpoint may take it away while we look: then there is none now.
    fn older_snapshot(&self, shard: ShardId) -> Result<Option<Snapshot>, WorkError> {
        let snapshots = Snapshots::new(&self.data, shard);
        let numbers = snapshots.numbers()?;
        let Some(older) = numbers.len().checked_sub(2) else { return Ok(None) };
        match snapshots.load(numbers[older]) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(SnapshotError::Directory(_)) => Ok(None),
            Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::UnknownVersion { .. })) => {
                Err(WorkError::Later(error.to_string()))
            }
        }
    }
}

fn files_of<'a>(snapshot: &'a Snapshot, log: &PartitionLog) -> Option<&'a PartitionFiles> {
    let partitions = &snapshot.partitions;
    let at = partitions.binary_search_by_key(&log.partition(), |files| files.partition).ok()?;
    Some(&partitions[at]).filter(|files| files.incarnation == log.incarnation())
}

/// The end of the oldest segments that lie below `end` and hold nothing younger than `before_ms`.
fn settled(infos: &[SegmentInfo], end: i64, before_ms: i64) -> i64 {
    let young = infos.iter().find(|info| info.max_timestamp_ms.is_some_and(|ms| ms > before_ms));
    young.map_or(end, |info| info.base_offset.min(end))
}

/// Whether enough is new, or something has waited long enough.
fn pays(infos: &[SegmentInfo], end: i64, now_ms: i64, policy: &CompactionPolicy) -> bool {
    let ratio = dirty_ratio(infos, end);
    let overdue = |info: &SegmentInfo| {
        info.next_offset <= end && !info.is_compacted && is_overdue(info, now_ms, policy)
    };
    ratio > 0.0 && (ratio >= policy.dirty_ratio_min || infos.iter().any(overdue))
}

/// Whether the oldest record has waited for longer than it may.
fn is_overdue(info: &SegmentInfo, now_ms: i64, policy: &CompactionPolicy) -> bool {
    now_ms.saturating_sub(info.created_ms) > policy.lag_ms_max
}

/// Of each producer the last offset of its last batch.
fn last_batches(partition: &Partition) -> HashMap<i64, i64> {
    let producers = partition.producers.iter().flat_map(|producers| producers.iter());
    let last = producers.filter_map(|(id, producer)| {
        let batch = producer.batches.back()?;
        // Sequences wrap from 2³¹-1 to 0.
        let records = batch.last_sequence.wrapping_sub(batch.first_sequence) & i32::MAX;
        Some((*id, batch.base_offset + i64::from(records)))
    });
    last.collect()
}

#[cfg(test)]
mod tests;
