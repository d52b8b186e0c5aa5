//! Listing and description of groups for clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Coordinator;
use crate::group::Refusal;
use crate::group::classic::Description;

/// An entry of the list of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The group's name.
    pub group: String,
    /// `consumer`, `connect`, … ; empty for a group that never had members.
    pub protocol_type: String,
    /// Kafka's name of the state.
    pub state: &'static str,
}

impl Coordinator {
    /// Every group that is coordinated here.
    pub(crate) fn list(self: &Arc<Self>) -> Vec<Listed> {
        let mut all = BTreeMap::new();
        for shard in self.node.shards().filter(|shard| shard.leading().is_some()) {
            let state = shard.state();
            for (name, record) in &state.groups {
                let protocol_type = record.protocol_type.clone();
                let listed = Listed { group: name.clone(), protocol_type, state: "Empty" };
                all.insert(name.clone(), listed);
            }
        }
        // The list's lock is released first: a handle is locked before the list, never after it.
        let seats: Vec<_> = {
            let homes = self.homes.lock();
            homes.values().flat_map(|home| home.groups.values()).cloned().collect()
        };
        for seat in seats {
            let Some(group) = seat.step(self, |m, _| (m.describe(), Default::default())) else {
                continue;
            };
            let listed = Listed {
                group: seat.group().to_owned(),
                protocol_type: group.protocol_type,
                state: group.state,
            };
            all.insert(seat.group().to_owned(), listed);
        }
        all.into_values().collect()
    }

    /// The full description of one group.
    pub(crate) async fn describe(self: &Arc<Self>, group: &str) -> Result<Description, Refusal> {
        let shard = self.caught_up(group).await?;
        let exists = shard.state().groups.contains_key(group) || self.is_seated(group);
        if !exists {
            return Err(Refusal::NoSuchGroup);
        }
        self.at_seat(group, |seat| seat.step(self, |m, _| (m.describe(), Default::default())))
    }

    /// The current number of members of a group, including those that wait for the next generation;
    /// `None` when it has none or is not coordinated here.
    pub(crate) fn members_of(&self, group: &str) -> Option<usize> {
        let seat = {
            let homes = self.homes.lock();
            homes.values().find_map(|home| home.groups.get(group)).cloned()
        };
        seat.map(|seat| seat.members())
    }

    pub(super) fn is_seated(&self, group: &str) -> bool {
        self.homes.lock().values().any(|home| home.groups.contains_key(group))
    }
}
