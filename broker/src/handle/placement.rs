//! The leaders and replicas of partitions, as reported to the clients of one listener.
//!
//! A client reaches a broker only at the endpoint of the listener that it uses itself. A broker
//! without such an endpoint is not named to it, as in Kafka. Everything here is what this broker
//! knows, and may be outdated: a broker that is asked and does not lead says so, and who leads
//! (KIP-951).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_shard::command::PartitionPlacement;
use ropewalk_shard::{BrokerId, ShardId};

use super::partition::epoch;
use super::{Context, ErrorCode};
use crate::catalog::TopicView;
use crate::cluster::{Holders, KnownBroker, Seen};
use crate::listen::Peer;

/// A broker with its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The broker's id (`node.id`).
    pub(crate) id: i32,
    /// The host that clients are given.
    pub(crate) host: Str,
    /// The port that clients are given.
    pub(crate) port: i32,
    /// The availability zone of the broker.
    pub(crate) rack: Option<Str>,
}

/// Where a partition is led and held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Why no leader is named; [`ErrorCode::None`] if one is.
    pub(crate) error: ErrorCode,
    /// The broker that leads; -1 if none is named.
    pub(crate) leader_id: i32,
    /// The leader epoch, also while no leader is named, as in Kafka: a client that knows a later
    /// leader keeps to that one. -1 if it is not known.
    pub(crate) leader_epoch: i32,
    /// The brokers that hold the partition, the leader first: it is the preferred one.
    pub(crate) replicas: Vec<i32>,
    /// The leader and the voters that lack little of its log.
    pub(crate) in_sync: Vec<i32>,
    /// The other voters that cannot be reached.
    pub(crate) offline: Vec<i32>,
}

/// Looks up where partitions are, for clients of one listener. What it finds of a shard is kept, so
/// that one response is consistent.
pub(crate) struct Placements<'a> {
    ctx: &'a Context,
    peer: &'a Peer,
    shards: HashMap<ShardId, Placed>,
}

impl Context {
    /// The brokers that are alive and have an endpoint of the client's listener, in the order of
    /// ids. Kafka leaves out the others too: some clients wait for each broker that is listed.
    ///
    /// A client discards each broker that is not listed. Therefore the last known leaders are
    /// listed as well, and all brokers when this one does not know who is alive: a client that is
    /// given this broker alone would ask no other one until the end of a cut.
    pub(crate) fn endpoints(&self, peer: &Peer) -> Vec<Endpoint> {
        let (listed, _) = self.all_endpoints(peer);
        listed
    }

    /// The same, and the brokers of the catalog that are not among them.
    pub(crate) fn all_endpoints(&self, peer: &Peer) -> (Vec<Endpoint>, Vec<Endpoint>) {
        let cluster = &self.cluster;
        let lists_all = cluster.lacks_majority(ShardId::CATALOG);
        let is_listed = |id| lists_all || cluster.is_alive(id) || cluster.leads_any(id);
        let endpoint = |broker: Arc<KnownBroker>| {
            let (host, port) = broker.endpoints.get(&peer.listener)?.clone();
            Some(Endpoint { id: broker.id.0, host, port, rack: broker.rack.clone() })
        };
        let brokers = cluster.brokers().into_iter().filter_map(endpoint);
        brokers.partition(|broker| is_listed(BrokerId(broker.id)))
    }

    /// The endpoint of one broker for clients of the same listener.
    pub(crate) fn endpoint_of(&self, id: BrokerId, peer: &Peer) -> Option<Endpoint> {
        let broker = self.cluster.broker(id)?;
        let (host, port) = broker.endpoints.get(&peer.listener)?.clone();
        Some(Endpoint { id: id.0, host, port, rack: broker.rack.clone() })
    }

    /// The broker to which clients send changes of the cluster: the leader of the catalog, or this
    /// one, which passes them on, if none is known to clients of this listener.
    pub(crate) fn controller_id(&self, endpoints: &[Endpoint]) -> i32 {
        let leader = self.cluster.last_leader(ShardId::CATALOG).leader.map(|leader| leader.0);
        let is_listed = |id: &i32| endpoints.iter().any(|endpoint| endpoint.id == *id);
        leader.filter(is_listed).unwrap_or(self.broker_id)
    }

    /// The brokers that hold a shard, the leader first and the others in the order of ids.
    pub(crate) fn replicas(&self, shard: ShardId) -> Vec<i32> {
        let leader = self.cluster.last_leader(shard).leader;
        in_order(&self.cluster.holders(shard), leader)
    }

    /// The number of replicas that the cluster keeps of each partition.
    pub(crate) fn replication_factor(&self) -> i16 {
        i16::try_from(self.topics.replication_factor()).unwrap_or(i16::MAX)
    }
}

impl<'a> Placements<'a> {
    /// Nothing is looked up yet.
    pub(crate) fn new(ctx: &'a Context, peer: &'a Peer) -> Self {
        Self { ctx, peer, shards: HashMap::new() }
    }

