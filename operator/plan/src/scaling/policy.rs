//! From the observed signals to a decision.
//!
//! The order in [`Scaler::propose`] is the order of precedence: commands, unknown signals, the
//! user's bounds, running trials, zero, up, down.

use super::backlog::Pace;
use super::decision::{Action, Decision, DecisionMetrics, Limit, Rate};
use super::limits::{FRESH_FOR, GOOD_INTERVALS_TO_THAW, INTERVAL, NOISE_DEVIATIONS, UP_SHARE};
use super::probe::Outcome;
use super::saturation::Scene;
use super::service::Hint;
use super::signal::Signal;
use super::steps::Layout;
use super::view::{Bounds, View, limit_at_maximum, set};
use super::{Mode, Policy, Scaler, Target, lag};
use std::time::Duration;

impl Scaler {
    /// Decides for the present settings and target.
    ///
    /// Call it every [`INTERVAL`], and at once when a broker reports that messages wait for a group
    /// without members. A caller that writes another count reports that with [`Scaler::wrote`].
    pub fn propose(&mut self, now: Duration, policy: &Policy, target: Target) -> Decision {
        self.target = target;
        self.steps_down = false;
        self.is_weighed = true;
        let action = self.act(now, policy);
        let view = self.view(now, policy);
        let members = f64::from(self.joining.per_replica());
        let late = self
            .joining
            .late(now, target.replicas)
            .filter(|_| target.replicas > 0 && self.good > 0);
        Decision {
            action,
            is_weighed: self.is_weighed,
            limit: self.limit.clone(),
            missing_members: late,
            metrics: DecisionMetrics {
                arrival_per_second: self.arrival.now(),
                per_replica_per_second: view.per_member.map(|rate| rate * members),
                is_measured: self.per_replica_per_second().is_some(),
                waiting: self.backlog.waiting(self.arrival.now()),
                wanted: view.wanted,
            },
        }
    }

    fn act(&mut self, now: Duration, policy: &Policy) -> Action {
        let replicas = self.target.replicas;
        if policy.is_hibernating || policy.mode == Mode::Disabled || replicas == 0 {
            self.limit = None;
        }
        if policy.mode == Mode::Disabled {
            return Action::Keep { replicas, why: "scaling is disabled".to_owned() };
        }
        if policy.is_hibernating {
            return hibernate(replicas, policy.replicas_min);
        }
        if replicas == 0 {
            return self.wake(now, policy);
        }
        if let Signal::Unknown(why) = &self.latest {
            return Action::Frozen { replicas, why: why.clone() };
        }
        if self.good < GOOD_INTERVALS_TO_THAW {
            let why = format!(
                "watching: {} of {GOOD_INTERVALS_TO_THAW} intervals without a gap",
                self.good
            );
            return Action::Frozen { replicas, why };
        }
        let view = self.view(now, policy);
        let within = replicas.max(policy.replicas_min).min(policy.replicas_max.unwrap_or(u32::MAX));
        if within != replicas {
            return set(replicas, within, "`minReplicas` and `maxReplicas` say so".to_owned());
        }
        if let Some(action) = self.to_zero(now, policy) {
            return action;
        }
        if self.joining.none_consumes(now) {
            let why = "not one of the replicas consumes: more of them are no help".to_owned();
            return Action::Keep { replicas, why };
        }
        if !std::mem::take(&mut self.is_fresh) {
            self.is_weighed = false;
            return Action::Keep { replicas, why: "nothing new".to_owned() };
        }
        let mut limit = None;
        let action = match policy.mode {
            Mode::Rate => self.by_rate(&view, policy, &mut limit),
            Mode::Lag { .. } | Mode::Disabled => self.by_lag(&view, policy, &mut limit),
        };
        self.limit = limit;
        action
    }

    /// The caller writes another count, for this scaler or for one with the same target. If the
    /// write fails, the next proposal starts from the real count.
    pub fn wrote(&mut self, now: Duration, from: u32, to: u32) {
        self.target.replicas = to;
        if to > from {
            self.lag.went_up(now);
            self.joining.asked_for(now, to);
        } else {
            self.joining.gave_up();
        }
        if to < from && std::mem::take(&mut self.steps_down) {
            self.window.went_down(now);
        }
        self.window.restart();
    }

