//! Mode `Lag`: replicas follow the backlog alone.
//!
//! As a HorizontalPodAutoscaler on the lag does, it has a tolerance of 10 % and waits 15 s between
//! steps up. In addition it uses only counts that add capacity: with 12 partitions, 7 to 11
//! replicas process no more than 6.

use super::decision::{Action, Limit, Rate};
use super::limits::{LAG_HOLD, LAG_TOLERANCE};
use super::steps::Layout;
use super::view::{View, limit_at_maximum, set};
use super::{Policy, Scaler};
use std::time::Duration;

/// The time of the last step up.
#[derive(Debug, Clone, Default)]
pub(super) struct Lag {
    up_at: Option<Duration>,
}

impl Lag {
    /// More replicas were written.
    pub(super) fn went_up(&mut self, now: Duration) {
        self.up_at = Some(now);
    }

    /// Whether the last step up is so recent that the next one waits.
    fn holds_off(&self, now: Duration) -> bool {
        self.up_at.is_some_and(|at| now.saturating_sub(at) < LAG_HOLD)
    }
}

/// The useful count for a backlog of `ratio` times the messages per replica, while there are
/// `replicas`.
pub(super) fn wanted(ratio: f64, replicas: u32, layout: Layout) -> u32 {
    let there = f64::from(replicas.max(1));
    if replicas > 0 && (ratio / there - 1.0).abs() <= LAG_TOLERANCE {
        return replicas;
    }
    // A float out of range saturates.
    layout.useful((ratio.ceil() as u32).max(1))
}

impl Scaler {
    pub(super) fn by_lag(
        &mut self,
        view: &View,
        policy: &Policy,
        limit: &mut Option<Limit>,
    ) -> Action {
        let wanted = view.bounds.clamp(view.wanted);
        self.window.settle(view.now, policy.stabilization);
        self.window.add(view.now, wanted);
        let waits = Rate(view.waiting);
        let keep = |why: String| Action::Keep { replicas: view.replicas, why };
        if wanted > view.replicas {
            if self.lag.holds_off(view.now) {
                return keep(format!("{waits} messages wait, and replicas have just gone up"));
            }
            self.window.went_up(view.now, policy.stabilization);
            return set(view.replicas, wanted, format!("{waits} messages wait"));
        }
        limit_at_maximum(view, limit);
        let most = self.window.most(view.now, policy.stabilization);
        match most.filter(|most| *most < view.replicas && !self.joining.is_rebalancing()) {
            Some(most) => {
                self.steps_down = true;
                let window = self.window.length(policy.stabilization).as_secs();
                let why = format!("{waits} messages wait, {most} sufficed for {window}s");
                set(view.replicas, most, why)
            }
            None => keep(format!("{waits} messages wait")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWELVE: Layout = Layout { partitions: 12, members_per_replica: 1 };

    #[test]
    fn a_tenth_more_or_less_changes_nothing() {
        for (ratio, replicas, expected) in [
            (4.39, 4, 4),
            (3.61, 4, 4),
            (4.5, 4, 4), // Five do no more than four.
            (5.5, 4, 6),
            (3.5, 6, 4),
            (7.0, 6, 6), // Seven to eleven do no more than six.
            (10.9, 6, 6),
            (11.5, 6, 12),
            (12.0, 6, 12),
            (1e9, 1, 12),
            (0.0, 3, 1),
        ] {
            assert_eq!(wanted(ratio, replicas, TWELVE), expected, "{ratio} with {replicas}");
        }
    }

    proptest! {
        #[test]
        fn what_is_wanted_is_worth_having(ratio in 0.0f64..1000.0, replicas in 0u32..40, partitions in 1u32..64) {
            let layout = Layout { partitions, members_per_replica: 1 };
            let wanted = wanted(ratio, replicas, layout);
            prop_assert!(wanted == replicas || layout.useful(wanted) == wanted);
            prop_assert!(wanted >= 1);
        }
    }
}
