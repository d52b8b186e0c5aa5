//! What the catalog answers to commands, and what they change.

use serde::{Deserialize, Serialize};

use super::Fence;
use crate::command::ConfigResource;
use crate::id::{BrokerId, ReplicaId, ShardId, TopicId};
use crate::limits;

/// The answer to a catalog command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The command succeeded and has no other result.
    Done,
    /// One result per topic, in the order of the command.
    Topics(Vec<Result<TopicId, Refusal>>),
    /// The first id of the block.
    ProducerIds(i64),
    /// A claim of a fencing epoch succeeded.
    Fence {
        /// The epoch that the operator has to send from now on.
        epoch: u64,
        /// The claim that it supersedes; `None` if there was none or its claimant is unknown.
        previous: Option<Fence>,
    },
    /// The topic is as it was declared.
    Declared(DeclareOutcome),
    /// The owner no longer owns the topic.
    Released {
        /// Whether the topic was deleted.
        deleted: bool,
    },
    /// Refused as a whole.
    Refused(Refusal),
    /// The broker has this replica of the shard.
    Replica(ReplicaId),
}

/// The result of a declaration: the topic is as its owner declared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclareOutcome {
    /// The topic's id.
    pub id: TopicId,
    /// Number of partitions: as many as were declared, or more.
    pub partitions: usize,
    /// Whether the topic was created.
    pub created: bool,
    /// Whether the topic existed without an owner.
    pub adopted: bool,
    /// What was reconciled: `partitions`, `config.KEY`.
    pub changed: Vec<String>,
}

/// What a command changed: views of these parts of the catalog have to be refreshed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These topics were created, altered or deleted.
    Topics(Vec<TopicId>),
    /// Configuration of this resource.
    Configs(ConfigResource),
    /// Brokers or the placement of replicas.
    Placement,
    /// Nothing that a view shows.
    Other,
}

