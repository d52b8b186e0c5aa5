//! The constants of the scaling policy, each with its unit and its reason.
//!
//! The settings of users are in [`super::Policy`].

use std::time::Duration;

/// Time between two decisions. Shorter than a pod start, longer than most commit intervals.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Intervals without a gap that end a freeze: one to fill the estimators, two to confirm them.
pub const GOOD_INTERVALS_TO_THAW: u32 = 3;

/// Age of the last sample above which a gap is assumed. Samples come every second, and later from a
/// broker with too little CPU, when consumers have to be scaled most.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// A group is scaled to zero only if the last sample is at most this old.
pub const FRESH_FOR: Duration = Duration::from_secs(3);

/// Most replicas of a consumer; the API has the same bound.
pub const REPLICAS_MAX: u32 = 1000;

/// Most messages per second that one replica is assumed to process, also if a status was edited by
/// hand. The API has the same bound for the hint.
pub const PER_REPLICA_PER_SECOND_MAX: f64 = 10_000_000.0;

/// Mode `Lag`: replicas stay within this share of what the backlog asks for, as with a
/// HorizontalPodAutoscaler.
pub const LAG_TOLERANCE: f64 = 0.1;

/// Mode `Lag`: time between two steps up, as with a HorizontalPodAutoscaler.
pub const LAG_HOLD: Duration = Duration::from_secs(15);

/// Weight of the newest interval in the arrival rate. The average lags by 20 s, less than a pod
/// start and a commit.
pub const ARRIVAL_WEIGHT: f64 = 0.2;

/// The same for the slow average; the trend is the distance of the two averages.
pub const TREND_WEIGHT: f64 = 0.05;

/// Share that a trend has to add until new pods work. A smaller trend is noise.
pub const TREND_SHARE_MIN: f64 = 0.1;

/// Two intervals in a row that differ from the average by this share are a new level, not noise.
pub const LEVEL_SHARE_MIN: f64 = 0.3;

/// The same in standard deviations of the average.
pub const LEVEL_DEVIATIONS: f64 = 4.0;

/// Weight of a new difference in the variance of the arrival rate.
pub const VARIANCE_WEIGHT: f64 = 0.05;

/// The arrival rate alone asks for more replicas only if it does so this many standard deviations
/// below its mean. A true overload shows in the backlog anyway.
pub const NOISE_DEVIATIONS: f64 = 2.0;

/// Share of the capacity above which the arrival rate asks for more replicas.
pub const UP_SHARE: f64 = 0.93;

/// Seconds of arrivals that are in transit through a healthy consumer and do not count as backlog.
pub const TRANSIT_SECONDS: f64 = 1.0;

/// Weight of a new measurement in the service rate, so that one bad interval changes it little.
pub const SERVICE_WEIGHT: f64 = 0.3;

/// Shortest time from commit to commit over which a member is measured.
pub const STRETCH_MIN: Duration = Duration::from_secs(10);

/// Fewest messages of such a measurement, so that counting noise is small.
pub const STRETCH_MESSAGES_MIN: f64 = 20.0;

/// Longest time of a measurement: it then counts whatever the number of messages.
pub const STRETCH_MAX: Duration = Duration::from_secs(120);

/// A busy member is at its limit only if what it processed differs from what arrived by this share.
/// A consumer that works on many messages at once always has some in hand; it is not at its limit
/// as long as it keeps up.
pub const MOVED_SHARE_MIN: f64 = 0.1;

/// The same in standard deviations of both counts: there are many members and many measurements in
/// a day.
pub const MOVED_DEVIATIONS: f64 = 5.0;

/// A backlog of this many seconds of work also proves the limit: no client holds that much in hand.
pub const DEEP_SECONDS: f64 = 30.0;

/// Commit interval until one was observed: the default of most clients.
pub const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// Longest commit interval that is assumed.
pub const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Time from writing the replica count until the last new member holds partitions, before it was
/// measured.
pub const STARTUP_DEFAULT: Duration = Duration::from_secs(15);

/// Longest start-up time that is assumed.
pub const STARTUP_MAX: Duration = Duration::from_secs(600);

/// Members that are missing for this long, or for three start-up times if that is longer, are
/// reported as not joining.
pub const JOIN_DEADLINE_MIN: Duration = Duration::from_secs(60);

/// Length of a rebalance until one was observed.
pub const PAUSE_DEFAULT: Duration = Duration::from_secs(3);

/// A step up that brings less than this share of the predicted gain indicates a saturated
/// downstream.
pub const GAIN_SHARE_MIN: f64 = 0.2;

/// Capacity of the replicas kept for a saturated downstream, as a factor of its throughput, so that
/// its recovery shows.
pub const RECOVERY_ROOM: f64 = 1.25;

/// Throughput above that of the saturated downstream, by this factor, is its recovery.
pub const RECOVERED: f64 = 1.15;

/// Length of the first hold for a saturated downstream; each further hold is twice as long.
pub const HOLD_MIN: Duration = Duration::from_secs(600);

/// Longest hold for a saturated downstream.
pub const HOLD_MAX: Duration = Duration::from_secs(7200);

/// A partition is hot if its arrival rate exceeds the service rate of one member by this factor.
pub const HOT: f64 = 1.05;

/// Intervals in a row, with a backlog, after which a partition is reported as hot.
pub const HOT_INTERVALS: u32 = 3;

/// Time without a busy member after which a doubtful service rate is probed by a step down.
pub const PROBE_DOUBTED: Duration = Duration::from_secs(600);

/// The same for a rate without doubt. Each failed probe doubles the wait.
pub const PROBE_TRUSTED: Duration = Duration::from_secs(7200);

/// Longest wait before a probe.
pub const PROBE_MAX: Duration = Duration::from_secs(86_400);

/// How long a smaller count must keep up before the next one is probed.
pub const PROBE_HOLD: Duration = Duration::from_secs(120);

/// A service rate below this share of the best one ever measured, or of the hint, is doubtful.
pub const DOUBT_SHARE: f64 = 0.8;

/// A step up within this many stabilization windows after a step down marks the step down as a
/// mistake.
pub const REGRET_WINDOWS: u32 = 2;

/// Each such mistake doubles the stabilization window, at most this many times.
pub const REGRET_MAX: u32 = 3;

/// Intervals that must show the same number of members per replica before it is used. Longer than
/// the session timeout of most clients, during which a dead member still counts.
pub const MEMBERS_INTERVALS: u32 = 12;

/// Most members per replica that are assumed.
pub const MEMBERS_PER_REPLICA_MAX: u32 = 64;

/// Most partitions that are evaluated; the API has the same bound.
pub const PARTITIONS_MAX: usize = 10_000;

// A late sample that is still used leaves room for the next one.
const _: () = assert!(STALE_AFTER.as_secs() >= 2 * INTERVAL.as_secs());
const _: () = assert!(FRESH_FOR.as_secs() < STALE_AFTER.as_secs());