    fn hint(&self, policy: &Policy) -> Hint {
        Hint {
            per_replica: policy.expected_per_replica_per_second,
            members: f64::from(self.joining.per_replica()),
        }
    }

    fn view(&self, now: Duration, policy: &Policy) -> View {
        let per_replica = self.joining.per_replica();
        let layout = Layout {
            partitions: self.backlog.partitions().max(1),
            members_per_replica: per_replica,
        };
        let per_member = self.service.believed(self.hint(policy));
        let excess =
            per_member.map(|rate| self.hot.excess(&self.backlog, rate)).unwrap_or_default();
        let arrival = (self.arrival.now() - excess.arrival).max(0.0);
        let ahead = (self.arrival.after(self.joining.startup()) - excess.arrival).max(0.0);
        let waiting = (self.backlog.waiting(self.arrival.now()) - excess.waiting).max(0.0);
        let pace = pace(policy);
        let replicas_for = |messages: f64, each: f64| (messages / each).ceil().max(1.0) as u32;
        let (wanted, needed) = match (policy.mode, per_member) {
            (Mode::Lag { messages_per_replica }, _) => {
                let ratio = self.backlog.waiting(0.0) / messages_per_replica.max(1) as f64;
                let needed = replicas_for(ratio, 1.0);
                (lag::wanted(ratio, self.target.replicas, layout), needed)
            }
            (Mode::Rate | Mode::Disabled, Some(rate)) => {
                let all = ahead / pace.utilization + waiting / pace.drain_seconds;
                let demand = self.backlog.demand(ahead, rate, pace);
                (layout.step_for(demand, rate), replicas_for(all, rate * f64::from(per_replica)))
            }
            (Mode::Rate | Mode::Disabled, None) => (self.target.replicas, self.target.replicas),
        };
        View {
            now,
            replicas: self.target.replicas,
            bounds: Bounds::of(policy, layout),
            layout,
            per_member,
            arrival,
            ahead,
            waiting,
            wanted,
            needed,
        }
    }

    /// A group without replicas is scaled to the wanted count in one step when messages wait.
    fn wake(&self, now: Duration, policy: &Policy) -> Action {
        let length = match &self.latest {
            Signal::Unknown(why) => return Action::Frozen { replicas: 0, why: why.clone() },
            Signal::Wake { length } => *length,
            Signal::Known(sample) => sample.length,
        };
        let view = self.view(now, policy);
        if length == 0 {
            return match policy.replicas_min {
                0 => Action::Keep { replicas: 0, why: "nothing waits".to_owned() },
                min => set(0, min, "`minReplicas` says so".to_owned()),
            };
        }
        let wanted = match (policy.mode, view.per_member, &self.latest) {
            (Mode::Rate, Some(rate), Signal::Known(sample)) => {
                let pace = pace(policy);
                let share = view.ahead / pace.utilization / f64::from(view.layout.partitions);
                let lengths = sample.partitions.iter().map(|partition| partition.length as f64);
                // As always, one partition counts for at most one member's work.
                let demand = lengths.map(|length| (share + length / pace.drain_seconds).min(rate));
                view.layout.step_for(demand.sum(), rate)
            }
            (Mode::Rate, _, _) => 1,
            (Mode::Lag { .. } | Mode::Disabled, _, _) => view.wanted,
        };
        set(0, view.bounds.clamp(wanted), format!("{length} messages wait and no consumer runs"))
    }

    fn to_zero(&self, now: Duration, policy: &Policy) -> Option<Action> {
        let idle = self.idle.lasts(now).filter(|idle| *idle >= policy.idle)?;
        let settled = self.target.replicas == self.target.current;
        let is_late = now.saturating_sub(self.seen_at) > FRESH_FOR;
        if policy.replicas_min > 0 || !settled || is_late || self.joining.is_rebalancing() {
            return None;
        }
        let reason = format!("nothing waits, and nothing has come for {}s", idle.as_secs());
        Some(set(self.target.replicas, 0, reason))
    }

