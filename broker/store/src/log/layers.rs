//! Moves the records of a partition between layers: tail and spill to segments, tail to spill.
//!
//! A flusher moves tail and spill to segments, and a checkpoint moves a small tail to a spill file.
//! A checkpoint at the index S takes what its snapshot will name when it begins ([`CapturedLog`]);
//! meanwhile the log is flushed on. (Compaction replaces segments in place.) Readers are not
//! blocked: the layers change under the lock, after the bytes are at their new place.
//!
//! # Invariants
//!
//! - A captured log names nothing above S: its ends are read while no tail is being flushed.
//! - No lock of a log is held during the syncs of a checkpoint.
//! - Only whole batches that end at the requested offset or before are moved.
//! - **O4** a run is added to its new layer and removed from the old one under one lock.

use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ropewalk_batch::StampedBatch;
use ropewalk_segment::compaction::{Compaction, CompactionJob, Replacement};
use ropewalk_segment::{PendingSync, SegmentConfig, SegmentError, Segments};

use super::tail::TailBatch;
use super::{Change, ChangeSink, Inner, PartitionLog};
use crate::limits;
use crate::snapshot::{PartitionFiles, SegmentsEnd, SpillRun};
use crate::store::ShardStore;

/// The batches of a log for a spill file.
#[derive(Debug)]
pub(crate) struct SpillBatches {
    /// In order of offsets; first those that are in spill files already, if they are rewritten.
    pub(crate) batches: Vec<StampedBatch>,
    /// When the first of them was proposed, Unix milliseconds.
    pub(crate) appended_ms: i64,
    /// Number of data records in them.
    pub(crate) records: u64,
}

/// A log at the index of a checkpoint.
#[derive(Debug)]
pub(crate) struct CapturedLog {
    /// What the snapshot names; a run with `tail` is added once it is in a spill file.
    pub(crate) files: PartitionFiles,
    /// The part of the tail that the snapshot covers.
    pub(crate) tail: Option<SpillBatches>,
    /// What has to be synced before.
    pub(crate) sync: Option<PendingSync>,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// The batches are in segments.
    Done,
    /// Nothing, because another thread moves records of the log.
    Busy,
}

impl PartitionLog {
    /// Bytes of the spill, and of the tail up to the offset `through`.
    pub(crate) fn loose_bytes(&self, through: i64) -> usize {
        let inner = self.inner.lock();
        let tail: usize = inner.tail.through(through).map(|held| held.batch.size_bytes()).sum();
        tail + usize::try_from(inner.spill_bytes()).unwrap_or(usize::MAX)
    }

    /// Bytes of the tail.
    pub(crate) fn tail_bytes(&self) -> usize {
        self.inner.lock().tail.size_bytes()
    }

    /// Writes the spill, and the tail up to `through`, to segments, without a sync. Waits while
    /// another thread moves records of the log.
    ///
    /// # Errors
    /// When the disk fails; batches that were written before the error are kept.
    pub(crate) fn flush(
        &self,
        through: i64,
        now_ms: i64,
        config: &SegmentConfig,
    ) -> Result<(), SegmentError> {
        self.flush_with(&mut self.segments.lock(), through, now_ms, config)
    }

    /// Writes the spill and the tail to segments, without a sync and without waiting for another
    /// thread.
    ///
    /// # Errors
    /// See [`Self::flush`].
    pub(crate) fn try_flush(
        &self,
        now_ms: i64,
        config: &SegmentConfig,
    ) -> Result<Flushed, SegmentError> {
        let Some(mut writer) = self.segments.try_lock() else { return Ok(Flushed::Busy) };
        self.flush_with(&mut writer, i64::MAX, now_ms, config).map(|()| Flushed::Done)
    }

    fn flush_with(
        &self,
        writer: &mut Option<Box<Segments>>,
        through: i64,
        now_ms: i64,
        config: &SegmentConfig,
    ) -> Result<(), SegmentError> {
        let (spill, tail, appended_ms) = {
            let inner = self.inner.lock();
            let tail: Vec<StampedBatch> =
                inner.tail.through(through).map(|held| held.batch.clone()).collect();
            (inner.spill.clone(), tail, inner.oldest_appended_ms())
        };
        // The age of a segment is that of its records, including the time that they were in memory.
        let now_ms = now_ms.min(appended_ms.unwrap_or(now_ms));
        let mut batches = Vec::new();
        for spilled in &spill {
            batches.extend(self.files.read_spilled(spilled)?);
        }
        batches.extend(tail);
        let Some(first) = batches.first() else { return Ok(()) };
        let segments = match writer {
            Some(segments) => segments,
            // The log may start inside of the first batch, or before it if a repair accepted a
            // loss.
            none => {
                let start = first.base_offset.min(self.local_start());
                let opened =
                    self.files.open_segments(self.partition, self.incarnation, None, start)?;
                none.insert(Box::new(opened))
            }
        };
        let written = segments.next_offset();
        batches.retain(|batch| batch.base_offset >= written);
        // A repair that accepted the loss of a run leaves a gap before the next run or the tail.
        let is_next =
            |last: &StampedBatch, next: &StampedBatch| last.next_offset() == next.base_offset;
        let result = batches.chunk_by(is_next).try_for_each(|part| {
            segments.advance_to(part[0].base_offset);
            segments.append(part, now_ms, config)
        });
        self.publish(segments);
        result
    }

