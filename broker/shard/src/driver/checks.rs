//! When the leader has the replicas compare their states.

use super::{Core, Now};
use crate::limits;
use crate::replica;

/// The time until the next check.
#[derive(Debug)]
pub(super) struct CheckTimer {
    every_ticks: usize,
    ticks: usize,
}

impl Default for CheckTimer {
    fn default() -> Self {
        Self { every_ticks: limits::CHECK_TICKS, ticks: 0 }
    }
}

impl Core {
    /// Sets the number of ticks between two checks of the state, [`limits::CHECK_TICKS`] without
    /// it.
    #[must_use]
    pub fn with_check_ticks(mut self, every_ticks: usize) -> Self {
        self.checks.every_ticks = every_ticks;
        self
    }

    /// Proposes a check of the state if it is due. No call waits for it, so its outcome is ignored:
    /// if it is refused, or the feature level does not allow it, the next one is due in a while.
    pub(super) fn tick_checks(&mut self, now: Now) {
        self.checks.ticks += 1;
        if self.checks.ticks < self.checks.every_ticks {
            return;
        }
        self.checks.ticks = 0;
        if self.replica.wants_check() {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            let _ = self.replica.propose(ticket, &replica::check(), now.time_ms);
        }
    }
}
