//! Creation, growth and deletion of topics: validation first, then the catalog, then the shards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ropewalk_node::Node;
use ropewalk_shard::command::{self, CatalogCommand, Command, ConfigResource, PartitionPlacement};
use ropewalk_shard::state::catalog::{Answer, Refusal};
use ropewalk_shard::{Outcome, PartitionId, ProposeError, ShardId, TopicId};

use tracing::{info, warn};

use super::{Reconciler, TopicView, View, name, placement, replicas};
use crate::cluster::Holders;
use crate::limits;
use crate::settings::topic::TopicConfig;
use crate::settings::{self, Settings};

/// A topic to be created.
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// The name of the topic.
    pub name: String,
    /// The number of partitions; `None` for `num.partitions`.
    pub partitions: Option<i32>,
    /// The topic's own configuration.
    pub configs: Vec<(String, String)>,
    /// The uid of the object that declared it.
    pub owner: Option<String>,
}

/// A topic that was created, or validated only.
#[derive(Debug, Clone)]
pub struct CreatedTopic {
    /// The topic id; nil when it was only validated.
    pub id: TopicId,
    /// The number of partitions.
    pub partitions: i32,
}

/// Why a topic was not created, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The name is invalid.
    #[error("{0}")]
    InvalidName(String),
    /// The number of partitions is invalid.
    #[error("{0}")]
    InvalidPartitions(String),
    /// A configuration key or value is invalid.
    #[error("{0}")]
    InvalidConfig(String),
    /// The broker has its maximum number of partitions.
    #[error("{0}")]
    TooMany(String),
    /// The queue has its maximum number of bound groups.
    #[error("{0}")]
    TooManyGroups(String),
    /// The fencing epoch is out of bounds.
    #[error("{0}")]
    InvalidEpoch(String),
    /// The catalog refused the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The command was not applied, or its outcome is unknown.
    #[error(transparent)]
    Unavailable(#[from] ProposeError),
    /// The catalog lists the partitions, and not all of them are open. They are opened as soon as
    /// their shards can do so.
    #[error("the partitions exist, and some do not accept records yet: {0}")]
    NotOpen(ProposeError),
}

/// Creates, changes and deletes topics.
#[derive(Debug)]
pub struct Topics {
    pub(super) node: Arc<Node>,
    pub(super) view: Arc<View>,
    pub(super) settings: Arc<Settings>,
    pub(super) reconciler: Arc<Reconciler>,
    /// Whether the producer ids that a catalog may have issued before its repair were skipped since
    /// the start.
    skipped_ids: AtomicBool,
}

