//! Questions about a partition that the index answers: timestamps, epochs, how many records.
//!
//! Place in the walk: ListOffsets, OffsetForLeaderEpoch and the measure of a queue's length ask here for
//! what lies in segments; the shard adds what is in its tail.
//!
//! # Invariants
//!
//! - Running figures in the index make each question a binary search and at most a few blocks of batches.
//!   Only a log start inside of a segment makes a search by timestamp look at entries one by one.
//! - **D3.** What is looked at is verified, and a search that would have to pass over damage says so.
//!
//! A crash leaves nothing of this behind.

use std::ops::Range;

use ropewalk_batch::{BatchError, StampedBatch};

use crate::error::{Damage, Result};
use crate::index::Entry;
use crate::read::Reader;
use crate::view::{OpenSegment, View};

/// How large the records of one batch may be when a question makes us decompress them.
const RECORDS_BYTES_MAX: usize = 256 << 20;
/// Index entries that are looked at in one go.
const ENTRIES: u32 = 256;

impl Reader {
    /// Offset and timestamp of the first record that is not older than `timestamp_ms`.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> Result<Option<(i64, i64)>> {
        self.offset_for_timestamp_from(i64::MIN, timestamp_ms)
    }

    /// The same among the records from `from` on, for a log start that is not known here yet.
    pub fn offset_for_timestamp_from(
        &self,
        from: i64,
        timestamp_ms: i64,
    ) -> Result<Option<(i64, i64)>> {
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

    /// Offset and timestamp of the first of the youngest records.
    pub fn max_timestamp(&self) -> Result<Option<(i64, i64)>> {
        self.max_timestamp_from(i64::MIN)
    }

    /// The same among the records from `from` on.
    pub fn max_timestamp_from(&self, from: i64) -> Result<Option<(i64, i64)>> {
        let (oldest, youngest_ms, start_offset) = {
            let view = self.shared.view.read();
            let start_offset = view.start_offset.max(from);
            let mut kept = view.segments.iter().filter(|s| s.end_offset > start_offset);
            let oldest = kept.next().filter(|segment| segment.blocks > 0);
            let oldest = oldest.map(|segment| segment.open(&self.shared)).transpose()?;
            let youngest_ms = kept.map(|segment| segment.running.timestamp_ms).max();
            (oldest, youngest_ms.unwrap_or(i64::MIN), start_offset)
        };
        // The log may begin inside of the oldest segment, so its summary may speak of what is gone.
        let of_oldest = oldest.map(|segment| segment.youngest(start_offset)).transpose()?;
        let youngest_ms = youngest_ms.max(of_oldest.unwrap_or(i64::MIN));
        if youngest_ms == i64::MIN {
            return Ok(None);
        }
        self.offset_for_timestamp_from(start_offset, youngest_ms)
    }

    /// The largest epoch up to `epoch` that any batch has, and where the one after it begins (the end of
    /// the log if there is none). `None` if all batches are younger.
    ///
    /// Compaction can take an epoch's first batches away; the shard's own table of epochs does not forget.
    pub fn epoch_end(&self, epoch: i32) -> Result<Option<(i32, i64)>> {
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
                return Ok(before.map(|epoch| (epoch, view.next_offset)));
            };
            (before, younger.open(&self.shared)?)
        };
        let number = segment.index.partition_point(|entry| entry.leader_epoch <= epoch)?;
        let before = match number.checked_sub(1) {
            Some(previous) => Some(segment.index.entry(previous)?.leader_epoch),
            None => before,
        };
        let Some(before) = before else { return Ok(None) };
        Ok(Some((before, segment.index.entry(number)?.base_offset)))
    }

    /// How many records of data have their offsets in `offsets`: control batches and what compaction
    /// took do not count.
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

    /// Prepares to count the records below `offset`.
    fn counted(&self, view: &View, offset: i64) -> Result<Counted> {
        let whole = view.segments.partition_point(|segment| segment.end_offset <= offset);
        let records = view.segments[..whole].iter().map(|s| u64::from(s.running.records)).sum();
        let partial = view.segments.get(whole).filter(|segment| segment.blocks > 0);
        let partial = partial.map(|segment| segment.open(&self.shared)).transpose()?;
        Ok(Counted { records, partial, offset })
    }
}

/// Records below an offset: those of whole segments, and the segment that the offset lies in.
struct Counted {
    records: u64,
    partial: Option<OpenSegment>,
    offset: i64,
}

impl Counted {
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
    /// The first segment that begins at or after `cursor` and has records as young as this.
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
    /// The first record at or after `start_offset` that is not older than `timestamp_ms`.
    fn at_or_after(&self, timestamp_ms: i64, start_offset: i64) -> Result<Option<(i64, i64)>> {
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
                        let young = |(_, ms): &(i64, i64)| *ms >= timestamp_ms;
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

    /// The largest timestamp of the records from `start_offset` on; `i64::MIN` without any.
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
            let times = if batch.base_offset >= start_offset {
                vec![(batch.base_offset, batch.max_timestamp_ms)]
            } else {
                self.times_from(&batch, start_offset)?
            };
            youngest_ms = times.iter().map(|(_, ms)| *ms).fold(youngest_ms, i64::max);
        }
        Ok(youngest_ms)
    }

    /// The batches of a block, verified.
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
    fn times_from(&self, batch: &StampedBatch, start_offset: i64) -> Result<Vec<(i64, i64)>> {
        let mut times = Vec::new();
        self.each_record(batch, |record| {
            let offset = batch.base_offset + i64::from(record.offset_delta);
            if offset >= start_offset {
                times.push((offset, record.timestamp_ms));
            }
        })?;
        Ok(times)
    }

    /// How many data records of a batch lie below `offset`.
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

    /// Opens the records of a batch, at most `limit_bytes` of them.
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

    /// A batch whose block holds but whose records do not open.
    pub(crate) fn no_records(&self, batch: &StampedBatch, error: &BatchError) -> Damage {
        let what = format!("the records of the batch at offset {}: {error}", batch.base_offset);
        Damage::new(&self.log_path, 0, what)
    }
}
