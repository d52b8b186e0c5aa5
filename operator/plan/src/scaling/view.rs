//! The input of one decision, and the bounds that the user set.

use std::time::Duration;

use super::Policy;
use super::decision::{Action, Limit};
use super::limits::REPLICAS_MAX;
use super::steps::Layout;

/// Fewest and most replicas while there is work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Bounds {
    pub(super) fn of(policy: &Policy, layout: Layout) -> Self {
        let max = policy.replicas_max.unwrap_or(layout.partitions).clamp(1, REPLICAS_MAX);
        // A count between two steps has the capacity of the lower step, but the user's minimum
        // applies.
        let min = policy.replicas_min.max(1).min(max);
        Self { min, max: layout.useful(max).max(min) }
    }

    pub(super) fn clamp(self, replicas: u32) -> u32 {
        replicas.clamp(self.min, self.max)
    }
}

/// The input of one decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) now: Duration,
    pub(super) replicas: u32,
    pub(super) bounds: Bounds,
    pub(super) layout: Layout,
    /// Messages per second that one member can process, measured or hinted.
    pub(super) per_member: Option<f64>,
    /// Messages per second that arrive now and that more replicas can help with.
    pub(super) arrival: f64,
    /// The same when new replicas would be working.
    pub(super) ahead: f64,
    /// Messages that wait and that more replicas can help with.
    pub(super) waiting: f64,
    /// Replicas that the load needs, before bounds.
    pub(super) wanted: u32,
    /// The same if the number of partitions were no limit.
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
