//! Append times of some offsets of a partition: enough to estimate the delay of a commit's records
//! and the age of the oldest unprocessed record.

use std::collections::VecDeque;
use std::ops::Range;

/// Most points that are kept. At the bound every second point is removed.
const POINTS_MAX: usize = 32;

/// A sampled offset with its times.
#[derive(Debug, Clone, Copy)]
struct Point {
    offset: i64,
    appended_ms: i64,
    timestamp_ms: i64,
}

/// Sampled offsets and their times, ascending.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    points: VecDeque<Point>,
    /// Smallest distance of a new point from the last one.
    stride: i64,
}

impl Sample {
    /// Adds a batch whose first record has `offset` and was appended at `appended_ms`.
    pub fn push(&mut self, offset: i64, appended_ms: i64, timestamp_ms: i64) {
        let last = self.points.back().map(|point| point.offset);
        if last.is_some_and(|last| offset - last < self.stride) {
            return;
        }
        if self.points.len() == POINTS_MAX {
            let mut n = 0_usize;
            self.points.retain(|_| {
                n += 1;
                n % 2 == 1
            });
            let span = offset - self.points.front().map_or(offset, |point| point.offset);
            self.stride = span / POINTS_MAX as i64;
        }
        self.points.push_back(Point { offset, appended_ms, timestamp_ms });
    }

    /// The delays at `now_ms` of the records in `passed`, each with the number of records that it
    /// represents.
    #[must_use]
    pub fn delays(&self, passed: &Range<i64>, now_ms: i64) -> Vec<(i64, u64)> {
        let from = self.points.partition_point(|point| point.offset <= passed.start);
        let from = from.saturating_sub(1);
        let mut delays = Vec::new();
        for (at, point) in self.points.iter().enumerate().skip(from) {
            if point.offset >= passed.end {
                break;
            }
            let next = self.points.get(at + 1).map_or(passed.end, |next| next.offset);
            let weight = next.min(passed.end) - point.offset.max(passed.start);
            if let Ok(weight @ 1..) = u64::try_from(weight) {
                delays.push((now_ms - point.timestamp_ms, weight));
            }
        }
        delays
    }

    /// The append time of the record at `offset`, or an earlier time if only that is known.
    #[must_use]
    pub fn appended_ms(&self, offset: i64) -> Option<i64> {
        let at = self.points.partition_point(|point| point.offset <= offset);
        self.points.get(at.checked_sub(1)?).map(|point| point.appended_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_weigh_the_records_they_stand_for() {
        let mut sample = Sample::default();
        sample.push(0, 1_000, 900);
        sample.push(10, 2_000, 1_900);
        assert_eq!(sample.delays(&(0..15), 3_000), [(2_100, 10), (1_100, 5)]);
        assert_eq!(sample.delays(&(12..15), 3_000), [(1_100, 3)]);
        assert_eq!(sample.delays(&(5..10), 3_000), [(2_100, 5)]);
        assert!(sample.delays(&(3..3), 3_000).is_empty());
    }

    #[test]
    fn r1_a_sample_is_bounded_and_spans_everything() {
        let mut sample = Sample::default();
        for n in 0..100_000 {
            sample.push(n, n, n);
        }
        assert!(sample.points.len() <= POINTS_MAX);
        let asked = 50_000;
        let found = sample.appended_ms(asked).expect("it spans");
        assert!(found <= asked && asked - found < 100_000 / 8, "{found}");
    }

    #[test]
    fn before_the_first_point_nothing_is_known() {
        let mut sample = Sample::default();
        sample.push(100, 5, 5);
        assert_eq!(sample.appended_ms(99), None);
        assert_eq!(sample.appended_ms(100), Some(5));
    }
}
