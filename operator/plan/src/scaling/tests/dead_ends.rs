//! Situations in which simpler scaling policies fail, one test each.

use super::run::{Autoscaler, Run, summary};
use super::world::Nature;
use crate::scaling::limits::{HOLD_MIN, PROBE_DOUBTED, PROBE_TRUSTED};
use crate::scaling::{Action, Decision, Limit, Mode, Policy, Signal};
use proptest::prelude::*;

fn hinted(per_replica: f64) -> Policy {
    Policy { expected_per_replica_per_second: Some(per_replica), ..Policy::default() }
}

fn steps_up(run: &Run) -> Vec<(u64, u32, u32)> {
    let up = |(second, decision): &(u64, Decision)| match decision.action {
        Action::Set { from, to, .. } if to > from => Some((*second, from, to)),
        Action::Set { .. } | Action::Keep { .. } | Action::Frozen { .. } => None,
    };
    run.decisions().iter().filter_map(up).collect()
}

fn saturated(decision: &Decision) -> bool {
    matches!(decision.limit, Some(Limit::DownstreamSaturated { .. }))
}

#[test]
fn a_service_rate_learned_in_an_outage_does_not_stay() {
    for hint in [None, Some(100.0)] {
        // From 20 to 40 minutes the downstream of the consumers is ten times as slow.
        let per_replica = |now: f64| if (1200.0..2400.0).contains(&now) { 10.0 } else { 100.0 };
        let policy = Policy { expected_per_replica_per_second: hint, ..Policy::default() };
        let nature = Nature { per_replica, ..Nature::default() };
        let mut run = Run::new(nature, Autoscaler::ours(policy));
        run.until(1200, |_| 150.0);
        assert!(run.replicas() <= 3, "{}", run.story());
        run.until(2400, |_| 150.0);
        assert!(run.replicas() >= 12, "the outage takes more: {}", run.story());
        run.until(2400 + PROBE_DOUBTED.as_secs() + 3000, |_| 150.0);
        assert!(run.replicas() <= 3, "hint {hint:?}: {}", run.story());
        let settled = run.world.changes.len();
        run.until(7200 + PROBE_TRUSTED.as_secs() / 2, |_| 150.0);
        assert!(run.world.changes.len() <= settled + 1, "and stays: {}", run.story());
    }
}

#[test]
fn a_rate_that_is_right_is_tried_once_and_then_rarely() {
    // Twelve replicas that are never busy, and no hint.
    let mut run = Run::new(Nature::default(), Autoscaler::ours(Policy::default()));
    run.world.scale(12);
    run.until(7200, |_| 1000.0);
    let changes: Vec<(u32, u32)> =
        run.world.changes.iter().map(|(_, from, to)| (*from, *to)).collect();
    assert_eq!(run.replicas(), 12, "{}", run.story());
    assert!(changes.len() <= 5, "{}", run.story());
}

#[test]
fn a_hint_that_promises_too_much_costs_one_trial() {
    let mut run = Run::new(Nature::default(), Autoscaler::ours(hinted(250.0)));
    run.until(4 * 3600, |_| 1000.0);
    assert_eq!(run.replicas(), 12, "{}", run.story());
    assert!(run.world.changes.len() <= 7, "{}", run.story());
}

#[test]
fn without_a_hint_it_doubles_until_members_were_measured() {
    let nature = Nature { commit: 30.0, startup: 20.0, ..Nature::default() };
    let mut run = Run::new(nature, Autoscaler::ours(Policy::default()));
    run.until(1800, |_| 1000.0);
    let first = run.decisions().iter().find(|(_, decision)| decision.metrics.is_measured);
    let measured_at = first.expect("measured in the end").0;
    let blind: Vec<_> = steps_up(&run).into_iter().filter(|step| step.0 < measured_at).collect();
    assert!(!blind.is_empty(), "{}", run.story());
    assert!(blind.iter().all(|(_, from, to)| *to <= from * 2), "{}", run.story());
    let apart = blind.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(apart.min().unwrap_or(u64::MAX) >= 25, "a pod start and a commit: {}", run.story());
    assert!(run.replicas() >= 12, "{}", run.story());
    assert!(run.world.waiting() < 3000, "{}", run.story());
}