    fn by_rate(&mut self, view: &View, policy: &Policy, limit: &mut Option<Limit>) -> Action {
        self.look_for_hot(view);
        if let Some(action) = self.judge(view, policy, limit) {
            return action;
        }
        let ceiling = self.saturation.hold().map_or(view.bounds.max, |hold| hold.replicas);
        let wanted = view.bounds.clamp(view.wanted);
        self.window.settle(view.now, policy.stabilization);
        self.window.add(view.now, wanted);
        let Some(per_member) = view.per_member else {
            return self.feel_the_way(view, policy, limit);
        };
        let up = wanted.min(ceiling);
        if self.is_short(view, per_member, policy) {
            if up > view.replicas {
                return self.up(view, up, policy);
            }
            limit_at_maximum(view, limit);
        } else if let Some(down) = self.down(view, per_member, policy) {
            return down;
        } else if let Some(probe) = self.try_fewer(view, policy) {
            return probe;
        }
        Action::Keep { replicas: view.replicas, why: self.metrics_text(view, policy) }
    }

    /// A partition counts as hot only with a measured rate and settled members.
    fn look_for_hot(&mut self, view: &View) {
        let settled = self.joining.joined_for(view.now).unwrap_or_default();
        match self.service.measured() {
            Some(rate) if settled >= self.backlog.commit_interval() * 2 => {
                self.hot.close(&self.backlog, rate);
            }
            Some(_) | None => {}
        }
    }

    /// Evaluates running trials, and reports what limits scaling because of earlier ones.
    fn judge(&mut self, view: &View, policy: &Policy, limit: &mut Option<Limit>) -> Option<Action> {
        if let Some(rate) = self.service.measured() {
            *limit = self.hot.worst(&self.backlog, rate).map(Limit::HotPartition);
        }
        let scene = Scene {
            now: view.now,
            replicas: view.replicas,
            layout: view.layout,
            per_member: self.service.measured(),
            joined_for: self.joining.joined_for(view.now),
            commit_interval: self.backlog.commit_interval(),
            waiting: view.waiting,
            arrival: view.arrival,
            members: self.shown,
        };
        let began = self.saturation.judge(&scene);
        if let Some(hold) = self.saturation.hold() {
            *limit = Some(Limit::DownstreamSaturated {
                replicas: hold.replicas,
                takes_per_second: hold.takes,
                retry_in: hold.until.saturating_sub(view.now),
            });
        }
        if let Some(hold) = began
            && view.bounds.clamp(hold.replicas) < view.replicas
        {
            let reason = format!("more replicas did not process more than {}/s", Rate(hold.takes));
            return Some(set(view.replicas, view.bounds.clamp(hold.replicas), reason));
        }
        self.judge_probe(view, policy)
    }

    fn judge_probe(&mut self, view: &View, policy: &Policy) -> Option<Action> {
        let trial = self.probe.trial()?;
        if trial.to != view.replicas {
            self.probe.restart();
            return None;
        }
        // A backlog that the rebalance explains proves nothing.
        let explained = self.joining.pause().mul_f64(1.5) + INTERVAL;
        let formed = view.waiting > view.arrival * explained.as_secs_f64();
        let settle = self.joining.startup() + self.backlog.commit_interval() * 4;
        match self.probe.judge(view.now, formed, settle) {
            Outcome::Running => Some(Action::Keep {
                replicas: view.replicas,
                why: format!("trying whether {} suffice", view.replicas),
            }),
            Outcome::TooFew => {
                self.service.confirm(self.hint(policy));
                let reason = format!("{} did not suffice", trial.to);
                Some(set(view.replicas, view.bounds.clamp(trial.from), reason))
            }
            Outcome::Enough => {
                let each = view.layout.capacity(trial.to, 1.0) * policy.utilization;
                self.service.raise(view.arrival / each);
                None
            }
        }
    }

    /// Whether the present replicas are too few.
    fn is_short(&self, view: &View, per_member: f64, policy: &Policy) -> bool {
        let capacity = view.layout.capacity(view.replicas, per_member);
        let drain = policy.drain.as_secs_f64().max(1.0);
        let surely = view.ahead - NOISE_DEVIATIONS * self.arrival.noise();
        if surely > UP_SHARE * capacity {
            return true;
        }
        // A backlog that is drained before new pods could help needs none.
        let patience =
            drain.max(2.0 * (self.joining.startup() + self.joining.pause()).as_secs_f64());
        let drained_in = view.waiting / (capacity - view.arrival).max(f64::MIN_POSITIVE);
        view.arrival + view.waiting / drain > UP_SHARE * capacity && drained_in > patience
    }

