//! One partition: its offsets, leader epochs and the sequences of its producers.
//!
//! # Invariants
//!
//! - **O1** `next_offset` grows by exactly the number of records of each batch that is accepted.
//! - **D5** a batch that was accepted is recognised as a duplicate while it is among its producer's
//!   last five, and is answered with its first offset instead of being stored twice. KIP-98 leaves
//!   the window to the broker; five is the limit of `max.in.flight.requests.per.connection` for an
//!   idempotent client.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ropewalk_batch::{Header, StampedBatch, sequence_after};
use serde::{Deserialize, Serialize};

use super::tier::{Changed, Current, Tier, TierRefusal};
use crate::command::TierChange;
use crate::limits;

/// How many batches a partition keeps per producer, to detect duplicates.
pub const WINDOW: usize = 5;

/// Most leader epochs that a partition keeps. Each term in which it is written to adds one.
pub const EPOCHS_MAX: usize = 1024;

/// One partition's part of the replicated state. An idle one takes some 100 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Added to the shard's term to give the leader epoch.
    pub epoch_base: i32,
    /// The first offset that remains.
    pub log_start: i64,
    /// The offset that the next record gets: the high watermark.
    pub next_offset: i64,
    /// Start offset of each leader epoch, ascending (KIP-101, KIP-320).
    pub epochs: Vec<EpochStart>,
    /// Idempotent producers by producer id; `None` instead of an empty map.
    pub producers: Option<Box<BTreeMap<i64, Producer>>>,
    /// Which records are in the bucket; `None` for a partition whose records stay on disks.
    pub tier: Option<Box<Tier>>,
}

/// The first offset of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The leader epoch.
    pub epoch: i32,
    /// The offset of the epoch's first record.
    pub start_offset: i64,
}

/// The end of a leader epoch, as OffsetForLeaderEpoch answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest known epoch that is not above the requested one.
    pub epoch: i32,
    /// The offset after the last record of `epoch`.
    pub end_offset: i64,
}

/// The state of one idempotent producer in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// The producer epoch of its last batch.
    pub epoch: i16,
    /// The shard's clock at its last batch, Unix milliseconds; for expiry.
    pub seen_ms: i64,
    /// Its last batches, oldest first; at most [`WINDOW`].
    pub batches: VecDeque<ProducerBatch>,
}

/// A stored batch of a producer, for the detection of duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// The offset of its first record.
    pub base_offset: i64,
    /// Its greatest timestamp, Unix milliseconds.
    pub timestamp_ms: i64,
}

/// The result of an accepted batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendOutcome {
    /// The offset of its first record.
    pub base_offset: i64,
    /// The first offset that remains in the partition.
    pub log_start: i64,
    /// Whether the batch was stored before, as an earlier attempt of the same send.
    pub duplicate: bool,
    /// The batch's greatest timestamp; the append time if the topic uses `LogAppendTime`.
    pub timestamp_ms: i64,
}

/// Why a batch was refused. Nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AppendRefusal {
    /// This shard does not hold the partition, or no longer holds it.
    #[error("no such partition in this shard")]
    NoSuchPartition,
    /// The sequence does not follow the last one.
    #[error("sequence {sequence} does not follow {last}")]
    OutOfOrderSequence {
        /// The first sequence of the refused batch.
        sequence: i32,
        /// The last sequence that was accepted, -1 if none.
        last: i32,
    },
    /// A newer instance of this producer has written already.
    #[error("producer epoch {epoch} is older than {current}")]
    StaleEpoch {
        /// The producer epoch of the refused batch.
        epoch: i16,
        /// The newest producer epoch in this partition.
        current: i16,
    },
    /// Not a record batch. Batches are validated before they are proposed, so this is a bug or
    /// damaged data.
    #[error("not a record batch")]
    Malformed,
}

impl Partition {
    /// An empty partition.
    #[must_use]
    pub fn new(epoch_base: i32) -> Self {
        Self {
            epoch_base,
            log_start: 0,
            next_offset: 0,
            epochs: Vec::new(),
            producers: None,
            tier: None,
        }
    }

    /// The leader epoch that a batch gets in `term`.
    #[must_use]
    pub fn leader_epoch(&self, term: u64) -> i32 {
        self.epoch_base.saturating_add(i32::try_from(term).unwrap_or(i32::MAX))
    }

