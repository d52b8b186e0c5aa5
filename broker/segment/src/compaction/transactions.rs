//! Which transactional batches and markers compaction may drop.
//!
//! Place in the walk: [`super::CompactionJob`] asks while it goes over a partition from its start. Pure.
//!
//! Invariants:
//! - A batch is aborted only if the shard names its transaction; below the last stable offset the shard
//!   knows the fate of each.
//! - An abort marker that the shard still tells consumers of stays: without it they would take what the
//!   same producer commits next for aborted.
//! - A commit marker outlives its records, and then `delete.retention.ms`.
//!
//! A crash leaves nothing of this behind.

use std::collections::{HashMap, HashSet};

use ropewalk_batch::{Header, StampedBatch};

use super::Compaction;

/// The transactions of a partition, as far as a pass has come.
#[derive(Debug)]
pub(crate) struct Transactions {
    /// First offset and marker of the aborted transactions of each producer.
    aborted: HashMap<i64, Vec<(i64, i64)>>,
    /// Producers with records that stay in the transaction whose marker comes next.
    with_data: HashSet<i64>,
}

impl Transactions {
    pub(crate) fn new(request: &Compaction) -> Self {
        let mut aborted: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
        for it in &request.aborted {
            aborted.entry(it.producer_id).or_default().push((it.first_offset, it.last_offset));
        }
        Self { aborted, with_data: HashSet::new() }
    }

    /// Whether a batch belongs to an aborted transaction.
    pub(crate) fn is_aborted(&self, batch: &StampedBatch) -> bool {
        let header = batch.header();
        header.is_transactional() && self.names(header.producer_id, batch.base_offset)
    }

    /// Remembers that records of a batch stay.
    pub(crate) fn kept_data(&mut self, header: &Header) {
        if header.is_transactional() {
            self.with_data.insert(header.producer_id);
        }
    }

    /// Whether a marker, which ends its producer's transaction, stays.
    pub(crate) fn keeps_marker(
        &mut self,
        marker: &StampedBatch,
        is_commit: bool,
        request: &Compaction,
    ) -> bool {
        let producer_id = marker.header().producer_id;
        let has_data = self.with_data.remove(&producer_id);
        let goes_ms = marker.max_timestamp_ms.saturating_add(request.delete_retention_ms);
        let is_young = request.now_ms < goes_ms;
        let is_told = !is_commit && self.names(producer_id, marker.base_offset);
        has_data || is_young || is_told
    }

    fn names(&self, producer_id: i64, offset: i64) -> bool {
        let of_producer = self.aborted.get(&producer_id);
        of_producer.is_some_and(|all| all.iter().any(|(from, to)| (*from..=*to).contains(&offset)))
    }
}
