//! Whether a step up increased throughput. If not, a downstream of the consumers is saturated, and
//! more replicas only add load to it.
//!
//! A trial begins with a step up because of a backlog. Once all members have held their partitions
//! for two commit intervals, their throughput is compared with the prediction. If it rose by less
//! than a fifth of the predicted gain and most members still have a backlog, replicas step back
//! once and hold, each time for twice as long. A hold ends early when throughput exceeds that of
//! the saturated downstream: it has recovered.

use super::limits::{
    GAIN_SHARE_MIN, HOLD_MAX, HOLD_MIN, RECOVERED, RECOVERY_ROOM, STRETCH_MIN, TRANSIT_SECONDS,
};
use super::service::MemberRates;
use super::steps::Layout;
use std::collections::VecDeque;
use std::time::Duration;

/// Messages that the group had processed in all at one moment.
#[derive(Debug, Clone, Copy)]
struct Progress {
    at: Duration,
    committed: i64,
}

/// A step up that is on trial.
#[derive(Debug, Clone, Copy)]
struct Trial {
    from: u32,
    to: u32,
    /// Messages per second before the step.
    before: f64,
    /// Start of the measurement and messages processed until then.
    counted_since: Option<Progress>,
}

/// A count at which replicas stay, because more did not help.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hold {
    /// Most replicas during the hold.
    pub(super) replicas: u32,
    /// Throughput of the downstream, messages per second.
    pub(super) takes: f64,
    /// End of the hold.
    pub(super) until: Duration,
}

/// The input of [`Saturation::judge`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    pub(super) now: Duration,
    pub(super) replicas: u32,
    pub(super) layout: Layout,
    /// The measured service rate of one member, messages per second; never the user's hint.
    pub(super) per_member: Option<f64>,
    pub(super) joined_for: Option<Duration>,
    pub(super) commit_interval: Duration,
    pub(super) waiting: f64,
    pub(super) arrival: f64,
    pub(super) members: MemberRates,
}

/// Evaluates steps up.
#[derive(Debug, Clone, Default)]
pub(super) struct Saturation {
    trial: Option<Trial>,
    hold: Option<Hold>,
    /// Length of the next hold.
    next: Option<Duration>,
    /// Messages that the group had processed at the ends of the last intervals.
    processed: VecDeque<Progress>,
}

/// Intervals over which throughput is averaged: longer than usual commit intervals.
const AVERAGED: usize = 6;

impl Saturation {
    /// Takes the number of messages that the group has processed in all, at the end of an interval.
    pub(super) fn close(&mut self, now: Duration, committed: i64) {
        if self.processed.back().is_some_and(|before| committed < before.committed) {
            self.processed.clear();
        }
        self.processed.push_back(Progress { at: now, committed });
        if self.processed.len() > AVERAGED + 1 {
            self.processed.pop_front();
        }
    }

    /// Messages per second over the last half minute.
    pub(super) fn throughput(&self) -> Option<f64> {
        let (first, last) = (self.processed.front()?, self.processed.back()?);
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        (seconds > 0.0).then(|| (last.committed - first.committed) as f64 / seconds)
    }

    /// Discards the counts after a gap in the signals.
    pub(super) fn restart(&mut self) {
        self.processed.clear();
        if let Some(trial) = &mut self.trial {
            trial.counted_since = None;
        }
    }

    /// A step up was written because of a backlog.
    pub(super) fn began(&mut self, from: u32, to: u32) {
        let before = self.throughput().unwrap_or(0.0);
        // Several steps up in a row are one trial, counted from the first.
        let trial = self.trial.get_or_insert(Trial { from, to, before, counted_since: None });
        trial.to = to;
        trial.counted_since = None;
    }

    /// Replicas were changed for another reason.
    pub(super) fn dropped(&mut self) {
        self.trial = None;
    }

    /// Whether a step up is on trial.
    pub(super) fn is_trying(&self) -> bool {
        self.trial.is_some()
    }

    /// The present hold, if there is one.
    pub(super) fn hold(&self) -> Option<Hold> {
        self.hold
    }

    /// Evaluates the trial; returns a hold that begins now.
    pub(super) fn judge(&mut self, scene: &Scene) -> Option<Hold> {
        self.end_hold(scene);
        let trial = self.trial?;
        if scene.replicas != trial.to {
            self.trial = None;
            return None;
        }
        let settled = scene.joined_for.is_some_and(|joined| joined >= scene.commit_interval);
        let (Some(per_member), true) = (scene.per_member, settled) else {
            return None;
        };
        let latest = *self.processed.back()?;
        let Some(start) = trial.counted_since else {
            self.trial = Some(Trial { counted_since: Some(latest), ..trial });
            return None;
        };
        let counted = latest.at.saturating_sub(start.at);
        if counted < STRETCH_MIN.max(scene.commit_interval * 2) {
            return None;
        }
        self.trial = None;
        let after = (latest.committed - start.committed) as f64 / counted.as_secs_f64();
        let predicted = scene.layout.capacity(trial.to, per_member) - trial.before;
        if after - trial.before >= GAIN_SHARE_MIN * predicted || !is_swamped(scene) {
            self.next = None;
            return None;
        }
        let room = scene.layout.step_for(after * RECOVERY_ROOM, per_member);
        let below = scene.layout.below(trial.to)?;
        let lasts = self.next.unwrap_or(HOLD_MIN);
        self.next = Some((lasts * 2).min(HOLD_MAX));
        let hold = Hold {
            replicas: room.max(trial.from).clamp(1, below),
            takes: after,
            until: scene.now + lasts,
        };
        self.hold = Some(hold);
        Some(hold)
    }

    fn end_hold(&mut self, scene: &Scene) {
        let Some(hold) = self.hold else { return };
        let room = f64::from(scene.members.working) * TRANSIT_SECONDS / STRETCH_MIN.as_secs_f64();
        let recovered = self.throughput().is_some_and(|now| now > hold.takes * RECOVERED + room)
            && scene.joined_for.is_some_and(|joined| joined > STRETCH_MIN * 3);
        if recovered {
            self.next = None;
        }
        if recovered || scene.now >= hold.until {
            self.hold = None;
        }
    }
}

/// Whether most members have a backlog, and it is at least a second of arrivals.
fn is_swamped(scene: &Scene) -> bool {
    let MemberRates { busy, working, .. } = scene.members;
    working > 0 && busy * 2 > working && scene.waiting > scene.arrival
}
