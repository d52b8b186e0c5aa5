//! Hot partitions: more messages arrive than one member can process, so that more replicas cannot
//! help.
//!
//! [`Backlog::demand`] counts each partition for at most one member's work, so that one hot
//! partition does not scale everything. This module only reports it. If most partitions are hot,
//! that is no skew but a load for which there are too few partitions.

use super::backlog::{Backlog, PartitionLoad};
use super::limits::{HOT, HOT_INTERVALS};
use std::collections::BTreeMap;

/// A partition on which more arrives than one member can process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HotPartition {
    /// Partition number, from 0.
    pub partition: u32,
    /// Messages per second that arrive on it.
    pub arrival_per_second: f64,
    /// Messages per second that one member can process.
    pub per_member: f64,
}

/// Load that more replicas cannot help with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Excess {
    /// Messages that arrive, per second.
    pub(super) arrival: f64,
    /// Messages that wait.
    pub(super) waiting: f64,
}

/// Counts for how many intervals partitions have been hot.
#[derive(Debug, Clone, Default)]
pub(super) struct Hot {
    /// Intervals in a row, by partition.
    counts: BTreeMap<u32, u32>,
    partitions: u32,
}

impl Hot {
    /// Ends an interval in which every member held its partitions and could process `per_member`
    /// messages per second, as measured.
    pub(super) fn close(&mut self, backlog: &Backlog, per_member: f64) {
        let before = std::mem::take(&mut self.counts);
        self.partitions = backlog.partitions();
        for PartitionLoad { partition, arrival, waiting } in backlog.each() {
            if arrival > HOT * per_member && waiting > arrival {
                let count = before.get(&partition).copied().unwrap_or(0) + 1;
                self.counts.insert(partition, count.min(HOT_INTERVALS));
            }
        }
    }

    /// Discards the counts: an interval is missing.
    pub(super) fn restart(&mut self) {
        self.counts.clear();
    }

    fn is_hot(&self, partition: u32) -> bool {
        let is_skew = self.counts.len() * 2 <= self.partitions as usize;
        is_skew && self.counts.get(&partition).is_some_and(|count| *count >= HOT_INTERVALS)
    }

    /// The hot partition with the highest arrival rate, if there is one.
    pub(super) fn worst(&self, backlog: &Backlog, per_member: f64) -> Option<HotPartition> {
        let hot = backlog.each().filter(|load| self.is_hot(load.partition));
        let worst = hot.max_by(|left, right| left.arrival.total_cmp(&right.arrival))?;
        let PartitionLoad { partition, arrival, .. } = worst;
        Some(HotPartition { partition, arrival_per_second: arrival, per_member })
    }

    /// The load of hot partitions that more replicas cannot help with: arrivals beyond one member's
    /// rate, and the whole backlog.
    pub(super) fn excess(&self, backlog: &Backlog, per_member: f64) -> Excess {
        let mut excess = Excess::default();
        for load in backlog.each().filter(|load| self.is_hot(load.partition)) {
            excess.arrival += (load.arrival - per_member).max(0.0);
            excess.waiting += load.waiting;
        }
        excess
    }
}
