//! Snapshots of versions 1 to 6. Version 6 has no claim of the bucket; version 5 has no tier of
//! partitions either; version 4 has no addresses of brokers and no roles of replicas either;
//! version 3 has no feature level and no checksum of what was appended either; version 2 has no
//! deleted topics, no clock of the shard and no history either; version 1 has no bindings of groups
//! to topics either.
//!
//! Recovery reads one of versions 1 to 4 after an upgrade from an older broker; the next checkpoint
//! writes a newer version. Versions 5 and 6 are still written for what they can express, so that an
//! older broker can install and recover it: during an upgrade, and after one that was taken back.
//!
//! Invariant: the fields and their order do not change, and neither does the encoding of their
//! types: a change of [`Group`] or a part of the catalog needs a new version.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use super::{PartitionFiles, Snapshot};
use ropewalk_shard::command::ConfigResource;
use ropewalk_shard::engine::Members;
use ropewalk_shard::state::catalog::{
    Binding, BrokerInfo, Catalog, Fence, PlacedReplica, Role, ShardInfo, Topic,
};
use ropewalk_shard::state::partition::{EpochStart, Producer};
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
struct OldPartition {
    epoch_base: i32,
    log_start: i64,
    next_offset: i64,
    epochs: Vec<EpochStart>,
    producers: Option<BTreeMap<i64, Producer>>,
}

#[derive(Deserialize)]
struct OldState<C> {
    partitions: BTreeMap<PartitionId, OldPartition>,
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

#[derive(Deserialize)]
struct State5 {
    first: OldState<Catalog6>,
    clock_ms: i64,
    log_sum: Option<u32>,
}

#[derive(Deserialize)]
struct State6 {
    partitions: BTreeMap<PartitionId, CopyOnWrite<Partition>>,
    groups: BTreeMap<String, CopyOnWrite<Group>>,
    catalog: Option<Catalog6>,
    clock_ms: i64,
    log_sum: Option<u32>,
}

#[derive(Deserialize)]
struct Catalog6 {
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
    bindings: BTreeMap<TopicId, BTreeMap<String, Binding>>,
    tombstones: BTreeMap<TopicId, u64>,
    level: u8,
    levels: BTreeMap<BrokerId, u8>,
    removed_brokers: BTreeSet<BrokerId>,
}

/// A snapshot to be written as version 5 or 6; `P` are the partitions of its state.
#[derive(Serialize)]
struct Written<'a, P> {
    shard: ShardId,
    replica: ReplicaId,
    index: u64,
    term: u64,
    members: &'a Members,
    replicas: &'a BTreeMap<ReplicaId, BrokerId>,
    state: WrittenState<'a, P>,
    partitions: &'a [PartitionFiles],
}

#[derive(Serialize)]
struct WrittenState<'a, P> {
    partitions: P,
    groups: &'a BTreeMap<String, CopyOnWrite<Group>>,
    catalog: Option<WrittenCatalog<'a>>,
    clock_ms: i64,
    log_sum: Option<u32>,
}

/// A catalog without a claim.
#[derive(Serialize)]
struct WrittenCatalog<'a> {
    cluster_id: &'a str,
    shards: &'a BTreeMap<ShardId, ShardInfo>,
    brokers: &'a BTreeMap<BrokerId, BrokerInfo>,
    slots: &'a [ShardId],
    topics: &'a BTreeMap<TopicId, Topic>,
    names: &'a BTreeMap<String, TopicId>,
    configs: &'a BTreeMap<ConfigResource, BTreeMap<String, String>>,
    next_producer_id: i64,
    next_replica_id: u64,
    fence: &'a Option<Fence>,
    revision: u64,
    bindings: &'a BTreeMap<TopicId, BTreeMap<String, Binding>>,
    tombstones: &'a BTreeMap<TopicId, u64>,
    level: u8,
    levels: &'a BTreeMap<BrokerId, u8>,
    removed_brokers: &'a BTreeSet<BrokerId>,
}

/// The partitions of a state, each without a tier.
struct Partitions5<'a>(&'a BTreeMap<PartitionId, CopyOnWrite<Partition>>);

#[derive(Serialize)]
struct Partition5<'a> {
    epoch_base: i32,
    log_start: i64,
    next_offset: i64,
    epochs: &'a [EpochStart],
    producers: Option<&'a BTreeMap<i64, Producer>>,
}

impl Serialize for Partitions5<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, partition)| (id, Partition5::of(partition))))
    }
}

impl<'a> Partition5<'a> {
    fn of(partition: &'a Partition) -> Self {
        let Partition { epoch_base, log_start, next_offset, epochs, producers, tier: _ } =
            partition;
        Self {
            epoch_base: *epoch_base,
            log_start: *log_start,
            next_offset: *next_offset,
            epochs,
            producers: producers.as_deref(),
        }
    }
}

