//! Start-up: how long new pods take to become members that hold partitions, and whether they do.
//!
//! Slow pod starts look like a saturated downstream: more replicas run and no more is processed. So
//! nothing is concluded before all members hold partitions, and pods that never join are reported
//! separately.

use super::decision::MissingMembers;
use super::limits::{
    JOIN_DEADLINE_MIN, MEMBERS_INTERVALS, MEMBERS_PER_REPLICA_MAX, PAUSE_DEFAULT, STARTUP_DEFAULT,
    STARTUP_MAX,
};
use super::signal::Sample;
use std::time::Duration;

/// A step up whose members have not all joined.
#[derive(Debug, Clone, Copy)]
struct StepUp {
    replicas: u32,
    /// When the count was written.
    at: Duration,
}

/// A number of members per replica, and how many intervals in a row showed it.
#[derive(Debug, Clone, Copy)]
struct PerReplica {
    members: u32,
    intervals: u32,
}

/// Members of the group compared with the replicas of the target.
#[derive(Debug, Clone)]
pub(super) struct Joining {
    /// Time from writing the count until the last new member held partitions.
    startup: Duration,
    pause: Duration,
    /// The last step up that has not been completed.
    asked: Option<StepUp>,
    /// Since when the members of all replicas have held partitions.
    joined_since: Option<Duration>,
    /// Since when members have been missing without a step up.
    missing_since: Option<Duration>,
    members: u32,
    working: u32,
    rebalancing: bool,
    per_replica: u32,
    /// Members per replica in the last intervals, if it is not `per_replica`, and how many
    /// intervals showed it.
    candidate: PerReplica,
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
            candidate: PerReplica { members: 1, intervals: 0 },
        }
    }
}

impl Joining {
    /// Takes one sample, while the target should have `replicas`.
    pub(super) fn observe(&mut self, now: Duration, sample: &Sample, replicas: u32) {
        self.members = u32::try_from(sample.members.len()).unwrap_or(u32::MAX);
        self.working = sample.working();
        self.rebalancing = sample.rebalancing;
        if let Some(pause) = sample.last_pause {
            self.pause = pause.min(STARTUP_MAX);
        }
        let partitions = u32::try_from(sample.partitions.len()).unwrap_or(u32::MAX);
        let expected = replicas.saturating_mul(self.per_replica);
        // Members beyond the number of partitions join and hold none.
        let all_work = self.working >= expected.min(partitions) && self.members >= expected;
        if !all_work || sample.rebalancing {
            self.joined_since = None;
            self.missing_since.get_or_insert(now);
            return;
        }
        self.missing_since = None;
        self.joined_since.get_or_insert(now);
        if let Some(step) = self.asked.take_if(|step| step.replicas <= replicas) {
            let took = now.saturating_sub(step.at).min(STARTUP_MAX);
            self.startup = (self.startup + took) / 2;
        }
    }

    /// Ends an interval in which the target had `current` pods of `replicas` wanted.
    pub(super) fn close(&mut self, replicas: u32, current: u32) {
        let settled = replicas > 0 && replicas == current && !self.rebalancing;
        if !settled || !self.members.is_multiple_of(replicas) {
            self.candidate.intervals = 0;
            return;
        }
        let members = (self.members / replicas).clamp(1, MEMBERS_PER_REPLICA_MAX);
        let before = self.candidate;
        let intervals = if members == before.members { before.intervals + 1 } else { 1 };
        self.candidate = PerReplica { members, intervals };
        if intervals >= MEMBERS_INTERVALS {
            self.per_replica = members;
        }
    }

    /// More replicas were written.
    pub(super) fn asked_for(&mut self, now: Duration, replicas: u32) {
        self.asked = Some(StepUp { replicas, at: now });
        self.joined_since = None;
    }

    /// Fewer replicas were written: pods that are still starting are not waited for.
    pub(super) fn gave_up(&mut self) {
        self.asked = None;
        self.joined_since = None;
    }

    /// How long all members have held their partitions.
    pub(super) fn joined_for(&self, now: Duration) -> Option<Duration> {
        self.joined_since.map(|since| now.saturating_sub(since))
    }

    /// The members, and how long some have been missing, if that exceeds the start-up deadline.
    pub(super) fn late(&self, now: Duration, replicas: u32) -> Option<MissingMembers> {
        let asked_at = self.asked.map(|step| step.at);
        let since = asked_at.max(self.missing_since)?;
        let missing = now.saturating_sub(since);
        self.missing_since?;
        let is_late = missing > JOIN_DEADLINE_MIN.max(self.startup * 3);
        is_late.then_some(MissingMembers { replicas, members: self.members, missing_for: missing })
    }

    /// Whether all pods have missed the start-up deadline and no member consumes: more replicas
    /// would not help.
    pub(super) fn none_consumes(&self, now: Duration) -> bool {
        self.working == 0 && self.late(now, 0).is_some()
    }

    /// Time from writing a larger count until its members consume.
    pub(super) fn startup(&self) -> Duration {
        self.startup
    }

    /// Length of a rebalance, during which members do not consume.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Whether the group is rebalancing.
    pub(super) fn is_rebalancing(&self) -> bool {
        self.rebalancing
    }

    /// Members that one replica adds to the group.
    pub(super) fn per_replica(&self) -> u32 {
        self.per_replica
    }
}
