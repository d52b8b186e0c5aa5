//! How many replicas the consumers of a queue should have: the scaling policy, as a plain state machine.
//!
//! # Place in the walk
//!
//! The controller feeds a [`Scaler`] one [`Signal`] a second and asks it every [`limits::INTERVAL`] for a [`Decision`].
//! Kubernetes, sockets and clocks are unknown here: time is handed in, as a duration since any fixed moment.
//!
//! # The policy
//!
//! Lag is the integral of an imbalance; a rule that is proportional to it needs a standing lag and never settles. So
//! the policy looks at rates, and at the backlog only as work to be drained in time:
//!
//! ```text
//! capacity(n) = μ·P/⌈P/n⌉            a partition has one consumer, so only some n are worth having
//! up    if    λ − noise > 0.93·capacity(n), or the backlog would take too long to drain
//!       to    the fewest n with capacity(n) ≥ Σ over partitions of min(λ/u + B/T, μ)
//! down  if    over the whole stabilization window fewer than n were wanted
//!       to    the most that was wanted in it
//! ```
//!
//! λ: arrival rate with its trend ([`arrival`]); μ: what a member can do ([`service`]); B: what waits ([`backlog`]);
//! u: the utilization and T the time to drain that the user chose ([`Policy`]).
//!
//! # What the first form of this policy got wrong, and the fixes
//!
//! - *A consumer that commits every five seconds always has a backlog.* Taken for a member at its limit, it taught a
//!   service rate that fell with every replica that was added. [`backlog`] looks below the commits, and [`service`] measures
//!   from commit to commit, and believes only members whose backlog moved.
//! - *The pause of the policy's own step down made a backlog that called for a step up*, every five minutes for ever.
//!   A backlog counts only if it takes longer to drain than new pods take to help ([`policy`]), and a step down that was
//!   taken back doubles the window ([`window`]).
//! - *Small queues are noisy.* The arrival rate alone asks for more only beyond its noise; a true overload shows in the backlog.
//! - *λ·pause is a number of messages*, not of replica-seconds; what a pause costs is the work it defers, λ·pause/μ.
//! - *One hot partition scaled everything*, since its backlog has no bound: no partition counts for more than the work of
//!   one member ([`backlog`]), and the verdict only says so ([`hot`]).
//! - *A falling load was followed in steps, each with its pause*: while what is wanted still falls, one more window is waited.
//! - *Stepping back from a saturated downstream to where it came from may strangle it, and at full use its recovery
//!   does not show.* The step back leaves a quarter of room above what the downstream took ([`saturation`]).
//! - *Trying a step down every ten minutes is itself a flap.* Ten minutes are for a rate that is in doubt; one that
//!   nothing speaks against is tried after two hours, then four, up to a day ([`probe`]).
//!
//! # Invariants
//!
//! - **K3.** An unknown signal never changes a count. Two commands are not signals and still hold: hibernation takes consumers
//!   to their minimum, and a broker that says "messages wait and nobody is there" brings back a group from zero.
//! - A count is always within the user's bounds, and never zero but through the gate of [`zero`].
//! - After a restart of the operator the first three intervals only watch.

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

pub use decision::{Action, Decision, Figures, Limit, NotJoining};
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
use service::{Measured, ServiceRate, Watch};
use std::time::Duration;
use window::Window;
use zero::Idle;

/// What the user wants for one consumer, with every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// What decides.
    pub mode: Mode,
    /// Never fewer.
    pub replicas_min: u32,
    /// Never more; `None` is as many as there are partitions.
    pub replicas_max: Option<u32>,
    /// A backlog should be gone after this long.
    pub drain: Duration,
    /// Share of the capacity that should be in use, 0 to 1.
    pub utilization: f64,
    /// What one replica processes, as long as nothing was measured.
    pub expected_per_replica_per_second: Option<f64>,
    /// To zero after this long without work.
    pub idle: Duration,
    /// Down only to what sufficed for this long.
    pub stabilization: Duration,
    /// The brokers are being put to sleep.
    pub is_hibernating: bool,
}

/// What decides about replicas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Arrival rate, service rate and backlog.
    Rate,
    /// The backlog alone.
    Lag {
        /// So many waiting messages ask for one replica.
        messages_per_replica: u64,
    },
    /// Nobody; only the figures are kept.
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

/// The scaled object, read just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Replicas that are asked for.
    pub replicas: u32,
    /// Pods that there are.
    pub current: u32,
}

/// Watches one consumer group and decides about its replicas.
#[derive(Debug, Clone)]
pub struct Scaler {
    /// When the running interval began; `None` while nothing is known.
    began: Option<Duration>,
    /// When the last sample came.
    seen_at: Duration,
    /// Intervals in a row without a gap.
    good: u32,
    /// An interval has ended and the policy has not looked at it yet.
    is_fresh: bool,
    /// The last proposal comes from an interval that has ended, or from a command; not only from there being
    /// nothing new.
    is_weighed: bool,
    /// The last proposal is a step down because fewer sufficed for a whole window.
    steps_down: bool,
    latest: Signal,
    /// What the policy last found to limit it.
    limit: Option<Limit>,
    /// The target when it was last looked at.
    target: Target,
    shown: Measured,
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
    /// Knows nothing yet, but what an earlier run of the operator may have measured of a replica.
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
            shown: Measured::default(),
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

    /// What one replica was measured to process per second: to be kept over a restart.
    #[must_use]
    pub fn per_replica_per_second(&self) -> Option<f64> {
        self.service.to_remember(f64::from(self.joining.per_replica()))
    }

    /// Decides and takes for granted that the decision is carried out; see [`Scaler::propose`].
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
            // What happened while nobody looked belongs to no interval.
            self.backlog.restart();
            self.began = Some(now);
            return;
        };
        let elapsed = now.saturating_sub(began);
        if elapsed >= INTERVAL {
            self.close(now, elapsed, sample);
        }
    }

    /// Ends an interval that was watched without a gap.
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

    /// Nothing is known now: what was being watched proves nothing any more.
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