    /// Where a partition of a topic is; an index that the topic does not have has no leader.
    pub(crate) fn of(&mut self, topic: &TopicView, index: i32) -> Placed {
        let Some((_, home)) = topic.partition(index) else { return Placed::nowhere() };
        let mut placed = self.shard(home.shard).clone();
        if placed.leader_epoch >= 0 {
            placed.leader_epoch = home.epoch_base.saturating_add(placed.leader_epoch);
        }
        // Here it is known whether the partition is open already.
        if placed.leader_id == self.ctx.broker_id {
            match self.ctx.partition(topic, index) {
                Ok(found) => placed.leader_epoch = found.leader_epoch,
                Err(_) => {
                    (placed.error, placed.leader_id) = (ErrorCode::LeaderNotAvailable, -1);
                }
            }
        }
        placed
    }

    /// Where the partitions of a shard are. The epoch is the term of the shard.
    fn shard(&mut self, shard: ShardId) -> &Placed {
        let (ctx, peer) = (self.ctx, self.peer);
        self.shards.entry(shard).or_insert_with(|| {
            let (Seen { term, leader }, holders) =
                (ctx.cluster.last_leader(shard), ctx.cluster.holders(shard));
            let replicas = in_order(&holders, leader);
            let ids = |ids: Vec<BrokerId>| ids.into_iter().map(|id| id.0).collect::<Vec<_>>();
            let Holders { voters, reachable, in_sync, .. } = holders;
            let is_in_sync = |id: &BrokerId| leader == Some(*id) || in_sync.contains(id);
            let (in_sync, others): (Vec<_>, Vec<_>) = voters.into_iter().partition(is_in_sync);
            // One that is reached and not in sync catches up.
            let offline = others.into_iter().filter(|id| !reachable.contains(id)).collect();
            let mut placed = Placed {
                error: ErrorCode::None,
                leader_id: leader.map_or(-1, |leader| leader.0),
                leader_epoch: if term > 0 { epoch(0, term) } else { -1 },
                replicas,
                in_sync: ids(in_sync),
                offline: ids(offline),
            };
            match leader {
                None => placed.error = ErrorCode::LeaderNotAvailable,
                Some(leader) if ctx.endpoint_of(leader, peer).is_none() => {
                    (placed.error, placed.leader_id) = (ErrorCode::ListenerNotFound, -1);
                }
                Some(_) => {}
            }
            placed
        })
    }
}

impl Placed {
    fn nowhere() -> Self {
        let error = ErrorCode::LeaderNotAvailable;
        let (replicas, in_sync, offline) = (Vec::new(), Vec::new(), Vec::new());
        Self { error, leader_id: -1, leader_epoch: -1, replicas, in_sync, offline }
    }
}

/// The brokers that hold a shard, the leader first.
fn in_order(holders: &Holders, leader: Option<BrokerId>) -> Vec<i32> {
    let mut all: Vec<BrokerId> = holders.voters.iter().chain(&holders.learners).copied().collect();
    all.sort_unstable();
    all.dedup();
    // False is before true, and the sort is stable.
    all.sort_by_key(|id| leader != Some(*id));
    all.into_iter().map(|id| id.0).collect()
}

/// Collects who leads the partitions that this broker was asked for in vain (KIP-951).
pub(crate) struct LeaderHints<'a> {
    ctx: &'a Context,
    peer: &'a Peer,
    endpoints: BTreeMap<i32, Endpoint>,
}

impl<'a> LeaderHints<'a> {
    /// No hints yet.
    pub(crate) fn new(ctx: &'a Context, peer: &'a Peer) -> Self {
        Self { ctx, peer, endpoints: BTreeMap::new() }
    }

    /// Id and leader epoch of the broker that leads a partition; `None` while none is known, or it
    /// has no endpoint of the client's listener.
    pub(crate) fn of(&mut self, topic: &TopicView, index: i32) -> Option<(i32, i32)> {
        let (_, PartitionPlacement { shard, epoch_base }) = topic.partition(index)?;
        let Seen { term, leader } = self.ctx.cluster.last_leader(shard);
        let broker = leader?;
        if !self.endpoints.contains_key(&broker.0) {
            let endpoint = self.ctx.endpoint_of(broker, self.peer)?;
            self.endpoints.insert(broker.0, endpoint);
        }
        Some((broker.0, epoch(epoch_base, term)))
    }

    /// The endpoints of the brokers that were named.
    pub(crate) fn into_endpoints(self) -> impl Iterator<Item = Endpoint> {
        self.endpoints.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_the_first_of_the_replicas() {
        let ids = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
        let (voters, learners) = (ids(&[1, 4, 5]), ids(&[2]));
        let holders = Holders { voters, learners, ..Holders::default() };
        assert_eq!(in_order(&holders, Some(BrokerId(4))), [4, 1, 2, 5]);
        assert_eq!(in_order(&holders, None), [1, 2, 4, 5]);
    }
}
