//! A step down to find out whether members can do more than is believed.
//!
//! A service rate that is too low keeps everybody idle, and nobody who is idle can be measured. So after a while without
//! a busy member the next smaller count is tried, on the assumption that it suffices. If no backlog forms, the
//! assumption is the new service rate and the next smaller count follows soon; if one forms, the old count comes back
//! and the rate counts as confirmed.

use super::limits::{PROBE_DOUBTED, PROBE_HOLD, PROBE_MAX, PROBE_TRUSTED};
use std::time::Duration;

/// A smaller count that is being tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    /// Back to this many if it does not work.
    pub(super) from: u32,
    /// The count that is tried.
    pub(super) to: u32,
    since: Duration,
}

/// What became of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not decided.
    Running,
    /// They kept up.
    Enough,
    /// They did not.
    TooFew,
}

/// Decides when to try fewer replicas.
#[derive(Debug, Clone, Default)]
pub(super) struct Probe {
    quiet_since: Option<Duration>,
    trial: Option<Trial>,
    /// The last trial succeeded: the next may follow soon.
    is_on_the_way: bool,
    /// How often a trial has shown that the rate was right.
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

    /// What is being tried.
    pub(super) fn trial(&self) -> Option<Trial> {
        self.trial
    }

    /// Whether it is time to try fewer. The wait doubles with each trial that failed since one succeeded, also for a rate
    /// that is doubted: each failed one costs two rebalances.
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

    /// `to` replicas were written, to see whether they suffice.
    pub(super) fn began(&mut self, now: Duration, from: u32, to: u32) {
        self.trial = Some(Trial { from, to, since: now });
        self.quiet_since = Some(now);
    }

    /// Looks at the trial, with `backlog_formed` if more waits than the rebalance explains.
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

    /// The count was changed for another reason, or nothing is known: what was tried proves nothing.
    pub(super) fn restart(&mut self) {
        self.trial = None;
        self.quiet_since = None;
        self.is_on_the_way = false;
    }
}
