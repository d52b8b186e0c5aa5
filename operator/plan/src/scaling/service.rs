//! The service rate μ: messages per second that one member can process.
//!
//! A member that is not busy shows the arrival rate, not its capacity. So a member is measured only
//! over stretches, from one commit to another, in which it always had messages to work on, and only
//! if its throughput differed from the arrival rate or its backlog is deep: a consumer that holds
//! many messages in hand always has a backlog and is still not at its limit. If that counted as its
//! limit, the policy would add replicas, which lowers the throughput of each, which adds more.
//!
//! The rate that a member sustains, busy or not, is a lower bound of its capacity and is used at
//! once.
//!
//! # Doubtful rates
//!
//! A rate that was measured during an outage of a downstream is too low. The policy then wants so
//! many replicas that no member is ever busy again, and the rate would stay too low.
//! [`ServiceRate::is_doubted`] reports when the rate should be probed.

use super::backlog::Backlog;
use super::limits::{
    DEEP_SECONDS, DOUBT_SHARE, MOVED_DEVIATIONS, MOVED_SHARE_MIN, PER_REPLICA_PER_SECOND_MAX,
    SERVICE_WEIGHT, STRETCH_MAX, STRETCH_MESSAGES_MIN, STRETCH_MIN, TRANSIT_SECONDS,
};
use super::signal::{MemberSample, PartitionSample, Sample};
use std::collections::BTreeMap;
use std::time::Duration;

/// Offsets and backlog of a member, summed over its partitions.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    end: i64,
    committed: i64,
    length: u64,
}

/// The offsets of a member at one of its commits.
#[derive(Debug, Clone, Copy)]
struct Commit {
    at: Duration,
    sums: Sums,
}

/// The time from one commit of a member to a later one.
#[derive(Debug, Clone)]
struct Stretch {
    partitions: Vec<u32>,
    /// The commit at which it began; `None` before the first commit.
    began: Option<Commit>,
    committed: i64,
    busy: bool,
}

/// The measurement of one stretch.
#[derive(Debug, Clone, Copy)]
struct Measurement {
    per_second: f64,
    /// Whether the member could not have processed more.
    at_limit: bool,
}

/// Measures the members of a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    stretches: BTreeMap<String, Stretch>,
    shown: Vec<Measurement>,
    /// Members with a backlog at the last sample, and members that hold partitions.
    busy: u32,
    working: u32,
}

/// The measurements of one interval over all members.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct MemberRates {
    /// Mean messages per second of members at their limit.
    pub(super) at_limit: Option<f64>,
    /// Mean messages per second of all members, if at least half of them were measured.
    pub(super) sustained: Option<f64>,
    /// Members whose backlog exceeds what is in transit.
    pub(super) busy: u32,
    /// Members that hold partitions.
    pub(super) working: u32,
}

impl Watch {
    /// Takes one sample. `backlog` must have taken it already.
    pub(super) fn observe(&mut self, now: Duration, sample: &Sample, backlog: &Backlog) {
        self.working = sample.working();
        if sample.rebalancing {
            self.restart();
            return;
        }
        let partitions = by_number(&sample.partitions);
        let mut before = std::mem::take(&mut self.stretches);
        self.busy = 0;
        for member in sample.members.iter().filter(|member| !member.partitions.is_empty()) {
            let sums = sums(member, &partitions);
            let transit = backlog.arrival_on(&member.partitions) * TRANSIT_SECONDS + 1.0;
            let busy = sums.length as f64 > transit;
            self.busy += u32::from(busy);
            let mut stretch = before
                .remove(&member.id)
                .filter(|stretch| stretch.partitions == member.partitions)
                .unwrap_or_else(|| Stretch {
                    partitions: member.partitions.clone(),
                    began: None,
                    committed: sums.committed,
                    busy: true,
                });
            self.shown.extend(stretch.see(now, sums, busy, backlog.commit_interval()));
            self.stretches.insert(member.id.clone(), stretch);
        }
    }

    /// Ends an interval and returns its measurements.
    pub(super) fn close(&mut self) -> MemberRates {
        let shown = std::mem::take(&mut self.shown);
        let seen_enough = shown.len() * 2 >= self.working as usize;
        MemberRates {
            at_limit: mean(
                shown.iter().filter(|shown| shown.at_limit).map(|shown| shown.per_second),
            ),
            sustained: mean(shown.iter().map(|shown| shown.per_second)).filter(|_| seen_enough),
            busy: self.busy,
            working: self.working,
        }
    }

    /// Discards every stretch.
    pub(super) fn restart(&mut self) {
        self.stretches.clear();
        self.shown.clear();
        self.busy = 0;
    }
}

