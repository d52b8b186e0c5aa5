//! The catalog: which topics, shards and brokers exist, and how they are configured.
//!
//! It holds the intent. Partitions come to exist in their shards when a reconciler has asked
//! for them there, and it repeats that until the shards confirm.
//!
//! # Invariants
//!
//! - A command under an epoch is carried out only if no newer epoch was claimed before it; check and
//!   change are one entry, so nothing falls between them.
//! - A topic that has an owner is changed, released and bound to by that owner alone. [`declare`] holds
//!   what an owner may ask.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{CatalogCommand, ConfigResource, NewTopic, PartitionHome};
use crate::id::{BrokerId, ReplicaId, SLOTS, ShardId, TopicId, slot};
use crate::limits;

mod declare;
mod foresee;

pub use declare::{Binding, DeclareOutcome};

/// The state of shard 0 beside what any shard has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The cluster's identity, given when it was formatted.
    pub cluster_id: String,
    /// Every shard and its replicas.
    pub shards: BTreeMap<ShardId, ShardInfo>,
    /// Every broker that ever joined.
    pub brokers: BTreeMap<BrokerId, BrokerInfo>,
    /// Slot to shard; [`SLOTS`] long.
    pub slots: Vec<ShardId>,
    /// Every topic.
    pub topics: BTreeMap<TopicId, Topic>,
    /// The same by name.
    pub names: BTreeMap<String, TopicId>,
    /// Configuration that was set at run time.
    pub configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    /// The next producer id to hand out.
    pub next_producer_id: i64,
    /// The next replica id to give; never goes back.
    pub next_replica_id: u64,
    /// The operator's fencing epoch.
    pub fence: Option<Fence>,
    /// Counts changes, so that a reader can tell whether it has seen this one.
    pub revision: u64,
    /// The groups that are bound to each topic.
    pub bindings: BTreeMap<TopicId, BTreeMap<String, Binding>>,
}

/// A shard's replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Replica to the broker that holds it.
    pub replicas: BTreeMap<ReplicaId, BrokerId>,
}

/// A broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// `broker.rack`.
    pub rack: Option<String>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Where each partition lives.
    pub partitions: Vec<PartitionHome>,
    /// The uid of the object that declared it.
    pub owner: Option<String>,
    /// The leader's clock when it was made, Unix milliseconds.
    pub created_ms: i64,
}

/// Who may change things from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Who holds it.
    pub holder: String,
    /// The uid of the Lease it won.
    pub lease_uid: String,
    /// Grows with every claim.
    pub epoch: u64,
}

/// What a catalog command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// One result per topic, in the order asked.
    Topics(Vec<Result<TopicId, Refusal>>),
    /// The first id of the block.
    ProducerIds(i64),
    /// The epoch to act under, and who claimed the one before it.
    Fence {
        /// The new epoch.
        epoch: u64,
        /// The claim that it supersedes; `None` when there was none, or it is not known who made it.
        previous: Option<Fence>,
    },
    /// The topic is as it was declared.
    Declared(DeclareOutcome),
    /// The topic was given up.
    Released {
        /// Whether it is gone.
        deleted: bool,
    },
    /// Refused as a whole.
    Refused(Refusal),
}

/// What a command touched: a reader that keeps a view looks at these again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These topics were made, altered or deleted.
    Topics(Vec<TopicId>),
    /// Configuration of this resource.
    Configs(ConfigResource),
    /// Neither.
    Other,
}

/// Why the catalog changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is taken.
    #[error("topic '{name}' already exists")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// Two names that differ only in `.` and `_` would share a metric name.
    #[error("topic '{name}' collides with existing topic '{other}'")]
    NameCollision {
        /// What was asked.
        name: String,
        /// What is there.
        other: String,
    },
    /// No such topic.
    #[error("no such topic")]
    NoSuchTopic,
    /// The topic changed in between.
    #[error("the topic has {actual} partitions, not {expected}")]
    PartitionCountChanged {
        /// What the proposer saw.
        expected: usize,
        /// What there is.
        actual: usize,
    },
    /// Nobody owns it, so nobody may act as its owner.
    #[error("nobody owns the topic")]
    NotOwned,
    /// The topic was made, deleted or made anew since the proposer looked.
    #[error("the topic changed meanwhile")]
    Replaced,
    /// Another operator took over.
    #[error("epoch {newest} was claimed since")]
    StaleEpoch {
        /// The newest that was claimed.
        newest: u64,
    },
    /// An epoch that was never given out here, and is too high to begin from: too few could be given
    /// out after it.
    #[error(
        "epoch {epoch} was never given out here and is over {}; the newest is {newest}: claim one",
        limits::FENCE_EPOCH_ADOPTED_MAX
    )]
    EpochTooHigh {
        /// What the caller acts under.
        epoch: u64,
        /// The newest that was claimed.
        newest: u64,
    },
    /// Another object owns it.
    #[error("the topic is owned by {owner}")]
    OwnedByAnother {
        /// The owner's uid.
        owner: String,
    },
}

impl Catalog {
    /// A new cluster of one broker: `shards` shards beside the catalog, all of them on `broker`,
    /// each with one replica whose id is the shard's number plus one.
    #[must_use]
    pub fn first(cluster_id: String, broker: BrokerId, shards: u32) -> Self {
        let replica = |shard: u32| ReplicaId(u64::from(shard) + 1);
        let info = |shard| ShardInfo { replicas: BTreeMap::from([(replica(shard), broker)]) };
        Self {
            cluster_id,
            shards: (0..=shards).map(|shard| (ShardId(shard), info(shard))).collect(),
            brokers: BTreeMap::from([(broker, BrokerInfo::default())]),
            slots: (0..SLOTS as u32).map(|slot| ShardId(1 + slot % shards)).collect(),
            next_producer_id: 1000,
            next_replica_id: u64::from(shards) + 2,
            ..Self::default()
        }
    }

    /// The shard that is home to a group or transactional id.
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

    /// What was set at run time for a resource.
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
        }
    }

    fn create(&mut self, time_ms: i64, new: NewTopic) -> Result<TopicId, Refusal> {
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
        Ok(id)
    }

    fn add_partitions(
        &mut self,
        id: TopicId,
        expected: usize,
        partitions: Vec<PartitionHome>,
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

    /// Every claim is a new number, also by the same holder: it may have been away in between.
    fn claim_fence(&mut self, holder: String, lease_uid: String) -> Answer {
        let epoch = self.epoch().saturating_add(1);
        let previous = self.fence.replace(Fence { holder, lease_uid, epoch });
        // An epoch that came from outside has no claimant.
        let previous = previous.filter(|fence| !fence.lease_uid.is_empty());
        Answer::Fence { epoch, previous }
    }

    /// An epoch that was never given out here is one from before this data was made anew: it becomes
    /// the newest, so that the numbers never go back for an operator either.
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

/// Kafka's rule: names that differ only in `.` and `_` may not exist side by side.
fn collide(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes().zip(b.bytes()).all(|(a, b)| {
            let flat = |c| if c == b'.' { b'_' } else { c };
            flat(a) == flat(b)
        })
}
