//! Splits a sequence of batches into the blocks of the index.
//!
//! Appends, compaction and the rebuilding of an index all pass their batches through [`Cutter`], so
//! they make the same blocks. Pure: no file is accessed.
//!
//! Invariants: a block has whole batches of one leader epoch, at most the block size unless a
//! single batch is larger; its checksum covers all bytes of its batches, in order.

use ropewalk_crc::SuffixSum;

use super::{BLOCK_BYTES_MAX, Entry};

/// Properties of one batch for the index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) base_offset: i64,
    pub(crate) next_offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) max_timestamp_ms: i64,
    /// Number of records, 0 for a control batch.
    pub(crate) records: u32,
    pub(crate) size_bytes: u32,
}

impl Facts {
    /// The properties in a batch's header, whose offset and epoch must be right.
    pub(crate) fn of(header: &ropewalk_batch::Header) -> Self {
        let records = if header.is_control() { 0 } else { header.count };
        // A batch that compaction emptied has no record with this timestamp.
        let max_timestamp_ms = if header.count > 0 { header.max_timestamp_ms } else { i64::MIN };
        Self {
            base_offset: header.base_offset,
            next_offset: header.last_offset().saturating_add(1),
            leader_epoch: header.leader_epoch,
            max_timestamp_ms,
            records: u32::try_from(records).unwrap_or(0),
            size_bytes: u32::try_from(header.size_bytes()).unwrap_or(u32::MAX),
        }
    }
}

/// Running totals of a segment, which the next block continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunningTotals {
    pub(crate) position: u32,
    pub(crate) timestamp_ms: i64,
    pub(crate) records: u32,
}

impl RunningTotals {
    /// The totals of a segment without a batch.
    pub(crate) const EMPTY: Self = Self { position: 0, timestamp_ms: i64::MIN, records: 0 };
}

/// Groups batches into blocks.
#[derive(Debug)]
pub(crate) struct Cutter {
    block_bytes_max: u32,
    at: RunningTotals,
    open: Option<Entry>,
    entries: Vec<Entry>,
}

impl Cutter {
    /// Continues a segment with these totals.
    pub(crate) fn new(at: RunningTotals, block_bytes_max: u32) -> Self {
        let block_bytes_max = block_bytes_max.clamp(1, BLOCK_BYTES_MAX);
        Self { block_bytes_max, at, open: None, entries: Vec::new() }
    }

    /// Begins a batch; the caller then passes its bytes to [`Cutter::bytes`].
    pub(crate) fn batch(&mut self, facts: &Facts) {
        let fits = self.open.is_some_and(|open| {
            open.leader_epoch == facts.leader_epoch
                && open.length.saturating_add(facts.size_bytes) <= self.block_bytes_max
        });
        if !fits {
            self.entries.extend(self.open.take());
        }
        let at = &mut self.at;
        let open = self.open.get_or_insert(Entry {
            base_offset: facts.base_offset,
            next_offset: facts.next_offset,
            position: at.position,
            length: 0,
            max_timestamp_ms: facts.max_timestamp_ms,
            running_timestamp_ms: at.timestamp_ms,
            running_records: at.records,
            leader_epoch: facts.leader_epoch,
            crc: 0,
        });
        at.position += facts.size_bytes;
        at.timestamp_ms = at.timestamp_ms.max(facts.max_timestamp_ms);
        at.records = at.records.saturating_add(facts.records);
        open.next_offset = facts.next_offset;
        open.length += facts.size_bytes;
        open.max_timestamp_ms = open.max_timestamp_ms.max(facts.max_timestamp_ms);
        open.running_timestamp_ms = at.timestamp_ms;
        open.running_records = at.records;
    }

    /// Adds bytes of the batch that was begun last.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let open = self.open.as_mut().expect("bytes follow the batch they belong to");
        open.crc = ropewalk_crc::append(open.crc, bytes);
    }

    /// Like [`Cutter::bytes`], but reads only the bytes before the suffix whose sum is known.
    pub(crate) fn bytes_known(&mut self, bytes: &[u8], suffix: SuffixSum) {
        let open = self.open.as_mut().expect("bytes follow the batch they belong to");
        open.crc = ropewalk_crc::append_known(open.crc, bytes, suffix);
    }

    /// The totals after everything so far.
    pub(crate) fn running(&self) -> RunningTotals {
        self.at
    }

    /// Ends the last block and returns all.
    pub(crate) fn finish(mut self) -> Vec<Entry> {
        self.entries.extend(self.open.take());
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(cutter: &mut Cutter, offset: i64, epoch: i32, size_bytes: u32) {
        cutter.batch(&Facts {
            base_offset: offset,
            next_offset: offset + 1,
            leader_epoch: epoch,
            max_timestamp_ms: 100 - offset,
            records: 1,
            size_bytes,
        });
        cutter.bytes(&vec![offset as u8; size_bytes as usize]);
    }

    #[test]
    fn a_block_ends_at_its_size_and_at_an_epoch() {
        let mut cutter = Cutter::new(RunningTotals::EMPTY, 1_000);
        push(&mut cutter, 0, 1, 600);
        push(&mut cutter, 1, 1, 400);
        push(&mut cutter, 2, 1, 5_000);
        push(&mut cutter, 3, 1, 1);
        push(&mut cutter, 4, 2, 1);
        let blocks = cutter.finish();
        let shape: Vec<_> = blocks.iter().map(|b| (b.base_offset, b.position, b.length)).collect();
        assert_eq!(shape, [(0, 0, 1_000), (2, 1_000, 5_000), (3, 6_000, 1), (4, 6_001, 1)]);
        assert_eq!(blocks[0].max_timestamp_ms, 100);
        assert_eq!(blocks[3].max_timestamp_ms, 96);
        assert_eq!(blocks[3].running_timestamp_ms, 100);
        assert_eq!(blocks[3].running_records, 5);
        assert_eq!(blocks[3].leader_epoch, 2);
        let mut expected = vec![0; 600];
        expected.extend([1; 400]);
        assert_eq!(blocks[0].crc, ropewalk_crc::of(&expected));
    }
}
