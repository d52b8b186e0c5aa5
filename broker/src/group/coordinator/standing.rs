//! How a group stands right now, for those who watch it every second: its state, its members and what
//! each was given, how long its last rebalance kept it from work.
//!
//! Place in the walk: asked by the admin server's stream of signals. Nothing waits here, and nothing is
//! kept up for it: a group without members has no machine, and none is made to look at it.

use std::sync::Arc;

use super::{Coordinator, Seat};
use crate::group::assignment;
use crate::group::classic::MemberDescription;

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