    /// Makes the content of the segments readable from them and removes it from spill and tail.
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

    /// Number of syncs that make the segments durable.
    pub(crate) fn sync_cost(&self) -> usize {
        self.segments.lock().as_ref().map_or(0, |segments| segments.sync_cost())
    }

    /// What has to be synced so that all that was flushed so far is durable.
    ///
    /// # Errors
    /// When an earlier sync failed (D2).
    pub(crate) fn pending_sync(&self) -> Result<Option<PendingSync>, SegmentError> {
        let writer = self.segments.lock();
        let unsynced = writer.as_ref().filter(|segments| segments.sync_cost() > 0);
        unsynced.map(|segments| segments.pending_sync()).transpose()
    }

    /// Takes the result of the syncs. A failure is final (D2).
    ///
    /// # Errors
    /// The error of the syncs.
    pub(crate) fn synced(
        &self,
        pending: &PendingSync,
        done: Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        match &mut *self.segments.lock() {
            Some(segments) => segments.synced(pending, done),
            None => done,
        }
    }

    /// The batches of a captured log for a spill file: its tail, and its runs in spill files if
    /// they are too many or `rewrite` is true for one of their files. Takes them out of `captured`.
    ///
    /// # Errors
    /// When a spill file cannot be read; the tail is still there.
    pub(crate) fn spillable(
        &self,
        captured: &mut CapturedLog,
        rewrite: impl Fn(u64) -> bool,
    ) -> Result<Option<SpillBatches>, SegmentError> {
        let runs = &mut captured.files.spill;
        let anew = runs.len() >= limits::SPILL_RUNS_MAX || runs.iter().any(|run| rewrite(run.file));
        if !anew {
            return Ok(captured.tail.take());
        }
        let mut out = SpillBatches { batches: Vec::new(), appended_ms: i64::MAX, records: 0 };
        for run in runs.iter() {
            out.batches.extend(self.files.read_spilled(run)?);
            out.records += u64::from(run.records);
            out.appended_ms = out.appended_ms.min(run.appended_ms);
        }
        runs.clear();
        if let Some(tail) = captured.tail.take() {
            out.batches.extend(tail.batches);
            out.records += tail.records;
            out.appended_ms = out.appended_ms.min(tail.appended_ms);
        }
        Ok(Some(out))
    }

    /// Adds a run that is durable in a spill file, and removes its batches from the tail. Batches
    /// that were flushed meanwhile stay in the segments.
    pub(crate) fn spilled(&self, run: SpillRun) {
        // A flush that is reading older runs ends before their files can be removed.
        let _writer = self.segments.lock();
        let freed = {
            let mut inner = self.inner.lock();
            inner.spill.retain(|old| old.next_offset <= run.base_offset);
            // The local start may have moved past it meanwhile.
            if run.next_offset > inner.local_start.max(inner.segments_end) {
                inner.spill.reserve_exact(1);
                inner.spill.push(run);
            }
            inner.drop_tail_through(run.next_offset)
        };
        self.files.budget().give_back(freed);
    }

    /// Releases segments below the local start. Returns their files, which must stay until no
    /// snapshot names them.
    pub(crate) fn trim(&self) -> Vec<PathBuf> {
        let mut writer = self.segments.lock();
        let Some(segments) = &mut *writer else { return Vec::new() };
        let unneeded = segments.set_log_start(self.inner.lock().local_start);
        self.publish(segments);
        unneeded
    }

