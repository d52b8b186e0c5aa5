//! Whether one partition gets more than one member can process: then more replicas cannot help it.
//!
//! No partition is ever counted for more than one member's work ([`Backlog::demand`]), so that the backlog of one does not
//! scale everything else. This is the verdict that says so. When most partitions are hot that is no skew but a load for
//! which there are too few of them.

use super::backlog::Backlog;
use super::limits::{HOT, HOT_INTERVALS};
use std::collections::BTreeMap;

/// A partition that no number of replicas can keep up with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HotPartition {
    /// Its number.
    pub partition: u32,
    /// Messages that arrive on it, per second.
    pub arrival_per_second: f64,
    /// What one member can process, per second.
    pub per_member: f64,
}

/// Remembers for how long partitions have been hot.
#[derive(Debug, Clone, Default)]
pub(super) struct Hot {
    /// Partition to intervals in a row.
    counts: BTreeMap<u32, u32>,
    partitions: u32,
}

impl Hot {
    /// Ends an interval in which every member held its partitions and could do `per_member`, which was measured.
    pub(super) fn close(&mut self, backlog: &Backlog, per_member: f64) {
        let before = std::mem::take(&mut self.counts);
        self.partitions = backlog.partitions();
        for (partition, arrival, waiting) in backlog.each() {
            if arrival > HOT * per_member && waiting > arrival {
                let count = before.get(&partition).copied().unwrap_or(0) + 1;
                self.counts.insert(partition, count.min(HOT_INTERVALS));
            }
        }
    }

    /// The verdict cannot be given any more.
    pub(super) fn restart(&mut self) {
        self.counts.clear();
    }

    fn is_hot(&self, partition: u32) -> bool {
        let is_skew = self.counts.len() * 2 <= self.partitions as usize;
        is_skew && self.counts.get(&partition).is_some_and(|count| *count >= HOT_INTERVALS)
    }

    /// The hottest, if any is.
    pub(super) fn worst(&self, backlog: &Backlog, per_member: f64) -> Option<HotPartition> {
        let hot = backlog.each().filter(|(partition, ..)| self.is_hot(*partition));
        let worst = hot.max_by(|left, right| left.1.total_cmp(&right.1))?;
        Some(HotPartition { partition: worst.0, arrival_per_second: worst.1, per_member })
    }

    /// How much of the demand on hot partitions no replica can meet: what comes per second beyond one member's work,
    /// and what waits there.
    pub(super) fn beyond_help(&self, backlog: &Backlog, per_member: f64) -> (f64, f64) {
        let hot = backlog.each().filter(|(partition, ..)| self.is_hot(*partition));
        hot.fold((0.0, 0.0), |(arrival, waiting), (_, comes, waits)| {
            (arrival + (comes - per_member).max(0.0), waiting + waits)
        })
    }
}