impl Topics {
    /// Manages the topics of `node`.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        view: Arc<View>,
        settings: Arc<Settings>,
        reconciler: Arc<Reconciler>,
    ) -> Self {
        Self { node, view, settings, reconciler, skipped_ids: AtomicBool::new(false) }
    }

    /// Creates topics independently of each other; `validate_only` stops before the catalog.
    /// Returns once their partitions accept records.
    pub async fn create(
        &self,
        wanted: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<CreatedTopic, TopicError>> {
        let mut results: Vec<Result<CreatedTopic, TopicError>> = Vec::with_capacity(wanted.len());
        let mut proposed = Vec::new();
        let mut room = limits::PARTITIONS_MAX.saturating_sub(self.view.partition_count());
        for topic in wanted {
            let checked = self.check(&topic, room);
            if let Ok(count) = checked
                && !validate_only
            {
                room -= count;
                proposed.push((results.len(), self.draw(topic, count)));
            }
            results.push(checked.map(|count| CreatedTopic {
                id: TopicId(uuid::Uuid::nil()),
                partitions: i32::try_from(count).expect("bounded by check"),
            }));
        }
        if !proposed.is_empty() {
            self.propose(proposed, &mut results).await;
        }
        results
    }

    /// Validates a topic. Returns its number of partitions.
    fn check(&self, topic: &NewTopic, room: usize) -> Result<usize, TopicError> {
        name::check(&topic.name).map_err(TopicError::InvalidName)?;
        if self.view.by_name(&topic.name).is_some() {
            return Err(Refusal::TopicExists { name: topic.name.clone() }.into());
        }
        let count = topic.partitions.unwrap_or_else(|| self.settings.num_partitions());
        let positive = usize::try_from(count).ok().filter(|count| *count > 0);
        let count = positive.ok_or_else(|| {
            TopicError::InvalidPartitions(format!(
                "the number of partitions is {count}, must be larger than 0"
            ))
        })?;
        check_room(count, room)?;
        for (key, value) in &topic.configs {
            settings::topic::validate(key, value).map_err(TopicError::InvalidConfig)?;
        }
        self.check_tier(&topic.name, &topic.configs)?;
        Ok(count)
    }

    /// Checks what the whole configuration of a topic says of its tier. The topic need not exist.
    ///
    /// # Errors
    /// [`TopicError::InvalidConfig`].
    pub fn check_tier(&self, name: &str, configs: &[(String, String)]) -> Result<(), TopicError> {
        let known = self.view.by_name(name);
        let pairs = configs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let config = TopicConfig::resolve(&self.settings, pairs);
        let has_bucket = self.settings.tier().is_ok_and(|tier| tier.is_some());
        let before = known.as_ref().map(|topic| &topic.config);
        config.check_tier(has_bucket, before).map_err(TopicError::InvalidConfig)
    }

    fn draw(&self, topic: NewTopic, count: usize) -> command::NewTopic {
        let id = random_topic_id();
        command::NewTopic {
            id,
            name: topic.name,
            partitions: self.place(id, 0, count),
            configs: topic.configs,
            owner: topic.owner,
        }
    }

    /// The shards for partitions of a topic, among those that the catalog lists. Damaged shards are
    /// avoided.
    pub(crate) fn place(
        &self,
        topic: TopicId,
        first: usize,
        count: usize,
    ) -> Vec<PartitionPlacement> {
        let listed = self.data_shards();
        let is_sound = |shard: &ShardId| !self.reconciler.is_lost(*shard);
        let sound: Vec<ShardId> = listed.iter().copied().filter(is_sound).collect();
        placement::homes(topic, first..first + count, &listed, &sound)
    }

    /// The shards of partitions, which the catalog lists.
    #[must_use]
    pub fn data_shards(&self) -> Vec<ShardId> {
        let state = self.node.catalog().state();
        let listed = state.catalog.iter().flat_map(|catalog| catalog.shards.keys().copied());
        listed.filter(|shard| *shard != ShardId::CATALOG).collect()
    }

    /// The number of replicas that the cluster keeps of each partition: one or three, as of the
    /// shard with the most. A shard that moves to another broker has one more until the move ends.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        let held = |shard| {
            let Holders { voters, learners, .. } = self.reconciler.cluster().holders(shard);
            voters.into_iter().chain(learners).collect::<BTreeSet<_>>().len()
        };
        let most = self.data_shards().into_iter().map(held).max();
        replicas::replication_factor(most.unwrap_or(1))
    }

    /// Checks that `min.insync.replicas` of a topic is at most the majority that acknowledges a
    /// record. Other keys, and values that are no numbers, are not checked here.
    ///
    /// # Errors
    /// [`TopicError::InvalidConfig`].
    pub fn check_in_sync(&self, key: &str, value: &str) -> Result<(), TopicError> {
        let asked = value.trim().parse::<u64>();
        let Some(asked) = asked.ok().filter(|_| key == "min.insync.replicas") else {
            return Ok(());
        };
        let replicas = self.replication_factor();
        let majority = replicas / 2 + 1;
        if asked <= majority as u64 {
            return Ok(());
        }
        Err(TopicError::InvalidConfig(format!(
            "Invalid value {asked} for configuration {key}: Value must be at most {majority}, a majority of \
             the {replicas} replicas that the cluster keeps"
        )))
    }

    /// Partitions that are kept although the catalog does not list their topic.
    #[must_use]
    pub fn orphans(&self) -> Vec<PartitionId> {
        self.reconciler.orphans()
    }

    /// Opens the partitions of a topic, which the catalog lists.
    ///
    /// # Errors
    /// When a shard has no leader.
    pub(crate) async fn open(&self, id: TopicId) -> Result<(), ProposeError> {
        self.reconciler.converge(&[id]).await
    }

    async fn propose(
        &self,
        proposed: Vec<(usize, command::NewTopic)>,
        results: &mut [Result<CreatedTopic, TopicError>],
    ) {
        let (places, topics): (Vec<usize>, Vec<_>) = proposed.into_iter().unzip();
        let made = match self.catalog(CatalogCommand::CreateTopics(topics)).await {
            Ok(Answer::Topics(made)) => made,
            Ok(_) => unreachable!("the outcome matches the command"),
            Err(error) => {
                places.into_iter().for_each(|at| results[at] = Err(error.into()));
                return;
            }
        };
        let ids: Vec<TopicId> = made.iter().filter_map(|m| m.as_ref().ok().copied()).collect();
        let opened = self.reconciler.converge(&ids).await;
        for (at, made) in places.into_iter().zip(made) {
            match (made, &opened, &mut results[at]) {
                (Ok(id), Ok(()), Ok(created)) => created.id = id,
                (Ok(_), Err(error), slot) => *slot = Err(TopicError::NotOpen(*error)),
                (Err(refusal), _, slot) => *slot = Err(refusal.into()),
                (Ok(_), Ok(()), Err(_)) => unreachable!("only checked topics are proposed"),
            }
        }
    }

    /// Deletes topics by id, with one result each. Their partitions may be closed later: what the
    /// catalog has deleted stays deleted.
    ///
    /// # Errors
    /// When the catalog is not available.
    pub async fn delete(
        &self,
        ids: Vec<TopicId>,
    ) -> Result<Vec<Result<TopicId, Refusal>>, ProposeError> {
        let known: Vec<_> = ids.iter().filter_map(|id| self.view.by_id(*id)).collect();
        let Answer::Topics(deleted) = self.catalog(CatalogCommand::DeleteTopics(ids)).await? else {
            unreachable!("the outcome matches the command")
        };
        let gone: Vec<TopicId> = deleted.iter().filter_map(|d| d.as_ref().ok().copied()).collect();
        for topic in known.iter().filter(|topic| gone.contains(&topic.id)) {
            log_deletion(topic);
        }
        if let Err(error) = self.reconciler.close_deleted(&gone).await {
            warn!(%error, "closing partitions of deleted topics failed, will retry");
        }
        Ok(deleted)
    }

    /// Grows a topic to `total` partitions; they accept records when this returns.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn grow(
        &self,
        topic: &TopicView,
        total: i32,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let current = topic.partitions.len();
        let wanted = usize::try_from(total).unwrap_or(0);
        if wanted <= current {
            return Err(TopicError::InvalidPartitions(format!(
                "the topic has {current} partitions; {total} is not an increase"
            )));
        }
        let room = limits::PARTITIONS_MAX.saturating_sub(self.view.partition_count());
        check_room(wanted - current, room)?;
        if validate_only {
            return Ok(());
        }
        let partitions = self.place(topic.id, current, wanted - current);
        let command =
            CatalogCommand::AddPartitions { topic: topic.id, expected: current, partitions };
        self.expect_done(command).await?;
        self.reconciler.converge(&[topic.id]).await.map_err(TopicError::NotOpen)
    }

    /// Sets (`Some`) or clears (`None`) configuration keys, which are already validated.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn alter_configs(
        &self,
        resource: ConfigResource,
        changes: Vec<(String, Option<String>)>,
    ) -> Result<(), TopicError> {
        self.expect_done(CatalogCommand::AlterConfigs { resource, changes }).await
    }

    /// Allocates a new block of `count` producer ids. Returns the first one.
    ///
    /// A repaired catalog may have lost blocks that it issued. If an id were issued twice, one
    /// producer's records would count as duplicates of another's, so such a catalog skips more ids
    /// than it can have issued.
    ///
    /// # Errors
    /// When the catalog is not available.
    pub async fn allocate_producer_ids(&self, count: i64) -> Result<i64, ProposeError> {
        if self.reconciler.is_catalog_repaired() && !self.skipped_ids.load(Ordering::Acquire) {
            self.allocate(limits::PRODUCER_IDS_LEFT_OUT).await?;
            self.skipped_ids.store(true, Ordering::Release);
        }
        self.allocate(count).await
    }

    async fn allocate(&self, count: i64) -> Result<i64, ProposeError> {
        let allocate = CatalogCommand::AllocateProducerIds { count };
        let Answer::ProducerIds(first) = self.catalog(allocate).await? else {
            unreachable!("the outcome matches the command")
        };
        Ok(first)
    }

    /// Waits until the view shows everything that was committed in the catalog before this call,
    /// and no other broker leads it unnoticed.
    pub(super) async fn catalog_barrier(&self) -> Result<(), ProposeError> {
        if self.leads_catalog() {
            return self.node.catalog().read_barrier().await;
        }
        // The revision of a command that changes nothing is that of all before it.
        self.catalog(CatalogCommand::DeleteTopics(Vec::new())).await.map(|_| ())
    }

    pub(super) fn leads_catalog(&self) -> bool {
        self.node.shard(ShardId::CATALOG).is_some_and(|shard| shard.leading().is_some())
    }

    async fn wait_for(&self, revision: u64) -> Result<(), ProposeError> {
        let mut shown = self.view.changed();
        let shows = shown.wait_for(|shown| *shown >= revision);
        match tokio::time::timeout(VIEW_LAG_MAX, shows).await {
            Ok(Ok(_)) => Ok(()),
            // The catalog was changed, and this broker does not know the result.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    async fn expect_done(&self, command: CatalogCommand) -> Result<(), TopicError> {
        let answer = self.catalog(command).await?;
        if let Answer::Refused(refusal) = answer { Err(refusal.into()) } else { Ok(()) }
    }

    /// Changes the catalog, wherever it is led, and returns when this broker's view has the change.
    pub(crate) async fn catalog(&self, command: CatalogCommand) -> Result<Answer, ProposeError> {
        let command = Command::Catalog(command);
        match self.reconciler.cluster().propose(ShardId::CATALOG, command).await? {
            Outcome::Catalog { revision, answer } => {
                self.wait_for(revision).await?;
                Ok(answer)
            }
            // Nothing was changed; the client may ask the next leader.
            Outcome::TermChanged => Err(ProposeError::NotLeader),
            Outcome::Done
            | Outcome::Appended(_)
            | Outcome::GroupRefused(_)
            | Outcome::TierRefused(_) => {
                unreachable!("the outcome matches the command")
            }
        }
    }
}

