//! Reconciles the shards with the catalog: opens missing partitions, closes those of deleted
//! topics.
//!
//! It is level-triggered: it compares the actual with the desired state, so a lost wake-up or a
//! crash costs nothing. Every broker does so for the shards that it leads: at the start, when it
//! begins to lead a shard, after each failure, and periodically: an entry that opens a partition
//! may be applied after its topic was deleted and all its partitions were closed. In a cluster of
//! several brokers it also does so soon after each change of the catalog, which another broker may
//! have made. The creator of a topic waits for [`Reconciler::converge`] of it, which opens its
//! partitions wherever their shards are led.
//!
//! A partition is closed only with the catalog's proof that its topic was deleted ([`Deletion`]),
//! never because a view lacks the topic: the view may be old, or the catalog may have lost entries.
//! A partition without a topic and without a proof is kept as an orphan until a person gives it up
//! ([`super::orphans`]).
//!
//! A group that is bound to a topic gets a committed offset in each of its partitions, which
//! defines its consumer lag from the first record on. The broker that leads a partition knows where
//! it begins and ends, and commits that offset.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_node::Node;
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::{CatalogCommand, Command, FORMAT_MAX, OpenPartition, ShardCommand};
use ropewalk_shard::limits::FREEING_COMMAND_BYTES_MAX;
use ropewalk_shard::{Deletion, PartitionId, ProposeError, ShardId, TopicId};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{TopicView, View, orphans};
use crate::cluster::Cluster;

mod groups;

/// Most partitions that one entry opens, and after which one that closes takes no further topic.
const BATCH: usize = 1000;

/// Most bytes of a topic's proof of deletion in a command.
const DELETION_BYTES_MAX: usize = 32;

const _: () = assert!(BATCH * DELETION_BYTES_MAX <= FREEING_COMMAND_BYTES_MAX);

/// Interval of full comparisons without a wake-up.
const PASS_INTERVAL: Duration = Duration::from_secs(60);

/// Interval at which new leaderships are noticed, and the longest pause after a pass.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest pause after a pass, unless one is requested.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A pause is at least this many times as long as the pass before it, so that the loop takes a
/// small part of a processor while topics are created all the time.
const PAUSE_FACTOR: u32 = 10;

/// Pause before a failed pass is repeated.
const RETRY: Duration = Duration::from_millis(500);

/// The reconciliation loop with its inputs.
#[derive(Debug)]
pub struct Reconciler {
    node: Arc<Node>,
    view: Arc<View>,
    cluster: Arc<Cluster>,
    wake: Notify,
    pass_interval: Duration,
    /// Whether the catalog was repaired and may have lost topics.
    is_catalog_repaired: bool,
    /// The data directory with the order to give up the orphans, until that is done.
    abandoning: Mutex<Option<PathBuf>>,
    /// The orphans that the last pass found, in order.
    orphans: Mutex<Vec<PartitionId>>,
    /// What the last pass found, orphan or not.
    suspected: Mutex<Vec<PartitionId>>,
    remote: Mutex<Remote>,
}

/// What is known of shards that have no replica on this broker.
#[derive(Debug, Default)]
struct Remote {
    /// The number of partitions of each topic that are open.
    open: HashMap<TopicId, usize>,
    /// The partitions in which each bound group has begun.
    begun: HashMap<(TopicId, String), BTreeSet<i32>>,
}

/// What a pass depends on beside the shards' own state.
#[derive(Debug, PartialEq, Eq)]
struct Occasion {
    /// The shards that are led here, with the terms.
    led: Vec<(ShardId, u64)>,
    /// The revision of the catalog; 0 for a broker that is alone, which makes every change itself.
    revision: u64,
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
    /// A reconciler of the shards of `node`, and of topics with shards in `cluster`, with the
    /// catalog in `view`.
    #[must_use]
    pub fn new(node: Arc<Node>, view: Arc<View>, cluster: Arc<Cluster>) -> Self {
        Self {
            node,
            view,
            cluster,
            wake: Notify::new(),
            pass_interval: PASS_INTERVAL,
            is_catalog_repaired: false,
            abandoning: Mutex::default(),
            orphans: Mutex::default(),
            suspected: Mutex::default(),
            remote: Mutex::default(),
        }
    }

