//! Counts, timestamps and ages of a partition's records, for ListOffsets, retention and metrics.
//!
//! Lookups in segments use their indices, lookups in the tail are in memory. The spill is small and
//! is read if needed.

use ropewalk_batch::{NO_TIMESTAMP, StampedBatch, first_at_or_after};
use ropewalk_segment::{Reader, SegmentInfo};

use super::{Inner, Layer, PartitionLog, ReadError};
use crate::snapshot::SpillRun;

/// Largest decompressed size of the records of one batch in a lookup, bytes.
const RECORDS_BYTES_MAX: usize = 256 << 20;
/// Bytes that a search batch by batch reads at once.
const SCAN_BYTES: usize = 1 << 20;

impl PartitionLog {
    /// When the record at `offset` was proposed, Unix milliseconds, if known without reading a
    /// file: exact for the tail, the time of the run's first batch for spill, `None` for segments.
    #[must_use]
    pub fn appended_ms(&self, offset: i64) -> Option<i64> {
        let inner = self.inner.lock();
        match inner.layer(offset) {
            Layer::Tail => inner.tail.from(offset).next().map(|held| held.appended_ms),
            Layer::Spill(spilled) => Some(spilled.appended_ms),
            Layer::Segments(..) | Layer::End => None,
        }
    }

    /// Number of records in `from..to` that a consumer receives: without control batches and
    /// records that compaction removed. Of what is in the bucket, every offset counts. May block on
    /// the disk.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn visible_count(&self, from: i64, to: i64) -> Result<u64, ReadError> {
        let (from, reader, segments_end, spill, mut count) = {
            let inner = self.inner.lock();
            let from = from.max(inner.log_start);
            let remote = u64::try_from(to.min(inner.local_start) - from).unwrap_or(0);
            let from = from.max(inner.local_start);
            let in_tail = inner.tail.records_between(from, to.max(from));
            let count = remote + in_tail;
            (from, inner.reader.clone(), inner.segments_end, inner.spill.clone(), count)
        };
        if let Some(reader) = reader
            && from < segments_end
            && from < to
        {
            count += reader.visible_count(from..to.min(segments_end))?;
        }
        for run in &spill {
            count += self.visible_in(run, from.max(segments_end), to)?;
        }
        Ok(count)
    }

    fn visible_in(&self, run: &SpillRun, from: i64, to: i64) -> Result<u64, ReadError> {
        let (from, to) = (from.max(run.base_offset), to.min(run.next_offset));
        if from >= to {
            return Ok(0);
        }
        let offsets = run.next_offset - run.base_offset;
        if i64::from(run.records) == offsets {
            return Ok((to - from).unsigned_abs());
        }
        let mut tail = super::Tail::default();
        for batch in self.files.read_spilled(run)? {
            tail.push(batch, run.appended_ms);
        }
        Ok(tail.records_between(from, to))
    }

    /// Offset and timestamp of the first record that is not older than `timestamp_ms`. May block on
    /// the disk.
    ///
    /// # Errors
    /// When a file cannot be read, or when a part of the log is in the bucket.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> Result<Option<(i64, i64)>, ReadError> {
        self.check_all_local()?;
        self.local_offset_for_timestamp(timestamp_ms)
    }

    /// Like [`Self::offset_for_timestamp`], of the records from the local start on.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn local_offset_for_timestamp(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        let (local_start, reader, spill, tail) = {
            let inner = self.inner.lock();
            let young = inner.tail.from(i64::MIN).map(|held| &held.batch);
            let young: Vec<StampedBatch> =
                young.filter(|batch| batch.max_timestamp_ms >= timestamp_ms).cloned().collect();
            (inner.local_start, inner.reader.clone(), inner.spill.clone(), young)
        };
        if let Some(reader) = reader {
            let found = reader.offset_for_timestamp(timestamp_ms)?;
            let mut found = found.map(|at| (at.offset, at.timestamp_ms));
            // The segments get a new start only at the next checkpoint.
            if found.is_some_and(|(offset, _)| offset < local_start) {
                let first = |some: &[StampedBatch]| first_in(some, timestamp_ms, local_start);
                found = scan(&reader, local_start, first)?;
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        for run in spill.iter().filter(|run| run.max_timestamp_ms >= timestamp_ms) {
            let found = first_in(&self.files.read_spilled(run)?, timestamp_ms, local_start)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        first_in(&tail, timestamp_ms, local_start)
    }

    /// Offset and timestamp of the first record with the largest timestamp. May block on the disk.
    ///
    /// # Errors
    /// When a file cannot be read, or when a part of the log is in the bucket.
    pub fn max_timestamp(&self) -> Result<Option<(i64, i64)>, ReadError> {
        self.check_all_local()?;
        self.local_max_timestamp()
    }

    /// Like [`Self::max_timestamp`], of the records from the local start on.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn local_max_timestamp(&self) -> Result<Option<(i64, i64)>, ReadError> {
        let (local_start, reader, spill, tail) = {
            let inner = self.inner.lock();
            let tail: Vec<StampedBatch> =
                inner.tail.from(i64::MIN).map(|held| held.batch.clone()).collect();
            (inner.local_start, inner.reader.clone(), inner.spill.clone(), tail)
        };
        let mut youngest_ms = youngest_in(&tail, local_start)?;
        for run in &spill {
            // Only a run that contains the local start has to be read.
            youngest_ms = youngest_ms.max(if run.base_offset >= local_start {
                Some(run.max_timestamp_ms)
            } else {
                youngest_in(&self.files.read_spilled(run)?, local_start)?
            });
        }
        if let Some(reader) = reader {
            youngest_ms = youngest_ms.max(if reader.start_offset() >= local_start {
                reader.max_timestamp()?.map(|at| at.timestamp_ms)
            } else {
                scan_youngest(&reader, local_start)?
            });
        }
        match youngest_ms {
            Some(ms) => self.local_offset_for_timestamp(ms),
            None => Ok(None),
        }
    }

    /// An error if a part of the log is in the bucket.
    fn check_all_local(&self) -> Result<(), ReadError> {
        let inner = self.inner.lock();
        inner.remote_from(inner.log_start).map_or(Ok(()), |range| Err(ReadError::Remote(range)))
    }

    /// The segments, and spill and tail together as a last one: the units that retention removes.
    /// What is in the bucket only is not among them.
    #[must_use]
    pub fn segment_infos(&self) -> Vec<SegmentInfo> {
        let mut infos = self.segments.lock().as_ref().map_or_else(Vec::new, |s| s.infos());
        let inner = self.inner.lock();
        infos.retain(|info| info.next_offset > inner.local_start);
        let loose_bytes = inner.spill_bytes() + inner.tail.size_bytes() as u64;
        if loose_bytes > 0 {
            infos.push(SegmentInfo {
                base_offset: inner.segments_end.max(inner.local_start),
                next_offset: inner.next_offset,
                size_bytes: loose_bytes,
                max_timestamp_ms: inner.youngest_ms().filter(|ms| *ms != NO_TIMESTAMP),
                created_ms: inner.oldest_appended_ms().unwrap_or(0),
                records: inner.spill.iter().map(|run| u64::from(run.records)).sum::<u64>()
                    + inner.tail.records_between(i64::MIN, i64::MAX),
                is_sealed: false,
                is_compacted: false,
            });
        }
        infos
    }
}

