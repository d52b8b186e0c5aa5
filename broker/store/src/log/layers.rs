//! Moves the records of a partition from layer to layer: tail and spill to segments, tail to spill.
//!
//! Only the checkpoint thread comes here (compaction changes segments in place), so that at the moment of a checkpoint no file holds
//! anything above the index that is checkpointed. Readers go on: the layers change under the lock, after
//! the bytes are at their new place.
//!
//! # Invariants
//!
//! - Only whole batches that end at the asked offset or before are moved.
//! - **O4** a run that moved is dropped from its old layer in the same moment in which the new one
//!   has it.

use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use ropewalk_batch::StampedBatch;
use ropewalk_segment::compaction::{Compaction, CompactionJob, Replacement};
use ropewalk_segment::{SegmentConfig, SegmentError, Segments};

use super::tail::TailBatch;
use super::{Change, ChangeSink, PartitionLog};
use crate::limits;
use crate::snapshot::{PartitionFiles, SegmentsEnd, SpillRun};
use crate::store::ShardStore;

/// What a log has for a spill file.
#[derive(Debug)]
pub(crate) struct SpillBatches {
    /// In order; what is in spill files already comes first if it shall be written anew.
    pub(crate) batches: Vec<StampedBatch>,
    /// When the first of them was proposed.
    pub(crate) appended_ms: i64,
    /// Records of data in them.
    pub(crate) records: u64,
}

impl PartitionLog {
    /// Bytes that are in no segment, through `through`.
    pub(crate) fn loose_bytes(&self, through: i64) -> usize {
        let inner = self.inner.lock();
        let tail: usize = inner.tail.through(through).map(|held| held.batch.size_bytes()).sum();
        tail + usize::try_from(inner.spill_bytes()).unwrap_or(usize::MAX)
    }

    /// Bytes in memory.
    pub(crate) fn tail_bytes(&self) -> usize {
        self.inner.lock().tail.size_bytes()
    }

    /// What lies in spill files.
    pub(crate) fn spill_runs(&self) -> Vec<SpillRun> {
        self.inner.lock().spill.clone()
    }

    /// Writes spill and tail through `through` to segments, without a sync.
    ///
    /// # Errors
    /// When the disk fails; what was written before is kept.
    pub(crate) fn flush(
        &self,
        through: i64,
        now_ms: i64,
        config: &SegmentConfig,
    ) -> Result<(), SegmentError> {
        let mut writer = self.segments.lock();
        let (spill, tail, appended_ms) = {
            let inner = self.inner.lock();
            let tail: Vec<StampedBatch> =
                inner.tail.through(through).map(|held| held.batch.clone()).collect();
            (inner.spill.clone(), tail, inner.oldest_appended_ms())
        };
        // Segments are as old as what is in them, however long it was in memory before.
        let now_ms = now_ms.min(appended_ms.unwrap_or(now_ms));
        let mut batches = Vec::new();
        for spilled in &spill {
            batches.extend(self.files.read_spilled(spilled)?);
        }
        batches.extend(tail);
        let Some(first) = batches.first() else { return Ok(()) };
        let segments = match &mut *writer {
            Some(segments) => segments,
            // The log may start inside of the first batch.
            none => {
                let start = first.base_offset;
                let opened =
                    self.files.open_segments(self.partition, self.incarnation, None, start)?;
                none.insert(Box::new(opened))
            }
        };
        let written = segments.next_offset();
        batches.retain(|batch| batch.base_offset >= written);
        // Between two runs, and before the tail, there is a gap where a repair gave up a run.
        let is_next =
            |last: &StampedBatch, next: &StampedBatch| last.next_offset() == next.base_offset;
        let result = batches.chunk_by(is_next).try_for_each(|part| {
            segments.advance_to(part[0].base_offset);
            segments.append(part, now_ms, config)
        });
        self.publish(segments);
        result
    }

    /// What the segments hold now is read from there.
    fn publish(&self, segments: &Segments) {
        let end = segments.next_offset();
        let freed = {
            let mut inner = self.inner.lock();
            inner.segments_end = end;
            inner.segments_bytes = segments.bytes();
            if inner.reader.is_none() {
                inner.reader = Some(segments.reader());
            }
            inner.spill.retain(|spilled| spilled.next_offset > end);
            inner.spill.shrink_to_fit();
            inner.drop_tail_through(end)
        };
        self.files.budget().give_back(freed);
    }

    /// How many syncs [`Self::sync`] takes.
    pub(crate) fn sync_cost(&self) -> usize {
        self.segments.lock().as_ref().map_or(0, |segments| segments.sync_cost())
    }

