//! Snapshots of versions 1 to 4. Version 4 has no addresses of brokers and no roles of replicas;
//! version 3 has no feature level and no checksum of what was appended either; version 2 has no
//! deleted topics, no clock of the shard and no history either; version 1 has no bindings of groups
//! to topics either.
//!
//! Recovery reads one after an upgrade from an older broker; the next checkpoint writes the current
//! version.
//!
//! Invariant: the fields and their order do not change, and neither does the encoding of their
//! types: a change of [`Partition`], [`Group`] or a part of the catalog needs a new version.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{PartitionFiles, Snapshot};
use ropewalk_shard::command::ConfigResource;
use ropewalk_shard::engine::Members;
use ropewalk_shard::state::catalog::{
    Binding, BrokerInfo, Catalog, Fence, PlacedReplica, Role, ShardInfo, Topic,
};
use ropewalk_shard::state::{CopyOnWrite, Group, Partition, State};
use ropewalk_shard::{BrokerId, HistoryId, PartitionId, ReplicaId, ShardId, TopicId};

#[derive(Deserialize)]
struct OldSnapshot<M, S> {
    shard: ShardId,
    replica: ReplicaId,
    index: u64,
    term: u64,
    members: M,
    replicas: BTreeMap<ReplicaId, BrokerId>,
    state: S,
    partitions: Vec<PartitionFiles>,
}

#[derive(Deserialize)]
struct OldMembers {
    voters: Vec<u64>,
    learners: Vec<u64>,
    voters_outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

#[derive(Deserialize)]
struct OldState<C> {
    partitions: BTreeMap<PartitionId, CopyOnWrite<Partition>>,
    groups: BTreeMap<String, CopyOnWrite<Group>>,
    catalog: Option<C>,
}

#[derive(Deserialize)]
struct OldShardInfo {
    replicas: BTreeMap<ReplicaId, BrokerId>,
}

#[derive(Deserialize)]
struct OldBrokerInfo {
    rack: Option<String>,
}

#[derive(Deserialize)]
struct Catalog1 {
    cluster_id: String,
    shards: BTreeMap<ShardId, OldShardInfo>,
    brokers: BTreeMap<BrokerId, OldBrokerInfo>,
    slots: Vec<ShardId>,
    topics: BTreeMap<TopicId, Topic>,
    names: BTreeMap<String, TopicId>,
    configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    next_producer_id: i64,
    next_replica_id: u64,
    fence: Option<Fence>,
    revision: u64,
}

#[derive(Deserialize)]
struct Catalog2 {
    first: Catalog1,
    bindings: BTreeMap<TopicId, BTreeMap<String, Binding>>,
}

#[derive(Deserialize)]
struct State3 {
    first: OldState<Catalog3>,
    clock_ms: i64,
}

#[derive(Deserialize)]
struct Catalog3 {
    first: Catalog2,
    tombstones: BTreeMap<TopicId, u64>,
}

#[derive(Deserialize)]
struct State4 {
    first: OldState<Catalog4>,
    clock_ms: i64,
    log_sum: Option<u32>,
}

#[derive(Deserialize)]
struct Catalog4 {
    first: Catalog3,
    level: u8,
    levels: BTreeMap<BrokerId, u8>,
}

/// Decodes the part between head and checksum.
pub(super) fn decode(version: u32, body: &[u8]) -> postcard::Result<Snapshot> {
    match version {
        1 => decode_as::<OldMembers, OldState<Catalog1>>(body),
        2 => decode_as::<OldMembers, OldState<Catalog2>>(body),
        3 => decode_as::<Members, State3>(body),
        _ => decode_as::<Members, State4>(body),
    }
}

fn decode_as<M, S>(body: &[u8]) -> postcard::Result<Snapshot>
where
    M: DeserializeOwned + Into<Members>,
    S: DeserializeOwned + Into<State>,
{
    let OldSnapshot { shard, replica, index, term, members, replicas, state, partitions } =
        postcard::from_bytes::<OldSnapshot<M, S>>(body)?;
    let (members, state) = (members.into(), state.into());
    Ok(Snapshot { shard, replica, index, term, members, replicas, state, partitions })
}

impl<C: Into<Catalog>> From<OldState<C>> for State {
    fn from(old: OldState<C>) -> Self {
        let OldState { partitions, groups, catalog } = old;
        let catalog = catalog.map(|old| Box::new(old.into()));
        Self { partitions, groups, catalog, clock_ms: 0, log_sum: None }
    }
}

impl From<State3> for State {
    fn from(State3 { first, clock_ms }: State3) -> Self {
        Self { clock_ms, ..first.into() }
    }
}

impl From<State4> for State {
    fn from(State4 { first, clock_ms, log_sum }: State4) -> Self {
        Self { clock_ms, log_sum, ..first.into() }
    }
}

/// Every replica of these versions was the only one of its shard.
impl From<OldShardInfo> for ShardInfo {
    fn from(old: OldShardInfo) -> Self {
        let placed = |broker| PlacedReplica { broker, role: Role::Voter };
        Self { replicas: old.replicas.into_iter().map(|(id, at)| (id, placed(at))).collect() }
    }
}

impl From<OldBrokerInfo> for BrokerInfo {
    fn from(OldBrokerInfo { rack }: OldBrokerInfo) -> Self {
        Self { rack, ..Self::default() }
    }
}

impl From<OldMembers> for Members {
    fn from(old: OldMembers) -> Self {
        let OldMembers { voters, learners, voters_outgoing, learners_next, auto_leave } = old;
        let history = HistoryId::default();
        Self { voters, learners, voters_outgoing, learners_next, auto_leave, history }
    }
}

impl From<Catalog1> for Catalog {
    fn from(old: Catalog1) -> Self {
        Self {
            cluster_id: old.cluster_id,
            shards: old.shards.into_iter().map(|(id, info)| (id, info.into())).collect(),
            brokers: old.brokers.into_iter().map(|(id, info)| (id, info.into())).collect(),
            slots: old.slots,
            topics: old.topics,
            names: old.names,
            configs: old.configs,
            next_producer_id: old.next_producer_id,
            next_replica_id: old.next_replica_id,
            fence: old.fence,
            revision: old.revision,
            bindings: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            level: 0,
            levels: BTreeMap::new(),
            removed_brokers: BTreeSet::new(),
        }
    }
}

impl From<Catalog2> for Catalog {
    fn from(Catalog2 { first, bindings }: Catalog2) -> Self {
        Self { bindings, ..first.into() }
    }
}

impl From<Catalog3> for Catalog {
    fn from(Catalog3 { first, tombstones }: Catalog3) -> Self {
        Self { tombstones, ..first.into() }
    }
}

impl From<Catalog4> for Catalog {
    fn from(Catalog4 { first, level, levels }: Catalog4) -> Self {
        Self { level, levels, ..first.into() }
    }
}
