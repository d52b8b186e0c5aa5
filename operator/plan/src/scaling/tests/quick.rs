//! The same situations with the shortest times that users can set, twelve partitions and no hint,
//! as in a trial on a laptop.

use super::run::{Autoscaler, Run};
use super::world::Nature;
use crate::scaling::{Limit, Policy};
use std::time::Duration;

fn quick(replicas_min: u32) -> Autoscaler {
    Autoscaler::ours(Policy {
        replicas_min,
        drain: Duration::from_secs(20),
        idle: Duration::from_secs(10),
        stabilization: Duration::from_secs(20),
        ..Policy::default()
    })
}

fn natures() -> impl Iterator<Item = Nature> {
    let commits = [0.5, 1.0, 5.0];
    let pauses = [1.0, 4.0, 8.0];
    commits.into_iter().flat_map(move |commit| {
        pauses.into_iter().flat_map(move |pause| {
            (1..4).map(move |seed| Nature {
                partitions: 12,
                per_replica: |_| 50.0,
                startup: 3.0,
                pause,
                commit,
                seed,
                ..Nature::default()
            })
        })
    })
}

#[test]
fn zero_to_many_and_back() {
    for nature in natures() {
        let mut run = Run::new(nature, quick(0));
        run.until(60, |_| 0.0);
        assert_eq!(run.replicas(), 0, "{}", run.story());
        run.until(135, |_| 300.0);
        assert!(run.replicas() >= 6, "{}", run.story());
        run.until(240, |_| 0.0);
        assert_eq!(run.replicas(), 0, "{}", run.story());
        assert_eq!(run.world.lag(), 0);
    }
}

#[test]
fn a_constant_load_settles_within_a_minute() {
    for nature in natures() {
        let mut run = Run::new(nature, quick(0));
        run.until(60, |_| 150.0);
        let before = run.world.changes.len();
        run.until(120, |_| 150.0);
        assert!(run.world.changes.len() <= before + 1, "{}", run.story());
        assert!((3..=6).contains(&run.replicas()), "{}", run.story());
    }
}

#[test]
fn a_hot_partition_is_recognised_within_two_minutes() {
    for mut nature in natures() {
        nature.weight = |partition| if partition == 7 { 1.0 } else { 0.0 };
        let mut run = Run::new(nature, quick(1));
        run.until(140, |_| 120.0);
        let hot = |limit: &Option<Limit>| matches!(limit, Some(Limit::HotPartition(hot)) if hot.partition == 7);
        let seen = run.decisions().iter().any(|(_, decision)| hot(&decision.limit));
        assert!(seen && run.replicas() < 12, "{}", run.story());
    }
}

#[test]
fn a_saturated_downstream_is_recognised_within_three_minutes() {
    for mut nature in natures() {
        nature.per_replica = |_| 5000.0;
        nature.downstream = |_| 60.0;
        let mut run = Run::new(nature, quick(1));
        run.until(220, |_| 150.0);
        let saturated =
            |limit: &Option<Limit>| matches!(limit, Some(Limit::DownstreamSaturated { .. }));
        let seen = run.decisions().iter().any(|(_, decision)| saturated(&decision.limit));
        assert!(seen, "{}", run.story());
    }
}
