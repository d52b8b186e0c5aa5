//! Lookups by timestamp and epoch, and counts of records.
//!
//! ListOffsets, OffsetForLeaderEpoch and the length of a queue use these for the records in
//! segments; the caller adds those in the tail.
//!
//! # Invariants
//!
//! - The index has running totals, so each lookup is a binary search and reads at most a few blocks
//!   of batches. Only if the log start is inside a segment, a search by timestamp reads index
//!   entries one by one.
//! - **D3.** Everything that is read is verified. A search that would have to skip damage is an
//!   error.

use std::ops::Range;

use ropewalk_batch::{BatchError, OffsetAndTimestamp, StampedBatch};

use crate::error::{Damage, Result};
use crate::index::Entry;
use crate::read::Reader;
use crate::view::{OpenSegment, View};

/// Largest decompressed size in bytes of one batch that a lookup reads.
const RECORDS_BYTES_MAX: usize = 256 << 20;
/// Number of index entries that are read at once.
const ENTRIES: u32 = 256;

/// The end of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The leader epoch.
    pub epoch: i32,
    /// Offset where the next epoch begins, or the end of the log.
    pub end_offset: i64,
}

impl Reader {
    /// The first record with a timestamp of `timestamp_ms` or later.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> Result<Option<OffsetAndTimestamp>> {
        self.offset_for_timestamp_from(i64::MIN, timestamp_ms)
    }

    /// Like [`Reader::offset_for_timestamp`], among the records from `from` on. The caller may know
    /// a higher log start offset than the segments.
    pub fn offset_for_timestamp_from(
        &self,
        from: i64,
        timestamp_ms: i64,
    ) -> Result<Option<OffsetAndTimestamp>> {
        let mut cursor = i64::MIN;
        loop {
            let (segment, start_offset) = {
                let view = self.shared.view.read();
                let candidate = view.young_enough(cursor, timestamp_ms)?;
                let Some(segment) = candidate else { return Ok(None) };
                cursor = segment.end_offset;
                (segment.open(&self.shared)?, view.start_offset.max(from))
            };
            let found = segment.at_or_after(timestamp_ms, start_offset)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// The first record with the largest timestamp.
    pub fn max_timestamp(&self) -> Result<Option<OffsetAndTimestamp>> {
        self.max_timestamp_from(i64::MIN)
    }

    /// Like [`Reader::max_timestamp`], among the records from `from` on.
    pub fn max_timestamp_from(&self, from: i64) -> Result<Option<OffsetAndTimestamp>> {
        let (oldest, youngest_ms, start_offset) = {
            let view = self.shared.view.read();
            let start_offset = view.start_offset.max(from);
            let mut kept = view.segments.iter().filter(|s| s.end_offset > start_offset);
            let oldest = kept.next().filter(|segment| segment.blocks > 0);
            let oldest = oldest.map(|segment| segment.open(&self.shared)).transpose()?;
            let youngest_ms = kept.map(|segment| segment.running.timestamp_ms).max();
            (oldest, youngest_ms.unwrap_or(i64::MIN), start_offset)
        };
        // The log start may be inside the oldest segment, whose summary then includes removed
        // records.
        let of_oldest = oldest.map(|segment| segment.youngest(start_offset)).transpose()?;
        let youngest_ms = youngest_ms.max(of_oldest.unwrap_or(i64::MIN));
        if youngest_ms == i64::MIN {
            return Ok(None);
        }
        self.offset_for_timestamp_from(start_offset, youngest_ms)
    }

    /// The largest epoch up to `epoch` that any batch has, and the offset where the next epoch
    /// begins (the end of the log if there is none). `None` if all batches have larger epochs.
    ///
    /// Compaction can remove the first batches of an epoch; the shard's own table of epochs keeps
    /// them.
    pub fn epoch_end(&self, epoch: i32) -> Result<Option<EpochEnd>> {
        let (before, segment) = {
            let view = self.shared.view.read();
            let mut filled = view.segments.iter().filter(|segment| segment.blocks > 0);
            let mut before = None;
            let younger = loop {
                match filled.next() {
                    Some(segment) if segment.leader_epoch <= epoch => {
                        before = Some(segment.leader_epoch);
                    }
                    other => break other,
                }
            };
            let Some(younger) = younger else {
                let end_offset = view.next_offset;
                return Ok(before.map(|epoch| EpochEnd { epoch, end_offset }));
            };
            (before, younger.open(&self.shared)?)
        };
        let number = segment.index.partition_point(|entry| entry.leader_epoch <= epoch)?;
        let before = match number.checked_sub(1) {
            Some(previous) => Some(segment.index.entry(previous)?.leader_epoch),
            None => before,
        };
        let Some(epoch) = before else { return Ok(None) };
        let end_offset = segment.index.entry(number)?.base_offset;
        Ok(Some(EpochEnd { epoch, end_offset }))
    }

    /// Number of records in `offsets`, without control records and records that compaction removed.
    pub fn visible_count(&self, offsets: Range<i64>) -> Result<u64> {
        let (from, to) = {
            let view = self.shared.view.read();
            let from = offsets.start.max(view.start_offset);
            let to = offsets.end.min(view.next_offset);
            if from >= to {
                return Ok(0);
            }
            (self.counted(&view, from)?, self.counted(&view, to)?)
        };
        Ok(to.records()?.saturating_sub(from.records()?))
    }

    /// Prepares to count the records below an offset.
    fn counted(&self, view: &View, offset: i64) -> Result<RecordCount> {
        let whole = view.segments.partition_point(|segment| segment.end_offset <= offset);
        let records = view.segments[..whole].iter().map(|s| u64::from(s.running.records)).sum();
        let partial = view.segments.get(whole).filter(|segment| segment.blocks > 0);
        let partial = partial.map(|segment| segment.open(&self.shared)).transpose()?;
        Ok(RecordCount { records, partial, offset })
    }
}

/// A count of the records below an offset: the number in whole segments, and the segment with the
/// offset.
struct RecordCount {
    records: u64,
    partial: Option<OpenSegment>,
    offset: i64,
}

impl RecordCount {
    fn records(&self) -> Result<u64> {
        let Some(segment) = &self.partial else { return Ok(self.records) };
        let number = segment.index.partition_point(|entry| entry.next_offset <= self.offset)?;
        let mut records = self.records;
        if let Some(previous) = number.checked_sub(1) {
            records += u64::from(segment.index.entry(previous)?.running_records);
        }
        if number < segment.index.blocks {
            let block = segment.index.entry(number)?;
            if block.base_offset < self.offset {
                for batch in segment.batches(&block)? {
                    records += segment.records_below(&batch, self.offset)?;
                }
            }
        }
        Ok(records)
    }
}

impl View {
    /// The first segment at or after `cursor` with a record at or after `timestamp_ms`.
    fn young_enough(
        &self,
        cursor: i64,
        timestamp_ms: i64,
    ) -> Result<Option<&crate::view::Segment>> {
        for segment in self.segments.iter().filter(|segment| segment.base_offset >= cursor) {
            if segment.blocks > 0 && segment.running.timestamp_ms >= timestamp_ms {
                return Ok(Some(segment));
            }
            if let Some(damage) = &segment.damage {
                return Err((**damage).clone().into());
            }
        }
        Ok(None)
    }
}

impl OpenSegment {
    /// The first record at or after `start_offset` with a timestamp of `timestamp_ms` or later.
    fn at_or_after(
        &self,
        timestamp_ms: i64,
        start_offset: i64,
    ) -> Result<Option<OffsetAndTimestamp>> {
        let young =
            self.index.partition_point(|entry| entry.running_timestamp_ms < timestamp_ms)?;
        let kept = self.index.partition_point(|entry| entry.next_offset <= start_offset)?;
        let mut number = young.max(kept);
        while number < self.index.blocks {
            let entries = self.index.entries(number, ENTRIES)?;
            number += entries.len() as u32;
            for block in entries.iter().filter(|block| block.max_timestamp_ms >= timestamp_ms) {
                for batch in self.batches(block)? {
                    let is_candidate = batch.max_timestamp_ms >= timestamp_ms
                        && batch.last_offset() >= start_offset;
                    let found = if !is_candidate {
                        None
                    } else if batch.base_offset < start_offset {
                        let young = |at: &OffsetAndTimestamp| at.timestamp_ms >= timestamp_ms;
                        self.times_from(&batch, start_offset)?.into_iter().find(young)
                    } else {
                        ropewalk_batch::first_at_or_after(&batch, timestamp_ms, RECORDS_BYTES_MAX)
                            .map_err(|error| self.no_records(&batch, &error))?
                    };
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(None)
    }

    /// The largest timestamp of the records from `start_offset` on; `i64::MIN` if there are none.
    fn youngest(&self, start_offset: i64) -> Result<i64> {
        let mut number = self.index.partition_point(|entry| entry.next_offset <= start_offset)?;
        let mut youngest_ms = i64::MIN;
        while number < self.index.blocks {
            let entries = self.index.entries(number, ENTRIES)?;
            number += entries.len() as u32;
            for block in &entries {
                let of_block = if block.base_offset < start_offset {
                    self.youngest_in(block, start_offset)?
                } else {
                    block.max_timestamp_ms
                };
                youngest_ms = youngest_ms.max(of_block);
            }
        }
        Ok(youngest_ms)
    }

    fn youngest_in(&self, block: &Entry, start_offset: i64) -> Result<i64> {
        let mut youngest_ms = i64::MIN;
        for batch in self.batches(block)? {
            let of_batch = if batch.base_offset >= start_offset {
                Some(batch.max_timestamp_ms)
            } else {
                let times = self.times_from(&batch, start_offset)?;
                times.iter().map(|at| at.timestamp_ms).max()
            };
            youngest_ms = youngest_ms.max(of_batch.unwrap_or(i64::MIN));
        }
        Ok(youngest_ms)
    }

    /// Reads and verifies the batches of a block.
    pub(crate) fn batches(&self, block: &Entry) -> Result<Vec<StampedBatch>> {
        let blocks = std::slice::from_ref(block);
        let bytes = self.blocks(blocks)?;
        let mut batches = Vec::new();
        self.each_header(&bytes, blocks, |at, header| {
            batches.push(bytes.slice(at..at + header.size_bytes()));
            true
        })?;
        let damage = |error: BatchError| {
            Damage::new(&self.log_path, u64::from(block.position), error.to_string())
        };
        batches.into_iter().map(|bytes| Ok(StampedBatch::read(bytes).map_err(damage)?)).collect()
    }

    /// Offsets and timestamps of a batch's records from `start_offset` on.
    fn times_from(
        &self,
        batch: &StampedBatch,
        start_offset: i64,
    ) -> Result<Vec<OffsetAndTimestamp>> {
        let mut times = Vec::new();
        self.each_record(batch, |record| {
            let offset = batch.base_offset + i64::from(record.offset_delta);
            if offset >= start_offset {
                times.push(OffsetAndTimestamp { offset, timestamp_ms: record.timestamp_ms });
            }
        })?;
        Ok(times)
    }

    /// Number of records of a batch below `offset`, 0 for a control batch.
    fn records_below(&self, batch: &StampedBatch, offset: i64) -> Result<u64> {
        if batch.base_offset >= offset || batch.header().is_control() {
            return Ok(0);
        }
        if batch.last_offset() < offset {
            return Ok(u64::try_from(batch.count).unwrap_or(0));
        }
        let below = offset - batch.base_offset;
        if i64::from(batch.count) == i64::from(batch.last_offset_delta) + 1 {
            return Ok(below.unsigned_abs());
        }
        let mut records = 0;
        self.each_record(batch, |record| {
            records += u64::from(i64::from(record.offset_delta) < below)
        })?;
        Ok(records)
    }

    fn each_record(
        &self,
        batch: &StampedBatch,
        each: impl FnMut(ropewalk_batch::Record),
    ) -> Result<()> {
        self.records(batch, RECORDS_BYTES_MAX, each)
    }

    /// Reads the records of a batch, at most `limit_bytes` of them.
    pub(crate) fn records(
        &self,
        batch: &StampedBatch,
        limit_bytes: usize,
        mut each: impl FnMut(ropewalk_batch::Record),
    ) -> Result<()> {
        let no_records = |error| self.no_records(batch, &error);
        let records = ropewalk_batch::records(&batch.header(), batch.bytes.clone(), limit_bytes);
        for record in records.map_err(no_records)? {
            each(record.map_err(no_records)?);
        }
        Ok(())
    }

    /// Damage of a batch in an intact block whose records cannot be read.
    pub(crate) fn no_records(&self, batch: &StampedBatch, error: &BatchError) -> Damage {
        let what = format!("the records of the batch at offset {}: {error}", batch.base_offset);
        Damage::new(&self.log_path, 0, what)
    }
}
