//! Latencies of a run, their exact percentiles, and the stalls among them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request that takes longer than this is part of a stall.
pub(crate) const STALL: Duration = Duration::from_millis(10);

/// Every latency of a run with the time at which its request was due.
#[derive(Debug, Default)]
pub(crate) struct Percentiles(Vec<(Instant, Duration)>);

impl Percentiles {
    /// Records that a request was due at `due` and is answered now.
    pub(crate) fn answered(&mut self, due: Instant) {
        self.0.push((due, due.elapsed()));
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Percentiles in milliseconds, how many stalls there were, and their total time.
    pub(crate) fn summary(&mut self) -> Value {
        let (stalls, stalled) = self.stalls(STALL);
        let mut sorted: Vec<Duration> = self.0.iter().map(|(_, latency)| *latency).collect();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).map(|latency| latency.as_secs_f64() * 1e3)
        };
        json!({
            "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0), "stalls": stalls,
            "stalled_s": stalled.as_secs_f64(),
        })
    }

    /// Disjoint periods in which a request waited that takes longer than `limit`: their number and
    /// their total time.
    ///
    /// Requests of several connections that one pause of the server delays are one stall.
    fn stalls(&mut self, limit: Duration) -> (usize, Duration) {
        self.0.sort_unstable_by_key(|(due, _)| *due);
        let (mut count, mut total, mut end) = (0, Duration::ZERO, None);
        for (due, latency) in self.0.iter().filter(|(_, latency)| *latency > limit) {
            let answered = *due + *latency;
            let from = end.map_or(*due, |end: Instant| end.max(*due));
            if end.is_none_or(|end| *due > end) {
                count += 1;
            }
            total += answered.saturating_duration_since(from);
            end = end.max(Some(answered));
        }
        (count, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(samples: &[(u64, u64)]) -> Percentiles {
        let start = Instant::now();
        let ms = Duration::from_millis;
        Percentiles(samples.iter().map(|(due, took)| (start + ms(*due), ms(*took))).collect())
    }

    #[test]
    fn percentiles_are_exact() {
        let samples: Vec<(u64, u64)> = (1..=1000).map(|i| (i, i)).collect();
        let summary = taken(&samples).summary();
        let shown = ["p50", "p99", "p999", "max"].map(|name| summary[name].as_f64().unwrap());
        assert_eq!(shown, [500.0, 990.0, 999.0, 1000.0]);
        assert!(taken(&[]).summary()["p50"].is_null());
    }

    #[test]
    fn requests_that_wait_at_the_same_time_are_one_stall() {
        let limit = Duration::from_millis(10);
        // Two connections wait for one pause; a fast request in between changes nothing.
        let stalls = |samples: &[(u64, u64)]| {
            let (count, total) = taken(samples).stalls(limit);
            (count, total.as_millis())
        };
        assert_eq!(stalls(&[(0, 30), (5, 25), (6, 1), (20, 15)]), (1, 35));
        assert_eq!(stalls(&[(0, 30), (100, 11), (200, 10)]), (2, 41));
        assert_eq!(stalls(&[(0, 1), (1, 2)]), (0, 0));
    }
}