    /// The cluster that commands are proposed to.
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The shards that this broker leads.
    fn led(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.node.shards().filter(|shard| shard.leading().is_some())
    }

    /// Whether the shard is damaged here and led nowhere else. It waits for its repair, and nothing
    /// else waits with it.
    pub(super) fn is_lost(&self, shard: ShardId) -> bool {
        let is_damaged = || self.node.damaged().iter().any(|(damaged, _)| *damaged == shard);
        let is_halted = || self.node.held_shard(shard).is_some();
        self.node.shard(shard).is_none()
            && (is_damaged() || is_halted())
            && self.cluster.leader(shard).is_none()
    }

    fn is_alone(&self) -> bool {
        self.view.brokers().len() < 2
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
        for shard in self.led() {
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
            self.cluster.propose(ShardId::CATALOG, Command::Catalog(command)).await?;
        }
        Ok(())
    }

    /// Requests a full comparison.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Compares everything: at the start, at each wake-up, when it begins to lead a shard, when
    /// another broker may have changed the catalog, and every minute; a failed pass is repeated.
    pub async fn run(self: Arc<Self>) {
        let mut orphans = 0;
        let mut shown = self.view.changed();
        loop {
            shown.mark_unchanged();
            let (occasion, begun) = (self.occasion(), Instant::now());
            if let Err(error) = self.pass().await {
                warn!(%error, "reconciling shards with the catalog failed, will retry");
                sleep(RETRY).await;
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
            // Changes that follow each other closely share a pass, however long one takes.
            let pause = PAUSE_MIN.max(begun.elapsed() * PAUSE_FACTOR).min(LOOK_INTERVAL);
            let due = async {
                if timeout(pause, self.wake.notified()).await.is_ok() {
                    return;
                }
                loop {
                    let is_woken = tokio::select! {
                        () = self.wake.notified() => true,
                        Ok(()) = shown.changed() => false,
                        () = sleep(LOOK_INTERVAL) => false,
                    };
                    if is_woken || self.occasion() != occasion {
                        return;
                    }
                }
            };
            let _ = timeout(self.pass_interval, due).await;
        }
    }

    fn occasion(&self) -> Occasion {
        let led = self.led().filter_map(|shard| Some((shard.id(), shard.leading()?))).collect();
        let revision = if self.is_alone() { 0 } else { *self.view.changed().borrow() };
        Occasion { led, revision }
    }

    /// Reports to the catalog which commands this broker reads, unless the catalog knows it. Until
    /// then nothing is written that only this version reads.
    async fn report_level(&self) -> Result<(), ProposeError> {
        let (catalog, broker) = (self.node.catalog(), self.node.identity().broker_id);
        let known = catalog.state().catalog.as_ref().map(|c| c.level_report(broker, FORMAT_MAX));
        if let Some(report) = known.flatten() {
            info!(level = FORMAT_MAX, "reporting the feature level of this broker");
            self.cluster.propose(ShardId::CATALOG, Command::Catalog(report)).await?;
        }
        Ok(())
    }

    async fn pass(&self) -> Result<(), PassError> {
        self.report_level().await?;
        self.open_missing(&self.view.all(), |shard| {
            self.node.shard(shard).is_some_and(|held| held.leading().is_some())
        })
        .await?;
        self.abandon_orphans().await?;
        for shard in self.led().filter(|shard| shard.id() != ShardId::CATALOG) {
            // Most topics are in the view, and only the others can be deleted.
            self.close(shard, |topic| self.view.by_id(topic).is_none()).await?;
        }
        let done = self.abandoning.lock().clone();
        if let Some(dir) = done {
            orphans::abandoned(&dir)?;
            *self.abandoning.lock() = None;
        }
        self.note_orphans();
        self.forget_deleted();
        Ok(self.start_groups(&self.view.bound()).await?)
    }

    /// Notes the orphans. In a cluster the catalog of this broker may lag behind a partition that
    /// another broker has opened here, so that only one that was found twice counts.
    fn note_orphans(&self) {
        let found = self.find_orphans();
        let mut suspected = self.suspected.lock();
        let is_orphan = |id: &PartitionId| self.is_alone() || suspected.contains(id);
        let orphans = found.iter().copied().filter(is_orphan).collect();
        *self.orphans.lock() = orphans;
        *suspected = found;
    }

    fn forget_deleted(&self) {
        let mut remote = self.remote.lock();
        remote.open.retain(|topic, _| self.view.by_id(*topic).is_some());
        remote.begun.retain(|(topic, group), _| {
            self.view.by_id(*topic).is_some_and(|topic| topic.bindings.contains_key(group))
        });
    }

    /// Opens every partition of these topics in its shard, and returns once all are open. The
    /// bound groups have then begun in the partitions that are led here.
    ///
    /// # Errors
    /// When a shard has no leader; the loop of its next leader will retry.
    pub async fn converge(&self, topics: &[TopicId]) -> Result<(), ProposeError> {
        let known = || topics.iter().filter_map(|id| self.view.by_id(*id));
        let found: Vec<_> = known().collect();
        let mut done = self.open_missing(&found, |shard| !self.is_lost(shard)).await;
        if done.is_ok() {
            done = self.start_groups(&found).await;
        }
        // The topic was deleted meanwhile, and its deletion may have missed the partitions opened
        // last.
        if done.is_err() || known().count() < topics.len() {
            self.wake();
        }
        done.and_then(|()| self.expect_homes(topics))
    }

    /// Closes the partitions of deleted topics, and removes their committed offsets, in the shards
    /// that are led here. The leaders of the others do so when they see the deletion.
    ///
    /// # Errors
    /// As [`Self::converge`].
    pub async fn close_deleted(&self, gone: &[TopicId]) -> Result<(), ProposeError> {
        for shard in self.led().filter(|shard| shard.id() != ShardId::CATALOG) {
            let closed = self.close(shard, |topic| gone.contains(&topic)).await;
            if closed.is_err() {
                self.wake();
                return closed;
            }
        }
        Ok(())
    }

    /// Checks that no shard of these topics is lost.
    fn expect_homes(&self, topics: &[TopicId]) -> Result<(), ProposeError> {
        let topics = topics.iter().filter_map(|id| self.view.by_id(*id));
        let homeless =
            |topic: Arc<TopicView>| topic.partitions.iter().any(|home| self.is_lost(home.shard));
        if topics.into_iter().any(homeless) { Err(ProposeError::NotLeader) } else { Ok(()) }
    }

    /// Opens the missing partitions of these topics in the shards that `is_asked` chooses.
    async fn open_missing(
        &self,
        topics: &[Arc<TopicView>],
        is_asked: impl Fn(ShardId) -> bool,
    ) -> Result<(), ProposeError> {
        let mut missing: BTreeMap<ShardId, Vec<OpenPartition>> = BTreeMap::new();
        for topic in topics {
            let known = self.remote.lock().open.get(&topic.id).copied().unwrap_or(0);
            for (index, home) in (0_i32..).zip(&topic.partitions) {
                let partition = PartitionId { topic: topic.id, index };
                let is_open = match self.node.shard(home.shard) {
                    Some(held) => held.log(&partition).is_some(),
                    None => usize::try_from(index).is_ok_and(|index| index < known),
                };
                if !is_open && is_asked(home.shard) {
                    let open = OpenPartition { partition, epoch_base: home.epoch_base };
                    missing.entry(home.shard).or_default().push(open);
                }
            }
        }
        let is_remote = missing.keys().any(|shard| self.node.shard(*shard).is_none());
        let opened = missing.into_iter().map(|(shard, list)| async move {
            for batch in list.chunks(BATCH) {
                let command = ShardCommand::OpenPartitions(batch.to_vec());
                self.cluster.propose(shard, Command::Shard(command)).await?;
            }
            Ok(())
        });
        futures_util::future::try_join_all(opened).await.map(|_: Vec<()>| ())?;
        if is_remote {
            let open = topics.iter().map(|topic| (topic.id, topic.partitions.len()));
            self.remote.lock().open.extend(open);
        }
        Ok(())
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
            let command = Command::Shard(ShardCommand::CloseTopics(batch));
            self.cluster.propose(shard.id(), command).await?;
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
