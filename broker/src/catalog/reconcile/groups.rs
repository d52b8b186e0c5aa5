//! The first offsets of the groups that are bound to topics.

use std::collections::HashSet;
use std::sync::Arc;

use ropewalk_shard::command::{Command, ShardCommand, StartPosition};
use ropewalk_shard::state::catalog::Binding;
use ropewalk_shard::{PartitionId, ProposeError, ShardId, TopicId};

use super::{Reconciler, TopicView};

impl Reconciler {
    pub(super) async fn start_groups(&self, topics: &[Arc<TopicView>]) -> Result<(), ProposeError> {
        for topic in topics {
            for (group, binding) in &topic.bindings {
                // A group whose shard is damaged waits for its repair without blocking other
                // groups.
                if self.home_of(group).is_some_and(|home| !self.is_lost(home)) {
                    self.start_group(topic, group, *binding).await?;
                }
            }
        }
        Ok(())
    }

    fn home_of(&self, group: &str) -> Option<ShardId> {
        self.node.catalog().state().catalog.as_ref().map(|catalog| catalog.shard_of(group))
    }

    /// The partitions in which a group has begun, as far as this broker knows.
    fn begun(&self, home: ShardId, topic: TopicId, group: &str) -> HashSet<i32> {
        if let Some(shard) = self.node.shard(home) {
            let state = shard.state();
            let offsets = state.groups.get(group).into_iter().flat_map(|g| g.offsets.keys());
            return offsets.filter(|id| id.topic == topic).map(|id| id.index).collect();
        }
        let remote = self.remote.lock();
        let begun = remote.begun.get(&(topic, group.to_owned()));
        begun.into_iter().flatten().copied().collect()
    }

    /// Commits a first offset of a bound group for the partitions in which it has none, and returns
    /// those partitions. Partitions that are damaged, not open yet or not led here are skipped for
    /// now.
    ///
    /// # Errors
    /// As [`Self::converge`].
    pub async fn start_group(
        &self,
        topic: &TopicView,
        group: &str,
        binding: Binding,
    ) -> Result<Vec<i32>, ProposeError> {
        let home = self.home_of(group).ok_or(ProposeError::NotLeader)?;
        let committed = self.begun(home, topic.id, group);
        let mut offsets = Vec::new();
        for (index, home) in (0_i32..).zip(&topic.partitions) {
            let id = PartitionId { topic: topic.id, index };
            // During replay the end of a shard's log is outdated.
            let led = self.node.shard(home.shard).filter(|shard| shard.leading().is_some());
            let log = led.and_then(|shard| shard.log(&id));
            let Some(log) = log.filter(|_| !committed.contains(&index)) else { continue };
            let came_later = u32::try_from(index).is_ok_and(|index| index >= binding.partitions);
            let start = match binding.start {
                StartPosition::Latest if !came_later => log.high_watermark(),
                StartPosition::Earliest | StartPosition::Latest => log.log_start(),
            };
            offsets.push((id, start));
        }
        let begun: Vec<i32> = offsets.iter().map(|(id, _)| id.index).collect();
        if !offsets.is_empty() {
            let command = ShardCommand::StartOffsets { group: group.to_owned(), offsets };
            self.cluster.propose(home, Command::Shard(command)).await?;
            if self.node.shard(home).is_none() {
                let mut remote = self.remote.lock();
                let known = remote.begun.entry((topic.id, group.to_owned())).or_default();
                known.extend(&begun);
            }
        }
        Ok(begun)
    }
}
