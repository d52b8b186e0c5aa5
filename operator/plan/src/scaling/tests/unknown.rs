//! K3, bounds and zero, under random loads and random gaps in what is known.

use super::run::{Autoscaler, Run};
use super::world::{Nature, Random, World};
use crate::scaling::{Action, Mode, Policy, Scaler, Signal, Target};
use proptest::prelude::*;
use std::time::Duration;

/// Seconds without a signal: gaps of up to a minute, some of a second.
fn gaps(seed: u64, seconds: u64) -> Vec<bool> {
    let mut random = Random::new(seed);
    let mut unknown = vec![false; seconds as usize];
    let mut second = (random.uniform() * 120.0) as usize;
    while second < unknown.len() {
        let longest = if random.uniform() < 0.5 { 2.0 } else { 60.0 };
        let length = 1 + (random.uniform() * longest) as usize;
        unknown.iter_mut().skip(second).take(length).for_each(|unknown| *unknown = true);
        second += length + (random.uniform() * 300.0) as usize;
    }
    unknown
}

/// A load that changes every few minutes, and is zero at times.
fn load(seed: u64) -> impl Fn(f64) -> f64 {
    move |now| {
        let mut random = Random::new(seed.wrapping_add((now / 240.0) as u64));
        let level = random.uniform();
        if level < 0.3 { 0.0 } else { level * 2500.0 }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(10)))]

    #[test]
    fn k3_the_unknown_never_scales_and_bounds_hold(
        seed in 0u64..100_000,
        replicas_min in 0u32..6,
        replicas_more in 0u32..30,
        is_lag: bool,
        is_hinted: bool,
    ) {
        const SECONDS: u64 = 3600;
        let unknown = gaps(seed, SECONDS);
        let replicas_max = (replicas_min + replicas_more).max(1);
        let policy = Policy {
            mode: if is_lag { Mode::Lag { messages_per_replica: 500 } } else { Mode::Rate },
            replicas_min,
            replicas_max: Some(replicas_max),
            idle: Duration::from_secs(60),
            stabilization: Duration::from_secs(60),
            expected_per_replica_per_second: is_hinted.then_some(100.0),
            ..Policy::default()
        };
        let mut run = Run::new(Nature { seed, ..Nature::default() }, Autoscaler::ours(policy));
        let mut without = 0;
        let mut longest_without = 0;
        let mut quiet = Vec::new();
        run.until_seeing(SECONDS, load(seed), |second, world| {
            quiet.push(world.lag() == 0);
            if unknown[second as usize] {
                return Signal::Unknown("a gap".to_owned());
            }
            // A sample with waiting messages and no replica.
            without = if world.replicas == 0 && world.lag() > 0 { without + 1 } else { 0 };
            longest_without = longest_without.max(without);
            Signal::Known(world.sample())
        });
        prop_assert!(longest_without <= 1, "without replicas for {longest_without} s {}", run.story());
        for (second, decision) in run.decisions() {
            let Action::Set { from, to, .. } = &decision.action else { continue };
            let at = *second as usize;
            // Fifteen seconds of samples before a decision; a wake-up needs none.
            let seen = if *from == 0 { at..=at } else { at.saturating_sub(14)..=at };
            prop_assert!(!unknown[seen].contains(&true), "{second} {}", run.story());
            prop_assert!(*to <= replicas_max && *to >= replicas_min, "{second} {}", run.story());
            if *to == 0 {
                let idle = at.saturating_sub(59)..=at;
                prop_assert!(quiet[idle].iter().all(|quiet| *quiet), "{second} {}", run.story());
            }
        }
    }
}

#[test]
fn zero_and_back_straight_to_what_is_wanted() {
    let policy = Policy { expected_per_replica_per_second: Some(100.0), ..Policy::default() };
    let mut run = Run::new(Nature::default(), Autoscaler::ours(policy));
    run.until(600, |_| 300.0);
    run.until(1200, |_| 0.0);
    assert_eq!(run.replicas(), 0, "{}", run.story());
    let sleeping = |second: u64, world: &World| match second {
        0..1202 => Signal::Known(world.sample()),
        _ => Signal::Wake { length: world.lag() },
    };
    run.until_seeing(1203, |_| 60_000.0, sleeping);
    assert!(run.replicas() >= 12, "not one by one: {}", run.story());
}

#[test]
fn a_message_that_arrives_with_the_write_of_zero_brings_it_back() {
    let policy = Policy { idle: Duration::from_secs(30), ..Policy::default() };
    let mut scaler = Scaler::new(None);
    let mut world = World::new(Nature::default(), 1);
    let mut second = 0;
    let down = loop {
        scaler.observe(Duration::from_secs(second), Signal::Known(world.sample()));
        let target = Target { replicas: 1, current: 1 };
        let decision = scaler.decide(Duration::from_secs(second), &policy, target);
        if decision.action.replicas() == 0 {
            break decision;
        }
        world.tick(0.0);
        second += 1;
        assert!(second < 200, "it is scaled to zero");
    };
    assert!(matches!(down.action, Action::Set { from: 1, to: 0, .. }));
    world.tick(50.0);
    scaler.observe(Duration::from_secs(second), Signal::Known(world.sample()));
    let target = Target { replicas: 0, current: 1 };
    let back = scaler.decide(Duration::from_secs(second), &policy, target);
    assert!(matches!(back.action, Action::Set { from: 0, to: 1, .. }), "{back:?}");
}

#[test]
fn after_a_restart_it_watches_before_it_acts() {
    let mut scaler = Scaler::new(Some(100.0));
    let mut world = World::new(Nature::default(), 12);
    let policy = Policy::default();
    for second in 0..60 {
        let now = Duration::from_secs(second);
        scaler.observe(now, Signal::Known(world.sample()));
        let decision = scaler.decide(now, &policy, world.target());
        if second < 15 {
            assert!(matches!(decision.action, Action::Frozen { .. }), "{decision:?}");
        }
        assert_eq!(decision.action.replicas(), 12, "{decision:?}");
        world.tick(1000.0);
        world.tick(1000.0);
    }
    assert_eq!(scaler.per_replica_per_second(), Some(100.0));
}

#[test]
fn k3_an_operator_that_stalls_has_seen_a_gap() {
    let mut scaler = Scaler::new(Some(100.0));
    let world = World::new(Nature::default(), 12);
    for second in (0..60).chain(90..104) {
        let now = Duration::from_secs(second);
        scaler.observe(now, Signal::Known(world.sample()));
        let decision = scaler.decide(now, &Policy::default(), world.target());
        if second >= 90 {
            assert!(matches!(decision.action, Action::Frozen { .. }), "{second} {decision:?}");
        }
    }
}
