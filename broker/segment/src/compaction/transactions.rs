//! Decides which transactional batches and markers compaction may drop.
//!
//! [`super::CompactionJob`] calls it while it reads a partition from its start. Pure.
//!
//! Invariants:
//! - A batch counts as aborted only if the shard lists its transaction; below the last stable
//!   offset the shard knows the outcome of each transaction.
//! - An abort marker is kept while the shard lists its transaction to consumers. Without the marker
//!   a consumer would treat the next committed records of the same producer as aborted.
//! - A commit marker is kept as long as its records, and then for `delete.retention.ms`.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use ropewalk_batch::{Header, StampedBatch};

use super::Compaction;

/// State of the transactions of a partition during a pass.
#[derive(Debug)]
pub(crate) struct Transactions {
    /// Offsets of the aborted transactions of each producer, from the first record to the marker.
    aborted: HashMap<i64, Vec<RangeInclusive<i64>>>,
    /// Producers with kept records in a transaction whose marker was not read yet.
    with_data: HashSet<i64>,
}

impl Transactions {
    pub(crate) fn new(request: &Compaction) -> Self {
        let mut aborted: HashMap<i64, Vec<RangeInclusive<i64>>> = HashMap::new();
        for it in &request.aborted {
            aborted.entry(it.producer_id).or_default().push(it.first_offset..=it.last_offset);
        }
        Self { aborted, with_data: HashSet::new() }
    }

    /// Whether a batch belongs to an aborted transaction.
    pub(crate) fn is_aborted(&self, batch: &StampedBatch) -> bool {
        let header = batch.header();
        header.is_transactional() && self.names(header.producer_id, batch.base_offset)
    }

    /// Records that data of a batch is kept.
    pub(crate) fn kept_data(&mut self, header: &Header) {
        if header.is_transactional() {
            self.with_data.insert(header.producer_id);
        }
    }

    /// Whether a marker, which ends the transaction of its producer, is kept.
    pub(crate) fn keeps_marker(
        &mut self,
        marker: &StampedBatch,
        is_commit: bool,
        request: &Compaction,
    ) -> bool {
        let producer_id = marker.header().producer_id;
        let has_data = self.with_data.remove(&producer_id);
        let expires_ms = marker.max_timestamp_ms.saturating_add(request.delete_retention_ms);
        let is_young = request.now_ms < expires_ms;
        let is_listed = !is_commit && self.names(producer_id, marker.base_offset);
        has_data || is_young || is_listed
    }

    fn names(&self, producer_id: i64, offset: i64) -> bool {
        let of_producer = self.aborted.get(&producer_id);
        of_producer.is_some_and(|all| all.iter().any(|range| range.contains(&offset)))
    }
}
