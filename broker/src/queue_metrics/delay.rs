//! Time from record timestamp to commit: quantiles over the last minute.
//!
//! It is a histogram whose bucket bounds grow by a factor of 2^(1/4), so a quantile is at most 19 %
//! above the true value.

use std::collections::BTreeMap;

/// Length of a window, milliseconds.
const WINDOW_MS: i64 = 10_000;

/// Windows of the last minute.
const WINDOWS: i64 = 6;

/// Buckets per power of two.
const STEPS: u32 = 4;

/// Histograms of delays by window.
#[derive(Debug, Clone, Default)]
pub struct Delay {
    /// Window number to bucket to weight. Few buckets are in use at once.
    windows: BTreeMap<i64, BTreeMap<u16, u64>>,
}

impl Delay {
    /// Adds a delay of `delay_ms` for `weight` records, observed at `now_ms`.
    pub fn add(&mut self, now_ms: i64, delay_ms: i64, weight: u64) {
        let window = now_ms.div_euclid(WINDOW_MS);
        *self.windows.entry(window).or_default().entry(bucket(delay_ms)).or_default() += weight;
        // The newest windows are kept whatever their age: an idle queue shows its last minute with
        // commits.
        while let Some((oldest, _)) = self.windows.first_key_value()
            && self.windows.last_key_value().is_some_and(|(n, _)| n - oldest >= WINDOWS)
        {
            self.windows.pop_first();
        }
    }

    /// The delay that a share `q` (0 to 1) of the records did not exceed, milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, q: f64) -> Option<i64> {
        let mut merged: BTreeMap<u16, u64> = BTreeMap::new();
        for (bucket, weight) in self.windows.values().flatten() {
            *merged.entry(*bucket).or_default() += weight;
        }
        let total: u64 = merged.values().sum();
        let wanted = (total as f64 * q).ceil() as u64;
        let mut passed = 0;
        merged.into_iter().find_map(|(bucket, weight)| {
            passed += weight;
            (passed >= wanted.max(1)).then(|| upper_ms(bucket))
        })
    }
}

fn bucket(delay_ms: i64) -> u16 {
    let delay = delay_ms.max(0) as f64;
    ((delay + 1.0).log2() * f64::from(STEPS)).ceil() as u16
}

fn upper_ms(bucket: u16) -> i64 {
    (f64::from(bucket) / f64::from(STEPS)).exp2().round() as i64 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close_from_above() {
        let mut delay = Delay::default();
        for ms in 1..=1000 {
            delay.add(0, ms, 1);
        }
        let p50 = delay.quantile_ms(0.5).expect("there are delays");
        let p99 = delay.quantile_ms(0.99).expect("there are delays");
        assert!((500..=600).contains(&p50), "{p50}");
        assert!((990..=1180).contains(&p99), "{p99}");
    }

    #[test]
    fn negative_delays_count_as_none_and_weights_count() {
        let mut delay = Delay::default();
        delay.add(0, -50, 99);
        delay.add(0, 10_000, 1);
        assert_eq!(delay.quantile_ms(0.5), Some(0));
        assert_eq!(delay.quantile_ms(0.99), Some(0));
        assert!(delay.quantile_ms(1.0).is_some_and(|ms| ms >= 10_000));
        assert_eq!(Delay::default().quantile_ms(0.5), None);
    }

    #[test]
    fn what_is_older_than_a_minute_gives_way_to_what_is_new() {
        let mut delay = Delay::default();
        delay.add(0, 60_000, 1_000);
        delay.add(120_000, 5, 1);
        assert!(delay.quantile_ms(0.99).is_some_and(|ms| ms < 10));
    }
}