    /// Accepts a batch. Returns its result, and the batch to store unless it is a duplicate.
    ///
    /// # Errors
    /// When the producer's epoch or sequence is not the expected one; see [`AppendRefusal`].
    pub fn append(
        &mut self,
        term: u64,
        time_ms: i64,
        batch: Bytes,
    ) -> Result<(AppendOutcome, Option<StampedBatch>), AppendRefusal> {
        let header = Header::parse(&batch).map_err(|_| AppendRefusal::Malformed)?;
        if let Some(known) = self.admit(&header)? {
            let found = AppendOutcome {
                base_offset: known.base_offset,
                log_start: self.log_start,
                duplicate: true,
                timestamp_ms: known.timestamp_ms,
            };
            return Ok((found, None));
        }
        let epoch = self.leader_epoch(term);
        let base_offset = self.next_offset;
        let stamped =
            StampedBatch::new(batch, base_offset, epoch).map_err(|_| AppendRefusal::Malformed)?;
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochStart { epoch, start_offset: base_offset });
            // A removed epoch is answered with the start of the oldest epoch that is kept, which is
            // never before the end of the removed one.
            if self.epochs.len() > EPOCHS_MAX {
                self.epochs.remove(0);
            }
        }
        self.next_offset = stamped.next_offset();
        self.remember(&header, base_offset, time_ms);
        let appended = AppendOutcome {
            base_offset,
            log_start: self.log_start,
            duplicate: false,
            timestamp_ms: header.max_timestamp_ms,
        };
        Ok((appended, Some(stamped)))
    }

    /// Checks the producer's epoch and sequence. Returns the earlier batch if this is a duplicate.
    fn admit(&self, header: &Header) -> Result<Option<ProducerBatch>, AppendRefusal> {
        if header.producer_id < 0 {
            return Ok(None);
        }
        let Some(producer) = self.producers.as_ref().and_then(|p| p.get(&header.producer_id))
        else {
            // Producer is new or expired: any sequence is accepted.
            return Ok(None);
        };
        let first = header.base_sequence;
        if header.producer_epoch < producer.epoch {
            let (epoch, current) = (header.producer_epoch, producer.epoch);
            return Err(AppendRefusal::StaleEpoch { epoch, current });
        }
        if header.producer_epoch > producer.epoch {
            return if first == 0 {
                Ok(None)
            } else {
                Err(AppendRefusal::OutOfOrderSequence { sequence: first, last: -1 })
            };
        }
        let again = producer
            .batches
            .iter()
            .find(|b| b.first_sequence == first && b.last_sequence == header.last_sequence());
        if let Some(again) = again {
            return Ok(Some(*again));
        }
        match producer.batches.back() {
            Some(last) if first != sequence_after(last.last_sequence, 1) => {
                let last = last.last_sequence;
                Err(AppendRefusal::OutOfOrderSequence { sequence: first, last })
            }
            Some(_) | None => Ok(None),
        }
    }

    fn remember(&mut self, header: &Header, base_offset: i64, time_ms: i64) {
        if header.producer_id < 0 {
            return;
        }
        let producers = self.producers.get_or_insert_default();
        if producers.len() >= limits::PARTITION_PRODUCERS_MAX
            && !producers.contains_key(&header.producer_id)
        {
            evict_oldest(producers);
        }
        let producer = producers.entry(header.producer_id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            seen_ms: time_ms,
            batches: VecDeque::new(),
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        producer.seen_ms = time_ms;
        if producer.batches.len() == WINDOW {
            producer.batches.pop_front();
        }
        producer.batches.push_back(ProducerBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
            timestamp_ms: header.max_timestamp_ms,
        });
    }

    /// Raises the log start to `offset`, at most to the end. Returns the new value if it changed.
    pub fn advance_log_start(&mut self, offset: i64) -> Option<i64> {
        let offset = offset.min(self.next_offset);
        if offset <= self.log_start {
            return None;
        }
        self.log_start = offset;
        // The newest epoch that began at or before the log start is kept.
        let keep = self.epochs.iter().rposition(|e| e.start_offset <= offset).unwrap_or(0);
        self.epochs.drain(..keep);
        if let Some(first) = self.epochs.first_mut() {
            first.start_offset = first.start_offset.max(offset);
        }
        if let Some(tier) = &mut self.tier {
            tier.raise(offset);
        }
        self.remove_ended_tier();
        Some(offset)
    }

    /// The first offset that is on the disks of the replicas.
    #[must_use]
    pub fn local_start(&self) -> i64 {
        self.tier.as_ref().map_or(self.log_start, |tier| tier.local_start)
    }

    /// The offset up to which the records are in objects; the log start without a tier.
    #[must_use]
    pub fn tier_end(&self) -> i64 {
        self.tier.as_ref().map_or(self.log_start, |tier| tier.end)
    }

    /// Changes the tier, as of a command of term `term` at the time `clock_ms` of the shard.
    pub(super) fn change_tier(
        &mut self,
        term: u64,
        clock_ms: i64,
        change: TierChange,
    ) -> Result<Changed, TierRefusal> {
        if let TierChange::Restore(restored) = change {
            return self.restore(term, clock_ms, *restored);
        }
        let (log_start, next_offset) = (self.log_start, self.next_offset);
        if change == TierChange::Enable {
            self.tier.get_or_insert_with(|| Box::new(Tier::new(log_start)));
        }
        let tier = self.tier.as_deref_mut().ok_or(TierRefusal::NotTiered)?;
        let changed = tier.change(Current { term, clock_ms, log_start, next_offset }, change)?;
        self.remove_ended_tier();
        Ok(changed)
    }

    fn remove_ended_tier(&mut self) {
        let log_start = self.log_start;
        self.tier.take_if(|tier| tier.has_ended(log_start));
    }

    /// Whether the partition keeps batches of this producer.
    #[must_use]
    pub fn has_producer(&self, producer_id: i64) -> bool {
        self.producers.as_ref().is_some_and(|producers| producers.contains_key(&producer_id))
    }

    /// Removes a producer unless it has written since `seen_ms`.
    pub fn expire_producer(&mut self, producer_id: i64, seen_ms: i64) {
        let known = self.producers.as_ref().and_then(|producers| producers.get(&producer_id));
        if known.is_some_and(|producer| producer.seen_ms <= seen_ms) {
            self.remove_producer(producer_id);
        }
    }

    /// Removes a producer and its batches.
    pub fn remove_producer(&mut self, producer_id: i64) {
        if let Some(producers) = &mut self.producers {
            producers.remove(&producer_id);
            if producers.is_empty() {
                self.producers = None;
            }
        }
    }

    /// The end of `epoch` in this log, as Kafka answers OffsetForLeaderEpoch (KIP-101, KIP-320):
    /// the largest known epoch not above `epoch`, and the offset at which the next one begins.
    /// `current` is the current leader epoch of the partition. Until it has a record, it begins at
    /// the end of the log.
    ///
    /// An epoch that is older than all kept ones is returned under its own number and ends where
    /// the oldest kept epoch begins: a client that stopped reading in it continues from there.
    /// `None` for an epoch that is newer than `current`, and for a negative one.
    #[must_use]
    pub fn epoch_end(&self, epoch: i32, current: i32) -> Option<EpochEnd> {
        if epoch < 0 || epoch > current {
            return None;
        }
        if epoch == current {
            return Some(EpochEnd { epoch, end_offset: self.next_offset });
        }
        let next = self.epochs.partition_point(|known| known.epoch <= epoch);
        let end_offset = self.epochs.get(next).map_or(self.next_offset, |next| next.start_offset);
        let epoch = next.checked_sub(1).map_or(epoch, |floor| self.epochs[floor].epoch);
        Some(EpochEnd { epoch, end_offset })
    }
}

/// Removes the producers with the oldest last batch, many at once, so that the cost of the search
/// is small per producer. Deterministic: every replica removes the same ones.
fn evict_oldest(producers: &mut BTreeMap<i64, Producer>) {
    let mut by_age: Vec<_> = producers.iter().map(|(id, seen)| (seen.seen_ms, *id)).collect();
    let count = limits::PRODUCERS_EVICTED_AT_ONCE;
    by_age.select_nth_unstable(count - 1);
    for (_, id) in &by_age[..count] {
        producers.remove(id);
    }
}
