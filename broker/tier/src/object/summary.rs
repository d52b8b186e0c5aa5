//! What a footer says about batches, collected batch by batch. The encoder writes it, and the check
//! of a whole object compares with it.

use std::collections::{BTreeMap, VecDeque};

use ropewalk_batch::{BatchError, Header, StampedBatch};

use super::{Block, EpochStart, Producer, ProducerBatch};
use crate::limits;

/// The epochs and producers of a range, and the block that is not full yet.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) epochs: Vec<EpochStart>,
    producers: BTreeMap<i64, Recent>,
}

#[derive(Debug)]
struct Recent {
    epoch: i16,
    batches: VecDeque<ProducerBatch>,
}

impl Summary {
    /// Whether the batch adds no epoch and no producer over the bounds of an object.
    pub(super) fn has_room_for(&self, header: &Header) -> bool {
        let same_epoch = self.epochs.last().is_some_and(|last| last.epoch == header.leader_epoch);
        let known = !header.has_producer_id() || self.producers.contains_key(&header.producer_id);
        (same_epoch || self.epochs.len() < limits::EPOCHS_MAX as usize)
            && (known || self.producers.len() < limits::PRODUCERS_MAX as usize)
    }

    pub(super) fn add(&mut self, header: &Header) {
        if self.epochs.last().is_none_or(|last| last.epoch != header.leader_epoch) {
            let start = EpochStart { epoch: header.leader_epoch, start_offset: header.base_offset };
            self.epochs.push(start);
        }
        if !header.has_producer_id() {
            return;
        }
        let epoch = header.producer_epoch;
        let producer = self
            .producers
            .entry(header.producer_id)
            .or_insert_with(|| Recent { epoch, batches: VecDeque::new() });
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == limits::PRODUCER_BATCHES_MAX {
            producer.batches.pop_front();
        }
        producer.batches.push_back(ProducerBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            timestamp_ms: header.max_timestamp_ms,
        });
    }

    /// The producers, ascending by id.
    pub(super) fn producers(self) -> Vec<Producer> {
        self.producers
            .into_iter()
            .map(|(id, recent)| Producer {
                id,
                epoch: recent.epoch,
                batches: recent.batches.into(),
            })
            .collect()
    }
}

/// A block that grows by whole batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct GrowingBlock(Block);

impl GrowingBlock {
    pub(super) fn new(first: &StampedBatch, header: &Header, position: u64) -> Self {
        let empty = Block {
            first_offset: first.base_offset,
            end_offset: first.base_offset,
            position,
            length: 0,
            max_timestamp_ms: i64::MIN,
            records: 0,
            crc: 0,
        };
        let mut block = Self(empty);
        block.add(first, header);
        block
    }

    /// Whether a block may grow by so many bytes.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        (limits::BLOCK_BYTES_MAX as usize).saturating_sub(self.0.length as usize) >= bytes
    }

    /// Adds a batch whose checksum was verified: its records are not read again.
    pub(super) fn add(&mut self, batch: &StampedBatch, header: &Header) {
        let block = &mut self.0;
        block.end_offset = batch.next_offset();
        block.length += batch.size_bytes() as u32;
        block.max_timestamp_ms = block.max_timestamp_ms.max(header.max_timestamp_ms);
        if !header.is_control() {
            block.records = block.records.saturating_add(header.count.unsigned_abs());
        }
        let crc = ropewalk_crc::append(block.crc, &batch.prefix());
        block.crc = ropewalk_crc::append_known(crc, &batch.body(), batch.body_sum());
    }

    pub(super) fn finish(self) -> Block {
        self.0
    }
}

/// Where the next batch of an object may begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    base: i64,
    next: Option<i64>,
    epoch: i32,
}

impl Order {
    pub(super) fn new(base: i64) -> Self {
        Self { base, next: None, epoch: i32::MIN }
    }

    /// The offset behind the last batch, `None` before the first one.
    pub(super) fn next(&self) -> Option<i64> {
        self.next
    }

    /// Refuses a batch that does not follow the one before it.
    pub(super) fn follow(&mut self, batch: &StampedBatch) -> Result<(), BatchError> {
        let follows = match self.next {
            None => batch.last_offset() >= self.base,
            Some(next) => batch.base_offset >= next,
        };
        if !follows {
            return Err(BatchError::Malformed("the offsets of its batches overlap"));
        }
        if batch.leader_epoch < self.epoch {
            return Err(BatchError::Malformed("the leader epochs of its batches descend"));
        }
        self.next = Some(batch.next_offset());
        self.epoch = batch.leader_epoch;
        Ok(())
    }
}
