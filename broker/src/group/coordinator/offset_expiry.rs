//! Expiry of committed offsets, and removal of groups that became empty, by the shard's leader.

use std::ops::Bound;
use std::sync::Arc;

use ropewalk_node::ShardHandle;
use ropewalk_shard::PartitionId;
use ropewalk_shard::command::ShardCommand;
use ropewalk_shard::state::{Group, State};
use tracing::{debug, warn};

use super::Coordinator;
use super::group_handle::durable;
use crate::clock;
use crate::group::classic::{ClassicGroup, Phase};
use crate::group::expiry;
use crate::limits;
use crate::supervision;

/// The position of a scan through all groups.
#[derive(Debug, Default)]
pub(super) struct Scan {
    shards: Vec<Arc<ShardHandle>>,
    /// The last scanned group in the last of `shards`.
    after: Option<String>,
}

impl Scan {
    /// The next groups and their shard; `None` at the end of the scan.
    fn next(&mut self) -> Option<(Arc<ShardHandle>, Vec<String>)> {
        let shard = Arc::clone(self.shards.last()?);
        let names = names(&shard.state(), self.after.take());
        match names.last() {
            Some(last) => self.after = Some(last.clone()),
            None => drop(self.shards.pop()),
        }
        Some((shard, names))
    }
}

/// The group names after `after`, at most as many as one step of a scan visits.
fn names(state: &State, after: Option<String>) -> Vec<String> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let names = state.groups.range((from, Bound::Unbounded)).map(|(name, _)| name.clone());
    names.take(limits::GROUPS_LOOKED_AT_ONCE).collect()
}

impl Coordinator {
    /// Runs the next step of a scan through every group. Returns whether it was the last. The
    /// timers of all groups wait for a step.
    pub(super) fn expire_offsets(self: &Arc<Self>, scan: &mut Option<Scan>) -> bool {
        let shards = || self.node.shards().filter(|shard| shard.leading().is_some()).cloned();
        let at = scan.get_or_insert_with(|| Scan { shards: shards().collect(), after: None });
        let Some((shard, names)) = at.next() else {
            *scan = None;
            return true;
        };
        for name in names {
            self.expire_group(&shard, &name);
        }
        false
    }

    fn expire_group(self: &Arc<Self>, shard: &Arc<ShardHandle>, name: &str) {
        let proposed = self.with_handle(name, |handle| {
            handle.step(self, |machine, _| {
                let state = shard.state();
                let group = state.groups.get(name);
                let proposed = group.and_then(|group| self.what_goes(machine, name, group));
                drop(state);
                (proposed.map(|command| handle.submit(command)), Default::default())
            })
        });
        let Ok(Some(proposed)) = proposed else { return };
        let name = name.to_owned();
        let work = async move {
            match durable(proposed).await {
                Ok(()) => debug!(group = name, "offsets expired"),
                Err(error) => warn!(group = name, %error, "offset expiry failed, will retry"),
            }
        };
        tokio::spawn(self.node.supervisor().endless(&supervision::GROUP_RECORD, work));
    }

    fn what_goes(&self, machine: &ClassicGroup, name: &str, group: &Group) -> Option<ShardCommand> {
        let is_stable = matches!(machine.phase(), Phase::Stable { .. });
        let topic_of = |id: &PartitionId| {
            let topic = self.view.by_id(id.topic)?;
            let is_bound = topic.bindings.contains_key(name);
            Some(expiry::Topic { name: Arc::clone(&topic.name), is_bound })
        };
        let retention_ms = self.options.retention_ms;
        let offsets = expiry::expired(group, is_stable, topic_of, clock::now_ms(), retention_ms);
        let leaves_nothing =
            machine.is_idle() && group.members.is_empty() && offsets.len() == group.offsets.len();
        if offsets.is_empty() && !leaves_nothing {
            return None;
        }
        Some(ShardCommand::ExpireOffsets { group: name.to_owned(), offsets })
    }
}
