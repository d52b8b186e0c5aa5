//! The catalog of one broker, as a table that the test writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_broker::cluster::{Directory, KnownBroker, ListedBroker, ListedReplica};
use ropewalk_peer::PeerAddress;
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Catalog {
    brokers: Mutex<BTreeMap<BrokerId, PeerAddress>>,
    replicas: Mutex<BTreeMap<(ShardId, ReplicaId), BrokerId>>,
    changed: watch::Sender<u64>,
}

impl Catalog {
    pub(crate) fn new() -> Arc<Self> {
        let (brokers, replicas) = (Mutex::default(), Mutex::default());
        Arc::new(Self { brokers, replicas, changed: watch::Sender::new(0) })
    }

    pub(crate) fn register(&self, broker: BrokerId, address: PeerAddress) {
        self.brokers.lock().insert(broker, address);
        self.changed.send_modify(|changed| *changed += 1);
    }

    pub(crate) fn place(&self, shard: ShardId, replica: ReplicaId, broker: BrokerId) {
        self.replicas.lock().insert((shard, replica), broker);
        self.changed.send_modify(|changed| *changed += 1);
    }

    pub(crate) fn forget_all(&self) {
        self.brokers.lock().clear();
        self.replicas.lock().clear();
        self.changed.send_modify(|changed| *changed += 1);
    }
}

/// What clients are informed of.
pub(crate) fn known(id: BrokerId) -> KnownBroker {
    KnownBroker { id, rack: None, endpoints: Default::default() }
}

impl Directory for Catalog {
    fn brokers(&self) -> Vec<ListedBroker> {
        let brokers = self.brokers.lock();
        let listed = brokers.iter().map(|(id, address)| ListedBroker {
            known: Arc::new(known(*id)),
            peer: Some(address.clone()),
        });
        listed.collect()
    }

    fn replicas(&self, shard: ShardId) -> Vec<ListedReplica> {
        let replicas = self.replicas.lock();
        let of_shard = replicas.iter().filter(|((of, _), _)| *of == shard);
        of_shard
            .map(|((_, replica), broker)| ListedReplica {
                replica: *replica,
                broker: *broker,
                is_voter: false,
            })
            .collect()
    }

    fn broker_of(&self, shard: ShardId, replica: ReplicaId) -> Option<BrokerId> {
        self.replicas.lock().get(&(shard, replica)).copied()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
