//! Carries a plan out in a new data directory, by commands of its shards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::Node;
use ropewalk_shard::command::{
    CatalogCommand, ChangeTier, Command, CommitOffsets, ConfigResource, NewTopic, OffsetCommit,
    ShardCommand, TierChange,
};
use ropewalk_shard::manifest::{
    BucketClaim, RestoreState, RestoredBatch, RestoredEpoch, RestoredPartition, RestoredProducer,
};
use ropewalk_shard::proposal::Certainty;
use ropewalk_shard::state::catalog::Answer;
use ropewalk_shard::{BrokerId, Outcome, PartitionId, ProposeError, ShardId, TopicId};
use ropewalk_tier::rebuild::{Rebuilt, fold};
use ropewalk_tier::{
    Bucket, Claim, ConfigsOf, GroupOffset, Origin, PartitionKey, Producer, hold_claim,
};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::RestoreError;
use super::plan::{Plan, PlannedGroup, PlannedPartition, PlannedTopic};
use crate::catalog::{Topics, View};
use crate::cluster::Cluster;
use crate::limits;
use crate::tier::convert;

/// The parts of an open data directory that a restore uses.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) node: Arc<Node>,
    pub(crate) view: Arc<View>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) topics: Topics,
}

/// What was recorded in a data directory before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Nothing: it was just formatted.
    Nothing,
    /// An unfinished restore.
    Unfinished(BucketClaim),
    /// A finished restore.
    Finished,
}

impl Directory {
    /// What was recorded in this directory before.
    ///
    /// # Errors
    /// When it holds a cluster that is not a restored one.
    pub(crate) fn recorded(&self, dir: &Path) -> Result<Recorded, RestoreError> {
        let state = self.node.catalog().state();
        let claim = state.catalog.as_ref().and_then(|catalog| catalog.claim);
        let is_new = state.catalog.as_ref().is_none_or(|catalog| catalog.topics.is_empty());
        match claim.map(|claim| (claim, claim.restore)) {
            Some((claim, RestoreState::Unfinished)) => Ok(Recorded::Unfinished(claim)),
            Some((_, RestoreState::Finished)) => Ok(Recorded::Finished),
            None if is_new => Ok(Recorded::Nothing),
            Some((_, RestoreState::No)) | None => Err(RestoreError::Directory {
                dir: dir.to_owned(),
                why: "it holds this cluster already, and no restore began there: start the broker, or name an empty \
                      directory"
                    .to_owned(),
            }),
        }
    }
}

/// Carries out a plan. `progress` is called with what is done, and how many of how many.
///
/// # Errors
/// When the bucket belongs to a later restore, or a shard does not take a command. The same call
/// again continues.
pub(crate) async fn carry_out(
    plan: &Plan,
    bucket: &Bucket,
    directory: &Directory,
    recorded: Recorded,
    progress: impl Fn(&str, usize, usize),
) -> Result<(), RestoreError> {
    let claim = match recorded {
        Recorded::Unfinished(claim) => claim,
        Recorded::Nothing => BucketClaim {
            epoch: plan.claim.epoch.saturating_add(1),
            holder: uuid::Uuid::new_v4().as_u64_pair().0,
            restore: RestoreState::Unfinished,
        },
        Recorded::Finished => return Ok(()),
    };
    let work = Work { plan, bucket, directory, claim };
    work.record(claim).await?;
    let BucketClaim { epoch, holder, .. } = claim;
    let own = Claim { cluster: plan.claim.cluster.clone(), epoch, holder };
    hold_claim(bucket, &own).await?;
    work.restore_catalog().await?;
    let topics = plan.topics.len();
    for (done, topic) in plan.topics.iter().enumerate() {
        work.restore_topic(topic).await?;
        progress("topics", done + 1, topics);
    }
    let groups = plan.groups.len();
    for (done, group) in plan.groups.iter().enumerate() {
        work.restore_group(group).await?;
        progress("groups", done + 1, groups);
    }
    work.record(BucketClaim { restore: RestoreState::Finished, ..claim }).await
}

struct Work<'a> {
    plan: &'a Plan,
    bucket: &'a Bucket,
    directory: &'a Directory,
    claim: BucketClaim,
}

