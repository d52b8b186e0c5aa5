//! The stabilization window: replicas are reduced only to the most that was wanted over the whole
//! window.
//!
//! Each step down that is reverted soon doubles the window. Otherwise a load that swings more
//! slowly than the window, or a rebalance that is too costly for the remaining capacity, would
//! cause the same mistake again and again.

use super::limits::{REGRET_MAX, REGRET_WINDOWS};
use std::collections::VecDeque;
use std::time::Duration;

/// A replica count that was wanted, and when.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    at: Duration,
    replicas: u32,
}

/// The stabilization window of one consumer.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// Since when the wanted count is known without a gap.
    since: Option<Duration>,
    /// Times and counts, falling: an entry that a later, larger one covers is removed.
    wanted: VecDeque<Wanted>,
    stepped_down: Option<Duration>,
    regrets: u32,
    regretted: Option<Duration>,
}

impl Window {
    /// Records that `replicas` were wanted.
    pub(super) fn add(&mut self, now: Duration, replicas: u32) {
        self.since.get_or_insert(now);
        while self.wanted.back().is_some_and(|last| last.replicas <= replicas) {
            self.wanted.pop_back();
        }
        self.wanted.push_back(Wanted { at: now, replicas });
    }

    /// The present length, if the user chose `chosen`.
    pub(super) fn length(&self, chosen: Duration) -> Duration {
        chosen * 2u32.pow(self.regrets)
    }

    /// The most that was wanted over the whole window. `None` until the window is full, and for up
    /// to one further window while the wanted count still falls: one step down costs less than two.
    pub(super) fn most(&mut self, now: Duration, chosen: Duration) -> Option<u32> {
        let length = self.length(chosen);
        let watched = now.saturating_sub(self.since?);
        if watched < length {
            return None;
        }
        let most = self.most_since(now, length)?;
        let falls = self.wanted.back().is_some_and(|last| last.replicas < most);
        (!falls || watched >= length * 2).then_some(most)
    }

    fn most_since(&mut self, now: Duration, length: Duration) -> Option<u32> {
        let begins = now.saturating_sub(length);
        while self.wanted.len() > 1 && self.wanted.front().is_some_and(|first| first.at < begins) {
            self.wanted.pop_front();
        }
        self.wanted.front().map(|first| first.replicas)
    }

    /// Discards the wanted counts: they are unknown now, or had another cause.
    pub(super) fn restart(&mut self) {
        self.since = None;
        self.wanted.clear();
    }

    /// Replicas were reduced to what this window returned.
    pub(super) fn went_down(&mut self, now: Duration) {
        self.stepped_down = Some(now);
    }

    /// Replicas were increased. If that reverts a recent step down, the window is doubled.
    pub(super) fn went_up(&mut self, now: Duration, chosen: Duration) {
        let soon = self.length(chosen) * REGRET_WINDOWS;
        if self.stepped_down.take().is_some_and(|at| now.saturating_sub(at) < soon) {
            self.regrets = (self.regrets + 1).min(REGRET_MAX);
            self.regretted = Some(now);
        }
    }

    /// Halves the window once no step down was reverted for long enough.
    pub(super) fn settle(&mut self, now: Duration, chosen: Duration) {
        let calm = self.length(chosen) * (REGRET_WINDOWS + 2);
        if self.regretted.is_some_and(|at| now.saturating_sub(at) > calm) {
            self.regrets = self.regrets.saturating_sub(1);
            self.regretted = (self.regrets > 0).then_some(now);
        }
    }
}
