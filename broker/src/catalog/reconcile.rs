//! Reconciles the shards with the catalog: opens missing partitions, closes those of deleted
//! topics.
//!
//! It is level-triggered: it compares the actual with the desired state, so a lost wake-up or a
//! crash costs nothing. The creator of a topic waits for [`Reconciler::converge`] of it; the loop
//! does the same for everything at the start, after each failure, and periodically: an entry that
//! opens a partition may be applied after its topic was deleted and all its partitions were closed.
//!
//! A partition is closed only with the catalog's proof that its topic was deleted ([`Deletion`]),
//! never because a view lacks the topic: the view may be old, or the catalog may have lost entries.
//! A partition without a topic and without a proof is kept as an orphan until a person gives it up
//! ([`super::orphans`]).
//!
//! A group that is bound to a topic gets a committed offset in each of its partitions, which
//! defines its consumer lag from the first record on.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_node::Node;
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::{
    CatalogCommand, Command, FORMAT_MAX, OpenPartition, ShardCommand, StartPosition,
};
use ropewalk_shard::limits::FREEING_COMMAND_BYTES_MAX;
use ropewalk_shard::state::catalog::Binding;
use ropewalk_shard::{Deletion, PartitionId, ProposeError, ShardId, TopicId};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{TopicView, View, orphans};

/// Most partitions that one entry opens, and after which one that closes takes no further topic.
const BATCH: usize = 1000;

/// Most bytes of a topic's proof of deletion in a command.
const DELETION_BYTES_MAX: usize = 32;

const _: () = assert!(BATCH * DELETION_BYTES_MAX <= FREEING_COMMAND_BYTES_MAX);

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
    /// Whether the catalog was repaired and may have lost topics.
    is_catalog_repaired: bool,
    /// The data directory with the order to give up the orphans, until that is done.
    abandoning: Mutex<Option<PathBuf>>,
    /// The orphans that the last pass found, in order.
    orphans: Mutex<Vec<PartitionId>>,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
