//! Look-up of topics by name or id, with each topic's configuration resolved.
//!
//! It also shows the brokers and the placement of replicas.
//!
//! The catalog shard's own loop updates it right after an entry is applied, so that a change is
//! visible before its proposer is notified. On a broker that does not lead the catalog it lags:
//! [`View::changed`] says up to which revision of the catalog it is current.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use ropewalk_codec::Str;
use ropewalk_peer::PeerAddress;
use ropewalk_shard::command::{ConfigResource, PartitionPlacement};
use ropewalk_shard::state::Catalog;
use ropewalk_shard::state::catalog::{Binding, BrokerInfo, Change, PlacedReplica, Role};
use ropewalk_shard::{BrokerId, PartitionId, ReplicaId, ShardId, TopicId};
use tokio::sync::watch;

use crate::cluster::{Directory, KnownBroker, ListedBroker, ListedReplica};
use crate::settings::Settings;
use crate::settings::topic::TopicConfig;

/// A topic of the catalog.
#[derive(Debug)]
pub struct TopicView {
    /// The topic id.
    pub id: TopicId,
    /// The topic's name.
    pub name: Arc<str>,
    /// The shard of each partition, by index.
    pub partitions: Vec<PartitionPlacement>,
    /// The resolved configuration: the topic's own, the brokers', the defaults.
    pub config: TopicConfig,
    /// The uid of the Kubernetes object that declared it.
    pub owner: Option<String>,
    /// The groups bound to the topic.
    pub bindings: BTreeMap<String, Binding>,
}

impl TopicView {
    /// A partition's identity and shard; `None` when the topic has no such partition.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<(PartitionId, PartitionPlacement)> {
        let home = self.partitions.get(usize::try_from(index).ok()?)?;
        Some((PartitionId { topic: self.id, index }, *home))
    }
}

/// The replicas of one shard.
pub type Placement = BTreeMap<ReplicaId, PlacedReplica>;

/// Every topic, by name and by id, and the brokers with their replicas.
#[derive(Debug)]
pub struct View {
    settings: Arc<Settings>,
    inner: RwLock<Inner>,
    /// The revision of the catalog that the view shows; 0 before the first.
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    topics: HashMap<TopicId, Arc<TopicView>>,
    names: HashMap<Arc<str>, TopicId>,
    brokers: Arc<BTreeMap<BrokerId, BrokerInfo>>,
    shards: Arc<BTreeMap<ShardId, Arc<Placement>>>,
    next_replica_id: u64,
}

