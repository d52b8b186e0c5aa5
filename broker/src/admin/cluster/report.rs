//! The answer of `GET /v1/cluster`, in the form in which it is sent and read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admin::shard_reason::ShardReason;

/// The cluster as one broker sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReport {
    /// Id of the cluster.
    pub cluster_id: String,
    /// The broker that was asked.
    pub asked: i32,
    /// Every broker of the catalog, by id.
    pub brokers: Vec<BrokerReport>,
    /// Every shard, the catalog first.
    pub shards: Vec<ShardReport>,
}

/// A broker of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerReport {
    /// Id of the broker.
    pub id: i32,
    /// Its availability zone.
    pub rack: Option<String>,
    /// Whether the broker that was asked hears of it.
    pub alive: bool,
    /// Whether its replicas are moved to other brokers.
    pub draining: bool,
    /// `Serving`, `Draining`, `Restarting`, or `NotRestarted`: it serves, and a restart that was
    /// prepared did not happen before its deadline.
    pub standing: String,
    /// Whether it has been restarted less than a minute ago, and takes no leaderships for balance.
    pub just_started: bool,
    /// Whether its disk is slow or full, so that it gives up its leaderships.
    pub slow_disk: bool,
    /// Number of its start, as the catalog lists it; 0 before the first one has registered.
    pub incarnation: u64,
    /// Address for the other brokers: host and port of messages; files use another port.
    pub peer: Option<String>,
    /// Address of its admin server.
    pub admin: Option<String>,
    /// Addresses for Kafka clients, by listener.
    pub endpoints: BTreeMap<String, String>,
    /// Shards that it leads.
    pub leads: usize,
    /// Replicas that the catalog places on it.
    pub replicas: usize,
}

/// A shard of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardReport {
    /// Number of the shard; 0 is the catalog.
    pub shard: u32,
    /// The broker that leads it; null while none is known.
    pub leader: Option<i32>,
    /// The Raft term in which it leads.
    pub term: Option<u64>,
    /// Record bytes that clients write and read, per second over the last half minute; null while
    /// no leader reports it.
    pub bytes_per_second: Option<u64>,
    /// Its replicas, by id.
    pub replicas: Vec<ReplicaReport>,
}

/// A replica of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaReport {
    /// Raft id of the replica.
    pub replica: u64,
    /// The broker that holds it.
    pub broker: i32,
    /// What the catalog wants it to be: `Learner`, `Voter` or `Leaving`.
    pub role: String,
    /// Whether its leader counts its vote; null while no leader reports it.
    pub votes: Option<bool>,
    /// Whether it lacks so few entries that it may become a voter; null while no leader reports it.
    pub caught_up: Option<bool>,
    /// Entries of its leader's log that it is not known to have; null while no leader reports it.
    pub lag: Option<u64>,
}

/// What is left to do until a broker is as it was asked to be: the answer of `GET
/// /v1/cluster/brokers/{id}` and of each operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerProgress {
    /// Id of the broker.
    pub id: i32,
    /// Whether the broker that was asked hears of it.
    pub alive: bool,
    /// The same as [`BrokerReport::standing`].
    pub standing: String,
    /// Whether shards may have fewer replicas when it is drained.
    pub accept_fewer_replicas: bool,
    /// When the preparation of a restart ends, Unix milliseconds; null if none is prepared.
    pub deadline_ms: Option<i64>,
    /// Whether nothing is left to do: a draining broker holds no replica, a broker that is to be
    /// restarted can be stopped now.
    pub done: bool,
    /// One sentence for people; the wording may change.
    pub message: String,
    /// Shards that it leads.
    pub leads: usize,
    /// Replicas that the catalog places on it.
    pub replicas: usize,
    /// Record bytes of the shards that are left, as far as the broker that was asked holds them;
    /// null if it holds none of them.
    pub bytes: Option<u64>,
    /// The shards that are left, each with the reason.
    pub shards: Vec<ShardReason>,
}
