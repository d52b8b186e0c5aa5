//! The newest batches of a partition, in memory.
//!
//! Each batch holds a running count of data records, so that counting a range is a subtraction.
//!
//! # Invariants
//!
//! - **O4** the batches follow one another without a gap.
//! - **R1** an empty tail holds no buffer.

use std::collections::VecDeque;

use ropewalk_batch::StampedBatch;

/// A batch with its append time and record counts.
#[derive(Debug, Clone)]
pub(crate) struct TailBatch {
    pub(crate) batch: StampedBatch,
    /// The leader's clock when the batch was proposed, Unix milliseconds.
    pub(crate) appended_ms: i64,
    /// Number of data records up to and including this batch, since the tail was last empty.
    running_records: u64,
    is_control: bool,
}

impl TailBatch {
    pub(crate) fn records(&self) -> u64 {
        if self.is_control { 0 } else { records_in(&self.batch) }
    }
}

fn records_in(batch: &StampedBatch) -> u64 {
    u64::try_from(batch.last_offset_delta).map_or(0, |delta| delta + 1)
}

/// The newest batches, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<TailBatch>,
    size_bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, batch: StampedBatch, appended_ms: i64) {
        let is_control = batch.header().is_control();
        let before = self.batches.back().map_or(0, |last| last.running_records);
        let records = if is_control { 0 } else { records_in(&batch) };
        self.size_bytes += batch.size_bytes();
        self.batches.push_back(TailBatch {
            batch,
            appended_ms,
            running_records: before + records,
            is_control,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The batches from the one that holds `offset`.
    pub(crate) fn from(&self, offset: i64) -> impl Iterator<Item = &TailBatch> {
        let first = self.batches.partition_point(|held| held.batch.last_offset() < offset);
        self.batches.range(first..)
    }

    /// The batches that end at `offset` or before.
    pub(crate) fn through(&self, offset: i64) -> impl Iterator<Item = &TailBatch> {
        self.batches.iter().take_while(move |held| held.batch.next_offset() <= offset)
    }

    /// Removes the batches that end at `offset` or before.
    pub(crate) fn drop_through(&mut self, offset: i64) {
        while let Some(first) = self.batches.front()
            && first.batch.next_offset() <= offset
        {
            self.size_bytes -= first.batch.size_bytes();
            self.batches.pop_front();
        }
        if self.batches.is_empty() {
            self.batches = VecDeque::new();
        } else if self.batches.capacity() > 4 * self.batches.len().max(16) {
            self.batches.shrink_to(2 * self.batches.len());
        }
    }

    /// Number of data records of the tail in `from..to`.
    pub(crate) fn records_between(&self, from: i64, to: i64) -> u64 {
        self.records_before(to) - self.records_before(from.min(to))
    }

    /// Number of data records before `offset`, since the tail was last empty.
    fn records_before(&self, offset: i64) -> u64 {
        let whole = self.batches.partition_point(|held| held.batch.next_offset() <= offset);
        let Some(split) = self.batches.get(whole) else {
            return self.batches.back().map_or(0, |last| last.running_records);
        };
        let before = split.running_records - split.records();
        let inside = offset.saturating_sub(split.batch.base_offset);
        let inside = u64::try_from(inside).unwrap_or(0);
        before + inside.min(split.records())
    }
}
