//! Whether the pods that were asked for have become members that hold partitions, and how long that takes.
//!
//! Slow pod starts look like a saturated downstream: more was asked for and no more is done. So nothing is concluded
//! before all members hold partitions, and pods that never join are news of their own.

use super::limits::{
    JOIN_DEADLINE_MIN, MEMBERS_INTERVALS, MEMBERS_PER_REPLICA_MAX, PAUSE_DEFAULT, STARTUP_DEFAULT,
    STARTUP_MAX,
};
use super::signal::Sample;
use std::time::Duration;

/// Members against replicas.
#[derive(Debug, Clone)]
pub(super) struct Joining {
    /// From the write to the last member holding partitions.
    startup: Duration,
    pause: Duration,
    /// The step up that is on its way, and when it was asked for.
    asked: Option<(u32, Duration)>,
    /// Since when the members of all replicas hold partitions.
    joined_since: Option<Duration>,
    /// Since when they do not, although nobody was asked for.
    missing_since: Option<Duration>,
    members: u32,
    working: u32,
    rebalancing: bool,
    per_replica: u32,
    /// What the intervals before the last showed instead, and how many did.
    per_replica_seen: (u32, u32),
}

impl Default for Joining {
    fn default() -> Self {
        Self {
            startup: STARTUP_DEFAULT,
            pause: PAUSE_DEFAULT,
            asked: None,
            joined_since: None,
            missing_since: None,
            members: 0,
            working: 0,
            rebalancing: false,
            per_replica: 1,
            per_replica_seen: (1, 0),
        }
    }
}

impl Joining {
    /// Takes one sample, while the target is asked for `replicas`.
    pub(super) fn observe(&mut self, now: Duration, sample: &Sample, replicas: u32) {
        self.members = u32::try_from(sample.members.len()).unwrap_or(u32::MAX);
        self.working = sample.working();
        self.rebalancing = sample.rebalancing;
        if let Some(pause) = sample.last_pause {
            self.pause = pause.min(STARTUP_MAX);
        }
        let partitions = u32::try_from(sample.partitions.len()).unwrap_or(u32::MAX);
        let expected = replicas.saturating_mul(self.per_replica);
        // Members beyond the number of partitions join, and hold none.
        let all_work = self.working >= expected.min(partitions) && self.members >= expected;
        if !all_work || sample.rebalancing {
            self.joined_since = None;
            self.missing_since.get_or_insert(now);
            return;
        }
        self.missing_since = None;
        self.joined_since.get_or_insert(now);
        if let Some((_, at)) = self.asked.take_if(|(asked, _)| *asked <= replicas) {
            let took = now.saturating_sub(at).min(STARTUP_MAX);
            self.startup = (self.startup + took) / 2;
        }
    }

    /// Ends an interval in which the target had `current` pods of `replicas` asked for.
    pub(super) fn close(&mut self, replicas: u32, current: u32) {
        let settled = replicas > 0 && replicas == current && !self.rebalancing;
        if !settled || !self.members.is_multiple_of(replicas) {
            self.per_replica_seen.1 = 0;
            return;
        }
        let seen = (self.members / replicas).clamp(1, MEMBERS_PER_REPLICA_MAX);
        let (before, times) = self.per_replica_seen;
        self.per_replica_seen = (seen, if seen == before { times + 1 } else { 1 });
        if self.per_replica_seen.1 >= MEMBERS_INTERVALS {
            self.per_replica = seen;
        }
    }

    /// More replicas were written.
    pub(super) fn asked_for(&mut self, now: Duration, replicas: u32) {
        self.asked = Some((replicas, now));
        self.joined_since = None;
    }

    /// Fewer replicas were written: whoever is on the way is not waited for.
    pub(super) fn gave_up(&mut self) {
        self.asked = None;
        self.joined_since = None;
    }

    /// How long all members have held their partitions.
    pub(super) fn joined_for(&self, now: Duration) -> Option<Duration> {
        self.joined_since.map(|since| now.saturating_sub(since))
    }

    /// Members that are there, and for how long some have been missing, if that is longer than any start takes.
    pub(super) fn late(&self, now: Duration) -> Option<(u32, Duration)> {
        let asked_at = self.asked.map(|(_, at)| at);
        let since = asked_at.max(self.missing_since)?;
        let missing = now.saturating_sub(since);
        self.missing_since?;
        (missing > JOIN_DEADLINE_MIN.max(self.startup * 3)).then_some((self.members, missing))
    }

    /// Whether pods have been there for longer than any start takes, and not one of them consumes: more of the same are
    /// no help.
    pub(super) fn nobody_came(&self, now: Duration) -> bool {
        self.working == 0 && self.late(now).is_some()
    }

    /// From writing a larger count to its members working.
    pub(super) fn startup(&self) -> Duration {
        self.startup
    }

    /// For how long a rebalance keeps members from working.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Whether members are changing.
    pub(super) fn is_rebalancing(&self) -> bool {
        self.rebalancing
    }

    /// Members that one replica brings.
    pub(super) fn per_replica(&self) -> u32 {
        self.per_replica
    }
}
