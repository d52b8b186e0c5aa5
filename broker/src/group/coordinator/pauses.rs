//! Duration of the pauses in which the members of a group wait for a rebalance.

use crate::group::classic::Phase;

/// The rebalance pauses of a group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pauses {
    since_ms: Option<i64>,
    last_ms: Option<i64>,
}

impl Pauses {
    /// Records that the group is in this phase.
    pub(super) fn see(&mut self, phase: Phase, now_ms: i64) {
        match phase {
            Phase::Preparing { .. } | Phase::Completing { .. } => {
                self.since_ms.get_or_insert(now_ms);
            }
            Phase::Stable { .. } => {
                if let Some(since_ms) = self.since_ms.take() {
                    self.last_ms = Some(now_ms - since_ms);
                }
            }
            Phase::Empty { .. } | Phase::Dead(_) => self.since_ms = None,
        }
    }

    pub(super) fn last_ms(self) -> Option<i64> {
        self.last_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_from_the_first_doubt_to_the_last_answer() {
        let preparing = Phase::Preparing { until_ms: 0, initial_delay: None };
        let stable = Phase::Stable { sync_until_ms: None };
        let mut pauses = Pauses::default();
        pauses.see(stable, 5);
        assert_eq!(pauses.last_ms(), None, "none was seen to begin");
        for (phase, now_ms) in [(preparing, 10), (preparing, 20), (stable, 35), (stable, 50)] {
            pauses.see(phase, now_ms);
        }
        assert_eq!(pauses.last_ms(), Some(25));
        pauses.see(preparing, 60);
        assert_eq!(pauses.last_ms(), Some(25), "until the next is over");
        pauses.see(Phase::Empty { retry_at_ms: None }, 70);
        pauses.see(stable, 80);
        assert_eq!(pauses.last_ms(), Some(25), "they left: no pause");
    }
}
