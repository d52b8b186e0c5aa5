//! Rate limit for status writes of Queues: five a second in all.
//!
//! # Invariants
//!
//! - Conditions take precedence: up to `AHEAD_MAX` condition writes go into debt, so that metrics
//!   wait for conditions and never the other way round.
//! - Condition writes beyond that are refused and retried later, so that a thousand Queues that
//!   change together are written at the same rate and no reconcile blocks a slot while it waits.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Tokens added per second; one token is one write.
const PER_SECOND: f64 = 5.0;
/// Capacity of the token bucket.
const SAVED_MAX: f64 = 5.0;
/// Condition writes that may be in debt.
const AHEAD_MAX: f64 = 20.0;

/// Token bucket for status writes.
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
    /// Takes a token for a write of metrics; `false` if there is none.
    pub fn take(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock();
        bucket.fill(now);
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }

    /// Takes a token for a write of conditions, possibly as debt; `false` if the debt is at its
    /// bound.
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
    fn k1_metrics_are_written_five_times_a_second_at_most() {
        let (budget, start) = (Budget::default(), Instant::now());
        let mut written = 0;
        for ms in 0..10_000 {
            written += u32::from(budget.take(start + Duration::from_millis(ms)));
        }
        assert!((50..=56).contains(&written), "{written}");
    }

    #[test]
    fn metrics_are_never_written_on_debt() {
        let (budget, start) = (Budget::default(), Instant::now());
        let written = (0..20).filter(|_| budget.take(start)).count();
        assert_eq!(written, 5, "the capacity of the bucket");
    }

    #[test]
    fn metrics_wait_for_conditions() {
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
        assert_eq!(admitted(start + Duration::from_secs(1)), 5, "the debt stays at its bound");
        assert_eq!(admitted(start + Duration::from_secs(3)), 10);
    }
}
