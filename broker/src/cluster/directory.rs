//! The brokers and the replicas of the cluster, as the catalog lists them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_peer::PeerAddress;
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};
use tokio::sync::watch;

/// A broker of the cluster, as clients are informed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBroker {
    /// The broker's id (`node.id`).
    pub id: BrokerId,
    /// The availability zone of the broker (`broker.rack`).
    pub rack: Option<Str>,
    /// Host and port that clients of each listener are given, by the listener's name.
    pub endpoints: HashMap<Arc<str>, (Str, i32)>,
}

/// A broker that the catalog lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBroker {
    /// What clients are informed of.
    pub known: Arc<KnownBroker>,
    /// Where the other brokers reach it; `None` while it has not registered that.
    pub peer: Option<PeerAddress>,
}

/// A replica that the catalog lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedReplica {
    /// Raft id of the replica.
    pub replica: ReplicaId,
    /// The broker that holds it.
    pub broker: BrokerId,
    /// Whether the catalog wants it to vote.
    pub is_voter: bool,
}

/// Reads the catalog as this broker has it, which may be outdated. The calls are made for each
/// message between brokers, so they must not wait.
pub trait Directory: Send + Sync + fmt::Debug + 'static {
    /// The brokers of the catalog.
    fn brokers(&self) -> Vec<ListedBroker>;

    /// The replicas of a shard.
    fn replicas(&self, shard: ShardId) -> Vec<ListedReplica>;

    /// The broker that holds a replica of a shard; `None` if the catalog does not list the replica.
    fn broker_of(&self, shard: ShardId, replica: ReplicaId) -> Option<BrokerId>;

    /// A number that changes with the brokers or the replicas, after the other calls return what is
    /// new.
    fn changed(&self) -> watch::Receiver<u64>;
}
