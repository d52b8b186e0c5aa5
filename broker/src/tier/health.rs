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
    /// Before the bucket was examined nothing is written to it, not even a claim.
    is_unexamined: bool,
    /// Before the cluster's claim was found in the bucket nothing else is written to it.
    is_unclaimed: bool,
    blocked: Option<Block>,
    failing: Option<Failing>,
    lag: Lag,
}

/// Why nothing is uploaded and deleted, although the bucket works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Block {
    /// Another claim counts, for the reason in this sentence. This never ends.
    Fenced(String),
    /// The cluster is being restored from the bucket.
    UnfinishedRestore,
}

impl Block {
    /// A short name for metrics and conditions.
    fn kind(&self) -> &'static str {
        match self {
            Self::Fenced(_) => "fenced",
            Self::UnfinishedRestore => "unfinished_restore",
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Fenced(why) => why.clone(),
            Self::UnfinishedRestore => {
                "the restore of this cluster from the bucket is not finished, and nothing is \
                 uploaded or deleted: run `ropewalk-broker restore` again"
                    .to_owned()
            }
        }
    }
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
        let state = State { is_unexamined: true, is_unclaimed: true, ..State::default() };
        Self(Mutex::new(state))
    }

    /// The bucket was examined: it can be used, and belongs to no other cluster.
    pub(super) fn examined(&self) {
        self.0.lock().is_unexamined = false;
        self.succeeded();
    }

    pub(super) fn is_examined(&self) -> bool {
        !self.0.lock().is_unexamined
    }

    /// The bucket has the claim of the cluster. Returns whether that is new.
    pub(super) fn claimed(&self) -> bool {
        std::mem::take(&mut self.0.lock().is_unclaimed)
    }

    /// Uploads and deletions are not permitted from now on.
    pub(super) fn block(&self, block: Block) {
        let mut state = self.0.lock();
        match &state.blocked {
            Some(Block::Fenced(_)) => {}
            Some(Block::UnfinishedRestore) | None => state.blocked = Some(block),
        }
    }

    /// The cluster is not being restored any more.
    pub(super) fn restore_finished(&self) {
        let mut state = self.0.lock();
        state.blocked.take_if(|block| *block == Block::UnfinishedRestore);
    }

    /// Whether the bucket belongs to another cluster, or to a restore of this one.
    pub(crate) fn is_fenced(&self) -> bool {
        matches!(self.0.lock().blocked, Some(Block::Fenced(_)))
    }

    fn is_blocked(&self) -> bool {
        let state = self.0.lock();
        state.is_unexamined || state.is_unclaimed || state.blocked.is_some()
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
        self.is_blocked() || self.is_backing_off(now)
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
        let blocked = state.blocked.as_ref().map(|block| (block.kind(), None, block.reason()));
        let failing = state.failing.as_ref().map(|f| (f.kind, f.operation, f.reason.clone()));
        HealthReport {
            is_claimed: !state.is_unclaimed,
            failure: blocked.or(failing),
            lag: state.lag,
        }
    }

    /// Why nothing is uploaded, as one sentence; `None` while the bucket works.
    pub(crate) fn failure(&self) -> Option<String> {
        let state = self.0.lock();
        if let Some(block) = &state.blocked {
            return Some(block.reason());
        }
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
        health.examined();
        assert!(health.is_examined() && health.is_paused(Instant::now()));
        assert!(!health.report().is_claimed);
        assert!(health.claimed(), "it is new");
        assert!(!health.claimed() && !health.is_paused(Instant::now()));
        assert!(health.report().is_claimed);
    }

    #[test]
    fn t2_a_restore_may_finish_and_a_bucket_that_was_taken_over_never_comes_back() {
        let health = Health::default();
        health.block(Block::UnfinishedRestore);
        assert!(health.is_paused(Instant::now()) && !health.is_fenced());
        assert!(health.failure().expect("blocked").contains("run `ropewalk-broker restore` again"));
        health.restore_finished();
        assert_eq!((health.failure(), health.is_paused(Instant::now())), (None, false));
        health.block(Block::Fenced("taken over".to_owned()));
        health.block(Block::UnfinishedRestore);
        health.restore_finished();
        health.succeeded();
        assert_eq!(health.failure(), Some("taken over".to_owned()));
        let reported = health.report().failure;
        assert_eq!(reported, Some(("fenced", None, "taken over".to_owned())));
        assert!(health.is_fenced() && health.is_paused(Instant::now()));
    }

    #[test]
    fn what_a_person_must_change_is_tried_at_long_intervals() {
        let health = Health::default();
        let error = TierError::Unsuitable { bucket: "s3://b".into(), reason: "no".into() };
        assert_eq!(health.failed(&error, Instant::now()), limits::TIER_PAUSE_MAX);
    }
}
