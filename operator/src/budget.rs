//! How many statuses of Queues may be written: five a second, over all of them.
//!
//! # Invariants
//!
//! - Conditions come first: [`AHEAD_MAX`] of them are written at once and are paid for afterwards, so
//!   that figures wait for conditions and never the other way round.
//! - Conditions beyond that are not paid for and tried again later: a thousand Queues that change together
//!   are written at the same rate as everything else, and nobody holds a place while waiting.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Writes per second.
const PER_SECOND: f64 = 5.0;
/// What may be saved up.
const SAVED_MAX: f64 = 5.0;
/// Conditions that are written before they are paid for.
const AHEAD_MAX: f64 = 20.0;

/// How many statuses may be written.
#[derive(Debug)]
pub struct Budget(Mutex<TokenBucket>);

#[derive(Debug)]
struct TokenBucket {
    left: f64,
    at: Instant,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(TokenBucket { left: SAVED_MAX, at: Instant::now() }))
    }
}

impl Budget {
    /// Whether figures may be written now; if so, that is paid for.
    pub fn take(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock();
        bucket.fill(now);
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }

    /// Whether conditions may be written now; if so, that is paid for.
    pub fn admit(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock();
        bucket.fill(now);
        let may = bucket.left - 1.0 >= -AHEAD_MAX;
        if may {
            bucket.left -= 1.0;
        }
        may
    }
}

impl TokenBucket {
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
    fn figures_are_never_written_ahead_of_what_is_paid() {
        let (budget, start) = (Budget::default(), Instant::now());
        let written = (0..20).filter(|_| budget.take(start)).count();
        assert_eq!(written, 5, "what was saved up");
    }

    #[test]
    fn figures_wait_for_conditions() {
        let (budget, start) = (Budget::default(), Instant::now());
        for _ in 0..20 {
            assert!(budget.admit(start));
        }
        assert!(!budget.take(start + Duration::from_secs(2)));
        assert!(budget.take(start + Duration::from_secs(4)));
    }

    #[test]
    fn k1_conditions_of_a_thousand_queues_are_written_five_times_a_second_at_most() {
        let (budget, start) = (Budget::default(), Instant::now());
        let admitted = |now: Instant| (0..1000).filter(|_| budget.admit(now)).count();
        assert_eq!(admitted(start), 25, "a few are written at once");
        assert_eq!(admitted(start + Duration::from_secs(1)), 5, "nothing else was paid for");
        assert_eq!(admitted(start + Duration::from_secs(3)), 10);
    }
}