#[test]
fn slow_pod_starts_are_no_saturated_downstream() {
    for startup in [60.0, 180.0, 400.0] {
        let nature = Nature { startup, ..Nature::default() };
        let mut run = Run::new(nature, Autoscaler::ours(hinted(100.0)));
        run.until(3600, |now| if now < 900.0 { 100.0 } else { 1000.0 });
        assert!(!run.decisions().iter().any(|(_, decision)| saturated(decision)), "{startup}");
        assert!(run.world.waiting() < 3000, "{startup}: {}", run.story());
        assert!(run.world.changes.len() <= 5, "{startup}: {}", run.story());
    }
}

#[test]
fn pods_that_never_join_are_named_and_prove_nothing() {
    let nature = Nature { pods_max: 3, ..Nature::default() };
    let mut run = Run::new(nature, Autoscaler::ours(hinted(100.0)));
    run.until(1800, |_| 1000.0);
    let last = &run.decisions().last().expect("decided").1;
    let missing = last.missing_members.expect("named");
    assert_eq!(missing.members, 3);
    assert!(!run.decisions().iter().any(|(_, decision)| saturated(decision)));
    assert!(missing.to_string().contains("check the pods"));
}

#[test]
fn pods_that_all_fail_are_not_multiplied() {
    let nature = Nature { pods_max: 0, ..Nature::default() };
    let mut run = Run::new(nature, Autoscaler::ours(Policy::default()));
    run.until(1800, |_| 1000.0);
    assert_eq!(run.replicas(), 1, "{}", run.story());
    assert!(run.decisions().last().expect("decided").1.missing_members.is_some());
}

#[test]
fn several_members_in_a_replica_are_learned() {
    for hint in [None, Some(100.0)] {
        let nature = Nature { threads: 4, ..Nature::default() };
        let policy = Policy { expected_per_replica_per_second: hint, ..Policy::default() };
        let mut run = Run::new(nature, Autoscaler::ours(policy));
        run.until(3600, |_| 400.0);
        // Six of them have a member for each partition; 471/s are wanted at 85 %.
        assert_eq!(run.replicas(), 6, "hint {hint:?}: {}", run.story());
        assert!(run.world.changes.len() <= 5, "hint {hint:?}: {}", run.story());
        let rate = run.decisions().last().expect("decided").1.metrics.per_replica_per_second;
        assert!((rate.expect("known") - 100.0).abs() < 15.0, "hint {hint:?}: {rate:?}");
    }
}

#[test]
fn a_rollout_of_the_consumers_is_no_reason_to_scale() {
    let mut run = Run::new(Nature::default(), Autoscaler::ours(hinted(100.0)));
    run.until(1800, |_| 900.0);
    let (before, changes) = (run.replicas(), run.world.changes.len());
    for turn in 0..12 {
        run.world.replace_oldest();
        run.until(1830 + turn * 30, |_| 900.0);
    }
    run.until(3600, |_| 900.0);
    assert_eq!(run.replicas(), before, "{}", run.story());
    assert!(run.world.changes.len() <= changes + 2, "{}", run.story());
}

#[test]
fn a_saturated_downstream_is_recognised_and_tried_again_ever_later() {
    let nature = Nature { downstream: |_| 300.0, ..Nature::default() };
    let mut run = Run::new(nature, Autoscaler::ours(hinted(100.0)));
    run.until(4 * 3600, |_| 600.0);
    assert!(run.decisions().iter().any(|(_, decision)| saturated(decision)), "{}", run.story());
    // It settles at a count whose capacity is a little above that of the downstream.
    let held: Vec<&Decision> =
        run.decisions().iter().map(|(_, decision)| decision).filter(|d| saturated(d)).collect();
    let mean = held.iter().map(|d| f64::from(d.action.replicas())).sum::<f64>() / held.len() as f64;
    assert!((3.0..=12.0).contains(&mean), "{mean}: {}", run.story());
    let trials: Vec<u64> =
        steps_up(&run).iter().map(|step| step.0).filter(|second| *second > 900).collect();
    assert!((2..=8).contains(&trials.len()), "{}", run.story());
    let gaps: Vec<u64> = trials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= HOLD_MIN.as_secs()), "{}", run.story());
    assert!(gaps.windows(2).all(|pair| pair[1] > pair[0]), "{gaps:?}: {}", run.story());
}

