//! The order of the batches that a client pipelines on one connection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropewalk_batch::Header;

use crate::PartitionId;
use crate::command::Append;
use crate::state::partition::WINDOW;

/// The batches that a client pipelines on one connection. A batch that is stored while an earlier
/// one of its producer was refused ends in a gap of sequences, or, because a partition accepts any
/// first sequence of a producer that is new to it, in a record that can never be stored.
///
/// - When a batch of a new producer was not proposed, every later batch of the same order is
///   refused as well ([`Self::end`]), or those of this producer ([`Self::refuse`]).
/// - A batch that came ahead of an earlier one is refused as retriable the first time
///   ([`Self::is_early`]). An out-of-order error would make librdkafka begin a new producer epoch
///   and send in it, beside this batch, every batch whose outcome it does not know, also of other
///   partitions; these are then stored twice, since an epoch begins without history (its issue
///   4953, which is about Kafka).
///
/// Clones share the order; each connection has its own.
#[derive(Debug, Clone, Default)]
pub struct SendOrder(Arc<Order>);

#[derive(Debug, Default)]
struct Order {
    is_ended: AtomicBool,
    gaps: Mutex<BTreeMap<(PartitionId, i64), Gap>>,
}

/// The gaps that an order remembers; a gap above this number is not excused.
const GAPS_MAX: usize = 1_000;

/// What is missing of one producer in one partition.
#[derive(Debug)]
struct Gap {
    epoch: i16,
    /// The first sequence that is missing.
    from: i32,
    /// Sequences of the batches that came ahead of it and were refused, at most [`WINDOW`]: a
    /// producer has no more on their way.
    early: Vec<i32>,
}

/// The place of a batch among those of its idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// The partition of the batch.
    pub partition: PartitionId,
    /// The id of the producer.
    pub producer_id: i64,
    /// The epoch of the producer.
    pub epoch: i16,
    /// The first sequence of the batch.
    pub sequence: i32,
}

impl Numbered {
    /// `None` for a batch of a producer that is not idempotent, and for what is no batch.
    #[must_use]
    pub fn of(item: &Append) -> Option<Self> {
        Self::new(item.partition, &Header::parse(&item.batch).ok()?)
    }

    /// The same for a batch with this header.
    #[must_use]
    pub fn new(partition: PartitionId, header: &Header) -> Option<Self> {
        let Header { producer_id, producer_epoch, base_sequence, .. } = *header;
        let (epoch, sequence) = (producer_epoch, base_sequence);
        header.has_producer_id().then_some(Self { partition, producer_id, epoch, sequence })
    }

    fn key(&self) -> (PartitionId, i64) {
        (self.partition, self.producer_id)
    }
}

/// Whether a sequence comes after another one. Sequences wrap from 2^31-1 to 0.
fn is_after(sequence: i32, other: i32) -> bool {
    let distance = sequence.wrapping_sub(other) & i32::MAX;
    (1..1 << 30).contains(&distance)
}

impl SendOrder {
    /// Refuses every later batch of this order, because a batch of a new producer was not proposed.
    pub fn end(&self) {
        self.0.is_ended.store(true, Ordering::Release);
    }

    /// Whether every further batch of this order is refused.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.is_ended.load(Ordering::Acquire)
    }

    fn gaps(&self) -> MutexGuard<'_, BTreeMap<(PartitionId, i64), Gap>> {
        self.0.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a batch has come: it may be the one that was missing.
    pub fn arrives(&self, batch: &Numbered) {
        self.close_gap(batch, |gap| !is_after(batch.sequence, gap.from));
    }

    /// Notes that a batch is stored. If it came later than what was missing, that was stored too,
    /// by another leader.
    pub fn stored(&self, batch: &Numbered) {
        self.close_gap(batch, |gap| !is_after(gap.from, batch.sequence));
    }

    /// A new epoch of the producer closes the gap as well.
    fn close_gap(&self, batch: &Numbered, closes: impl FnOnce(&Gap) -> bool) {
        let mut gaps = self.gaps();
        if gaps.get(&batch.key()).is_some_and(|gap| gap.epoch != batch.epoch || closes(gap)) {
            gaps.remove(&batch.key());
        }
    }

    /// Notes that a batch of a producer that is new to its partition was refused before it was
    /// proposed. Later batches of the producer are early then; if too many gaps are open, the order
    /// ends.
    pub fn refuse(&self, batch: &Numbered) {
        let mut gaps = self.gaps();
        if gaps.len() >= GAPS_MAX && !gaps.contains_key(&batch.key()) {
            return self.end();
        }
        let gap = || Gap { epoch: batch.epoch, from: batch.sequence, early: Vec::new() };
        gaps.entry(batch.key()).or_insert_with(gap);
    }

    /// Whether a batch came ahead of one that was [refused](Self::refuse), and its producer
    /// `is_new` to the partition: the client has to send both again. `false` if it came again and
    /// the earlier one did not: the client has given that up.
    #[must_use]
    pub fn overtakes(&self, batch: &Numbered, is_new: impl FnOnce() -> bool) -> bool {
        let mut gaps = self.gaps();
        gaps.get_mut(&batch.key()).is_some_and(|gap| is_new() && gap.is_first_time(batch))
    }

    /// Whether a batch whose sequence does not follow the last one came ahead of those between, and
    /// for the first time: the client has to send it again, after them. `expected` is the sequence
    /// that follows the last one of the producer's epoch in the partition.
    #[must_use]
    pub fn is_early(&self, batch: &Numbered, expected: i32) -> bool {
        let mut gaps = self.gaps();
        let is_known = gaps.contains_key(&batch.key());
        if !is_after(batch.sequence, expected) || gaps.len() >= GAPS_MAX && !is_known {
            return false;
        }
        let gap = || Gap { epoch: batch.epoch, from: expected, early: Vec::new() };
        let gap = gaps.entry(batch.key()).or_insert_with(gap);
        gap.is_first_time(batch)
    }
}

impl Gap {
    /// Whether a batch comes after what is missing, and was not refused as early before. Notes that
    /// it is refused now.
    fn is_first_time(&mut self, batch: &Numbered) -> bool {
        let is_early = self.epoch == batch.epoch
            && is_after(batch.sequence, self.from)
            && self.early.len() < WINDOW
            && !self.early.contains(&batch.sequence);
        if is_early {
            self.early.push(batch.sequence);
        }
        is_early
    }
}

#[cfg(test)]
mod tests;