    /// The files that hold everything below `next_offset`, and what is not durable of it yet. The
    /// caller holds the flush lock since before `next_offset` was captured.
    ///
    /// # Errors
    /// When an earlier sync failed (D2).
    pub(crate) fn capture(&self, next_offset: i64) -> Result<CapturedLog, SegmentError> {
        let writer = self.segments.lock();
        let unsynced = writer.as_ref().filter(|segments| segments.sync_cost() > 0);
        let sync = unsynced.map(|segments| segments.pending_sync()).transpose()?;
        let segments = writer.as_ref().map(|segments| SegmentsEnd::from(segments.end()));
        let inner = self.inner.lock();
        debug_assert!(inner.segments_end <= next_offset, "flushed beyond the captured index");
        let files = PartitionFiles {
            partition: self.partition,
            incarnation: self.incarnation,
            // The local start may have passed the captured end, but a snapshot must not name more.
            local_start: inner.local_start.min(next_offset),
            next_offset,
            segments,
            spill: inner.spill.clone(),
        };
        Ok(CapturedLog { files, tail: inner.spillable(next_offset), sync })
    }

    /// Prepares a compaction; `None` if there is nothing to compact.
    pub(crate) fn plan_compaction(&self, request: Compaction) -> Option<CompactionJob> {
        self.segments.lock().as_ref()?.plan_compaction(request)
    }

    /// Replaces segments by a compacted one.
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

    /// Descriptions of the known damage. Reads of damaged blocks fail, all other reads work.
    pub(crate) fn damages(&self) -> Vec<String> {
        let segments = self.segments.lock();
        let damages = segments.iter().flat_map(|segments| segments.damages());
        damages.map(ToString::to_string).collect()
    }

    /// Lets the next change be reported again.
    pub(crate) fn mark_clean(&self) {
        self.inner.lock().dirty = false;
    }

    /// Undoes [`Self::mark_clean`]. Returns whether nothing has changed in between.
    pub(crate) fn mark_dirty(&self) -> bool {
        !mem::replace(&mut self.inner.lock().dirty, true)
    }

    /// Whether the tail was over [`limits::TAIL_BYTES_TO_FLUSH`] when its size last changed.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.lock().full
    }

    /// Notes that the spill is damaged and the tail cannot be flushed. Returns whether this is new.
    pub(crate) fn mark_stuck(&self) -> bool {
        !mem::replace(&mut self.inner.lock().stuck, true)
    }

    /// Bytes of the tail if only a checkpoint can free them: it is too small for a flush, or its
    /// spill is damaged.
    pub(crate) fn spillable_bytes(&self) -> usize {
        let inner = self.inner.lock();
        let bytes = inner.tail.size_bytes();
        if inner.stuck || bytes < limits::SPILL_BYTES_MAX { bytes } else { 0 }
    }

    /// Whether the log is in the list of unsynced logs.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// Sets whether the log is in the list of unsynced logs. Returns the value before.
    pub(crate) fn set_listed(&self, listed: bool) -> bool {
        self.listed.swap(listed, Ordering::AcqRel)
    }

    /// Requests a checkpoint that moves all records to sealed segments, which can be compacted.
    pub(crate) fn ask_to_seal(&self) {
        if !self.inner.lock().stuck {
            self.changes.changed(self.me.clone(), Change::Overdue);
        }
    }

    /// Seals the last segment: the next flush begins another.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn seal(&self) -> Result<(), SegmentError> {
        self.segments.lock().as_mut().map_or(Ok(()), |segments| segments.seal())
    }

    /// Restores a log that starts at `log_start` from the files that a snapshot names, and cuts off
    /// anything after their ends.
    ///
    /// # Errors
    /// When the files do not hold what the snapshot names.
    pub(crate) fn recover(
        store: Arc<ShardStore>,
        changes: Arc<dyn ChangeSink>,
        files: &PartitionFiles,
        log_start: i64,
    ) -> Result<Arc<Self>, SegmentError> {
        let log = Self::empty(store, changes, files.partition, files.incarnation);
        let mut segments = None;
        if let Some(end) = files.segments {
            let (id, incarnation) = (files.partition, files.incarnation);
            let opened = log.files.open_segments(id, incarnation, Some(end), files.local_start)?;
            segments = Some(Box::new(opened));
        }
        {
            let mut inner = log.inner.lock();
            inner.log_start = log_start;
            inner.local_start = files.local_start.max(log_start);
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

impl Inner {
    /// The tail up to `through`, for a spill file.
    fn spillable(&self, through: i64) -> Option<SpillBatches> {
        let appended_ms = self.tail.through(through).next()?.appended_ms;
        let records = self.tail.through(through).map(TailBatch::records).sum();
        let batches = self.tail.through(through).map(|held| held.batch.clone()).collect();
        Some(SpillBatches { batches, appended_ms, records })
    }
}
