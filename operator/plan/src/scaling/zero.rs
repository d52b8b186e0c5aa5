//! When a group may go to zero: if no messages wait, none is in flight, and none has arrived for as
//! long as the user chose.
//!
//! Messages of an open transaction are not visible and do not count. When it commits, messages wait
//! without a member, and the broker sends a wake-up.

use super::signal::Sample;
use std::time::Duration;

/// Since when a group has had no work.
#[derive(Debug, Clone, Default)]
pub(super) struct Idle {
    since: Option<Duration>,
    ends: i64,
}

impl Idle {
    /// Takes one sample of the group.
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

    /// Discards the idle time after a gap in the signals.
    pub(super) fn restart(&mut self) {
        self.since = None;
    }

    /// How long no message has arrived, waited or been in flight.
    pub(super) fn lasts(&self, now: Duration) -> Option<Duration> {
        self.since.map(|since| now.saturating_sub(since))
    }
}