#[test]
fn a_downstream_that_recovers_is_seen_at_once() {
    let downstream = |now: f64| if now < 3000.0 { 300.0 } else { f64::INFINITY };
    let nature = Nature { downstream, ..Nature::default() };
    let mut run = Run::new(nature, Autoscaler::ours(hinted(100.0)));
    run.until(3000, |_| 600.0);
    let last = |run: &Run| run.decisions().last().expect("decided").1.clone();
    assert!(saturated(&last(&run)), "{}", run.story());
    let before = run.replicas();
    run.until(3240, |_| 600.0);
    assert!(!saturated(&last(&run)) && run.replicas() > before, "{}", run.story());
    run.until(4500, |_| 600.0);
    assert!(run.world.waiting() < 2000, "{}", run.story());
}

#[test]
fn a_hot_partition_is_named_and_scales_nothing_else() {
    // 150 of 380 messages a second on one of 24 partitions.
    let weight = |partition: usize| if partition == 7 { 15.0 } else { 1.0 };
    let nature = Nature { weight, ..Nature::default() };
    let mut run = Run::new(nature, Autoscaler::ours(hinted(100.0)));
    run.until(7200, |_| 380.0);
    let (_, last) = run.decisions().last().expect("decided");
    let Some(Limit::HotPartition(hot)) = &last.limit else { panic!("{last:?}{}", run.story()) };
    assert_eq!(hot.partition, 7);
    assert!(run.replicas() <= 8, "{}", run.story());
    let late = run.world.changes.iter().filter(|(at, ..)| *at > 1800.0).count();
    assert!(late <= 3, "{}", run.story());
}

#[test]
fn the_backlog_of_one_partition_is_the_work_of_one_member() {
    // All messages have one key, and many wait before the first consumer runs.
    for hint in [None, Some(50.0)] {
        let weight = |partition: usize| if partition == 7 { 1.0 } else { 0.0 };
        let nature = Nature {
            partitions: 12,
            per_replica: |_| 50.0,
            startup: 40.0,
            weight,
            ..Nature::default()
        };
        let policy = Policy {
            expected_per_replica_per_second: hint,
            drain: std::time::Duration::from_secs(20),
            ..Policy::default()
        };
        let mut run = Run::new(nature, Autoscaler::ours(policy));
        run.until(1800, |_| 120.0);
        let most = run.world.changes.iter().map(|(_, _, to)| *to).max().unwrap_or(1);
        assert!(most <= 2, "hint {hint:?}: {}", run.story());
    }
}

#[test]
fn a_load_for_too_few_partitions_says_so() {
    let mut run = Run::new(Nature::default(), Autoscaler::ours(hinted(100.0)));
    run.until(900, |_| 3000.0);
    let (_, last) = run.decisions().last().expect("decided");
    let Some(Limit::AtMaximum { replicas_max: 24, wanted }) = last.limit else {
        panic!("{last:?}{}", run.story())
    };
    assert!(wanted >= 30, "{wanted}");
}

#[test]
fn a_freeze_ends_after_three_good_intervals() {
    let mut run = Run::new(Nature::default(), Autoscaler::ours(hinted(100.0)));
    run.until(600, |_| 200.0);
    run.until_seeing(660, |_| 1600.0, |_, _| Signal::Unknown("no tick".to_owned()));
    let before = run.replicas();
    run.until(674, |_| 1600.0);
    assert_eq!(run.replicas(), before, "{}", run.story());
    run.until(686, |_| 1600.0);
    assert_eq!(run.replicas(), 24, "{}", run.story());
}

#[test]
fn consumers_that_hold_messages_in_hand_are_not_at_their_limit() {
    // Each message takes ten seconds, but a replica works on many at once.
    for hint in [None, Some(100.0)] {
        let nature = Nature { latency: 10.0, commit: 5.0, ..Nature::default() };
        let policy = Policy { expected_per_replica_per_second: hint, ..Policy::default() };
        let mut run = Run::new(nature, Autoscaler::ours(policy));
        run.until(7200, |_| 400.0);
        let (_, last) = run.decisions().last().expect("decided");
        let rate = last.metrics.per_replica_per_second.expect("known");
        assert!(rate > 70.0, "hint {hint:?}: {rate}{}", run.story());
        assert!(run.replicas() <= 8, "hint {hint:?}: {}", run.story());
        assert!(run.world.changes.len() <= 6, "hint {hint:?}: {}", run.story());
    }
}