impl Inner {
    /// The largest timestamp outside of the segments.
    fn youngest_ms(&self) -> Option<i64> {
        let spilled = self.spill.iter().map(|run| run.max_timestamp_ms);
        spilled.chain(self.tail.from(i64::MIN).map(|held| held.batch.max_timestamp_ms)).max()
    }

    pub(super) fn oldest_appended_ms(&self) -> Option<i64> {
        let spilled = self.spill.first().map(|run| run.appended_ms);
        spilled.or_else(|| self.tail.from(i64::MIN).next().map(|held| held.appended_ms))
    }
}

/// Searches the segments batch by batch from `start`. Used while the segments do not have the new
/// start yet, which they get at the next checkpoint.
fn scan<T>(
    reader: &Reader,
    start: i64,
    mut look: impl FnMut(&[StampedBatch]) -> Result<Option<T>, ReadError>,
) -> Result<Option<T>, ReadError> {
    let mut at = start;
    while at < reader.next_offset() {
        let Some(span) = reader.plan_read(at, SCAN_BYTES)?.run_span()? else { break };
        at = span.next_offset;
        let batches: Result<Vec<StampedBatch>, _> =
            span.batches().map(StampedBatch::read).collect();
        let found = look(&batches.map_err(|error| unreadable(&error))?)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn scan_youngest(reader: &Reader, start: i64) -> Result<Option<i64>, ReadError> {
    let mut youngest_ms = None;
    scan(reader, start, |batches| {
        youngest_ms = youngest_ms.max(youngest_in(batches, start)?);
        Ok(None::<()>)
    })?;
    Ok(youngest_ms)
}

/// The largest timestamp of the batches' records at or after `start`. May have to decompress a
/// batch.
///
/// # Errors
/// When a batch cannot be decompressed or is malformed.
pub fn youngest_in(batches: &[StampedBatch], start: i64) -> Result<Option<i64>, ReadError> {
    let mut youngest_ms = None;
    for batch in batches.iter().filter(|batch| batch.last_offset() >= start) {
        let ms = if batch.base_offset >= start {
            Some(batch.max_timestamp_ms)
        } else {
            timestamps(batch, start)?.into_iter().map(|(_, ms)| ms).max()
        };
        youngest_ms = youngest_ms.max(ms);
    }
    Ok(youngest_ms)
}

/// Offsets and timestamps of a batch's records from `from` on.
fn timestamps(batch: &StampedBatch, from: i64) -> Result<Vec<(i64, i64)>, ReadError> {
    let header = batch.header();
    let records = ropewalk_batch::records(&header, batch.bytes.clone(), RECORDS_BYTES_MAX);
    let mut timestamps = Vec::new();
    for record in records.map_err(|error| unreadable(&error))? {
        let record = record.map_err(|error| unreadable(&error))?;
        let offset = batch.base_offset + i64::from(record.offset_delta);
        if offset >= from {
            timestamps.push((offset, record.timestamp_ms));
        }
    }
    Ok(timestamps)
}

fn unreadable(error: &ropewalk_batch::BatchError) -> ReadError {
    ReadError::Storage(error.to_string())
}

/// Offset and timestamp of the batches' first record at or after `start` that is not older than
/// `timestamp_ms`. May have to decompress a batch.
///
/// # Errors
/// When a batch cannot be decompressed or is malformed.
pub fn first_in(
    batches: &[StampedBatch],
    timestamp_ms: i64,
    start: i64,
) -> Result<Option<(i64, i64)>, ReadError> {
    for batch in batches.iter().filter(|batch| batch.last_offset() >= start) {
        if batch.max_timestamp_ms < timestamp_ms {
            continue;
        }
        // The log may start inside of the batch, after the first such record.
        let found = if batch.base_offset >= start {
            first_at_or_after(batch, timestamp_ms, RECORDS_BYTES_MAX)
                .map_err(|error| unreadable(&error))?
                .map(|at| (at.offset, at.timestamp_ms))
        } else {
            timestamps(batch, start)?.into_iter().find(|(_, ms)| *ms >= timestamp_ms)
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
