//! Reconciles the shards with the catalog: opens missing partitions, closes those of deleted
//! topics.
//!
//! It is level-triggered: it compares the actual with the desired state, so a lost wake-up or a
//! crash costs nothing. The creator of a topic waits for [`Reconciler::converge`] of it; the loop
//! does the same for everything at the start, after each failure, and periodically: an entry that
//! opens a partition may be applied after its topic was deleted and all its partitions were closed.
//!
//! Partitions whose topic is unknown are kept if the catalog itself lost entries
//! ([`super::orphans`]), because they may not have been deleted.
//!
//! A group that is bound to a topic gets a committed offset in each of its partitions, which
//! defines its consumer lag from the first record on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::Node;
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::{Command, OpenPartition, ShardCommand, StartPosition};
use ropewalk_shard::state::catalog::Binding;
use ropewalk_shard::{PartitionId, ProposeError, ShardId, TopicId};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{TopicView, View};

/// Most partitions that one entry opens or closes.
const BATCH: usize = 1000;

/// Interval of full comparisons without a wake-up.
const PASS_INTERVAL: Duration = Duration::from_secs(60);

/// Pause before a failed pass is repeated.
const RETRY: Duration = Duration::from_millis(500);

/// The reconciliation loop with its inputs.
#[derive(Debug)]
pub struct Reconciler {
    node: Arc<Node>,
    view: Arc<View>,
    wake: Notify,
    pass_interval: Duration,
    /// Whether partitions without a topic are kept open.
    keeps_orphans: bool,
}

impl Reconciler {
    /// A reconciler of the shards of `node` with the catalog in `view`.
    #[must_use]
    pub fn new(node: Arc<Node>, view: Arc<View>) -> Self {
        let (wake, pass_interval) = (Notify::new(), PASS_INTERVAL);
        Self { node, view, wake, pass_interval, keeps_orphans: false }
    }

    /// Sets whether partitions without a topic are kept instead of closed.
    #[must_use]
    pub fn keeping_orphans(self, keeps_orphans: bool) -> Self {
        Self { keeps_orphans, ..self }
    }

    /// Whether partitions without a topic are kept, because the catalog was repaired.
    #[must_use]
    pub fn keeps_orphans(&self) -> bool {
        self.keeps_orphans
    }

    /// The partitions without a topic that are kept, in order.
    #[must_use]
    pub fn orphans(&self) -> Vec<PartitionId> {
        if !self.keeps_orphans {
            return Vec::new();
        }
        let mut orphans = Vec::new();
        for shard in self.node.shards() {
            let held: Vec<PartitionId> = shard.state().partitions.keys().copied().collect();
            orphans.extend(held.into_iter().filter(|id| self.view.by_id(id.topic).is_none()));
        }
        orphans.sort_unstable();
        orphans
    }

