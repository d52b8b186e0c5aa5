//! Everything the scaling policy looks at in one interval, and the bounds that the user set.

use std::time::Duration;

use super::Policy;
use super::decision::{Action, Limit};
use super::limits::REPLICAS_MAX;
use super::steps::Layout;

/// The most and the fewest replicas that there may be while there is work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Bounds {
    pub(super) fn of(policy: &Policy, layout: Layout) -> Self {
        let max = policy.replicas_max.unwrap_or(layout.partitions).clamp(1, REPLICAS_MAX);
        // Replicas between two steps do nothing that the lower step does not, but the user's minimum holds.
        let min = policy.replicas_min.max(1).min(max);
        Self { min, max: layout.useful(max).max(min) }
    }

    pub(super) fn clamp(self, replicas: u32) -> u32 {
        replicas.clamp(self.min, self.max)
    }
}

/// Everything the scaling policy looks at in one interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) now: Duration,
    pub(super) replicas: u32,
    pub(super) bounds: Bounds,
    pub(super) layout: Layout,
    /// What one member can do, measured or hinted.
    pub(super) per_member: Option<f64>,
    /// Messages per second that replicas can help with, now.
    pub(super) arrival: f64,
    /// The rate expected when new replicas would work.
    pub(super) ahead: f64,
    /// Messages that wait and that replicas can help with.
    pub(super) waiting: f64,
    /// Replicas that are wanted, before bounds.
    pub(super) wanted: u32,
    /// How many it would take if partitions were no limit.
    pub(super) needed: u32,
}

pub(super) fn limit_at_maximum(view: &View, limit: &mut Option<Limit>) {
    if view.needed > view.bounds.max && view.replicas >= view.bounds.max && limit.is_none() {
        *limit = Some(Limit::AtMaximum { replicas_max: view.bounds.max, wanted: view.needed });
    }
}

pub(super) fn set(from: u32, to: u32, why: String) -> Action {
    Action::Set { from, to, reason: format!("{from}→{to}: {why}") }
}
