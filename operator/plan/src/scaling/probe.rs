//! Probes: a step down to find out whether members can process more than is assumed.
//!
//! With a service rate that is too low all members are idle, and an idle member cannot be measured.
//! So after some time without a busy member the next smaller count is tried, on the assumption that
//! it suffices. If no backlog forms, the assumption becomes the new service rate and the next
//! smaller count follows soon; if one forms, the old count is restored and the rate counts as
//! confirmed.

use super::limits::{PROBE_DOUBTED, PROBE_HOLD, PROBE_MAX, PROBE_TRUSTED};
use std::time::Duration;

/// A smaller count that is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    /// The count to restore if the trial fails.
    pub(super) from: u32,
    /// The count on trial.
    pub(super) to: u32,
    since: Duration,
}

/// The result of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The trial continues.
    Running,
    /// The smaller count keeps up.
    Enough,
    /// The smaller count does not keep up.
    TooFew,
}

/// Decides when a smaller count is tried, and how the trial ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Probe {
    quiet_since: Option<Duration>,
    trial: Option<Trial>,
    /// The last trial succeeded: the next may follow soon.
    is_on_the_way: bool,
    /// Failed trials in a row, each of which confirmed the rate.
    confirmed: u32,
}

impl Probe {
    /// Ends an interval; `busy` if any member had a backlog.
    pub(super) fn close(&mut self, now: Duration, busy: bool) {
        if busy {
            self.quiet_since = None;
            self.is_on_the_way &= self.trial.is_some();
        } else {
            self.quiet_since.get_or_insert(now);
        }
    }

    /// The running trial, if there is one.
    pub(super) fn trial(&self) -> Option<Trial> {
        self.trial
    }

    /// Whether it is time for a trial. The wait doubles with each failed trial in a row, also for a
    /// doubtful rate: each failed trial costs two rebalances.
    pub(super) fn is_due(&self, now: Duration, doubted: bool) -> bool {
        let wait = if self.is_on_the_way {
            PROBE_HOLD
        } else {
            let first = if doubted { PROBE_DOUBTED } else { PROBE_TRUSTED };
            PROBE_MAX.min(first * 2u32.pow(self.confirmed.min(4)))
        };
        self.trial.is_none()
            && self.quiet_since.is_some_and(|since| now.saturating_sub(since) >= wait)
    }

    /// `to` replicas were written as a trial.
    pub(super) fn began(&mut self, now: Duration, from: u32, to: u32) {
        self.trial = Some(Trial { from, to, since: now });
        self.quiet_since = Some(now);
    }

    /// Evaluates the trial. `backlog_formed`: more waits than the rebalance explains.
    pub(super) fn judge(&mut self, now: Duration, backlog_formed: bool, hold: Duration) -> Outcome {
        let Some(trial) = self.trial else { return Outcome::Running };
        if backlog_formed {
            self.trial = None;
            self.quiet_since = None;
            self.is_on_the_way = false;
            self.confirmed += 1;
            return Outcome::TooFew;
        }
        if now.saturating_sub(trial.since) < PROBE_HOLD.max(hold) {
            return Outcome::Running;
        }
        self.trial = None;
        self.is_on_the_way = true;
        self.confirmed = 0;
        Outcome::Enough
    }

    /// Ends the trial without a result: the count was changed for another reason, or a signal is
    /// missing.
    pub(super) fn restart(&mut self) {
        self.trial = None;
        self.quiet_since = None;
        self.is_on_the_way = false;
    }
}
