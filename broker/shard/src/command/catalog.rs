//! The commands of the catalog.

use serde::{Deserialize, Serialize};

use crate::id::{BrokerId, ReplicaId, ShardId, TopicId};
use crate::manifest::BucketClaim;
use crate::placement::{BrokerInfo, Role, Standing};

/// An operation on the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogCommand {
    /// Creates topics, each accepted or refused by itself.
    CreateTopics(Vec<NewTopic>),
    /// Deletes topics with their configuration and bindings.
    DeleteTopics(Vec<TopicId>),
    /// Adds partitions to a topic. Refused when the topic does not have `expected` partitions.
    AddPartitions {
        /// The topic's id.
        topic: TopicId,
        /// Partition count that the proposer saw.
        expected: usize,
        /// Placement of the new partitions.
        partitions: Vec<PartitionPlacement>,
    },
    /// Sets (`Some`) or clears (`None`) configuration keys of a resource.
    AlterConfigs {
        /// The resource that is configured.
        resource: ConfigResource,
        /// Key and new value.
        changes: Vec<(String, Option<String>)>,
    },
    /// Allocates a block of producer ids.
    AllocateProducerIds {
        /// Size of the block.
        count: i64,
    },
    /// Sets the topic's owner, which alone may delete it through the admin API: the uid of the
    /// Kubernetes object that declared it.
    SetOwner {
        /// The topic's id.
        topic: TopicId,
        /// The owner; `None` removes it.
        owner: Option<String>,
    },
    /// Issues the next fencing epoch to an operator that won its leader election.
    ClaimFence {
        /// The operator's identity.
        holder: String,
        /// The uid of the Lease that it acquired.
        lease_uid: String,
    },
    /// A command of an operator, refused when a newer epoch than the operator's was claimed. Since
    /// format 2, like all below.
    Fenced {
        /// The operator's epoch.
        epoch: u64,
        /// The command to carry out.
        command: Box<CatalogCommand>,
    },
    /// Creates a topic as declared, adopts it if it has no owner, or reconciles it.
    DeclareTopic {
        /// The whole topic. Partitions are only ever added; keys that are not named are cleared.
        topic: NewTopic,
        /// Whether the proposer saw the topic, under this id. Refused when that is not so.
        exists: bool,
    },
    /// The owner releases its topic. A topic without an owner is never deleted by this.
    ReleaseTopic {
        /// The topic's id.
        topic: TopicId,
        /// The owner that releases it.
        owner: String,
        /// Whether the topic is deleted too.
        delete: bool,
    },
    /// Binds a group to a topic: it is to read every record of the topic, from `start` on.
    BindGroup {
        /// The topic's id.
        topic: TopicId,
        /// The topic's owner.
        owner: String,
        /// The group's id.
        group: String,
        /// Where the group begins to read.
        start: StartPosition,
    },
    /// Removes the binding of a group; its committed offsets stay until they expire.
    UnbindGroup {
        /// The topic's id.
        topic: TopicId,
        /// The topic's owner.
        owner: String,
        /// The group's id.
        group: String,
    },
    /// Records that these topics are deleted, although the catalog does not list them: a person has
    /// given up the records of topics that a repaired catalog lost. A topic that is listed is
    /// refused. Since format 4.
    AbandonTopics(Vec<TopicId>),
    /// A broker reports the newest format that it reads. The feature level rises when every broker
    /// has reported a higher one. Since format 5.
    ReportLevel {
        /// The broker that reports.
        broker: BrokerId,
        /// The newest format that it reads: its [`super::FORMAT_MAX`].
        level: u8,
    },
    /// Registers a broker, which joins the cluster or has started with these addresses. Since
    /// format 6, like all below. Refused for one that was removed for good, and for a lower
    /// [`BrokerInfo::incarnation`] than the catalog has.
    RegisterBroker {
        /// The broker that registers.
        broker: BrokerId,
        /// Everything that the catalog stores of it.
        info: BrokerInfo,
    },
    /// Removes a broker, whose id is never used again. Refused while it holds replicas.
    ForgetBroker {
        /// The broker that is removed.
        broker: BrokerId,
    },
    /// Sets whether a broker takes replicas, whatever follows from it. Read from old logs and no
    /// longer written: [`CatalogCommand::ChangeStanding`] replaces it.
    SetStanding {
        /// The broker that takes them or does not.
        broker: BrokerId,
        /// Its new standing.
        standing: Standing,
    },
    /// Places a replica on a broker, as a learner. One that it has already is the answer as well.
    PlaceReplica {
        /// The shard of the replica.
        shard: ShardId,
        /// The broker that is to hold it.
        broker: BrokerId,
    },
    /// Makes a learner a voter, or has a replica leave. The last voter does not leave.
    SetRole {
        /// The shard of the replica.
        shard: ShardId,
        /// The replica that changes.
        replica: ReplicaId,
        /// Its new role.
        role: Role,
    },
    /// Removes a leaving replica, which is no member of the shard any more.
    RemoveReplica {
        /// The shard of the replica.
        shard: ShardId,
        /// The replica that is removed.
        replica: ReplicaId,
    },
    /// Changes the standing of a broker, unless another change came first or shards would be left
    /// with too few replicas or votes. Since format 7.
    ChangeStanding {
        /// The broker whose standing changes.
        broker: BrokerId,
        /// The standing that the proposer saw.
        from: Standing,
        /// Its new standing.
        to: Standing,
    },
    /// Records the claim of the bucket that the cluster is about to put there, and the end of a
    /// restore. Refused when another one is recorded, unless this one is later. Since format 9.
    RecordClaim(BucketClaim),
}

/// Where a bound group begins to read the partitions that exist when it is bound. Partitions that
/// are added later are read from their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartPosition {
    /// At the log start.
    Earliest,
    /// At the high watermark.
    Latest,
}

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    /// The topic's id, drawn by the proposer.
    pub id: TopicId,
    /// The topic's name, validated by the proposer.
    pub name: String,
    /// Placement of each partition.
    pub partitions: Vec<PartitionPlacement>,
    /// Configuration, validated by the proposer.
    pub configs: Vec<(String, String)>,
    /// The uid of the object that declared it.
    pub owner: Option<String>,
}

/// The shard that holds a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPlacement {
    /// The shard's id.
    pub shard: ShardId,
    /// The same as [`super::OpenPartition::epoch_base`].
    pub epoch_base: i32,
}

/// What configuration belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigResource {
    /// A topic, by id.
    Topic(TopicId),
    /// One broker, or all of them (`None`).
    Broker(Option<BrokerId>),
    /// A consumer group.
    Group(String),
}
