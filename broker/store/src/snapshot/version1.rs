//! Snapshots of version 1, which have no bindings of groups to topics.
//!
//! Recovery reads one after an upgrade from an older broker; the next checkpoint writes the current
//! version.
//!
//! Invariant: the fields and their order do not change, and neither does the encoding of their
//! types: a change of [`Partition`], [`Group`] or a part of the catalog needs a new version.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{PartitionFiles, Snapshot};
use ropewalk_shard::command::ConfigResource;
use ropewalk_shard::engine::Members;
use ropewalk_shard::state::catalog::{BrokerInfo, Catalog, Fence, ShardInfo, Topic};
use ropewalk_shard::state::{CopyOnWrite, Group, Partition, State};
use ropewalk_shard::{BrokerId, PartitionId, ReplicaId, ShardId, TopicId};

pub(super) const VERSION: u32 = 1;

#[derive(Deserialize)]
struct OldSnapshot {
    shard: ShardId,
    replica: ReplicaId,
    index: u64,
    term: u64,
    members: Members,
    replicas: BTreeMap<ReplicaId, BrokerId>,
    state: OldState,
    partitions: Vec<PartitionFiles>,
}

#[derive(Deserialize)]
struct OldState {
    partitions: BTreeMap<PartitionId, CopyOnWrite<Partition>>,
    groups: BTreeMap<String, CopyOnWrite<Group>>,
    catalog: Option<OldCatalog>,
}

#[derive(Deserialize)]
struct OldCatalog {
    cluster_id: String,
    shards: BTreeMap<ShardId, ShardInfo>,
    brokers: BTreeMap<BrokerId, BrokerInfo>,
    slots: Vec<ShardId>,
    topics: BTreeMap<TopicId, Topic>,
    names: BTreeMap<String, TopicId>,
    configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    next_producer_id: i64,
    next_replica_id: u64,
    fence: Option<Fence>,
    revision: u64,
}

/// Decodes the part between head and checksum.
pub(super) fn decode(body: &[u8]) -> postcard::Result<Snapshot> {
    let OldSnapshot { shard, replica, index, term, members, replicas, state, partitions } =
        postcard::from_bytes(body)?;
    let OldState { partitions: states, groups, catalog } = state;
    let catalog = catalog.map(|old| Box::new(old.into()));
    let state = State { partitions: states, groups, catalog };
    Ok(Snapshot { shard, replica, index, term, members, replicas, state, partitions })
}

impl From<OldCatalog> for Catalog {
    fn from(old: OldCatalog) -> Self {
        Self {
            cluster_id: old.cluster_id,
            shards: old.shards,
            brokers: old.brokers,
            slots: old.slots,
            topics: old.topics,
            names: old.names,
            configs: old.configs,
            next_producer_id: old.next_producer_id,
            next_replica_id: old.next_replica_id,
            fence: old.fence,
            revision: old.revision,
            bindings: BTreeMap::new(),
        }
    }
}