impl Work<'_> {
    async fn record(&self, claim: BucketClaim) -> Result<(), RestoreError> {
        self.catalog("the claim of the bucket", CatalogCommand::RecordClaim(claim)).await.map(drop)
    }

    /// Configuration, producer ids and deleted topics.
    async fn restore_catalog(&self) -> Result<(), RestoreError> {
        for (of, configs) in &self.plan.configs {
            let resource = match of {
                ConfigsOf::AllBrokers => ConfigResource::Broker(None),
                ConfigsOf::Broker(id) => ConfigResource::Broker(Some(BrokerId(*id))),
                ConfigsOf::Group(group) => ConfigResource::Group(group.clone()),
            };
            let changes = configs.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
            let alter = CatalogCommand::AlterConfigs { resource, changes: changes.collect() };
            self.catalog("a configuration", alter).await?;
        }
        let next = self.next_producer_id();
        let wanted = self.plan.next_producer_id.saturating_add(limits::PRODUCER_IDS_LEFT_OUT);
        if next < wanted {
            let allocate = CatalogCommand::AllocateProducerIds { count: wanted - next };
            self.catalog("producer ids", allocate).await?;
        }
        for topics in self.plan.deleted.chunks(BATCH) {
            let topics = topics.iter().map(|id| TopicId(*id)).collect();
            self.catalog("deleted topics", CatalogCommand::AbandonTopics(topics)).await?;
        }
        Ok(())
    }

    fn next_producer_id(&self) -> i64 {
        let state = self.directory.node.catalog().state();
        state.catalog.as_ref().map_or(0, |catalog| catalog.next_producer_id)
    }

    async fn restore_topic(&self, topic: &PlannedTopic) -> Result<(), RestoreError> {
        let id = TopicId(topic.id);
        if self.directory.view.by_id(id).is_none() {
            self.create(topic).await?;
        }
        let open = || self.directory.topics.open(id);
        retried(open).await?;
        for (index, partition) in (0..).zip(&topic.partitions) {
            let id = PartitionId { topic: id, index };
            self.restore_partition(&topic.name, id, partition).await?;
        }
        debug!(topic = topic.name, partitions = topic.partitions.len(), "topic restored");
        Ok(())
    }

    async fn create(&self, topic: &PlannedTopic) -> Result<(), RestoreError> {
        let id = TopicId(topic.id);
        let mut placements = self.directory.topics.place(id, 0, topic.partitions.len());
        for (placement, partition) in placements.iter_mut().zip(&topic.partitions) {
            placement.epoch_base = partition.epoch_base;
        }
        let new = NewTopic {
            id,
            name: topic.name.clone(),
            partitions: placements,
            configs: topic.configs.clone(),
            owner: topic.owner.clone(),
        };
        let answer = self.catalog(&topic.name, CatalogCommand::CreateTopics(vec![new])).await?;
        let Answer::Topics(made) = answer else { unreachable!("the outcome matches the command") };
        match made.into_iter().next() {
            Some(Err(refusal)) => Err(refused(&topic.name, &refusal)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    async fn restore_partition(
        &self,
        topic: &str,
        id: PartitionId,
        planned: &PlannedPartition,
    ) -> Result<(), RestoreError> {
        if planned.rebuilt.is_empty() {
            return Ok(());
        }
        let what = format!("partition {topic}-{}", id.index);
        let restored = self.restored(id, &what, &planned.rebuilt).await?;
        let home = self.directory.view.by_id(id.topic).and_then(|topic| topic.partition(id.index));
        let Some((_, home)) = home else {
            return Err(refused(&what, &"the catalog does not list it"));
        };
        let change = TierChange::Restore(Box::new(restored));
        let change = ShardCommand::ChangeTier(ChangeTier { change, partition: id });
        self.shard(&what, home.shard, change).await
    }

    /// What the partition continues from. Puts pages into the bucket if there are many objects.
    async fn restored(
        &self,
        id: PartitionId,
        what: &str,
        rebuilt: &Rebuilt,
    ) -> Result<RestoredPartition, RestoreError> {
        let Rebuilt { log_start, end, pages, objects, epochs, producers, .. } = rebuilt;
        let (mut pages, mut objects) = (pages.clone(), objects.clone());
        if objects.len() > ropewalk_shard::limits::TIER_OBJECTS_MAX {
            let key = PartitionKey {
                cluster: self.plan.claim.cluster.clone(),
                topic: id.topic.0,
                index: id.index,
            };
            // The same pages when a restore is repeated.
            let origin = Origin { history: self.claim.holder, term: self.claim.epoch.into() };
            let (added, kept) = fold(&key, origin, &objects, limits::RESTORE_OBJECTS_KEPT);
            let (count, limit) =
                (pages.len() + added.len(), ropewalk_shard::limits::TIER_PAGES_MAX);
            if count > limit {
                let partition = what.to_owned();
                return Err(RestoreError::TooManyPages { partition, pages: count, limit });
            }
            for page in &added {
                self.bucket.put_if_absent(&page.name.to_string(), &page.content).await?;
            }
            pages.extend(added.iter().map(|page| page.reference));
            objects = kept;
        }
        let epoch = |start: &ropewalk_tier::EpochStart| RestoredEpoch {
            epoch: start.epoch,
            start_offset: start.start_offset,
        };
        Ok(RestoredPartition {
            log_start: *log_start,
            end: *end,
            pages: pages.iter().map(convert::page_of).collect(),
            objects: objects.iter().map(convert::object_of).collect(),
            epochs: epochs.iter().map(epoch).collect(),
            producers: producers.iter().map(restored_producer).collect(),
        })
    }

    async fn restore_group(&self, planned: &PlannedGroup) -> Result<(), RestoreError> {
        let what = format!("offsets of group {}", planned.group);
        let shard = {
            let state = self.directory.node.catalog().state();
            state.catalog.as_ref().map(|catalog| catalog.shard_of(&planned.group))
        };
        let shard = shard.ok_or_else(|| refused(&what, &"there is no catalog"))?;
        for offsets in planned.offsets.chunks(BATCH) {
            let commit = CommitOffsets {
                group: planned.group.clone(),
                member: None,
                offsets: offsets.iter().map(committed).collect(),
            };
            self.shard(&what, shard, ShardCommand::CommitOffsets(commit)).await?;
        }
        Ok(())
    }

    async fn catalog(&self, what: &str, command: CatalogCommand) -> Result<Answer, RestoreError> {
        let propose = || self.directory.topics.catalog(command.clone());
        let answer = retried(propose).await?;
        if let Answer::Refused(refusal) = &answer {
            return Err(refused(what, refusal));
        }
        Ok(answer)
    }

    async fn shard(
        &self,
        what: &str,
        shard: ShardId,
        command: ShardCommand,
    ) -> Result<(), RestoreError> {
        let propose = || self.directory.cluster.propose(shard, Command::Shard(command.clone()));
        match retried(propose).await? {
            Outcome::Done => Ok(()),
            Outcome::TierRefused(refusal) => Err(refused(what, &refusal)),
            Outcome::GroupRefused(refusal) => Err(refused(what, &format!("{refusal:?}"))),
            other @ (Outcome::Appended(_) | Outcome::Catalog { .. } | Outcome::TermChanged) => {
                Err(refused(what, &format!("{other:?}")))
            }
        }
    }
}

/// Topics or offsets in one command.
const BATCH: usize = 1_000;

/// How long a command is repeated while a shard does not take it.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);

/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Repeats a command until a shard takes it. Each command of a restore may be repeated.
async fn retried<T, F: Future<Output = Result<T, ProposeError>>>(
    propose: impl Fn() -> F,
) -> Result<T, ProposeError> {
    let until = Instant::now() + RETRY_TIME_MAX;
    loop {
        match propose().await {
            Err(error) if error.certainty() == Certainty::Refused || Instant::now() >= until => {
                return Err(error);
            }
            Err(error) => {
                info!(%error, "a shard does not take a command yet, will retry");
                sleep(RETRY_PAUSE).await;
            }
            Ok(done) => return Ok(done),
        }
    }
}

fn refused(what: &str, why: &dyn std::fmt::Display) -> RestoreError {
    RestoreError::Refused { what: what.to_owned(), why: why.to_string() }
}

fn committed(offset: &GroupOffset) -> (PartitionId, OffsetCommit) {
    let GroupOffset { topic, index, offset, leader_epoch, expires_ms, metadata, .. } =
        offset.clone();
    let partition = PartitionId { topic: TopicId(topic), index };
    (partition, OffsetCommit { offset, leader_epoch, metadata, expires_ms })
}

fn restored_producer(producer: &Producer) -> RestoredProducer {
    let batch = |batch: &ropewalk_tier::ProducerBatch| RestoredBatch {
        first_sequence: batch.first_sequence,
        last_sequence: batch.last_sequence,
        base_offset: batch.base_offset,
        timestamp_ms: batch.timestamp_ms,
    };
    RestoredProducer {
        id: producer.id,
        epoch: producer.epoch,
        batches: producer.batches.iter().map(batch).collect(),
    }
}
