//! How a group stands right now, for those who watch it every second: its state, its members and what
//! each was given, how long its last rebalance kept it from work.
//!
//! Place in the walk: asked by the admin server's stream of signals. Nothing waits here, and nothing is
//! kept up for it: a group without members has no machine, and none is made to look at it.

use std::sync::Arc;

use super::{Coordinator, Seat};
use crate::group::assignment;
use crate::group::classic::{MemberDescription, Phase};

/// A group as it is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Kafka's word for the state.
    pub(crate) state: &'static str,
    /// Its members do not work because they wait for each other.
    pub(crate) is_rebalancing: bool,
    /// How long the last time of that was; `None` if there was none since it has members.
    pub(crate) last_rebalance_ms: Option<i64>,
    /// Its members.
    pub(crate) members: Vec<StandingMember>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StandingMember {
    /// Its id.
    pub(crate) member_id: String,
    /// The address it connected from.
    pub(crate) client_host: String,
    /// What it was given of the topic; nothing while the group rebalances.
    pub(crate) partitions: Vec<i32>,
}

/// How long a group's members have waited for each other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pauses {
    since_ms: Option<i64>,
    last_ms: Option<i64>,
}

impl Pauses {
    /// The group was seen in this phase.
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

impl Coordinator {
    /// How the group stands towards a topic; `None` when it is not coordinated here.
    pub(crate) fn standing(self: &Arc<Self>, group: &str, topic: &str) -> Option<Standing> {
        let (shard, _) = self.home_of(group).ok()?;
        let has_members = shard.state().groups.get(group).is_some_and(|g| !g.members.is_empty());
        let looked = |seat: &Arc<Seat>| seat.step(self, |m, _| (m.describe(), Default::default()));
        if !has_members && !self.is_seated(group) {
            return Some(Standing {
                state: "Empty",
                is_rebalancing: false,
                last_rebalance_ms: None,
                members: Vec::new(),
            });
        }
        let seen = self.at_seat(group, |seat| Some((looked(seat)?, seat.last_pause_ms())));
        let (description, last_rebalance_ms) = seen.ok()?;
        let is_rebalancing =
            matches!(description.state, "PreparingRebalance" | "CompletingRebalance");
        let member = |member: MemberDescription| StandingMember {
            partitions: assignment::partitions_of(&member.assignment, topic),
            member_id: member.member_id,
            client_host: member.client_host.trim_start_matches('/').to_owned(),
        };
        let members = description.members.into_iter().map(member).collect();
        Some(Standing { state: description.state, is_rebalancing, last_rebalance_ms, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_from_the_first_doubt_to_the_last_answer() {
        let preparing = Phase::Preparing { until_ms: 0, opening: None };
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
        assert_eq!(pauses.last_ms(), Some(25), "they left: nobody waited");
    }
}
