//! When a group may go to zero replicas: only if nothing waits, nothing is in anybody's hand and nothing has come for
//! as long as the user said.
//!
//! What an open transaction holds is not visible yet and counts as nothing. When it commits, messages wait without a
//! member, and the broker wakes the group.

use super::signal::Sample;
use std::time::Duration;

/// Since when a group has had nothing to do.
#[derive(Debug, Clone, Default)]
pub(super) struct Idle {
    since: Option<Duration>,
    ends: i64,
}

impl Idle {
    /// Takes one sample.
    pub(super) fn observe(&mut self, now: Duration, sample: &Sample) {
        let ends: i64 = sample.partitions.iter().map(|partition| partition.end).sum();
        let in_hand = sample.in_flight.unwrap_or(0);
        if sample.length > 0 || in_hand > 0 || ends != self.ends {
            self.since = None;
        } else {
            self.since.get_or_insert(now);
        }
        self.ends = ends;
    }

    /// Nothing is known for a while, so nothing is known to have been idle.
    pub(super) fn restart(&mut self) {
        self.since = None;
    }

    /// For how long nothing has come and nothing was left.
    pub(super) fn lasts(&self, now: Duration) -> Option<Duration> {
        self.since.map(|since| now.saturating_sub(since))
    }
}
