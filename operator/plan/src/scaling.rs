//! The scaling policy: how many replicas the consumers of a queue should have.
//!
//! The caller passes a [`Scaler`] one [`Signal`] a second and requests a [`Decision`] every
//! [`limits::INTERVAL`]. Time is an argument, as a duration since any fixed moment.
//!
//! # The policy
//!
//! Lag is the integral of an imbalance; a rule that is proportional to it needs a permanent lag and
//! never settles. So the policy uses rates, and the backlog only as work that has to be drained in
//! time:
//!
//! ```text
//! capacity(n) = μ·P/⌈P/n⌉            a partition has one consumer, so only some n are worth having
//! up    if    λ − noise > 0.93·capacity(n), or the backlog would take too long to drain
//!       to    the fewest n with capacity(n) ≥ Σ over partitions of min(λ/u + B/T, μ)
//! down  if    over the whole stabilization window fewer than n were wanted
//!       to    the most that was wanted in it
//! ```
//!
//! λ: arrival rate with its trend ([`arrival`]); μ: service rate of one member ([`service`]); B:
//! backlog ([`backlog`]); P: partitions; u: utilization and T: drain time that the user chose
//! ([`Policy`]).
//!
//! # Example
//!
//! A topic has 12 partitions, 900 messages arrive per second, 60,000 messages of consumer lag wait
//! behind two replicas, and each replica processes 300 messages per second. The policy wants twelve
//! replicas: four suffice for the arrivals, the others drain the backlog within the default 60 s.
//!
//! ```
//! use std::time::Duration;
//!
//! use ropewalk_operator_plan::scaling::{
//!     Action, MemberSample, PartitionSample, Policy, Sample, Scaler, Signal, Target,
//! };
//!
//! let policy = Policy {
//!     expected_per_replica_per_second: Some(300.0),
//!     ..Policy::default()
//! };
//! let target = Target { replicas: 2, current: 2 };
//! let mut scaler = Scaler::new(None);
//! let mut action = None;
//! for second in 0..=20_i64 {
//!     let partitions: Vec<PartitionSample> = (0..12)
//!         .map(|partition| {
//!             let (end, committed) = (5000 + second * 75, second * 50);
//!             let length = (end - committed).unsigned_abs();
//!             PartitionSample { partition, length, end, committed }
//!         })
//!         .collect();
//!     let sample = Sample {
//!         length: partitions.iter().map(|partition| partition.length).sum(),
//!         partitions,
//!         members: vec![
//!             MemberSample { id: "a".to_owned(), partitions: (0..6).collect() },
//!             MemberSample { id: "b".to_owned(), partitions: (6..12).collect() },
//!         ],
//!         ..Sample::default()
//!     };
//!     let now = Duration::from_secs(second.unsigned_abs());
//!     scaler.observe(now, Signal::Known(sample));
//!     if second % 5 == 0 {
//!         action = Some(scaler.decide(now, &policy, target).action);
//!         if matches!(action, Some(Action::Set { .. })) {
//!             break;
//!         }
//!     }
//! }
//! let action = action.expect("a decision");
//! assert_eq!(action.replicas(), 12);
//! ```
//!
//! # Errors of simpler policies, and how this one avoids them
//!
//! - *A consumer that commits every five seconds always has a backlog.* If that counts as a member
//!   at its limit, the measured service rate falls with every replica that is added. [`backlog`]
//!   uses the least length over a commit interval, and [`service`] measures from commit to commit
//!   and uses only members whose backlog moved.
//! - *The rebalance of the policy's own step down makes a backlog that calls for a step up*, every
//!   five minutes. A backlog counts only if it takes longer to drain than new pods take to help
//!   ([`policy`]), and a reverted step down doubles the window ([`window`]).
//! - *Small queues are noisy.* The arrival rate alone asks for more replicas only beyond its noise;
//!   a true overload shows in the backlog.
//! - *λ·pause is a number of messages*, not of replica-seconds. The cost of a pause is the work
//!   that it defers, λ·pause/μ.
//! - *One hot partition scales everything*, since its backlog has no bound. No partition counts for
//!   more than the work of one member ([`backlog`]), and the hot partition is reported ([`hot`]).
//! - *A falling load is followed in steps, each with a rebalance.* While the wanted count still
//!   falls, the policy waits for one more window.
//! - *A step back from a saturated downstream to the count before may be too few, and at full use
//!   its recovery does not show.* The step back leaves a quarter of room above the throughput of
//!   the downstream ([`saturation`]).
//! - *A trial step down every ten minutes is itself a flap.* Ten minutes apply to a doubtful rate;
//!   a rate without doubt is probed after two hours, then four, up to a day ([`probe`]).
//!
//! # Invariants
//!
//! - **K3.** An unknown signal never changes a count. Two commands still apply, because they are no
//!   signals: hibernation scales consumers to their minimum, and a broker that reports waiting
//!   messages for a group without members scales that group up from zero.
//! - A count is always within the user's bounds, and becomes zero only through [`zero`].
//! - After a restart of the operator, the first three intervals only observe.

