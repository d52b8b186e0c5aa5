//! A snapshot of a group for the signal stream: its state, its members with their assignments, and
//! the duration of its last rebalance.
//!
//! Nothing waits here. A group without members has no state machine, and none is created for a
//! snapshot.

use std::sync::Arc;

use super::{Coordinator, GroupHandle};
use crate::group::assignment;
use crate::group::classic::MemberDescription;

/// A snapshot of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupSnapshot {
    /// Kafka's name of the state.
    pub(crate) state: &'static str,
    /// Whether the members are paused by a rebalance.
    pub(crate) is_rebalancing: bool,
    /// Duration of the last rebalance, milliseconds; `None` if there was none since the group has
    /// members.
    pub(crate) last_rebalance_ms: Option<i64>,
    /// The members of the group.
    pub(crate) members: Vec<MemberSnapshot>,
}

/// A member in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberSnapshot {
    /// The member id.
    pub(crate) member_id: String,
    /// The client's address.
    pub(crate) client_host: String,
    /// The assigned partitions of the topic; empty while the group rebalances.
    pub(crate) partitions: Vec<i32>,
}

impl Coordinator {
    /// A snapshot of the group for one topic; `None` when it is not coordinated here.
    pub(crate) fn snapshot(self: &Arc<Self>, group: &str, topic: &str) -> Option<GroupSnapshot> {
        let (shard, _) = self.shard_of_group(group).ok()?;
        let has_members = shard.state().groups.get(group).is_some_and(|g| !g.members.is_empty());
        let described = |handle: &Arc<GroupHandle>| {
            handle.step(self, |m, _| (m.describe(), Default::default()))
        };
        if !has_members && !self.has_handle(group) {
            return Some(GroupSnapshot {
                state: "Empty",
                is_rebalancing: false,
                last_rebalance_ms: None,
                members: Vec::new(),
            });
        }
        let seen =
            self.with_handle(group, |handle| Some((described(handle)?, handle.last_pause_ms())));
        let (description, last_rebalance_ms) = seen.ok()?;
        let is_rebalancing =
            matches!(description.state, "PreparingRebalance" | "CompletingRebalance");
        let member = |member: MemberDescription| MemberSnapshot {
            partitions: assignment::partitions_of(&member.assignment, topic),
            member_id: member.member_id,
            client_host: member.client_host.trim_start_matches('/').to_owned(),
        };
        let members = description.members.into_iter().map(member).collect();
        Some(GroupSnapshot { state: description.state, is_rebalancing, last_rebalance_ms, members })
    }
}