impl Stretch {
    fn see(
        &mut self,
        now: Duration,
        sums: Sums,
        busy: bool,
        commits: Duration,
    ) -> Option<Measurement> {
        let committed = std::mem::replace(&mut self.committed, sums.committed);
        self.busy &= busy;
        if sums.committed < committed {
            // The offsets of the group were reset.
            self.began = None;
        }
        if sums.committed <= committed {
            return None;
        }
        let Some(began) = self.began else {
            self.began = Some(Commit { at: now, sums });
            self.busy = busy;
            return None;
        };
        let elapsed = now.saturating_sub(began.at);
        let processed = (sums.committed - began.sums.committed) as f64;
        let long_enough =
            elapsed >= STRETCH_MIN.max(commits * 2) && processed >= STRETCH_MESSAGES_MIN;
        if !long_enough && elapsed < STRETCH_MAX {
            return None;
        }
        let per_second = processed / elapsed.as_secs_f64().max(1.0);
        let arrived = (sums.end - began.sums.end) as f64;
        let noise = MOVED_DEVIATIONS * (processed + arrived).sqrt();
        let moved = (processed - arrived).abs() > noise.max(MOVED_SHARE_MIN * arrived);
        let deep = sums.length as f64 > DEEP_SECONDS * per_second;
        let at_limit = self.busy && (moved || deep);
        // A busy member whose limit is not proved may prove it over a longer stretch.
        if at_limit || !self.busy || elapsed >= STRETCH_MAX {
            self.began = Some(Commit { at: now, sums });
            self.busy = busy;
        }
        Some(Measurement { per_second, at_limit })
    }
}

fn by_number(partitions: &[PartitionSample]) -> BTreeMap<u32, &PartitionSample> {
    partitions.iter().map(|partition| (partition.partition, partition)).collect()
}

fn sums(member: &MemberSample, partitions: &BTreeMap<u32, &PartitionSample>) -> Sums {
    let mut sums = Sums::default();
    for partition in member.partitions.iter().filter_map(|number| partitions.get(number)) {
        sums.end += partition.end;
        sums.committed += partition.committed;
        sums.length += partition.length;
    }
    sums
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// The estimate of μ.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceRate {
    /// Messages per second and member, measured by this scaler.
    measured: Option<f64>,
    /// Messages per second and replica, measured before the last restart of the operator.
    remembered: Option<f64>,
    /// The best rate that was measured or that a probe confirmed; a lower rate is doubtful.
    best: f64,
    /// A probe showed that the hint is wrong.
    is_hint_refuted: bool,
}

/// The user's hint, and how many members a replica has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hint {
    /// Messages per second and replica.
    pub(super) per_replica: Option<f64>,
    pub(super) members: f64,
}

impl Hint {
    fn per_member(self) -> Option<f64> {
        self.per_replica.map(|rate| rate / self.members)
    }
}

impl ServiceRate {
    /// Starts with the rate per replica that was measured before the last restart of the operator.
    pub(super) fn restored(per_replica: Option<f64>) -> Self {
        let is_sane = |rate: &f64| *rate > 0.0 && *rate <= PER_REPLICA_PER_SECOND_MAX;
        let remembered = per_replica.filter(is_sane);
        Self { remembered, ..Self::default() }
    }

    /// Adds the measurements of an interval. While a step up is on trial the rate may only rise,
    /// because the members share the downstream that is being tested.
    pub(super) fn learn(&mut self, shown: MemberRates, may_fall: bool) {
        if let Some(rate) = shown.at_limit {
            let old = self.measured.unwrap_or(rate);
            if may_fall || rate > old {
                self.measured = Some(old + SERVICE_WEIGHT * (rate - old));
            }
        }
        if let (Some(sustained), Some(measured)) = (shown.sustained, self.measured) {
            self.measured = Some(measured.max(sustained));
        }
        self.best = self.best.max(self.measured.unwrap_or(0.0));
    }

    /// Messages per second and member, if this scaler has measured it.
    pub(super) fn measured(&self) -> Option<f64> {
        self.measured
    }

    /// Messages per second and replica, measured by this or an earlier scaler.
    pub(super) fn to_remember(&self, members: f64) -> Option<f64> {
        self.measured.map(|rate| rate * members).or(self.remembered)
    }

    /// The rate to use: measured, measured earlier, or the user's hint, in this order.
    pub(super) fn believed(&self, hint: Hint) -> Option<f64> {
        let earlier = Hint { per_replica: self.remembered, ..hint }.per_member();
        self.measured.or(earlier).or(hint.per_member()).filter(|rate| *rate > 0.0)
    }

    /// Fewer members sustained this rate each.
    pub(super) fn raise(&mut self, per_member: f64) {
        self.measured = Some(self.measured.unwrap_or(0.0).max(per_member));
        self.best = self.best.max(per_member);
    }

    /// A probe confirmed the rate.
    pub(super) fn confirm(&mut self, hint: Hint) {
        self.best = self.believed(hint).unwrap_or(0.0);
        self.is_hint_refuted = true;
    }

    /// Whether a better rate was measured or hinted, or no rate is known.
    pub(super) fn is_doubted(&self, hint: Hint) -> bool {
        let promised = hint.per_member().filter(|_| !self.is_hint_refuted).unwrap_or(0.0);
        self.believed(hint).is_none_or(|rate| rate < DOUBT_SHARE * self.best.max(promised))
    }
}