enum PassError {
    /// A shard did not take a command.
    #[error(transparent)]
    Proposed(#[from] ProposeError),
    /// The order to give up the orphans cannot be removed.
    #[error("the order to give up orphans cannot be removed: {0}")]
    Order(#[from] io::Error),
}

impl Reconciler {
    /// A reconciler of the shards of `node` with the catalog in `view`.
    #[must_use]
    pub fn new(node: Arc<Node>, view: Arc<View>) -> Self {
        let (wake, pass_interval) = (Notify::new(), PASS_INTERVAL);
        let (abandoning, orphans) = (Mutex::default(), Mutex::default());
        Self { node, view, wake, pass_interval, is_catalog_repaired: false, abandoning, orphans }
    }

    /// Sets whether the catalog was repaired and may have lost topics.
    #[must_use]
    pub fn with_repaired_catalog(self, is_catalog_repaired: bool) -> Self {
        Self { is_catalog_repaired, ..self }
    }

    /// Sets the data directory with the order to give up the orphans, if there is one.
    #[must_use]
    pub fn abandoning_orphans(self, dir: Option<PathBuf>) -> Self {
        Self { abandoning: Mutex::new(dir), ..self }
    }

    /// Whether the catalog was repaired and may have lost topics.
    #[must_use]
    pub fn is_catalog_repaired(&self) -> bool {
        self.is_catalog_repaired
    }

    /// The partitions without a topic that the last pass kept, in order.
    #[must_use]
    pub fn orphans(&self) -> Vec<PartitionId> {
        self.orphans.lock().clone()
    }

    /// The partitions whose topic the catalog neither lists nor has deleted, in order.
    fn find_orphans(&self) -> Vec<PartitionId> {
        let mut found = Vec::new();
        for shard in self.node.shards() {
            let held: Vec<PartitionId> = shard.state().partitions.keys().copied().collect();
            found.extend(held.into_iter().filter(|id| self.view.by_id(id.topic).is_none()));
        }
        let state = self.node.catalog().state();
        let is_known = |topic| {
            let catalog = state.catalog.as_ref();
            catalog.is_none_or(|c| c.topics.contains_key(&topic) || c.deletion(topic).is_some())
        };
        found.retain(|id| !is_known(id.topic));
        found.sort_unstable();
        found
    }

    /// Has the catalog record that the topics of orphans are deleted, if a person ordered it. The
    /// catalog refuses that for a topic that it lists.
    async fn abandon_orphans(&self) -> Result<(), ProposeError> {
        if self.abandoning.lock().is_none() {
            return Ok(());
        }
        let mut topics: Vec<TopicId> = self.find_orphans().iter().map(|id| id.topic).collect();
        topics.dedup();
        for batch in topics.chunks(BATCH) {
            info!(topics = batch.len(), "giving up the partitions of topics that are not listed");
            let command = CatalogCommand::AbandonTopics(batch.to_vec());
            self.node.catalog().propose(Command::Catalog(command)).await?;
        }
        Ok(())
    }

    /// Requests a full comparison.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Compares everything: at the start, at each wake-up and every minute; a failed pass is
    /// repeated.
    pub async fn run(self: Arc<Self>) {
        let mut orphans = 0;
        loop {
            if let Err(error) = self.pass().await {
                warn!(%error, "reconciling shards with the catalog failed, will retry");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let kept = std::mem::replace(&mut orphans, self.orphans.lock().len());
            if orphans > kept {
                warn!(
                    partitions = orphans,
                    "partitions without a topic are kept: the catalog was repaired and may have lost their topics; \
                     `repair --drop-orphans` releases them"
                );
            }
            let _ = tokio::time::timeout(self.pass_interval, self.wake.notified()).await;
        }
    }

    /// Reports to the catalog which commands this broker reads, unless the catalog knows it. Until
    /// then nothing is written that only this version reads.
    async fn report_level(&self) -> Result<(), ProposeError> {
        let (catalog, broker) = (self.node.catalog(), self.node.identity().broker_id);
        let known = catalog.state().catalog.as_ref().map(|c| c.level_report(broker, FORMAT_MAX));
        if let Some(report) = known.flatten() {
            info!(level = FORMAT_MAX, "reporting the feature level of this broker");
            catalog.propose(Command::Catalog(report)).await?;
        }
        Ok(())
    }

    async fn pass(&self) -> Result<(), PassError> {
        self.report_level().await?;
        self.open_missing(self.view.all().iter().map(|topic| topic.id)).await?;
        self.abandon_orphans().await?;
        for shard in self.node.shards().filter(|shard| shard.id() != ShardId::CATALOG) {
            // Most topics are in the view, and only the others can be deleted.
            self.close(shard, |topic| self.view.by_id(topic).is_none()).await?;
        }
        let done = self.abandoning.lock().clone();
        if let Some(dir) = done {
            orphans::abandoned(&dir)?;
            *self.abandoning.lock() = None;
        }
        *self.orphans.lock() = self.find_orphans();
        Ok(self.start_groups(&self.view.bound()).await?)
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

    /// Closes the partitions of deleted topics in a shard and removes their committed offsets, as
    /// far as the catalog proves the deletion. `may_be_deleted` chooses the topics to look up.
    async fn close(
        &self,
        shard: &Arc<ShardHandle>,
        may_be_deleted: impl Fn(TopicId) -> bool,
    ) -> Result<(), ProposeError> {
        let held = {
            let state = shard.state();
            let partitions = state.partitions.keys().map(|id| (id.topic, 1));
            let committed = state.groups.values().flat_map(|group| group.offsets.keys());
            let committed = committed.map(|id| (id.topic, 0));
            let mut held = BTreeMap::<TopicId, usize>::new();
            for (topic, count) in partitions.chain(committed).filter(|(id, _)| may_be_deleted(*id))
            {
                *held.entry(topic).or_default() += count;
            }
            held
        };
        for batch in batches(self.deletions(&held)) {
            info!(shard = %shard.id(), topics = batch.len(), "closing deleted topics");
            shard.propose(Command::Shard(ShardCommand::CloseTopics(batch))).await?;
        }
        Ok(())
    }

    /// The proofs of deletion of these topics, as far as there are any, each with its number of
    /// partitions.
    fn deletions(&self, topics: &BTreeMap<TopicId, usize>) -> Vec<(Deletion, usize)> {
        let state = self.node.catalog().state();
        let Some(catalog) = &state.catalog else { return Vec::new() };
        let proofs = topics.iter().map(|(id, count)| Some((catalog.deletion(*id)?, *count)));
        proofs.flatten().collect()
    }
}

/// Divides deleted topics among entries by their numbers of partitions.
fn batches(deleted: Vec<(Deletion, usize)>) -> Vec<Vec<Deletion>> {
    let (mut batches, mut partitions) = (Vec::<Vec<Deletion>>::new(), BATCH);
    for (deletion, count) in deleted {
        if partitions >= BATCH {
            batches.push(Vec::new());
            partitions = 0;
        }
        batches.last_mut().expect("one was added first").push(deletion);
        // A topic without partitions has committed offsets.
        partitions += count.max(1);
    }
    batches
}

#[cfg(test)]
mod tests;
