//! Scaling to zero, condition by condition.

use crate::scaling::{
    Action, MemberSample, PartitionSample, Policy, Sample, Scaler, Signal, Target,
};
use std::time::Duration;

/// Sixty idle seconds, then one decision for `target`, with the last sample as `change` makes it.
fn decided(target: Target, late_by: u64, change: impl Fn(&mut Sample)) -> Action {
    let idle = Sample {
        partitions: vec![PartitionSample { partition: 0, length: 0, end: 9, committed: 9 }],
        members: vec![MemberSample { id: "m".into(), partitions: vec![0] }],
        ..Sample::default()
    };
    let policy = Policy { idle: Duration::from_secs(30), ..Policy::default() };
    let mut scaler = Scaler::new(None);
    for second in 0..60 {
        let mut sample = idle.clone();
        if second == 59 {
            change(&mut sample);
        }
        scaler.observe(Duration::from_secs(second), Signal::Known(sample));
    }
    scaler.decide(Duration::from_secs(59 + late_by), &policy, target).action
}

const SETTLED: Target = Target { replicas: 1, current: 1 };

fn goes_to_zero(action: &Action) -> bool {
    matches!(action, Action::Set { to: 0, .. })
}

#[test]
fn an_idle_group_goes_to_zero() {
    assert!(goes_to_zero(&decided(SETTLED, 0, |_| {})));
    assert!(goes_to_zero(&decided(SETTLED, 3, |_| {})));
}

#[test]
fn k3_not_while_its_pods_are_not_what_was_asked_for() {
    for current in [0, 2] {
        let target = Target { replicas: 1, current };
        assert!(!goes_to_zero(&decided(target, 0, |_| {})), "{current} pods of 1");
    }
}

#[test]
fn k3_not_while_members_are_changing() {
    let action = decided(SETTLED, 0, |sample| sample.rebalancing = true);
    assert!(!goes_to_zero(&action), "{action:?}");
}

#[test]
fn k3_not_on_what_is_some_seconds_old() {
    let action = decided(SETTLED, 4, |_| {});
    assert!(!goes_to_zero(&action), "{action:?}");
}

#[test]
fn k3_not_with_a_message_that_waits_or_is_in_hand() {
    assert!(!goes_to_zero(&decided(SETTLED, 0, |sample| sample.length = 1)));
    assert!(!goes_to_zero(&decided(SETTLED, 0, |sample| sample.in_flight = Some(1))));
}