impl View {
    /// An empty view; fill it with [`Self::reload`].
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, inner: RwLock::default(), revision: watch::Sender::new(0) }
    }

    /// The topic of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<TopicView>> {
        let inner = self.inner.read();
        inner.topics.get(inner.names.get(name)?).cloned()
    }

    /// The topic with this id.
    #[must_use]
    pub fn by_id(&self, id: TopicId) -> Option<Arc<TopicView>> {
        self.inner.read().topics.get(&id).cloned()
    }

    /// Every topic, ordered by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<TopicView>> {
        let mut all: Vec<_> = self.inner.read().topics.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Every topic whose configuration is so, in no order.
    #[must_use]
    pub fn all_with(&self, is_so: impl Fn(&TopicConfig) -> bool) -> Vec<Arc<TopicView>> {
        let inner = self.inner.read();
        inner.topics.values().filter(|topic| is_so(&topic.config)).cloned().collect()
    }

    /// Every topic with bound groups, ordered by name.
    #[must_use]
    pub fn bound(&self) -> Vec<Arc<TopicView>> {
        let inner = self.inner.read();
        let bound = inner.topics.values().filter(|topic| !topic.bindings.is_empty());
        let mut bound: Vec<_> = bound.cloned().collect();
        bound.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        bound
    }

    /// The number of all partitions.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.inner.read().topics.values().map(|topic| topic.partitions.len()).sum()
    }

    /// Every broker that the catalog lists.
    #[must_use]
    pub fn brokers(&self) -> Arc<BTreeMap<BrokerId, BrokerInfo>> {
        Arc::clone(&self.inner.read().brokers)
    }

    /// The replicas of a shard; none for a shard that the catalog does not list.
    #[must_use]
    pub fn replicas(&self, shard: ShardId) -> Arc<Placement> {
        self.inner.read().shards.get(&shard).cloned().unwrap_or_default()
    }

    /// Every shard with its replicas.
    #[must_use]
    pub fn placements(&self) -> Arc<BTreeMap<ShardId, Arc<Placement>>> {
        Arc::clone(&self.inner.read().shards)
    }

    /// Whether this replica was placed and then removed, so that no shard needs it any more. A view
    /// that lags behind the placement says no: ids are not used again, so what it says is true
    /// however old it is.
    #[must_use]
    pub fn is_removed(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let inner = self.inner.read();
        let listed = inner.shards.get(&shard).map(|placement| placement.contains_key(&replica));
        replica.0 < inner.next_replica_id && listed == Some(false)
    }

    /// The revision of the catalog that the view shows; 0 before the first. It changes after the
    /// view does.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Replaces the content by the whole catalog.
    pub fn reload(&self, catalog: &Catalog) {
        self.refresh_all(catalog);
        self.revision.send_replace(catalog.revision);
    }

    fn refresh_all(&self, catalog: &Catalog) {
        self.settings.set_dynamic(catalog);
        let mut inner = Inner::default();
        for id in catalog.topics.keys() {
            self.refresh_topic(&mut inner, catalog, *id);
        }
        refresh_placement(&mut inner, catalog);
        *self.inner.write() = inner;
    }

    /// Updates what `change` affects. It has to be called for every change, in their order: each is
    /// one revision of the catalog, which may have had later changes by now.
    pub fn follow(&self, catalog: &Catalog, change: &Change) {
        match change {
            Change::Topics(ids) => {
                let mut inner = self.inner.write();
                ids.iter().for_each(|id| self.refresh_topic(&mut inner, catalog, *id));
            }
            Change::Configs(ConfigResource::Topic(id)) => {
                self.refresh_topic(&mut self.inner.write(), catalog, *id);
            }
            // A broker's setting may be the default of any topic.
            Change::Configs(ConfigResource::Broker(_)) => self.refresh_all(catalog),
            Change::Configs(ConfigResource::Group(_)) => self.settings.set_dynamic(catalog),
            Change::Placement => refresh_placement(&mut self.inner.write(), catalog),
            Change::Other => {}
        }
        self.revision.send_modify(|shown| *shown = catalog.revision.min(*shown + 1));
    }

    fn refresh_topic(&self, inner: &mut Inner, catalog: &Catalog, id: TopicId) {
        let Some(topic) = catalog.topics.get(&id) else {
            if let Some(gone) = inner.topics.remove(&id)
                && inner.names.get(&gone.name) == Some(&id)
            {
                inner.names.remove(&gone.name);
            }
            return;
        };
        let name: Arc<str> = match inner.topics.get(&id) {
            Some(known) => Arc::clone(&known.name),
            None => topic.name.as_str().into(),
        };
        let resource = ConfigResource::Topic(id);
        let overrides = catalog.configs(&resource);
        let view = TopicView {
            id,
            name: Arc::clone(&name),
            partitions: topic.partitions.clone(),
            config: TopicConfig::resolve(&self.settings, overrides),
            owner: topic.owner.clone(),
            bindings: catalog.bindings.get(&id).cloned().unwrap_or_default(),
        };
        inner.names.insert(name, id);
        inner.topics.insert(id, Arc::new(view));
    }
}

fn refresh_placement(inner: &mut Inner, catalog: &Catalog) {
    inner.brokers = Arc::new(catalog.brokers.clone());
    let shards = catalog.shards.iter();
    let shards = shards.map(|(shard, info)| (*shard, Arc::new(info.replicas.clone())));
    inner.shards = Arc::new(shards.collect());
    inner.next_replica_id = catalog.next_replica_id;
}

impl Directory for View {
    fn brokers(&self) -> Vec<ListedBroker> {
        let listed = self.brokers();
        listed.iter().map(|(id, info)| listed_broker(*id, info)).collect()
    }

    fn replicas(&self, shard: ShardId) -> Vec<ListedReplica> {
        let placement = self.replicas(shard);
        let listed = |(replica, placed): (&ReplicaId, &PlacedReplica)| ListedReplica {
            replica: *replica,
            broker: placed.broker,
            is_voter: placed.role == Role::Voter,
        };
        placement.iter().map(listed).collect()
    }

    fn broker_of(&self, shard: ShardId, replica: ReplicaId) -> Option<BrokerId> {
        let inner = self.inner.read();
        Some(inner.shards.get(&shard)?.get(&replica)?.broker)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed()
    }
}

fn listed_broker(id: BrokerId, info: &BrokerInfo) -> ListedBroker {
    let endpoint = |(name, (host, port)): (&String, &(String, u16))| {
        (Arc::from(name.as_str()), (Str::from(host.as_str()), i32::from(*port)))
    };
    let known = KnownBroker {
        id,
        rack: info.rack.as_deref().map(Str::from),
        endpoints: info.endpoints.iter().map(endpoint).collect(),
    };
    let peer =
        info.peer.as_ref().map(|peer| PeerAddress { host: peer.host.clone(), ports: peer.ports });
    ListedBroker { known: Arc::new(known), peer }
}

#[cfg(test)]
mod tests;