pub mod limits;
mod signal;
mod steps;
mod arrival;
mod backlog;
mod service;
mod joining;
mod window;
mod saturation;
mod hot;
mod probe;
mod zero;
mod decision;
mod view;
mod lag;
mod policy;

pub use decision::{Action, Decision, DecisionMetrics, Limit, MissingMembers};
pub use hot::HotPartition;
pub use signal::{MemberSample, PartitionSample, Sample, Signal};

use arrival::ArrivalRate;
use backlog::Backlog;
use hot::Hot;
use joining::Joining;
use lag::Lag;
use limits::{INTERVAL, STALE_AFTER};
use probe::Probe;
use saturation::Saturation;
use service::{MemberRates, ServiceRate, Watch};
use std::time::Duration;
use window::Window;
use zero::Idle;

/// The user's settings for one consumer, with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The signals that decide.
    pub mode: Mode,
    /// Fewest replicas, at least 0.
    pub replicas_min: u32,
    /// Most replicas; `None` is the number of partitions.
    pub replicas_max: Option<u32>,
    /// Time within which a backlog should be drained.
    pub drain: Duration,
    /// Share of the capacity that should be in use, 0 to 1.
    pub utilization: f64,
    /// The user's hint for the rate of one replica, used until the rate is measured.
    pub expected_per_replica_per_second: Option<f64>,
    /// Time without work after which the group is scaled to zero.
    pub idle: Duration,
    /// Replicas are reduced only to a count that sufficed for this long.
    pub stabilization: Duration,
    /// The BrokerCluster is about to hibernate.
    pub is_hibernating: bool,
}

/// The signals that decide the replica count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Arrival rate, service rate and backlog.
    Rate,
    /// The backlog alone.
    Lag {
        /// Waiting messages per replica.
        messages_per_replica: u64,
    },
    /// None: the policy only keeps its metrics.
    Disabled,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Rate,
            replicas_min: 0,
            replicas_max: None,
            drain: Duration::from_secs(60),
            utilization: 0.85,
            expected_per_replica_per_second: None,
            idle: Duration::from_secs(300),
            stabilization: Duration::from_secs(300),
            is_hibernating: false,
        }
    }
}

/// The scale of the target, as read immediately before the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// `spec.replicas` of the scale.
    pub replicas: u32,
    /// `status.replicas` of the scale: the pods that exist.
    pub current: u32,
}

/// Observes one consumer group and decides its replica count.
#[derive(Debug, Clone)]
pub struct Scaler {
    /// Start of the running interval; `None` after a gap.
    began: Option<Duration>,
    /// Time of the last sample.
    seen_at: Duration,
    /// Intervals in a row without a gap.
    good: u32,
    /// An interval has ended that the policy has not evaluated yet.
    is_fresh: bool,
    /// The last proposal is based on a new interval or a command, and does not only repeat the one
    /// before.
    is_weighed: bool,
    /// The last proposal is a step down because fewer sufficed for a whole window.
    steps_down: bool,
    latest: Signal,
    /// The limit that the policy found last.
    limit: Option<Limit>,
    /// The target at the last proposal.
    target: Target,
    shown: MemberRates,
    arrival: ArrivalRate,
    backlog: Backlog,
    watch: Watch,
    service: ServiceRate,
    joining: Joining,
    window: Window,
    lag: Lag,
    saturation: Saturation,
    hot: Hot,
    probe: Probe,
    idle: Idle,
}

