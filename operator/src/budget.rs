//! How many statuses of Queues may be written: five a second, over all of them.
//!
//! # Invariants
//!
//! - Conditions come first: they are written at once and are paid for afterwards, so that figures wait
//!   for conditions and never the other way round.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Writes per second.
const PER_SECOND: f64 = 5.0;
/// What may be saved up.
const SAVED_MAX: f64 = 5.0;
/// What conditions may run up. More is forgiven: figures must come again at some time.
const DEBT_MAX: f64 = 50.0;

/// How many statuses may be written.
#[derive(Debug)]
pub struct Budget(Mutex<Purse>);

#[derive(Debug)]
struct Purse {
    left: f64,
    at: Instant,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(Purse { left: SAVED_MAX, at: Instant::now() }))
    }
}

impl Budget {
    /// Whether figures may be written now; if so, that is paid for.
    pub fn take(&self, now: Instant) -> bool {
        let mut purse = self.0.lock();
        purse.fill(now);
        let may = purse.left >= 1.0;
        if may {
            purse.left -= 1.0;
        }
        may
    }

    /// Conditions were written.
    pub fn charge(&self, now: Instant) {
        let mut purse = self.0.lock();
        purse.fill(now);
        purse.left = (purse.left - 1.0).max(-DEBT_MAX);
    }
}

impl Purse {
    fn fill(&mut self, now: Instant) {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.left = (self.left + passed.as_secs_f64() * PER_SECOND).min(SAVED_MAX);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k1_figures_are_written_five_times_a_second_at_most() {
        let (budget, start) = (Budget::default(), Instant::now());
        let mut written = 0;
        for ms in 0..10_000 {
            written += u32::from(budget.take(start + Duration::from_millis(ms)));
        }
        assert!((50..=56).contains(&written), "{written}");
    }

    #[test]
    fn figures_wait_for_conditions() {
        let (budget, start) = (Budget::default(), Instant::now());
        for _ in 0..20 {
            budget.charge(start);
        }
        assert!(!budget.take(start + Duration::from_secs(2)));
        assert!(budget.take(start + Duration::from_secs(4)));
    }
}