impl<'a, P> Written<'a, P> {
    fn of(snapshot: &'a Snapshot, states: P) -> Self {
        let Snapshot { shard, replica, index, term, members, replicas, state, partitions } =
            snapshot;
        let State { partitions: _, groups, catalog, clock_ms, log_sum } = state;
        let state = WrittenState {
            partitions: states,
            groups,
            catalog: catalog.as_deref().map(WrittenCatalog::of),
            clock_ms: *clock_ms,
            log_sum: *log_sum,
        };
        Self {
            shard: *shard,
            replica: *replica,
            index: *index,
            term: *term,
            members,
            replicas,
            state,
            partitions,
        }
    }
}

impl<'a> WrittenCatalog<'a> {
    fn of(catalog: &'a Catalog) -> Self {
        let Catalog {
            cluster_id,
            shards,
            brokers,
            slots,
            topics,
            names,
            configs,
            next_producer_id,
            next_replica_id,
            fence,
            revision,
            bindings,
            tombstones,
            level,
            levels,
            removed_brokers,
            claim: _,
        } = catalog;
        Self {
            cluster_id,
            shards,
            brokers,
            slots,
            topics,
            names,
            configs,
            next_producer_id: *next_producer_id,
            next_replica_id: *next_replica_id,
            fence,
            revision: *revision,
            bindings,
            tombstones,
            level: *level,
            levels,
            removed_brokers,
        }
    }
}

/// The earlier version that can express the snapshot; `None` if none can.
pub(super) fn version_of(snapshot: &Snapshot) -> Option<u32> {
    let State { partitions, catalog, .. } = &snapshot.state;
    if catalog.as_ref().is_some_and(|catalog| catalog.claim.is_some()) {
        return None;
    }
    let has_tier = partitions.values().any(|partition| partition.tier.is_some());
    Some(if has_tier { 6 } else { 5 })
}

/// Appends the part between head and checksum in the version of [`version_of`].
pub(super) fn encode(version: u32, snapshot: &Snapshot, out: Vec<u8>) -> postcard::Result<Vec<u8>> {
    let states = &snapshot.state.partitions;
    match version {
        5 => postcard::to_extend(&Written::of(snapshot, Partitions5(states)), out),
        _ => postcard::to_extend(&Written::of(snapshot, states), out),
    }
}

/// Decodes the part between head and checksum.
pub(super) fn decode(version: u32, body: &[u8]) -> postcard::Result<Snapshot> {
    match version {
        1 => decode_as::<OldMembers, OldState<Catalog1>>(body),
        2 => decode_as::<OldMembers, OldState<Catalog2>>(body),
        3 => decode_as::<Members, State3>(body),
        4 => decode_as::<Members, State4>(body),
        5 => decode_as::<Members, State5>(body),
        _ => decode_as::<Members, State6>(body),
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
        let partitions = partitions.into_iter().map(|(id, old)| (id, Partition::from(old).into()));
        let partitions = partitions.collect();
        Self { partitions, groups, catalog, clock_ms: 0, log_sum: None }
    }
}

impl From<OldPartition> for Partition {
    fn from(old: OldPartition) -> Self {
        let OldPartition { epoch_base, log_start, next_offset, epochs, producers } = old;
        let producers = producers.map(Box::new);
        Self { epoch_base, log_start, next_offset, epochs, producers, tier: None }
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

impl From<State5> for State {
    fn from(State5 { first, clock_ms, log_sum }: State5) -> Self {
        Self { clock_ms, log_sum, ..first.into() }
    }
}

impl From<State6> for State {
    fn from(old: State6) -> Self {
        let State6 { partitions, groups, catalog, clock_ms, log_sum } = old;
        let catalog = catalog.map(|old| Box::new(old.into()));
        Self { partitions, groups, catalog, clock_ms, log_sum }
    }
}

impl From<Catalog6> for Catalog {
    fn from(old: Catalog6) -> Self {
        let Catalog6 {
            cluster_id,
            shards,
            brokers,
            slots,
            topics,
            names,
            configs,
            next_producer_id,
            next_replica_id,
            fence,
            revision,
            bindings,
            tombstones,
            level,
            levels,
            removed_brokers,
        } = old;
        Self {
            cluster_id,
            shards,
            brokers,
            slots,
            topics,
            names,
            configs,
            next_producer_id,
            next_replica_id,
            fence,
            revision,
            bindings,
            tombstones,
            level,
            levels,
            removed_brokers,
            claim: None,
        }
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
            claim: None,
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