impl Scaler {
    /// Starts without observations, with the rate per replica that an earlier run of the operator
    /// measured.
    #[must_use]
    pub fn new(per_replica_per_second: Option<f64>) -> Self {
        Self {
            began: None,
            seen_at: Duration::ZERO,
            good: 0,
            is_fresh: false,
            is_weighed: false,
            steps_down: false,
            latest: Signal::Unknown("no signal has come yet".to_owned()),
            limit: None,
            target: Target { replicas: 0, current: 0 },
            shown: MemberRates::default(),
            arrival: ArrivalRate::default(),
            backlog: Backlog::default(),
            watch: Watch::default(),
            service: ServiceRate::restored(per_replica_per_second),
            joining: Joining::default(),
            window: Window::default(),
            lag: Lag::default(),
            saturation: Saturation::default(),
            hot: Hot::default(),
            probe: Probe::default(),
            idle: Idle::default(),
        }
    }

    /// The measured messages per second of one replica; the caller stores it for the next start.
    #[must_use]
    pub fn per_replica_per_second(&self) -> Option<f64> {
        self.service.to_remember(f64::from(self.joining.per_replica()))
    }

    /// Decides, and assumes that the caller carries out the decision; see [`Scaler::propose`].
    pub fn decide(&mut self, now: Duration, policy: &Policy, target: Target) -> Decision {
        let decision = self.propose(now, policy, target);
        if let Action::Set { from, to, .. } = &decision.action {
            self.wrote(now, *from, *to);
        }
        decision
    }

    /// Whether an interval has ended since the last decision.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.is_fresh
    }

    /// Takes the signal of this second.
    pub fn observe(&mut self, now: Duration, signal: Signal) {
        match &signal {
            Signal::Known(sample) => self.see(now, sample),
            Signal::Wake { .. } | Signal::Unknown(_) => self.lose(),
        }
        self.latest = signal;
    }

    fn see(&mut self, now: Duration, sample: &Sample) {
        if now.saturating_sub(self.seen_at) > STALE_AFTER {
            self.lose();
        }
        self.seen_at = self.seen_at.max(now);
        self.backlog.observe(now, sample);
        self.watch.observe(now, sample, &self.backlog);
        self.joining.observe(now, sample, self.target.replicas);
        self.idle.observe(now, sample);
        let Some(began) = self.began else {
            // Offsets that moved during the gap belong to no interval.
            self.backlog.restart();
            self.began = Some(now);
            return;
        };
        let elapsed = now.saturating_sub(began);
        if elapsed >= INTERVAL {
            self.close(now, elapsed, sample);
        }
    }

    /// Ends an interval without a gap.
    fn close(&mut self, now: Duration, elapsed: Duration, sample: &Sample) {
        self.began = Some(now);
        self.good = self.good.saturating_add(1);
        self.is_fresh = true;
        self.arrival.add(self.backlog.close(elapsed));
        self.shown = self.watch.close();
        let may_fall = !self.saturation.is_trying() || self.service.measured().is_none();
        self.service.learn(self.shown, may_fall);
        self.joining.close(self.target.replicas, self.target.current);
        let committed = sample.partitions.iter().map(|partition| partition.committed).sum();
        self.saturation.close(now, committed);
        self.probe.close(now, self.shown.busy > 0);
    }

    /// Discards running observations after a gap in the signals.
    fn lose(&mut self) {
        self.began = None;
        self.good = 0;
        self.is_fresh = false;
        self.backlog.restart();
        self.watch.restart();
        self.window.restart();
        self.saturation.restart();
        self.hot.restart();
        self.probe.restart();
        self.idle.restart();
    }
}

#[cfg(test)]
mod tests;
