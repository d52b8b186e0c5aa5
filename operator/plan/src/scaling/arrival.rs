//! The arrival rate: its mean, noise and trend.
//!
//! Two exponential averages, a quick and a slow one, follow the rate. On a ramp each lags by its
//! own time, so their distance is the slope. A jump that two intervals in a row confirm is a new
//! level and is used at once.

use super::limits::{
    ARRIVAL_WEIGHT, INTERVAL, LEVEL_DEVIATIONS, LEVEL_SHARE_MIN, TREND_SHARE_MIN, TREND_WEIGHT,
    VARIANCE_WEIGHT,
};
use std::time::Duration;

/// The arrival rate of one queue.
#[derive(Debug, Clone, Default)]
pub(super) struct ArrivalRate {
    quick: Option<f64>,
    slow: f64,
    /// Variance of single intervals, from the differences of neighbours, so that a ramp is not
    /// noise.
    variance: f64,
    last: f64,
}

impl ArrivalRate {
    /// Adds the mean rate of one interval, messages per second.
    pub(super) fn add(&mut self, per_second: f64) {
        let Some(quick) = self.quick else {
            *self = Self {
                quick: Some(per_second),
                slow: per_second,
                // The variance of independent arrivals.
                variance: per_second / INTERVAL.as_secs_f64(),
                last: per_second,
            };
            return;
        };
        let is_far = |rate: f64| {
            let distance = (rate - quick).abs();
            distance > LEVEL_SHARE_MIN * quick && distance > LEVEL_DEVIATIONS * self.variance.sqrt()
        };
        let same_side = (per_second > quick) == (self.last > quick);
        if is_far(per_second) && is_far(self.last) && same_side {
            let level = f64::midpoint(per_second, self.last);
            self.quick = Some(level);
            self.slow = level;
        } else {
            self.quick = Some(quick + ARRIVAL_WEIGHT * (per_second - quick));
            self.slow += TREND_WEIGHT * (per_second - self.slow);
            // Half the mean square of differences is the variance, if neighbours are independent.
            let square = (per_second - self.last).powi(2) / 2.0;
            self.variance += VARIANCE_WEIGHT * (square - self.variance);
        }
        self.last = per_second;
    }

    /// The mean, messages per second.
    pub(super) fn now(&self) -> f64 {
        self.quick.unwrap_or(0.0)
    }

    /// The standard deviation of [`Self::now`].
    pub(super) fn noise(&self) -> f64 {
        (self.variance * ARRIVAL_WEIGHT / (2.0 - ARRIVAL_WEIGHT)).sqrt()
    }

    /// The expected rate after `ahead`, messages per second. Never less than now: a fall is not
    /// anticipated.
    pub(super) fn after(&self, ahead: Duration) -> f64 {
        let quick = self.now();
        let slope = (quick - self.slow) / (lag_seconds(TREND_WEIGHT) - lag_seconds(ARRIVAL_WEIGHT));
        if slope * ahead.as_secs_f64() > TREND_SHARE_MIN * quick {
            quick + slope * (ahead.as_secs_f64() + lag_seconds(ARRIVAL_WEIGHT))
        } else {
            quick
        }
    }
}

/// Seconds by which an average with this weight lags behind a ramp.
fn lag_seconds(weight: f64) -> f64 {
    INTERVAL.as_secs_f64() * (1.0 - weight) / weight
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(rates: impl IntoIterator<Item = f64>) -> ArrivalRate {
        let mut rate = ArrivalRate::default();
        rates.into_iter().for_each(|per_second| rate.add(per_second));
        rate
    }

    #[test]
    fn a_steady_rate_has_no_trend() {
        let rate = fed((0..200).map(|n| if n % 2 == 0 { 990.0 } else { 1010.0 }));
        assert!((rate.now() - 1000.0).abs() < 5.0);
        assert_eq!(rate.after(Duration::from_secs(20)), rate.now());
        assert!(rate.noise() < 10.0);
    }

    #[test]
    fn a_ramp_is_seen_where_it_will_be() {
        let rate = fed((0..300).map(|n| 10.0 + 5.0 * f64::from(n)));
        // One a second; the newest is 1505.
        let seen = rate.after(Duration::from_secs(200));
        assert!((seen - 1705.0).abs() < 30.0, "{seen}");
    }

    #[test]
    fn a_jump_is_believed_after_two_intervals() {
        let mut rate = fed((0..50).map(|_| 200.0));
        rate.add(1600.0);
        assert!(rate.now() < 500.0);
        rate.add(1600.0);
        assert_eq!(rate.now(), 1600.0);
        assert_eq!(rate.after(Duration::from_secs(20)), 1600.0, "a jump is no slope");
    }
}
