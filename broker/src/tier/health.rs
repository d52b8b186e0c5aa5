//! Whether the bucket works: what a condition of `GET /v1/broker` says of it, and how long the tier
//! pauses after a failure.
//!
//! While the bucket fails, records stay on the disks whatever `local.retention.*` says, and acks go
//! on until a disk is full.

use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_tier::{Operation, Remedy, TierError};
use tokio::time::Instant;

use crate::limits;

/// The health of the bucket; uploads and deletions report to it.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Before the bucket was examined and claimed nothing is written to it.
    is_unprepared: bool,
    failing: Option<Failing>,
    lag: Lag,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    /// How many failures followed one another.
    count: u32,
    until: Instant,
    kind: &'static str,
    operation: Option<Operation>,
    reason: String,
}

/// The state of the bucket for `GET /v1/broker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthReport {
    /// Whether the bucket was examined and claimed.
    pub(crate) is_claimed: bool,
    /// The last failure: its kind, what was asked of the bucket, and the error.
    pub(crate) failure: Option<(&'static str, Option<Operation>, String)>,
    /// What waits to be uploaded.
    pub(crate) lag: Lag,
}

/// What waits to be uploaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Partitions with records that wait.
    pub(crate) partitions: usize,
    /// The bytes that wait there.
    pub(crate) bytes: u64,
    /// How long the oldest record has waited.
    pub(crate) waited: Duration,
}

impl Health {
    /// Of a bucket that was not examined and claimed yet.
    pub(super) fn unprepared() -> Self {
        Self(Mutex::new(State { is_unprepared: true, ..State::default() }))
    }

    /// The bucket was examined and claimed.
    pub(super) fn prepared(&self) {
        self.0.lock().is_unprepared = false;
        self.succeeded();
    }

    pub(super) fn is_prepared(&self) -> bool {
        !self.0.lock().is_unprepared
    }

    /// The bucket did what was asked.
    pub(super) fn succeeded(&self) {
        let ended = self.0.lock().failing.take();
        if let Some(ended) = ended {
            let seconds = ended.since.elapsed().as_secs();
            tracing::info!(seconds, failures = ended.count, "the bucket works again");
        }
    }

    /// The bucket failed. Later steps wait for a while; returns how long.
    pub(super) fn failed(&self, error: &TierError, now: Instant) -> Duration {
        let mut state = self.0.lock();
        let (since, count) = match &state.failing {
            // Steps that ran at the same time count once.
            Some(failing) if now < failing.until => (failing.since, failing.count),
            Some(failing) => (failing.since, failing.count + 1),
            None => (now, 1),
        };
        let pause = pause(error.remedy(), count);
        let (kind, operation, reason) = (error.kind(), error.operation(), error.to_string());
        state.failing = Some(Failing { since, count, until: now + pause, kind, operation, reason });
        pause
    }

    /// Whether steps that need the bucket wait now.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        !self.is_prepared() || self.is_backing_off(now)
    }

    /// Whether the pause after the last failure lasts.
    pub(super) fn is_backing_off(&self, now: Instant) -> bool {
        self.0.lock().failing.as_ref().is_some_and(|failing| now < failing.until)
    }

    pub(super) fn set_lag(&self, lag: Lag) {
        self.0.lock().lag = lag;
    }

    /// What waits to be uploaded.
    #[cfg(test)]
    pub(crate) fn lag(&self) -> Lag {
        self.0.lock().lag
    }

    /// The state of the bucket.
    pub(crate) fn report(&self) -> HealthReport {
        let state = self.0.lock();
        let failure = state.failing.as_ref();
        HealthReport {
            is_claimed: !state.is_unprepared,
            failure: failure.map(|f| (f.kind, f.operation, f.reason.clone())),
            lag: state.lag,
        }
    }

    /// Why the bucket fails, as one sentence; `None` while it works.
    pub(crate) fn failure(&self) -> Option<String> {
        let state = self.0.lock();
        let failing = state.failing.as_ref()?;
        let (seconds, lag) = (failing.since.elapsed().as_secs(), state.lag);
        Some(format!(
            "the bucket fails since {seconds} s, and {} bytes of {} partitions wait to be uploaded, the oldest \
             for {} s; they stay on this broker's disk: {}",
            lag.bytes,
            lag.partitions,
            lag.waited.as_secs(),
            failing.reason
        ))
    }
}

/// The pause after so many failures.
fn pause(remedy: Remedy, count: u32) -> Duration {
    let (first, max) = match remedy {
        Remedy::RetryLater | Remedy::Object => (limits::TIER_PAUSE, limits::TIER_PAUSE_MAX),
        Remedy::Report => (limits::TIER_PAUSE_MAX, limits::TIER_PAUSE_MAX),
    };
    first.saturating_mul(1 << count.saturating_sub(1).min(16)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> TierError {
        TierError::Unavailable {
            bucket: "s3://b".into(),
            operation: ropewalk_tier::Operation::Put,
            name: "n".into(),
            reason: "503".into(),
        }
    }

    #[test]
    fn pauses_grow_while_the_bucket_fails_and_end_when_it_works() {
        let health = Health::default();
        let mut now = Instant::now();
        assert_eq!((health.failure(), health.is_paused(now)), (None, false));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = health.failed(&unavailable(), now);
            assert!(health.is_paused(now));
            assert_eq!(health.failed(&unavailable(), now), pause, "two steps at the same time");
            now += pause;
            assert!(!health.is_paused(now));
            pauses.push(pause);
        }
        assert!(pauses.is_sorted() && pauses[0] < pauses[1], "{pauses:?}");
        assert_eq!(pauses.last(), Some(&limits::TIER_PAUSE_MAX));
        let lag = Lag { partitions: 2, bytes: 30, waited: Duration::from_secs(4) };
        health.set_lag(lag);
        let said = health.failure().expect("it fails");
        for part in ["30 bytes of 2 partitions", "for 4 s", "s3://b did not put n: 503"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        let report = health.report();
        let (kind, operation, reason) = report.failure.expect("it fails");
        assert_eq!((kind, operation), ("unavailable", Some(Operation::Put)));
        assert_eq!(reason, "s3://b did not put n: 503", "without times");
        health.succeeded();
        assert_eq!((health.failure(), health.lag()), (None, lag));
        assert_eq!(health.report(), HealthReport { is_claimed: true, failure: None, lag });
    }

    #[test]
    fn nothing_is_written_before_the_bucket_was_claimed() {
        let health = Health::unprepared();
        assert!(health.is_paused(Instant::now()) && !health.is_backing_off(Instant::now()));
        assert!(!health.report().is_claimed);
        health.prepared();
        assert!(!health.is_paused(Instant::now()) && health.report().is_claimed);
    }

    #[test]
    fn what_a_person_must_change_is_tried_at_long_intervals() {
        let health = Health::default();
        let error = TierError::Unsuitable { bucket: "s3://b".into(), reason: "no".into() };
        assert_eq!(health.failed(&error, Instant::now()), limits::TIER_PAUSE_MAX);
    }
}
