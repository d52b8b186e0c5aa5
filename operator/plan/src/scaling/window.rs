//! What was wanted lately: replicas go down only to the most that was wanted over the whole window.
//!
//! The window doubles with every step down that had to be taken back soon. A load that swings more slowly than the
//! window, or a pause that is too costly for the room that is left, would otherwise have it fall into the same trap for ever.

use super::limits::{REGRET_MAX, REGRET_WINDOWS};
use std::collections::VecDeque;
use std::time::Duration;

/// The stabilization window of one consumer.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// Since when it is known what was wanted, without a gap.
    since: Option<Duration>,
    /// When how many were wanted, falling: only what is still the most of all that came later.
    wanted: VecDeque<(Duration, u32)>,
    stepped_down: Option<Duration>,
    regrets: u32,
    regretted: Option<Duration>,
}

impl Window {
    /// Notes that `replicas` were wanted.
    pub(super) fn add(&mut self, now: Duration, replicas: u32) {
        self.since.get_or_insert(now);
        while self.wanted.back().is_some_and(|(_, wanted)| *wanted <= replicas) {
            self.wanted.pop_back();
        }
        self.wanted.push_back((now, replicas));
    }

    /// How long it is now, if the user chose `chosen`.
    pub(super) fn length(&self, chosen: Duration) -> Duration {
        chosen * 2u32.pow(self.regrets)
    }

    /// The most that was wanted over the whole window; `None` as long as the window is not full, and for another one at
    /// most while what is wanted still falls: one step down costs less than two.
    pub(super) fn most(&mut self, now: Duration, chosen: Duration) -> Option<u32> {
        let length = self.length(chosen);
        let watched = now.saturating_sub(self.since?);
        if watched < length {
            return None;
        }
        let most = self.most_since(now, length)?;
        let falls = self.wanted.back().is_some_and(|(_, wanted)| *wanted < most);
        (!falls || watched >= length * 2).then_some(most)
    }

    fn most_since(&mut self, now: Duration, length: Duration) -> Option<u32> {
        let begins = now.saturating_sub(length);
        while self.wanted.len() > 1 && self.wanted.front().is_some_and(|(at, _)| *at < begins) {
            self.wanted.pop_front();
        }
        self.wanted.front().map(|(_, wanted)| *wanted)
    }

    /// Forgets what was wanted: it is not known any more, or it was for other reasons.
    pub(super) fn restart(&mut self) {
        self.since = None;
        self.wanted.clear();
    }

    /// Replicas went down because of what this window said.
    pub(super) fn went_down(&mut self, now: Duration) {
        self.stepped_down = Some(now);
    }

    /// Replicas went up. If that takes back a step down, the next one waits for longer.
    pub(super) fn went_up(&mut self, now: Duration, chosen: Duration) {
        let soon = self.length(chosen) * REGRET_WINDOWS;
        if self.stepped_down.take().is_some_and(|at| now.saturating_sub(at) < soon) {
            self.regrets = (self.regrets + 1).min(REGRET_MAX);
            self.regretted = Some(now);
        }
    }

    /// Lets a regret fade once the step down that followed it was none.
    pub(super) fn settle(&mut self, now: Duration, chosen: Duration) {
        let calm = self.length(chosen) * (REGRET_WINDOWS + 2);
        if self.regretted.is_some_and(|at| now.saturating_sub(at) > calm) {
            self.regrets = self.regrets.saturating_sub(1);
            self.regretted = (self.regrets > 0).then_some(now);
        }
    }
}