    /// Makes the segments durable.
    ///
    /// # Errors
    /// A failed sync is final (D2).
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        match &mut *self.segments.lock() {
            Some(segments) if segments.sync_cost() > 0 => segments.sync().map(|_| ()),
            _ => Ok(()),
        }
    }

    /// What goes to a spill file at a checkpoint: the tail through `through`, and with it what is
    /// in spill files already if that lies in too many runs, or in a file that `rewrite` names.
    ///
    /// # Errors
    /// When a spill file cannot be read.
    pub(crate) fn spillable(
        &self,
        through: i64,
        rewrite: impl Fn(u64) -> bool,
    ) -> Result<Option<SpillBatches>, SegmentError> {
        let spill = self.spill_runs();
        let tail = self.spillable_tail(through);
        let anew = spill.len() >= limits::SPILL_RUNS_MAX
            || spill.iter().any(|spilled| rewrite(spilled.file));
        if !anew {
            return Ok(tail);
        }
        let mut out = SpillBatches { batches: Vec::new(), appended_ms: i64::MAX, records: 0 };
        for spilled in &spill {
            out.batches.extend(self.files.read_spilled(spilled)?);
            out.records += u64::from(spilled.records);
            out.appended_ms = out.appended_ms.min(spilled.appended_ms);
        }
        if let Some(tail) = tail {
            out.batches.extend(tail.batches);
            out.records += tail.records;
            out.appended_ms = out.appended_ms.min(tail.appended_ms);
        }
        Ok(Some(out))
    }

    /// The tail through `through`, for a spill file.
    pub(crate) fn spillable_tail(&self, through: i64) -> Option<SpillBatches> {
        let inner = self.inner.lock();
        let appended_ms = inner.tail.through(through).next()?.appended_ms;
        let records = inner.tail.through(through).map(TailBatch::records).sum();
        let batches = inner.tail.through(through).map(|held| held.batch.clone()).collect();
        Some(SpillBatches { batches, appended_ms, records })
    }

    /// The run is durable in a spill file and is read from there.
    pub(crate) fn spilled(&self, run: SpillRun) {
        let freed = {
            let mut inner = self.inner.lock();
            inner.spill.retain(|old| old.next_offset <= run.base_offset);
            // The log start may have moved past it meanwhile.
            if run.next_offset > inner.log_start {
                inner.spill.reserve_exact(1);
                inner.spill.push(run);
            }
            inner.drop_tail_through(run.next_offset)
        };
        self.files.budget().give_back(freed);
    }

    /// Lets go of segments below the log start; the files that are no longer needed, which stay until
    /// no snapshot names them.
    pub(crate) fn trim(&self) -> Vec<PathBuf> {
        let mut writer = self.segments.lock();
        let Some(segments) = &mut *writer else { return Vec::new() };
        let unneeded = segments.set_log_start(self.inner.lock().log_start);
        self.publish(segments);
        unneeded
    }

    /// Where everything through `next_offset` is. It is durable when this returns.
    ///
    /// # Errors
    /// A failed sync is final (D2).
    pub(crate) fn files(&self, next_offset: i64) -> Result<PartitionFiles, SegmentError> {
        let end = match &mut *self.segments.lock() {
            Some(segments) => Some(SegmentsEnd::from(segments.sync()?)),
            None => None,
        };
        let inner = self.inner.lock();
        Ok(PartitionFiles {
            partition: self.partition,
            incarnation: self.incarnation,
            // It may have moved on since, and what lay below may be gone. It never moves back.
            log_start: inner.log_start.min(next_offset),
            next_offset,
            segments: end,
            spill: inner.spill.clone(),
        })
    }

    /// Prepares a compaction; `None` if there is nothing to compact.
    pub(crate) fn plan_compaction(&self, request: Compaction) -> Option<CompactionJob> {
        self.segments.lock().as_ref()?.plan_compaction(request)
    }

    /// Puts a compacted segment in its place.
    ///
    /// # Errors
    /// A failed sync is final (D2).
    pub(crate) fn install(&self, replacement: Replacement) -> Result<(), SegmentError> {
        let mut writer = self.segments.lock();
        let Some(segments) = &mut *writer else { return Ok(()) };
        let installed = segments.install(replacement);
        self.publish(segments);
        installed.map(|_| ())
    }

    /// What is known to be damaged, for a person. Reads of it fail, all else works.
    pub(crate) fn damages(&self) -> Vec<String> {
        let segments = self.segments.lock();
        let damages = segments.iter().flat_map(|segments| segments.damages());
        damages.map(ToString::to_string).collect()
    }

    /// From now on the next change is reported again.
    pub(crate) fn mark_clean(&self) {
        self.inner.lock().dirty = false;
    }

    /// Undoes [`Self::mark_clean`]; whether nothing has changed in between.
    pub(crate) fn mark_dirty(&self) -> bool {
        !mem::replace(&mut self.inner.lock().dirty, true)
    }

    /// Whether the tail was long when it last grew or shrank.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.lock().full
    }

    /// Nothing can be moved to segments any more; whether that is news.
    pub(crate) fn mark_stuck(&self) -> bool {
        !mem::replace(&mut self.inner.lock().stuck, true)
    }

    /// Lets the next checkpoint move everything to segments that can be compacted.
    pub(crate) fn ask_to_seal(&self) {
        if !self.inner.lock().stuck {
            self.changes.changed(self.me.clone(), Change::Overdue);
        }
    }

    /// Ends the last segment: the next flush begins another.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn seal(&self) -> Result<(), SegmentError> {
        self.segments.lock().as_mut().map_or(Ok(()), |segments| segments.seal())
    }

    /// Puts a log together again as a snapshot names it. Everything beyond is cut off.
    ///
    /// # Errors
    /// When the files do not hold what the snapshot names.
    pub(crate) fn recover(
        store: Arc<ShardStore>,
        changes: Arc<dyn ChangeSink>,
        files: &PartitionFiles,
    ) -> Result<Arc<Self>, SegmentError> {
        let log = Self::empty(store, changes, files.partition, files.incarnation);
        let mut segments = None;
        if let Some(end) = files.segments {
            let (id, incarnation) = (files.partition, files.incarnation);
            let opened = log.files.open_segments(id, incarnation, Some(end), files.log_start)?;
            segments = Some(Box::new(opened));
        }
        {
            let mut inner = log.inner.lock();
            inner.log_start = files.log_start;
            inner.next_offset = files.next_offset;
            inner.spill.clone_from(&files.spill);
        }
        if let Some(segments) = &segments {
            log.publish(segments);
        }
        *log.segments.lock() = segments;
        Ok(log)
    }
}
