//! Every shape of load, for two hours, with two costs of a rebalance and several seeds, compared
//! with KEDA's rule.
//!
//! `cargo test -p ropewalk-operator-plan every_load -- --nocapture` prints the table.

use super::run::{Autoscaler, Run, Summary, summary};
use super::world::Nature;
use crate::scaling::Policy;
use std::f64::consts::TAU;

pub(super) const HOURS_2: u64 = 7200;
const SEEDS: u64 = 3;

/// Messages per second at a time.
pub(super) type Load = fn(f64) -> f64;

pub(super) const LOADS: [(&str, Load); 6] = [
    ("constant 1000/s", |_| 1000.0),
    ("step 200→1600→200/s", |now| if (2400.0..4800.0).contains(&now) { 1600.0 } else { 200.0 }),
    ("sine 200..1800/s, 20 min", |now| 1000.0 - 800.0 * (now / 1200.0 * TAU).cos()),
    ("ramp 100→2000/s in 1 h", |now| 100.0 + 1900.0 * (now / 3600.0).min(1.0)),
    ("bursts 30 s at 2000/s, every 5 min", |now| if now % 300.0 < 30.0 { 2000.0 } else { 0.0 }),
    ("10 min at 800/s, 20 min nothing", |now| if now % 1800.0 < 600.0 { 800.0 } else { 0.0 }),
];

/// The mean of several seeds; changes and reversals of the worst.
fn measured(load: Load, pause: f64, autoscaler: impl Fn() -> Autoscaler) -> Summary {
    let mut mean = Summary::default();
    for seed in 1..=SEEDS {
        let nature = Nature { pause, seed, ..Nature::default() };
        let mut run = Run::new(nature, autoscaler());
        run.until(HOURS_2, load);
        let one = summary(&mut run.world);
        mean.changes = mean.changes.max(one.changes);
        mean.reversals = mean.reversals.max(one.reversals);
        mean.replicas += one.replicas / SEEDS as f64;
        mean.p50 += one.p50 / SEEDS as f64;
        mean.p99 += one.p99 / SEEDS as f64;
        mean.max += one.max / SEEDS as f64;
    }
    mean
}

fn print(name: &str, who: &str, pause: f64, seen: &Summary) {
    let Summary { changes, reversals, replicas, p50, p99, max } = seen;
    println!(
        "| {name} | {pause} s | {who} | {changes} | {reversals} | {replicas:.1} | {p50:.1} / {p99:.1} / {max:.1} |"
    );
}

#[test]
fn every_load_waits_no_longer_than_under_kedas_rule() {
    println!(
        "| load | pause | policy | changes | reversals | replicas | wait p50 / p99 / max, s |"
    );
    let mut worse = Vec::new();
    for pause in [2.0, 6.0] {
        for (name, load) in LOADS {
            let keda: Vec<Summary> = [1000, 5000]
                .iter()
                .map(|threshold| {
                    let seen = measured(load, pause, || Autoscaler::keda(*threshold));
                    print(name, &format!("lag {threshold}"), pause, &seen);
                    seen
                })
                .collect();
            let best = keda.iter().map(|seen| seen.p99).fold(f64::INFINITY, f64::min);
            for (who, hint) in [("rate, hint 100", Some(100.0)), ("rate, no hint", None)] {
                let policy = Policy { expected_per_replica_per_second: hint, ..Policy::default() };
                let seen = measured(load, pause, || Autoscaler::ours(policy.clone()));
                print(name, who, pause, &seen);
                if seen.p99 > best {
                    worse.push(format!("{name}, pause {pause}, {who}: {} > {best}", seen.p99));
                }
                if name.starts_with("constant") && (seen.changes > 5 || seen.reversals > 1) {
                    worse.push(format!("{name}, pause {pause}, {who}: {seen:?}"));
                }
            }
        }
    }
    assert!(worse.is_empty(), "{worse:#?}");
}
