//! Listing and description of groups for clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Coordinator;
use crate::group::Refusal;
use crate::group::classic::Description;

/// An entry of the list of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupListing {
    /// The group's name.
    pub group: String,
    /// `consumer`, `connect`, … ; empty for a group that never had members.
    pub protocol_type: String,
    /// Kafka's name of the state.
    pub state: &'static str,
}

impl Coordinator {
    /// Every group that is coordinated here.
    pub(crate) fn list(self: &Arc<Self>) -> Vec<GroupListing> {
        let mut all = BTreeMap::new();
        for shard in self.node.shards().filter(|shard| shard.leading().is_some()) {
            let state = shard.state();
            for (name, record) in &state.groups {
                let protocol_type = record.protocol_type.clone();
                let listed = GroupListing { group: name.clone(), protocol_type, state: "Empty" };
                all.insert(name.clone(), listed);
            }
        }
        // The list's lock is released first: a handle is locked before the list, never after it.
        let handles: Vec<_> = {
            let shard_groups = self.shard_groups.lock();
            shard_groups.values().flat_map(|of_shard| of_shard.groups.values()).cloned().collect()
        };
        for handle in handles {
            let Some(group) = handle.step(self, |m, _| (m.describe(), Default::default())) else {
                continue;
            };
            let listed = GroupListing {
                group: handle.group().to_owned(),
                protocol_type: group.protocol_type,
                state: group.state,
            };
            all.insert(handle.group().to_owned(), listed);
        }
        all.into_values().collect()
    }

    /// The full description of one group.
    pub(crate) async fn describe(self: &Arc<Self>, group: &str) -> Result<Description, Refusal> {
        let shard = self.caught_up(group).await?;
        let exists = shard.state().groups.contains_key(group) || self.has_handle(group);
        if !exists {
            return Err(Refusal::NoSuchGroup);
        }
        self.with_handle(group, |handle| {
            handle.step(self, |m, _| (m.describe(), Default::default()))
        })
    }

    /// The current number of members of a group, including those that wait for the next generation;
    /// `None` when it has none or is not coordinated here.
    pub(crate) fn members_of(&self, group: &str) -> Option<usize> {
        let handle = {
            let shard_groups = self.shard_groups.lock();
            shard_groups.values().find_map(|of_shard| of_shard.groups.get(group)).cloned()
        };
        handle.map(|handle| handle.members())
    }

    pub(super) fn has_handle(&self, group: &str) -> bool {
        self.shard_groups.lock().values().any(|of_shard| of_shard.groups.contains_key(group))
    }
}