    fn up(&mut self, view: &View, to: u32, policy: &Policy) -> Action {
        // Without a backlog, more members could not have processed more.
        if view.waiting > view.arrival && self.service.measured().is_some() {
            self.saturation.began(view.replicas, to);
        } else {
            self.saturation.dropped();
        }
        self.probe.restart();
        self.window.went_up(view.now, policy.stabilization);
        set(view.replicas, to, self.metrics_text(view, policy))
    }

    /// Without a known rate: doubles the replicas, each time after the members had time to show
    /// their rate.
    fn feel_the_way(&mut self, view: &View, policy: &Policy, limit: &mut Option<Limit>) -> Action {
        let keep = |why: &str| Action::Keep { replicas: view.replicas, why: why.to_owned() };
        let settle = self.backlog.commit_interval() * 2 + INTERVAL * 2;
        let throughput = self.saturation.throughput().unwrap_or(0.0);
        let drain = policy.drain.as_secs_f64().max(1.0);
        let is_deep = view.waiting > throughput * (drain / 4.0).max(10.0);
        let is_short = view.arrival + view.waiting / drain > throughput / UP_SHARE;
        if !(is_deep && is_short) {
            return self
                .try_fewer(view, policy)
                .unwrap_or_else(|| keep("keeping up; what a replica can do is not known yet"));
        }
        if self.joining.joined_for(view.now).is_none_or(|joined| joined < settle) {
            return keep("waiting for what the replicas can do");
        }
        let twice = view.layout.useful(view.replicas.saturating_mul(2)).max(view.replicas + 1);
        let to = view.bounds.clamp(twice);
        if to <= view.replicas {
            *limit = Some(Limit::AtMaximum { replicas_max: view.bounds.max, wanted: twice });
            return keep("at the maximum");
        }
        self.probe.restart();
        let waits = Rate(view.waiting);
        set(
            view.replicas,
            to,
            format!("{waits} messages wait, {}/s are processed", Rate(throughput)),
        )
    }

    fn down(&mut self, view: &View, per_member: f64, policy: &Policy) -> Option<Action> {
        let most = self.window.most(view.now, policy.stabilization)?;
        if most >= view.replicas || self.joining.is_rebalancing() || self.saturation.is_trying() {
            return None;
        }
        let window = self.window.length(policy.stabilization).as_secs_f64();
        let saved = f64::from(view.replicas - most) * window;
        let deferred = view.arrival * self.joining.pause().as_secs_f64() / per_member;
        if saved <= deferred {
            return None;
        }
        self.steps_down = true;
        self.probe.restart();
        let reason =
            format!("{}, {most} sufficed for {window:.0}s", self.metrics_text(view, policy));
        Some(set(view.replicas, most, reason))
    }

    fn try_fewer(&mut self, view: &View, policy: &Policy) -> Option<Action> {
        let doubted = self.service.is_doubted(self.hint(policy));
        let settled = self.joining.joined_for(view.now).is_some();
        let busy_elsewhere = self.saturation.is_trying() || self.saturation.hold().is_some();
        if !settled
            || busy_elsewhere
            || view.arrival <= 0.0
            || !self.probe.is_due(view.now, doubted)
        {
            return None;
        }
        let below = view.layout.below(view.replicas).filter(|below| *below >= view.bounds.min)?;
        self.probe.began(view.now, view.replicas, below);
        Some(set(
            view.replicas,
            below,
            "no replica was busy: trying whether fewer suffice".to_owned(),
        ))
    }

    /// For example "arrival 1740/s, 96/s per replica, drain 60s".
    fn metrics_text(&self, view: &View, policy: &Policy) -> String {
        let members = f64::from(view.layout.members_per_replica);
        let mut text = format!("arrival {}/s", Rate(self.arrival.now()));
        if view.waiting >= 1.0 {
            text += &format!(", {:.0} waiting", view.waiting);
        }
        if let Some(rate) = view.per_member {
            text += &format!(", {}/s per replica", Rate(rate * members));
        }
        text + &format!(", drain {}s", policy.drain.as_secs())
    }
}

fn hibernate(replicas: u32, min: u32) -> Action {
    if replicas > min {
        set(
            replicas,
            min,
            "the brokers are hibernating, consumers go to their minimum first".to_owned(),
        )
    } else {
        Action::Keep { replicas, why: "the brokers are hibernating".to_owned() }
    }
}

fn pace(policy: &Policy) -> Pace {
    Pace { utilization: policy.utilization, drain_seconds: policy.drain.as_secs_f64().max(1.0) }
}