#[test]
fn hibernation_takes_consumers_to_their_minimum_first() {
    for replicas_min in [0, 2] {
        let policy = Policy { replicas_min, is_hibernating: true, ..hinted(100.0) };
        let mut run = Run::new(Nature::default(), Autoscaler::ours(policy));
        run.world.scale(12);
        run.until_seeing(10, |_| 100.0, |_, _| Signal::Unknown("hibernated".to_owned()));
        assert_eq!(run.replicas(), replicas_min, "{}", run.story());
    }
}

#[test]
fn disabled_changes_nothing_and_still_measures() {
    let policy = Policy { mode: Mode::Disabled, ..Policy::default() };
    let mut run = Run::new(Nature::default(), Autoscaler::ours(policy));
    run.until(1800, |_| 500.0);
    assert_eq!(run.replicas(), 1);
    let metrics = run.decisions().last().expect("decided").1.metrics;
    assert!((metrics.arrival_per_second - 500.0).abs() < 50.0);
    assert!((metrics.per_replica_per_second.expect("busy all the time") - 100.0).abs() < 5.0);
}

#[test]
fn lag_mode_follows_the_backlog_alone() {
    let mode = Mode::Lag { messages_per_replica: 1000 };
    let mut run =
        Run::new(Nature::default(), Autoscaler::ours(Policy { mode, ..Policy::default() }));
    run.until(900, |_| 1000.0);
    assert!(run.replicas() >= 8, "{}", run.story());
    run.until(5000, |_| 50.0);
    assert_eq!(run.replicas(), 1, "{}", run.story());
    run.until(6000, |_| 0.0);
    assert_eq!(run.replicas(), 0, "{}", run.story());
}

#[test]
fn a_reason_says_what_was_looked_at() {
    let mut run = Run::new(Nature::default(), Autoscaler::ours(hinted(100.0)));
    run.until(120, |now| if now < 60.0 { 50.0 } else { 1740.0 });
    let story = run.story();
    assert!(story.contains("→24: arrival 17") && story.contains("/s per replica"), "{story}");
    assert!(story.contains("drain 60s"), "{story}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(6)))]

    /// A constant load causes no changes, whatever the rate, the cost of a rebalance and the commit
    /// interval.
    #[test]
    fn a_constant_load_settles(
        share in 0.02f64..0.95,
        per_replica in prop::sample::select(vec![5.0f64, 20.0, 100.0, 400.0]),
        pause in 0.5f64..12.0,
        startup in 3.0f64..40.0,
        straggle in prop::sample::select(vec![0.0f64, 5.0, 15.0]),
        commit in prop::sample::select(vec![0.5f64, 1.0, 5.0, 15.0]),
        drain in prop::sample::select(vec![15u64, 60, 300]),
        is_hinted: bool,
        seed in 0u64..1000,
    ) {
        let rate: fn(f64) -> f64 = match per_replica as u32 {
            5 => |_| 5.0, 20 => |_| 20.0, 100 => |_| 100.0, _ => |_| 400.0,
        };
        let nature =
            Nature { per_replica: rate, pause, startup, straggle, commit, seed, ..Nature::default() };
        let policy = Policy {
            drain: std::time::Duration::from_secs(drain),
            expected_per_replica_per_second: is_hinted.then_some(per_replica),
            ..Policy::default()
        };
        let mut run = Run::new(nature, Autoscaler::ours(policy));
        let load = share * 24.0 * per_replica;
        run.until(7200, |_| load);
        let waiting = run.world.waiting() as f64;
        let seen = summary(&mut run.world);
        // Near a whole number of replicas only a probe shows whether that number suffices. A failed
        // probe costs two changes, and the pause before the next one doubles: at most four in two
        // hours.
        let needed = share * 24.0;
        let is_at_edge = needed / needed.ceil() > 0.95 || needed / needed.floor().max(1.0) < 1.25;
        let (changes_max, reversals_max) = if is_at_edge { (9, 8) } else { (5, 1) };
        prop_assert!(
            seen.changes <= changes_max && seen.reversals <= reversals_max,
            "{seen:?} {}",
            run.story()
        );
        prop_assert!(waiting < load * 30.0 + 50.0, "{waiting} {}", run.story());
    }
}
