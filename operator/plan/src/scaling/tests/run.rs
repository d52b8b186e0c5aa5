//! Runs a scaler in a simulated world and summarizes the run.

use super::keda::Keda;
use super::world::{Nature, TICK, World};
use crate::scaling::{Action, Decision, Policy, Scaler, Signal};
use std::time::Duration;

/// The policy under test.
pub(super) enum Autoscaler {
    Ours { scaler: Box<Scaler>, policy: Policy, decisions: Vec<(u64, Decision)> },
    Keda(Keda),
}

impl Autoscaler {
    pub(super) fn ours(policy: Policy) -> Self {
        Self::Ours { scaler: Box::new(Scaler::new(None)), policy, decisions: Vec::new() }
    }

    pub(super) fn keda(threshold: u32) -> Self {
        Self::Keda(Keda::new(threshold, 0))
    }

    /// Called once a second with the broker's sample.
    pub(super) fn step(&mut self, second: u64, world: &mut World, signal: Signal) {
        let (scaler, policy, decisions) = match self {
            Self::Keda(keda) => return keda.step(second, world),
            Self::Ours { scaler, policy, decisions } => (scaler, policy, decisions),
        };
        let now = Duration::from_secs(second);
        let wakes = world.replicas == 0 && world.lag() > 0;
        scaler.observe(now, signal);
        if !second.is_multiple_of(5) && !wakes {
            return;
        }
        let decision = scaler.decide(now, policy, world.target());
        if let Action::Set { from, to, .. } = &decision.action {
            assert_eq!(*from, world.replicas);
            world.scale(*to);
        }
        decisions.push((second, decision));
    }
}

/// The summary of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Summary {
    pub(super) changes: usize,
    pub(super) reversals: usize,
    pub(super) replicas: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

pub(super) fn summary(world: &mut World) -> Summary {
    world.close();
    let ups: Vec<bool> = world.changes.iter().map(|(_, from, to)| to > from).collect();
    let total: u64 = world.waits.iter().sum();
    let quantile = |share: f64| {
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let tick = world.waits.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        tick.unwrap_or(0) as f64 * TICK
    };
    Summary {
        changes: ups.len(),
        reversals: ups.windows(2).filter(|pair| pair[0] != pair[1]).count(),
        replicas: world.replica_seconds / world.now,
        p50: quantile(0.5),
        p99: quantile(0.99),
        max: quantile(1.0),
    }
}

/// A run that starts with one settled replica.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) autoscaler: Autoscaler,
    second: u64,
}

impl Run {
    pub(super) fn new(nature: Nature, autoscaler: Autoscaler) -> Self {
        Self { world: World::new(nature, 1), autoscaler, second: 0 }
    }

    /// Continues until `until`, seconds, under this load: messages per second by time.
    pub(super) fn until(&mut self, until: u64, load: impl Fn(f64) -> f64) {
        self.until_seeing(until, load, |_, world| Signal::Known(world.sample()));
    }

    /// The same, with a changed sample.
    pub(super) fn until_seeing(
        &mut self,
        until: u64,
        load: impl Fn(f64) -> f64,
        mut view: impl FnMut(u64, &World) -> Signal,
    ) {
        while self.second < until {
            let signal = view(self.second, &self.world);
            self.autoscaler.step(self.second, &mut self.world, signal);
            for _ in 0..(1.0 / TICK) as u32 {
                let now = self.world.now;
                self.world.tick(load(now));
            }
            self.second += 1;
        }
    }

    pub(super) fn replicas(&self) -> u32 {
        self.world.replicas
    }

    pub(super) fn decisions(&self) -> &[(u64, Decision)] {
        match &self.autoscaler {
            Autoscaler::Ours { decisions, .. } => decisions,
            Autoscaler::Keda(_) => &[],
        }
    }

    /// Everything that was written, for a failing test.
    pub(super) fn story(&self) -> String {
        let mut story = String::new();
        for (second, decision) in self.decisions() {
            if let Action::Set { reason, .. } = &decision.action {
                story += &format!("\n  {second:5} s  {reason}");
            }
        }
        story
    }
}
