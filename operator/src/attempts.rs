//! Back-off of failed reconciles: 1 s, doubled at each failure up to five minutes, ± 25 % jitter,
//! so that objects that failed together do not retry together.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

/// Upper bound of the wait, before jitter.
pub const WAIT_MAX: Duration = Duration::from_secs(300);

/// Bound of the number of remembered objects.
const OBJECTS_MAX: usize = 50_000;

/// Consecutive failures of each object, by uid.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<String, u32>>);

impl Attempts {
    /// Counts a failure and returns the time to wait. `jitter` is any number that differs between
    /// calls.
    pub fn failed(&self, uid: &str, jitter: u64) -> Duration {
        let mut attempts = self.0.lock();
        if attempts.len() >= OBJECTS_MAX && !attempts.contains_key(uid) {
            // Entries of deleted objects would never be removed. Clearing all costs a few early
            // retries.
            attempts.clear();
        }
        let count = attempts.entry(uid.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        wait(*count, jitter)
    }

    /// Resets the back-off of an object that was reconciled.
    pub fn succeeded(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

fn wait(count: u32, jitter: u64) -> Duration {
    let doubled = 1000_u64 << count.saturating_sub(1).min(16);
    let limit_ms = u64::try_from(WAIT_MAX.as_millis()).unwrap_or(u64::MAX);
    let plain_ms = doubled.min(limit_ms);
    let spread_ms = plain_ms / 2;
    Duration::from_millis(plain_ms - spread_ms / 2 + jitter % (spread_ms + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_and_end(count in 1_u32..2000, jitter in any::<u64>()) {
            let waited = wait(count, jitter);
            let plain = (1_u64 << (count - 1).min(16)).min(300) as f64;
            prop_assert!(waited.as_secs_f64() >= plain * 0.74);
            prop_assert!(waited.as_secs_f64() <= plain * 1.26);
        }
    }

    #[test]
    fn a_success_begins_again() {
        let attempts = Attempts::default();
        for _ in 0..10 {
            attempts.failed("a", 0);
        }
        assert!(attempts.failed("a", 0) > Duration::from_secs(200));
        attempts.succeeded("a");
        assert!(attempts.failed("a", 0) <= Duration::from_secs(2));
    }
}
