//! Background compaction: keeps only the last record of each key (`cleanup.policy=compact`).
//!
//! The cleaner has its own thread, because rewriting a segment takes longer than producers may wait
//! for a flush. [`Cleaner::step`] does one piece of work and never sleeps.
//!
//! Periodically the cleaner searches for compacted partitions that have segments not compacted yet.
//! It reads from the shard's older snapshot up to which segment it may go, and rewrites one segment
//! after the other (`ropewalk_segment::compaction`). The log's segments are locked only to install
//! a finished one. In a queue with little traffic, records may have waited for
//! `max.compaction.lag.ms` without being in a sealed segment. The cleaner then requests two
//! checkpoints: the first seals a segment, the second makes the older kept snapshot name it. With
//! each search it closes the files of segments that were not read since the one before.
//!
//! # Invariants
//!
//! - Only segments wholly below the one in which the *older* kept snapshot ends are rewritten. Both
//!   snapshots stay valid, because offsets and segment ends do not change.
//! - A shard is not compacted while its files are sent to another broker ([`crate::transfer`]).
//! - **D2** a failed sync is final: the thread reports it and ends, and the process ends.
//!
//! # After a crash
//!
//! A replacement is installed wholly or not at all; the next search finds what is left to compact.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ropewalk_segment::SegmentInfo;
use ropewalk_segment::compaction::{Compaction, CompactionJob, dirty_ratio};
use ropewalk_shard::state::Partition;
use ropewalk_shard::{PartitionId, ShardId};

use crate::limits;
use crate::log::PartitionLog;
use crate::policy::{CompactionPolicy, Policy};
use crate::snapshot::{PartitionFiles, Snapshot, SnapshotError, Snapshots};
use crate::store::Store;
use crate::work::{Next, WorkError};

/// Returns the current logs of a shard.
pub type LogsOf = Box<dyn Fn() -> Vec<(PartitionId, Arc<PartitionLog>)> + Send>;

/// A log of a compacted topic, its settings and its segments.
type CompactionCandidate = (Arc<PartitionLog>, CompactionPolicy, Vec<SegmentInfo>);

/// Searches within `max.compaction.lag.ms` of a partition. The interval is at least
/// [`PAUSE_MS_MIN`] and at most [`limits::COMPACTION_INTERVAL_MS`].
const SEARCHES_PER_LAG: i64 = 4;
/// Least interval of the search, milliseconds.
const PAUSE_MS_MIN: i64 = 1_000;

/// The background compaction of a broker's store.
pub struct Cleaner {
    store: Arc<Store>,
    policy: Arc<dyn Policy>,
    shards: Vec<(ShardId, LogsOf)>,
    /// Number of shards that are left to search in this round.
    left: usize,
    searched_ms: Option<i64>,
    /// Time from the start of this round to the next one.
    pause_ms: i64,
    due: Vec<(ShardId, Arc<PartitionLog>, Compaction)>,
    job: Option<(ShardId, Arc<PartitionLog>, CompactionJob)>,
}

impl fmt::Debug for Cleaner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaner").field("job", &self.job).finish_non_exhaustive()
    }
}

impl Cleaner {
    /// A cleaner without shards.
    #[must_use]
    pub fn new(store: Arc<Store>, policy: Arc<dyn Policy>) -> Self {
        let (shards, due) = (Vec::new(), Vec::new());
        let pause_ms = limits::COMPACTION_INTERVAL_MS;
        Self { store, policy, shards, left: 0, searched_ms: None, pause_ms, due, job: None }
    }

    /// Adds a shard, whose logs `logs` returns.
    pub fn add(&mut self, shard: ShardId, logs: LogsOf) {
        self.shards.push((shard, logs));
    }

    /// Removes a shard, and gives up the compaction of its partitions.
    pub fn remove(&mut self, shard: ShardId) {
        self.shards.retain(|(of, _)| *of != shard);
        self.left = self.left.min(self.shards.len());
        self.due.retain(|(of, ..)| *of != shard);
        drop(self.job.take_if(|(of, ..)| *of == shard));
    }

    /// Does one piece of work.
    ///
    /// # Errors
    /// See [`WorkError`]. After one that is not final, `step` may be called again and continues
    /// with other work.
    pub fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        if let Some((shard, log, mut job)) = self.job.take() {
            // Without this, the job is dropped. A later search finds what is left to compact.
            if let Some(_compacting) = self.store.pins().compact(shard)
                && let Some(replacement) = job.next()?
            {
                let saved_bytes = replacement.saved_bytes();
                log.install(replacement)?;
                tracing::debug!(partition = %log.partition(), saved_bytes, "segment compacted");
                self.job = Some((shard, log, job));
            }
        } else if let Some((shard, log, request)) = self.due.pop() {
            self.job = log.plan_compaction(request).map(|job| (shard, log, job));
        } else if self.left > 0 {
            self.left -= 1;
            let (shard, logs) = &self.shards[self.left];
            let compacted = self.compacted(logs());
            self.pause_ms = compacted.iter().fold(self.pause_ms, |pause_ms, (_, policy, _)| {
                pause_ms.min(policy.lag_ms_max / SEARCHES_PER_LAG)
            });
            let (shard, due) = (*shard, self.find_due(*shard, compacted, now_ms)?);
            self.due = due.into_iter().map(|(log, request)| (shard, log, request)).collect();
        } else if self.searched_ms.is_none_or(|at| now_ms - at >= self.pause_ms.max(PAUSE_MS_MIN)) {
            self.searched_ms = Some(now_ms);
            self.store.close_idle_files();
            self.left = self.shards.len();
            self.pause_ms = limits::COMPACTION_INTERVAL_MS;
        } else {
            return Ok(Next::Wait);
        }
        Ok(Next::Now)
    }

    /// The logs of compacted topics.
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

    /// The compactions of a shard that are due. Requests that overdue records in memory, a spill
    /// file or the active segment, which cannot be compacted there, become a sealed segment.
    fn find_due(
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

    /// The older kept snapshot; `None` also if a checkpoint removes it at the same time.
    fn older_snapshot(&self, shard: ShardId) -> Result<Option<Snapshot>, WorkError> {
        let snapshots = Snapshots::new(self.store.data(), shard);
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

/// The end of the oldest segments below `end` that hold no record newer than `before_ms`.
fn settled(infos: &[SegmentInfo], end: i64, before_ms: i64) -> i64 {
    let young = infos.iter().find(|info| info.max_timestamp_ms.is_some_and(|ms| ms > before_ms));
    young.map_or(end, |info| info.base_offset.min(end))
}

/// Whether the dirty ratio is high enough, or a record is overdue.
fn pays(infos: &[SegmentInfo], end: i64, now_ms: i64, policy: &CompactionPolicy) -> bool {
    let ratio = dirty_ratio(infos, end);
    let overdue = |info: &SegmentInfo| {
        info.next_offset <= end && !info.is_compacted && is_overdue(info, now_ms, policy)
    };
    ratio > 0.0 && (ratio >= policy.dirty_ratio_min || infos.iter().any(overdue))
}

/// Whether the oldest record has waited longer than `max.compaction.lag.ms`.
fn is_overdue(info: &SegmentInfo, now_ms: i64, policy: &CompactionPolicy) -> bool {
    now_ms.saturating_sub(info.created_ms) > policy.lag_ms_max
}

/// The last offset of each producer's last batch.
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
