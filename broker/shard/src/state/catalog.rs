//! The catalog: which topics, shards and brokers exist, and how they are configured.
//!
//! The catalog is the desired state. A reconciler in the broker creates and removes the partitions
//! in their shards, and retries until the shards match.
//!
//! # Invariants
//!
//! - A command with a fencing epoch is carried out only if no newer epoch was claimed before it.
//!   Check and change happen in one entry.
//! - Partitions are closed only with a [`Deletion`], which only this module makes: no view of the
//!   catalog, however old, can close a partition of a topic that exists. A topic id that was used
//!   once is refused for ever, or until [`limits::TOMBSTONES_MAX`] later topics were deleted.
//! - Only the owner of a topic may change it, release it or bind groups to it. `declare` has the
//!   commands of owners.
//! - A replica id or broker id that was used once is never used again. Every shard keeps a voter.
//!   `brokers` has the commands of brokers and replicas.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::{CatalogCommand, ConfigResource, FORMAT_MAX, NewTopic, PartitionPlacement};
#[cfg(doc)]
use crate::deletion::Deletion;
use crate::id::{BrokerId, ReplicaId, SLOTS, ShardId, TopicId, slot};
use crate::limits;
use crate::manifest::BucketClaim;

mod answer;
mod brokers;
mod claim;
mod declare;
mod level;
mod tombstones;
mod unchanged;

pub use crate::placement::{BrokerInfo, PeerEndpoint, PlacedReplica, Role, ShardInfo, Standing};
pub use answer::{Answer, Change, DeclareOutcome, Refusal};
pub use declare::Binding;

/// The part of the state that only shard 0 has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The cluster id, assigned when the cluster was formatted.
    pub cluster_id: String,
    /// Every shard and its replicas.
    pub shards: BTreeMap<ShardId, ShardInfo>,
    /// Every broker that joined and was not removed.
    pub brokers: BTreeMap<BrokerId, BrokerInfo>,
    /// The shard of each hash slot; [`SLOTS`] long.
    pub slots: Vec<ShardId>,
    /// All topics, by id.
    pub topics: BTreeMap<TopicId, Topic>,
    /// The id of each topic, by name.
    pub names: BTreeMap<String, TopicId>,
    /// Configuration that was set at run time.
    pub configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    /// The next producer id to allocate.
    pub next_producer_id: i64,
    /// The next replica id to assign; it only grows.
    pub next_replica_id: u64,
    /// The operator's fencing epoch.
    pub fence: Option<Fence>,
    /// Number of applied catalog commands, by which readers detect changes.
    pub revision: u64,
    /// The groups that are bound to each topic.
    pub bindings: BTreeMap<TopicId, BTreeMap<String, Binding>>,
    /// The revision in which each deleted topic was deleted; at most [`limits::TOMBSTONES_MAX`].
    pub tombstones: BTreeMap<TopicId, u64>,
    /// The feature level of the cluster: see [`crate::command`]; 0 before the first report.
    pub level: u8,
    /// The newest format that each broker reads, as it reported.
    pub levels: BTreeMap<BrokerId, u8>,
    /// The brokers that were removed for good; at most [`limits::FORGOTTEN_BROKERS_MAX`].
    pub removed_brokers: BTreeSet<BrokerId>,
    /// The claim of the bucket for older records; `None` before the first one.
    pub claim: Option<BucketClaim>,
}

/// What the catalog stores of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// The topic's name.
    pub name: String,
    /// Placement of each partition.
    pub partitions: Vec<PartitionPlacement>,
    /// The uid of the object that declared it.
    pub owner: Option<String>,
    /// The leader's clock at the creation, Unix milliseconds.
    pub created_ms: i64,
}

/// The operator that may change the catalog through the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The operator's identity.
    pub holder: String,
    /// The uid of the Lease that it acquired.
    pub lease_uid: String,
    /// The fencing epoch; grows with every claim.
    pub epoch: u64,
}

impl Catalog {
    /// The catalog of a new cluster of one broker: `shards` shards and shard 0, all of them on
    /// `broker`, each with one replica whose id is the shard's number plus one.
    #[must_use]
    pub fn first(cluster_id: String, broker: BrokerId, shards: u32) -> Self {
        let replica = |shard: u32| ReplicaId(u64::from(shard) + 1);
        let info = |shard| ShardInfo::lone(replica(shard), broker);
        Self {
            cluster_id,
            shards: (0..=shards).map(|shard| (ShardId(shard), info(shard))).collect(),
            brokers: BTreeMap::from([(broker, BrokerInfo::default())]),
            slots: (0..SLOTS as u32).map(|slot| ShardId(1 + slot % shards)).collect(),
            next_producer_id: 1000,
            next_replica_id: u64::from(shards) + 2,
            level: FORMAT_MAX,
            levels: BTreeMap::from([(broker, FORMAT_MAX)]),
            ..Self::default()
        }
    }