/// Why the catalog changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A topic of this name exists.
    #[error("topic '{name}' already exists")]
    TopicExists {
        /// The name in the command.
        name: String,
    },
    /// Two names that differ only in `.` and `_` would share a metric name.
    #[error("topic '{name}' collides with existing topic '{other}'")]
    NameCollision {
        /// The name in the command.
        name: String,
        /// The name of the existing topic.
        other: String,
    },
    /// No topic has this id.
    #[error("no such topic")]
    NoSuchTopic,
    /// The topic changed in between.
    #[error("the topic has {actual} partitions, not {expected}")]
    PartitionCountChanged {
        /// The partition count that the proposer saw.
        expected: usize,
        /// The current partition count.
        actual: usize,
    },
    /// A topic with this id exists or was deleted, and ids are not used again.
    #[error("the topic id {id} is in use or was used before")]
    IdUsed {
        /// The id in the command.
        id: TopicId,
    },
    /// The topic has no owner, so the caller is not its owner.
    #[error("the topic has no owner")]
    NotOwned,
    /// The topic was created, deleted or recreated since the proposer read the catalog.
    #[error("the topic changed meanwhile")]
    Replaced,
    /// Another operator claimed a newer epoch.
    #[error("epoch {newest} was claimed since")]
    StaleEpoch {
        /// The newest epoch that was claimed.
        newest: u64,
    },
    /// An epoch that this catalog did not issue, above [`limits::FENCE_EPOCH_ADOPTED_MAX`]: too few
    /// epochs would be left after it.
    #[error(
        "epoch {epoch} was not issued by this cluster and is above {}, the highest that is accepted then; the newest is {newest}: claim one with POST /v1/fence",
        limits::FENCE_EPOCH_ADOPTED_MAX
    )]
    EpochTooHigh {
        /// The caller's epoch.
        epoch: u64,
        /// The newest epoch that was claimed.
        newest: u64,
    },
    /// Another object owns it.
    #[error("the topic is owned by {owner}")]
    OwnedByAnother {
        /// The owner's uid.
        owner: String,
    },
    /// The catalog lists no broker with this id.
    #[error("broker {} is not in the cluster", broker.0)]
    NoSuchBroker {
        /// The broker in the command.
        broker: BrokerId,
    },
    /// The broker was removed for good, and ids are not used again.
    #[error(
        "broker {} was removed from the cluster for good: start it with an empty directory and another node.id",
        broker.0
    )]
    BrokerForgotten {
        /// The broker in the command.
        broker: BrokerId,
    },
    /// A later start of the broker has registered.
    #[error(
        "start {incarnation} of broker {} is older than start {newest}, which is registered: another process \
         runs with this node.id, or its data directory was lost",
        broker.0
    )]
    StaleIncarnation {
        /// The broker in the command.
        broker: BrokerId,
        /// The incarnation in the command.
        incarnation: u64,
        /// The newest incarnation that has registered.
        newest: u64,
    },
    /// The cluster has the highest number of brokers, or the catalog keeps the highest number of
    /// ids of removed ones.
    #[error("the cluster has or had {max} brokers, and no more are supported")]
    TooManyBrokers {
        /// The bound that is reached.
        max: usize,
    },
    /// The broker cannot be removed yet.
    #[error("broker {} holds {replicas} replicas: drain it first", broker.0)]
    BrokerHoldsReplicas {
        /// The broker in the command.
        broker: BrokerId,
        /// Number of its replicas, leaving ones included.
        replicas: usize,
    },
    /// The catalog lists no shard with this number.
    #[error("there is no {shard}")]
    NoSuchShard {
        /// The shard in the command.
        shard: ShardId,
    },
    /// The shard never had this replica.
    #[error("{shard} has no replica {}", replica.0)]
    NoSuchReplica {
        /// The shard in the command.
        shard: ShardId,
        /// The replica in the command.
        replica: ReplicaId,
    },
    /// The replica is being removed, and the broker gets another only after that.
    #[error("replica {} of {shard} is being removed", replica.0)]
    ReplicaLeaves {
        /// The shard in the command.
        shard: ShardId,
        /// The replica that leaves.
        replica: ReplicaId,
    },
    /// A replica that does not leave is not removed.
    #[error("replica {} of {shard} is not leaving", replica.0)]
    ReplicaStays {
        /// The shard in the command.
        shard: ShardId,
        /// The replica in the command.
        replica: ReplicaId,
    },
    /// A voter does not become a learner.
    #[error("replica {} of {shard} votes: it can only leave", replica.0)]
    ReplicaVotes {
        /// The shard in the command.
        shard: ShardId,
        /// The replica in the command.
        replica: ReplicaId,
    },
    /// No other replica of the shard votes.
    #[error("replica {} is the last voter of {shard}", replica.0)]
    LastVoter {
        /// The shard in the command.
        shard: ShardId,
        /// The replica in the command.
        replica: ReplicaId,
    },
    /// The standing of the broker is not what the proposer saw.
    #[error("the standing of broker {} was changed meanwhile", broker.0)]
    StandingChanged {
        /// The broker in the command.
        broker: BrokerId,
    },
    /// The brokers that stay are fewer than the replicas of some shards.
    #[error(
        "broker {} cannot be left: {} shards have more replicas than the {staying} brokers that stay can hold",
        broker.0,
        shards.len()
    )]
    TooFewBrokers {
        /// The broker in the command.
        broker: BrokerId,
        /// Brokers of the catalog that are not draining, without this one.
        staying: usize,
        /// The shards that do not fit, with the number of their voters.
        shards: Vec<(ShardId, usize)>,
    },
    /// Shards would have no majority while this broker and others are restarted.
    #[error(
        "broker {} cannot be restarted now: other brokers with replicas of {} of its shards are to be restarted",
        broker.0,
        shards.len()
    )]
    OtherRestarts {
        /// The broker in the command.
        broker: BrokerId,
        /// The shards without a majority then.
        shards: Vec<ShardId>,
    },
    /// The cluster owns the bucket by another claim, which is not older.
    #[error("claim {epoch} of the bucket is recorded, held by {holder:016x}")]
    OtherClaim {
        /// The epoch of the recorded claim.
        epoch: u32,
        /// The holder of the recorded claim.
        holder: u64,
    },
}
