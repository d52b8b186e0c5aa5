//! The numbers of the scaling policy that are not the user's to choose: each with its unit and its reason.
//!
//! What a user may choose is in [`super::Policy`].

use std::time::Duration;

/// How often the policy looks and decides. Faster than a pod starts, slower than most commits.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Intervals without a gap that end a freeze: one to fill the estimators, two to believe them.
pub const GOOD_INTERVALS_TO_THAW: u32 = 3;

/// Samples come every second, and later from a broker that has too little CPU: just then consumers have to
/// be scaled. After this long without one something has been missed.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// What is older than this does not let a group go to zero.
pub const FRESH_FOR: Duration = Duration::from_secs(3);

/// The most replicas that anybody can ask for; the API allows no more.
pub const REPLICAS_MAX: u32 = 1000;

/// Messages that one replica is believed to process per second at most, whatever a status says that was
/// edited by hand; the API allows no larger hint.
pub const PER_REPLICA_PER_SECOND_MAX: f64 = 10_000_000.0;

/// Mode `Lag`: within this share of what the backlog asks for, replicas stay, as with a
/// HorizontalPodAutoscaler.
pub const LAG_TOLERANCE: f64 = 0.1;

/// Mode `Lag`: after a step up the next one waits for so long, as with a HorizontalPodAutoscaler.
pub const LAG_HOLD: Duration = Duration::from_secs(15);

/// Weight of the newest interval in the arrival rate: it lags by 20 s, which is less than a pod start and a commit.
pub const ARRIVAL_WEIGHT: f64 = 0.2;

/// The same for the slow average beside it; the trend is read from the distance of the two.
pub const TREND_WEIGHT: f64 = 0.05;

/// A trend counts only if it adds this share until new pods work. Below, it is noise.
pub const TREND_SHARE_MIN: f64 = 0.1;

/// Two intervals in a row that are this far from the average are a new level, not noise.
pub const LEVEL_SHARE_MIN: f64 = 0.3;

/// The same in standard deviations of the average's noise.
pub const LEVEL_DEVIATIONS: f64 = 4.0;

/// Weight of a new difference in the variance of the arrival rate.
pub const VARIANCE_WEIGHT: f64 = 0.05;

/// The arrival rate alone asks for more replicas only if it does so this many standard deviations below its mean.
/// A true overload shows in the backlog anyway.
pub const NOISE_DEVIATIONS: f64 = 2.0;

/// Share of the capacity above which the arrival rate asks for more replicas.
pub const UP_SHARE: f64 = 0.93;

/// Seconds of arrivals that are on their way through a healthy consumer and are no backlog.
pub const TRANSIT_SECONDS: f64 = 1.0;

/// Weight of new measurements in the service rate. One bad interval moves it little.
pub const SERVICE_WEIGHT: f64 = 0.3;

/// A member is measured from commit to commit over at least this long ...
pub const STRETCH_MIN: Duration = Duration::from_secs(10);

/// ... and over at least this many messages, so that counting them is not the noise ...
pub const STRETCH_MESSAGES_MIN: f64 = 20.0;

/// ... but after this long whatever was processed is the answer.
pub const STRETCH_MAX: Duration = Duration::from_secs(120);

/// A busy member shows what it can do only if what it processed differs from what arrived by this share. A consumer that
/// works on many messages at once always has some in hand; it is not at its limit as long as it keeps up.
pub const MOVED_SHARE_MIN: f64 = 0.1;

/// ... and by this many standard deviations of counting both: there are many members, and many stretches in a day.
pub const MOVED_DEVIATIONS: f64 = 5.0;

/// ... or if its backlog is this many seconds of its work: nobody holds that much in hand.
pub const DEEP_SECONDS: f64 = 30.0;

/// What a commit interval is taken for until one was seen: the default of most clients.
pub const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// A commit interval is never believed to be longer than this.
pub const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// From writing the replica count to the last new member holding partitions, until it was measured.
pub const STARTUP_DEFAULT: Duration = Duration::from_secs(15);

/// It is never believed to be longer than this.
pub const STARTUP_MAX: Duration = Duration::from_secs(600);

/// Members that are missing for this long, or three start-ups if that is longer, are not joining.
pub const JOIN_DEADLINE_MIN: Duration = Duration::from_secs(60);

/// What a rebalance costs until one was seen.
pub const PAUSE_DEFAULT: Duration = Duration::from_secs(3);

/// A step up that brings less than this share of what was predicted met a saturated downstream.
pub const GAIN_SHARE_MIN: f64 = 0.2;

/// Replicas kept for a saturated downstream can carry this much more than it takes, so that its recovery shows.
pub const RECOVERY_ROOM: f64 = 1.25;

/// Throughput above what the saturated downstream took, by this factor, is its recovery.
pub const RECOVERED: f64 = 1.15;

/// How long the first hold for a saturated downstream lasts; each one that follows doubles ...
pub const HOLD_MIN: Duration = Duration::from_secs(600);

/// ... up to this.
pub const HOLD_MAX: Duration = Duration::from_secs(7200);

/// A partition is hot when more arrives than one member can process, by this factor, ...
pub const HOT: f64 = 1.05;

/// ... for this many intervals, with a backlog.
pub const HOT_INTERVALS: u32 = 3;

/// A service rate that is in doubt is tried by a step down after this long without a busy member ...
pub const PROBE_DOUBTED: Duration = Duration::from_secs(600);

/// ... and one that nothing speaks against after this long. Each try that fails doubles the wait ...
pub const PROBE_TRUSTED: Duration = Duration::from_secs(7200);

/// ... up to this.
pub const PROBE_MAX: Duration = Duration::from_secs(86_400);

/// How long a smaller count must keep up before the next is tried.
pub const PROBE_HOLD: Duration = Duration::from_secs(120);

/// A service rate below this share of the best ever seen, or of the hint, is in doubt.
pub const DOUBT_SHARE: f64 = 0.8;

/// A step up this soon after a step down, in stabilization windows, says that the step down was a mistake.
pub const REGRET_WINDOWS: u32 = 2;

/// Each such mistake doubles the stabilization window, at most this often.
pub const REGRET_MAX: u32 = 3;

/// Intervals that must show the same members per replica before it is believed: longer than the session timeout of
/// most clients, during which a dead member still counts.
pub const MEMBERS_INTERVALS: u32 = 12;

/// Members per replica that are believed.
pub const MEMBERS_PER_REPLICA_MAX: u32 = 64;

/// Partitions that are looked at; the API allows no more.
pub const PARTITIONS_MAX: usize = 10_000;

// A late sample that is still believed leaves room for the next one.
const _: () = assert!(STALE_AFTER.as_secs() >= 2 * INTERVAL.as_secs());
const _: () = assert!(FRESH_FOR.as_secs() < STALE_AFTER.as_secs());