    /// The shard that holds a group or transactional id.
    #[must_use]
    pub fn shard_of(&self, id: &str) -> ShardId {
        self.slots.get(slot(id)).copied().unwrap_or(ShardId(1))
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<(TopicId, &Topic)> {
        let id = *self.names.get(name)?;
        self.topics.get(&id).map(|topic| (id, topic))
    }

    /// The configuration of a resource that was set at run time.
    pub fn configs(&self, resource: &ConfigResource) -> impl Iterator<Item = (&str, &str)> {
        let set = self.configs.get(resource).into_iter().flatten();
        set.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Applies one command.
    pub(crate) fn apply(&mut self, time_ms: i64, command: CatalogCommand) -> (Answer, Change) {
        self.revision += 1;
        self.change(time_ms, command)
    }

    fn change(&mut self, time_ms: i64, command: CatalogCommand) -> (Answer, Change) {
        match command {
            CatalogCommand::CreateTopics(topics) => {
                let ids = topics.iter().map(|topic| topic.id).collect();
                let made = topics.into_iter().map(|t| self.create(time_ms, t)).collect();
                (Answer::Topics(made), Change::Topics(ids))
            }
            CatalogCommand::DeleteTopics(ids) => {
                let deleted = ids.iter().map(|id| self.delete(*id)).collect();
                (Answer::Topics(deleted), Change::Topics(ids))
            }
            CatalogCommand::AddPartitions { topic, expected, partitions } => {
                let added = self.add_partitions(topic, expected, partitions);
                (answer(added), Change::Topics(vec![topic]))
            }
            CatalogCommand::AlterConfigs { resource, changes } => {
                let change = Change::Configs(resource.clone());
                (answer(self.alter_configs(resource, changes)), change)
            }
            CatalogCommand::AllocateProducerIds { count } => {
                let first = self.next_producer_id;
                self.next_producer_id = first.saturating_add(count.max(0));
                (Answer::ProducerIds(first), Change::Other)
            }
            CatalogCommand::SetOwner { topic, owner } => {
                (answer(self.set_owner(topic, owner)), Change::Topics(vec![topic]))
            }
            CatalogCommand::ClaimFence { holder, lease_uid } => {
                (self.claim_fence(holder, lease_uid), Change::Other)
            }
            CatalogCommand::Fenced { epoch, command } => match self.admit(epoch) {
                Ok(()) => self.change(time_ms, *command),
                Err(refusal) => (Answer::Refused(refusal), Change::Other),
            },
            CatalogCommand::DeclareTopic { topic, exists } => {
                let change = Change::Topics(vec![topic.id]);
                let declared = self.declare(time_ms, topic, exists);
                (declared.map_or_else(Answer::Refused, Answer::Declared), change)
            }
            CatalogCommand::ReleaseTopic { topic, owner, delete } => {
                let released = self.release(topic, &owner, delete);
                let released = released.map(|deleted| Answer::Released { deleted });
                (released.unwrap_or_else(Answer::Refused), Change::Topics(vec![topic]))
            }
            CatalogCommand::BindGroup { topic, owner, group, start } => {
                let bound = self.bind(topic, &owner, group, start);
                (answer(bound), Change::Topics(vec![topic]))
            }
            CatalogCommand::UnbindGroup { topic, owner, group } => {
                let unbound = self.unbind(topic, &owner, &group);
                (answer(unbound), Change::Topics(vec![topic]))
            }
            CatalogCommand::AbandonTopics(ids) => {
                let abandoned = ids.into_iter().map(|id| self.abandon(id)).collect();
                (Answer::Topics(abandoned), Change::Other)
            }
            CatalogCommand::ReportLevel { broker, level } => {
                self.report_level(broker, level);
                (Answer::Done, Change::Other)
            }
            CatalogCommand::RecordClaim(claim) => (answer(self.record_claim(claim)), Change::Other),
            CatalogCommand::RegisterBroker { .. }
            | CatalogCommand::ForgetBroker { .. }
            | CatalogCommand::SetStanding { .. }
            | CatalogCommand::PlaceReplica { .. }
            | CatalogCommand::SetRole { .. }
            | CatalogCommand::RemoveReplica { .. }
            | CatalogCommand::ChangeStanding { .. } => {
                (self.change_placement(command), Change::Placement)
            }
        }
    }

    fn create(&mut self, time_ms: i64, new: NewTopic) -> Result<TopicId, Refusal> {
        if self.topics.contains_key(&new.id) || self.tombstones.contains_key(&new.id) {
            return Err(Refusal::IdUsed { id: new.id });
        }
        if self.names.contains_key(&new.name) {
            return Err(Refusal::TopicExists { name: new.name });
        }
        if new.name.contains(['.', '_'])
            && let Some(other) = self.names.keys().find(|other| collide(other, &new.name))
        {
            return Err(Refusal::NameCollision { name: new.name, other: other.clone() });
        }
        if !new.configs.is_empty() {
            let resource = ConfigResource::Topic(new.id);
            self.configs.insert(resource, new.configs.into_iter().collect());
        }
        self.names.insert(new.name.clone(), new.id);
        let topic = Topic {
            name: new.name,
            partitions: new.partitions,
            owner: new.owner,
            created_ms: time_ms,
        };
        self.topics.insert(new.id, topic);
        Ok(new.id)
    }

    fn delete(&mut self, id: TopicId) -> Result<TopicId, Refusal> {
        let topic = self.topics.remove(&id).ok_or(Refusal::NoSuchTopic)?;
        self.names.remove(&topic.name);
        self.configs.remove(&ConfigResource::Topic(id));
        self.bindings.remove(&id);
        self.bury(id);
        Ok(id)
    }

    fn add_partitions(
        &mut self,
        id: TopicId,
        expected: usize,
        partitions: Vec<PartitionPlacement>,
    ) -> Result<(), Refusal> {
        let topic = self.topics.get_mut(&id).ok_or(Refusal::NoSuchTopic)?;
        let actual = topic.partitions.len();
        if actual != expected {
            return Err(Refusal::PartitionCountChanged { expected, actual });
        }
        topic.partitions.extend(partitions);
        Ok(())
    }

    fn alter_configs(
        &mut self,
        resource: ConfigResource,
        changes: Vec<(String, Option<String>)>,
    ) -> Result<(), Refusal> {
        if let ConfigResource::Topic(id) = &resource
            && !self.topics.contains_key(id)
        {
            return Err(Refusal::NoSuchTopic);
        }
        let set = self.configs.entry(resource.clone()).or_default();
        for (key, value) in changes {
            match value {
                Some(value) => set.insert(key, value),
                None => set.remove(&key),
            };
        }
        if set.is_empty() {
            self.configs.remove(&resource);
        }
        Ok(())
    }

    fn set_owner(&mut self, id: TopicId, owner: Option<String>) -> Result<(), Refusal> {
        let topic = self.topics.get_mut(&id).ok_or(Refusal::NoSuchTopic)?;
        match (&topic.owner, &owner) {
            (Some(current), Some(new)) if current != new => {
                return Err(Refusal::OwnedByAnother { owner: current.clone() });
            }
            _ => topic.owner = owner,
        }
        Ok(())
    }

    /// The newest epoch that was claimed; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.fence.as_ref().map_or(0, |fence| fence.epoch)
    }

    /// Every claim gets a new epoch, also one by the same holder: it may have restarted in between.
    fn claim_fence(&mut self, holder: String, lease_uid: String) -> Answer {
        let epoch = self.epoch().saturating_add(1);
        let previous = self.fence.replace(Fence { holder, lease_uid, epoch });
        // An adopted epoch has no claimant.
        let previous = previous.filter(|fence| !fence.lease_uid.is_empty());
        Answer::Fence { epoch, previous }
    }

    /// Checks an operator's epoch. One that this catalog did not issue is from before its data was
    /// recreated. It is adopted as the newest, so that epochs never decrease for an operator.
    fn admit(&mut self, epoch: u64) -> Result<(), Refusal> {
        let newest = self.epoch();
        if epoch < newest {
            return Err(Refusal::StaleEpoch { newest });
        }
        if epoch > newest {
            if epoch > limits::FENCE_EPOCH_ADOPTED_MAX {
                return Err(Refusal::EpochTooHigh { epoch, newest });
            }
            self.fence = Some(Fence { holder: String::new(), lease_uid: String::new(), epoch });
        }
        Ok(())
    }
}

fn answer(result: Result<(), Refusal>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(refusal) => Answer::Refused(refusal),
    }
}

/// Kafka's rule: two topics may not have names that differ only in `.` and `_`.
fn collide(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes().zip(b.bytes()).all(|(a, b)| {
            let flat = |c| if c == b'.' { b'_' } else { c };
            flat(a) == flat(b)
        })
}