    /// Requests a full comparison.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Compares everything: at the start, at each wake-up and every minute; a failed pass is
    /// repeated.
    pub async fn run(self: Arc<Self>) {
        let orphans = self.orphans();
        if !orphans.is_empty() {
            warn!(
                partitions = orphans.len(),
                "partitions without a topic are kept: the catalog was repaired and may have lost their topics; \
                 `repair --drop-orphans` releases them"
            );
        }
        loop {
            if let Err(error) = self.pass().await {
                warn!(%error, "reconciling shards with the catalog failed, will retry");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let _ = tokio::time::timeout(self.pass_interval, self.wake.notified()).await;
        }
    }

    async fn pass(&self) -> Result<(), ProposeError> {
        self.open_missing(self.view.all().iter().map(|topic| topic.id)).await?;
        let data_shards = self.node.shards().filter(|shard| shard.id() != ShardId::CATALOG);
        for shard in data_shards.filter(|_| !self.keeps_orphans) {
            // The view is read while the shard is scanned, not before: a topic is in the view
            // before its partitions are opened, so a partition that is opened meanwhile is never
            // treated as an orphan.
            self.close(shard, |topic| self.view.by_id(topic).is_none()).await?;
        }
        self.start_groups(&self.view.bound()).await
    }

    /// Opens every partition of these topics in its shard, and returns once all are open.
    ///
    /// # Errors
    /// When a shard has no leader here; the loop will retry.
    pub async fn converge(&self, topics: &[TopicId]) -> Result<(), ProposeError> {
        let known = || topics.iter().filter_map(|id| self.view.by_id(*id));
        let mut done = self.open_missing(topics.iter().copied()).await;
        if done.is_ok() {
            done = self.start_groups(&known().collect::<Vec<_>>()).await;
        }
        // The topic was deleted meanwhile, and its deletion may have missed the partitions opened
        // last.
        if done.is_err() || known().count() < topics.len() {
            self.wake();
        }
        done.and_then(|()| self.expect_homes(topics))
    }

    async fn start_groups(&self, topics: &[Arc<TopicView>]) -> Result<(), ProposeError> {
        for topic in topics {
            for (group, binding) in &topic.bindings {
                // A group whose shard is damaged waits for its repair without blocking other
                // groups.
                if self.home_of(group).is_some() {
                    self.start_group(topic, group, *binding).await?;
                }
            }
        }
        Ok(())
    }

    fn home_of(&self, group: &str) -> Option<&Arc<ShardHandle>> {
        let home = self.node.catalog().state().catalog.as_ref().map(|c| c.shard_of(group));
        self.node.shard(home?)
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
        let shard = self.home_of(group).ok_or(ProposeError::NotLeader)?;
        let committed: HashSet<i32> = {
            let state = shard.state();
            let offsets = state.groups.get(group).into_iter().flat_map(|g| g.offsets.keys());
            offsets.filter(|id| id.topic == topic.id).map(|id| id.index).collect()
        };
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
        let begun = offsets.iter().map(|(id, _)| id.index).collect();
        if !offsets.is_empty() {
            let command = ShardCommand::StartOffsets { group: group.to_owned(), offsets };
            shard.propose(Command::Shard(command)).await?;
        }
        Ok(begun)
    }

    /// Closes the partitions of deleted topics, and removes their committed offsets.
    ///
    /// # Errors
    /// As [`Self::converge`].
    pub async fn close_deleted(&self, gone: &[TopicId]) -> Result<(), ProposeError> {
        for shard in self.node.shards().filter(|shard| shard.id() != ShardId::CATALOG) {
            let closed = self.close(shard, |topic| gone.contains(&topic)).await;
            if closed.is_err() {
                self.wake();
                return closed;
            }
        }
        Ok(())
    }

    /// Checks that the shards of these topics lead here. Damaged shards are skipped: they wait for
    /// repair, and nothing else waits with them.
    fn expect_homes(&self, topics: &[TopicId]) -> Result<(), ProposeError> {
        let topics = topics.iter().filter_map(|id| self.view.by_id(*id));
        let homeless = |topic: Arc<TopicView>| {
            topic.partitions.iter().any(|home| self.node.shard(home.shard).is_none())
        };
        if topics.into_iter().any(homeless) { Err(ProposeError::NotLeader) } else { Ok(()) }
    }

    async fn open_missing(
        &self,
        topics: impl Iterator<Item = TopicId>,
    ) -> Result<(), ProposeError> {
        let mut missing: BTreeMap<ShardId, Vec<OpenPartition>> = BTreeMap::new();
        for topic in topics.filter_map(|id| self.view.by_id(id)) {
            for (index, home) in (0_i32..).zip(&topic.partitions) {
                let partition = PartitionId { topic: topic.id, index };
                let Some(shard) = self.node.shard(home.shard) else { continue };
                if shard.log(&partition).is_none() {
                    let open = OpenPartition { partition, epoch_base: home.epoch_base };
                    missing.entry(home.shard).or_default().push(open);
                }
            }
        }
        let opened = missing.into_iter().map(|(shard, list)| async move {
            let shard = self.node.shard(shard).ok_or(ProposeError::NotLeader)?;
            for batch in list.chunks(BATCH) {
                let command = ShardCommand::OpenPartitions(batch.to_vec());
                shard.propose(Command::Shard(command)).await?;
            }
            Ok(())
        });
        futures_util::future::try_join_all(opened).await.map(|_: Vec<()>| ())
    }

    async fn close(
        &self,
        shard: &Arc<ShardHandle>,
        gone: impl Fn(TopicId) -> bool,
    ) -> Result<(), ProposeError> {
        let (partitions, committed) = {
            let state = shard.state();
            let partitions: Vec<PartitionId> =
                state.partitions.keys().filter(|id| gone(id.topic)).copied().collect();
            let committed: HashSet<TopicId> = state
                .groups
                .values()
                .flat_map(|group| group.offsets.keys())
                .filter(|id| gone(id.topic))
                .map(|id| id.topic)
                .collect();
            (partitions, committed)
        };
        for batch in partitions.chunks(BATCH) {
            info!(shard = %shard.id(), count = batch.len(), "closing partitions of deleted topics");
            let command = ShardCommand::ClosePartitions(batch.to_vec());
            shard.propose(Command::Shard(command)).await?;
        }
        if !committed.is_empty() {
            let command = ShardCommand::RemoveTopics(committed.into_iter().collect());
            shard.propose(Command::Shard(command)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
