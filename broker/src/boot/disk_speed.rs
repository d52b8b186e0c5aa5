//! Whether the disk is slow, from the rounds of the write-ahead log: the same durations as in the
//! metric `ropewalk_wal_round_duration_seconds`.
//!
//! # Bounds
//!
//! A round is one write and one fsync, of at most 4 MiB as a rule. A usual SSD needs below 1 ms for
//! a small one, and 40 ms for the largest at 100 MB/s; etcd asks for fsyncs below 10 ms in 99 of
//! 100 cases. So a mean of 100 ms over ten seconds is slow in any case. Fewer than five rounds say
//! little, unless they took two seconds together.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_wal::RoundReport;
use tokio::time::Instant;

/// Time over which the mean is taken.
const WINDOW: Duration = Duration::from_secs(10);

/// A mean from which on the disk is slow.
const SLOW_MEAN: Duration = Duration::from_millis(100);

/// Rounds that a mean needs.
const ROUNDS_MIN: u32 = 5;

/// Duration of all rounds that makes up for fewer of them.
const ENOUGH: Duration = Duration::from_secs(2);

/// Time after the last slow window in which the disk still counts as slow, so that leaderships do
/// not move to and fro.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// The speed of the disk; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct DiskSpeed(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    window: Option<Window>,
    slow_until: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    rounds: u32,
    took: Duration,
}

impl DiskSpeed {
    /// Counts one round. Called on the log's thread; allocates nothing.
    pub(super) fn observe(&self, round: &RoundReport, now: Instant) {
        if round.bytes == 0 {
            return;
        }
        let mut state = self.0.lock();
        state.pass(now);
        let window =
            state.window.get_or_insert(Window { since: now, rounds: 0, took: Duration::ZERO });
        window.rounds += 1;
        window.took += round.wrote;
    }

    /// Whether the disk is slow, or was in the last minute.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        state.pass(now);
        state.slow_until.is_some_and(|until| now < until)
    }
}

impl State {
    /// Ends the window if it is over.
    fn pass(&mut self, now: Instant) {
        let is_over = |window: &mut Window| now.saturating_duration_since(window.since) >= WINDOW;
        let Some(window) = self.window.take_if(is_over) else { return };
        let is_enough = window.rounds >= ROUNDS_MIN || window.took >= ENOUGH;
        if is_enough && window.took >= SLOW_MEAN * window.rounds {
            self.slow_until = Some(window.since + WINDOW + SLOW_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(wrote_ms: u64) -> RoundReport {
        RoundReport {
            submissions: 1,
            records: 1,
            bytes: 4096,
            wrote: Duration::from_millis(wrote_ms),
            waited_for_file: Duration::ZERO,
        }
    }

    /// Whether a disk is slow after a window with these rounds.
    fn after(rounds: &[u64]) -> bool {
        let (speed, now) = (DiskSpeed::default(), Instant::now());
        rounds.iter().for_each(|wrote_ms| speed.observe(&round(*wrote_ms), now));
        assert!(!speed.is_slow(now + WINDOW / 2), "the window is not over");
        speed.is_slow(now + WINDOW)
    }

    #[test]
    fn a_disk_is_slow_when_the_mean_of_enough_rounds_is_long() {
        assert!(!after(&[]));
        assert!(!after(&[99; 90]));
        assert!(after(&[100; 5]));
        assert!(!after(&[100; 4]), "they are few");
        assert!(after(&[2_000]), "it is only one and took long");
        assert!(!after(&[1, 1, 1, 1, 400]), "one of many");
    }

    #[test]
    fn a_slow_disk_counts_as_slow_for_a_minute_more() {
        let (speed, now) = (DiskSpeed::default(), Instant::now());
        (0..9).for_each(|_| speed.observe(&round(300), now));
        let last = now + WINDOW + SLOW_FOR;
        speed.observe(&round(1), now + WINDOW);
        assert!(speed.is_slow(last - Duration::from_millis(1)));
        assert!(!speed.is_slow(last));
    }

    #[test]
    fn a_round_without_records_says_nothing() {
        let (speed, now) = (DiskSpeed::default(), Instant::now());
        let empty = RoundReport { bytes: 0, ..round(5_000) };
        (0..9).for_each(|_| speed.observe(&empty, now));
        assert!(!speed.is_slow(now + WINDOW));
    }
}
