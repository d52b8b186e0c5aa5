//! The rate limit of transfers: one token bucket per broker and direction.
//!
//! It has no clock: the caller passes in the time.

/// Bytes that may be transferred now.
#[derive(Debug)]
pub struct TokenBucket {
    bytes_per_second: u64,
    burst_bytes: u64,
    tokens_bytes: u64,
    /// Thousandths of a byte that are left over from the last refill.
    rest: u64,
    filled_ms: Option<i64>,
}

impl TokenBucket {
    /// A full bucket. A burst is at least `burst_bytes`, and what a tenth of a second adds.
    #[must_use]
    pub fn new(bytes_per_second: u64, burst_bytes: u64) -> Self {
        let burst_bytes = burst_bytes.max(bytes_per_second / 10);
        Self { bytes_per_second, burst_bytes, tokens_bytes: burst_bytes, rest: 0, filled_ms: None }
    }

    /// Takes the tokens for so many bytes, at most a burst; false if there are too few now.
    #[must_use]
    pub fn take(&mut self, bytes: u64, now_ms: i64) -> bool {
        self.refill(now_ms);
        let left = self.tokens_bytes.checked_sub(bytes.min(self.burst_bytes));
        self.tokens_bytes = left.unwrap_or(self.tokens_bytes);
        left.is_some()
    }

    fn refill(&mut self, now_ms: i64) {
        // A clock that is set back adds nothing.
        let passed_ms = self.filled_ms.map_or(0, |at| now_ms.saturating_sub(at).max(0));
        self.filled_ms = Some(now_ms);
        let passed_ms = passed_ms.unsigned_abs();
        let thousandths = self.bytes_per_second.saturating_mul(passed_ms).saturating_add(self.rest);
        self.rest = thousandths % 1000;
        let tokens = self.tokens_bytes.saturating_add(thousandths / 1000);
        self.tokens_bytes = tokens.min(self.burst_bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn r1_no_more_passes_than_the_rate_and_a_burst(
            takes in proptest::collection::vec((0..400_u64, 0..500_i64), 1..200),
        ) {
            let (rate, burst) = (1_000, 300);
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut now_ms, mut passed) = (0, 0);
            for (bytes, wait_ms) in takes {
                now_ms += wait_ms;
                if bucket.take(bytes, now_ms) {
                    passed += bytes.min(burst);
                }
                prop_assert!(passed <= burst + rate * now_ms.unsigned_abs() / 1000);
            }
        }

        #[test]
        fn whoever_waits_long_enough_is_served(bytes in 0..5_000_u64) {
            let mut bucket = TokenBucket::new(1_000, 300);
            while bucket.take(1, 0) {}
            prop_assert!(bucket.take(bytes, 301));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_adds_nothing() {
        let mut bucket = TokenBucket::new(1_000, 100);
        assert!(bucket.take(100, 1_000));
        assert!(!bucket.take(1, 0));
        assert!(bucket.take(1, 1));
    }
}
