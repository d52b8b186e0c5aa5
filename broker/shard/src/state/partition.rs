//! One partition: which offsets there are, in which epochs, and what producers may send next.
//!
//! # Invariants
//!
//! - **O1** `next_offset` grows by exactly the records of each batch that is accepted.
//! - **D5** a batch that was accepted is recognised again while it is among its producer's last
//!   five (KIP-98 leaves the window to the broker; five is what `max.in.flight` of an idempotent
//!   client allows), and is answered with its first offset instead of being stored twice.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ropewalk_batch::{Header, StampedBatch, sequence_after};
use serde::{Deserialize, Serialize};

use crate::limits;

/// How many batches of a producer are remembered.
pub const WINDOW: usize = 5;

/// How many leader epochs of a partition are remembered: one is added by each term in which it is written to.
pub const EPOCHS_MAX: usize = 1024;

/// One partition's part of the replicated state. An idle one is some 100 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Added to the shard's term to give the leader epoch.
    pub epoch_base: i32,
    /// The first offset that is left.
    pub log_start: i64,
    /// The offset the next record gets: the high watermark.
    pub next_offset: i64,
    /// Where each leader epoch began, ascending (KIP-101, KIP-320).
    pub epochs: Vec<EpochStart>,
    /// What is known of producers that number their batches; empty maps cost nothing.
    pub producers: Option<Box<BTreeMap<i64, Producer>>>,
}

/// Where a leader epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: i32,
    /// The offset of its first record.
    pub start_offset: i64,
}

/// An idempotent producer as one partition knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// Its epoch.
    pub epoch: i16,
    /// The leader's clock at its last batch, Unix milliseconds; for expiry.
    pub seen_ms: i64,
    /// Its last batches, oldest first; at most [`WINDOW`].
    pub batches: VecDeque<ProducerBatch>,
}

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// The offset it got.
    pub base_offset: i64,
    /// Its greatest timestamp, Unix milliseconds.
    pub timestamp_ms: i64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendOutcome {
    /// The offset of its first record.
    pub base_offset: i64,
    /// The first offset that is left in the partition.
    pub log_start: i64,
    /// Whether it was there already.
    pub duplicate: bool,
    /// The batch's greatest timestamp; the append time if the topic uses `LogAppendTime`.
    pub timestamp_ms: i64,
}

/// Why a batch was not taken. Nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefusal {
    /// The partition does not live here (any more).
    #[error("no such partition in this shard")]
    NoSuchPartition,
    /// The sequence does not follow the last one.
    #[error("sequence {sequence} does not follow {last}")]
    OutOfOrderSequence {
        /// What came.
        sequence: i32,
        /// The last one taken, -1 if none.
        last: i32,
    },
    /// A newer instance of this producer has written already.
    #[error("producer epoch {epoch} is older than {current}")]
    StaleEpoch {
        /// What came.
        epoch: i16,
        /// What is known.
        current: i16,
    },
    /// Not a record batch. The door checks them all, so this is damage or a bug.
    #[error("not a record batch")]
    Malformed,
}

impl Partition {
    /// An empty partition.
    #[must_use]
    pub fn new(epoch_base: i32) -> Self {
        Self { epoch_base, log_start: 0, next_offset: 0, epochs: Vec::new(), producers: None }
    }

    /// The leader epoch that a batch gets in `term`.
    #[must_use]
    pub fn leader_epoch(&self, term: u64) -> i32 {
        self.epoch_base.saturating_add(i32::try_from(term).unwrap_or(i32::MAX))
    }

    /// Takes a batch: its result, and the batch as stored unless it was a duplicate.
    ///
    /// # Errors
    /// When the producer's numbering forbids it; see [`AppendRefusal`].
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
            // An older one is answered with where the oldest kept one begins: never before its end.
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

    /// Whether the producer may send this now; the earlier batch if this is it again.
    fn admit(&self, header: &Header) -> Result<Option<ProducerBatch>, AppendRefusal> {
        if header.producer_id < 0 {
            return Ok(None);
        }
        let Some(producer) = self.producers.as_ref().and_then(|p| p.get(&header.producer_id))
        else {
            // Nothing is known (new, expired, or its records are gone): any sequence will do.
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
            forget_oldest(producers);
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

    /// Moves the log start up to `offset`, at most to the end; the new value if it moved.
    pub fn advance_log_start(&mut self, offset: i64) -> Option<i64> {
        let offset = offset.min(self.next_offset);
        if offset <= self.log_start {
            return None;
        }
        self.log_start = offset;
        // The newest epoch at or below the start still answers for it.
        let keep = self.epochs.iter().rposition(|e| e.start_offset <= offset).unwrap_or(0);
        self.epochs.drain(..keep);
        if let Some(first) = self.epochs.first_mut() {
            first.start_offset = first.start_offset.max(offset);
        }
        Some(offset)
    }

    /// Whether batches of this producer are remembered.
    #[must_use]
    pub fn knows(&self, producer_id: i64) -> bool {
        self.producers.as_ref().is_some_and(|producers| producers.contains_key(&producer_id))
    }

    /// Forgets a producer unless it has written since `seen_ms`.
    pub fn forget_silent(&mut self, producer_id: i64, seen_ms: i64) {
        let known = self.producers.as_ref().and_then(|producers| producers.get(&producer_id));
        if known.is_some_and(|producer| producer.seen_ms <= seen_ms) {
            self.forget_producer(producer_id);
        }
    }

    /// Forgets a producer.
    pub fn forget_producer(&mut self, producer_id: i64) {
        if let Some(producers) = &mut self.producers {
            producers.remove(&producer_id);
            if producers.is_empty() {
                self.producers = None;
            }
        }
    }

    /// Where `epoch` ends on this log, as Kafka answers OffsetForLeaderEpoch (KIP-101, KIP-320):
    /// the largest known epoch not above `epoch`, and the offset at which the next one begins.
    /// `current` is the epoch that the partition is led in. It begins at the end of the log as long
    /// as it has no record.
    ///
    /// An epoch whose records are gone, or that never had one, ends where the oldest epoch that is
    /// left begins, and is returned under its own number: a client that stopped reading in it
    /// continues from there. `None` for an epoch that is newer than `current`, and for a negative one.
    #[must_use]
    pub fn epoch_end(&self, epoch: i32, current: i32) -> Option<(i32, i64)> {
        if epoch < 0 || epoch > current {
            return None;
        }
        if epoch == current {
            return Some((epoch, self.next_offset));
        }
        let next = self.epochs.partition_point(|known| known.epoch <= epoch);
        let end = self.epochs.get(next).map_or(self.next_offset, |next| next.start_offset);
        let floor = next.checked_sub(1).map_or(epoch, |floor| self.epochs[floor].epoch);
        Some((floor, end))
    }
}

/// Makes room for producers: those that have been silent for longest go, so many at once that finding
/// them costs little for each. Every replica chooses alike.
fn forget_oldest(producers: &mut BTreeMap<i64, Producer>) {
    let mut by_age: Vec<_> = producers.iter().map(|(id, seen)| (seen.seen_ms, *id)).collect();
    let count = limits::PRODUCERS_FORGOTTEN_AT_ONCE;
    by_age.select_nth_unstable(count - 1);
    for (_, id) in &by_age[..count] {
        producers.remove(id);
    }
}