/// How long the view of a broker that does not lead the catalog may lag behind a change.
const VIEW_LAG_MAX: Duration = Duration::from_secs(10);

/// Logs that a topic was deleted with its records.
pub(super) fn log_deletion(topic: &TopicView) {
    info!(topic = &*topic.name, id = %topic.id, partitions = topic.partitions.len(), "topic deleted");
}

pub(super) fn check_room(count: usize, room: usize) -> Result<(), TopicError> {
    if count > limits::TOPIC_PARTITIONS_MAX {
        let max = limits::TOPIC_PARTITIONS_MAX;
        return Err(TopicError::InvalidPartitions(format!(
            "the number of partitions is {count}, must be at most {max}"
        )));
    }
    if count > room {
        return Err(TopicError::TooMany(format!(
            "{count} partitions do not fit: the broker has room for {room} more, with a limit of {} in all; \
             delete queues or use fewer partitions",
            limits::PARTITIONS_MAX
        )));
    }
    Ok(())
}

/// A new topic id. Kafka reserves the nil id and the one after it; neither is ever drawn.
pub(crate) fn random_topic_id() -> TopicId {
    TopicId(uuid::Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_partitions_fit_as_there_is_room_for() {
        assert_eq!(check_room(5, 5), Ok(()));
        assert!(
            matches!(check_room(6, 5), Err(TopicError::TooMany(why)) if why.contains("5 more"))
        );
        let max = limits::TOPIC_PARTITIONS_MAX;
        assert_eq!(check_room(max, usize::MAX), Ok(()));
        assert!(matches!(check_room(max + 1, usize::MAX), Err(TopicError::InvalidPartitions(_))));
    }
}
