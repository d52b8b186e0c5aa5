//! Old offsets, and groups of which nothing is left, are let go of by the shard's leader.

use std::sync::Arc;

use ropewalk_shard::command::ShardCommand;
use ropewalk_shard::state::Group;
use ropewalk_shard::{PartitionId, Shard};
use tracing::{debug, warn};

use super::Coordinator;
use super::seat::durable;
use crate::clock;
use crate::group::classic::{ClassicGroup, Phase};
use crate::group::expiry;

impl Coordinator {
    /// Looks through every group once.
    pub(super) fn expire_offsets(self: &Arc<Self>) {
        for shard in self.node.shards().filter(|shard| shard.leading().is_some()) {
            let names: Vec<_> = shard.state().groups.keys().cloned().collect();
            for name in names {
                self.expire_group(shard, &name);
            }
        }
    }

    fn expire_group(self: &Arc<Self>, shard: &Arc<Shard>, name: &str) {
        let proposed = self.at_seat(name, |seat| {
            seat.step(self, |machine, _| {
                let state = shard.state();
                let group = state.groups.get(name);
                let proposed = group.and_then(|group| self.what_goes(machine, name, group));
                drop(state);
                (proposed.map(|command| seat.submit(command)), Default::default())
            })
        });
        let Ok(Some(proposed)) = proposed else { return };
        let name = name.to_owned();
        tokio::spawn(async move {
            match durable(proposed).await {
                Ok(()) => debug!(group = name, "offsets expired"),
                Err(error) => warn!(group = name, %error, "offsets did not expire; later again"),
            }
        });
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
