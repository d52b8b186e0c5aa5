//! The cluster as this broker sees it: its brokers, who leads each shard, and proposals to any
//! shard, wherever it is led.
//!
//! Everything here is this broker's view, and may be outdated: a broker that is asked and does not
//! lead says so.

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_node::Node;
use ropewalk_shard::command::Command;
use ropewalk_shard::{BrokerId, Outcome, ProposeError, ShardId};

/// A broker of the cluster, as clients are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBroker {
    /// The broker's id (`node.id`).
    pub id: BrokerId,
    /// The availability zone of the broker (`broker.rack`).
    pub rack: Option<Str>,
    /// Host and port that clients of each listener are given, by the listener's name.
    pub endpoints: HashMap<Arc<str>, (Str, i32)>,
}

/// The broker that leads a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub broker: BrokerId,
    /// The Raft term in which it leads.
    pub term: u64,
}

/// The brokers that hold a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// The brokers whose replicas vote, in the order of their ids.
    pub voters: Vec<BrokerId>,
    /// The brokers whose replicas receive the log and do not vote yet.
    pub learners: Vec<BrokerId>,
    /// The voters that are connected to this broker, this one included.
    pub reachable: Vec<BrokerId>,
}

/// The cluster as this broker sees it.
#[derive(Debug)]
pub struct Cluster {
    node: Arc<Node>,
    own: Arc<KnownBroker>,
    #[cfg(test)]
    others: Option<Arc<dyn Others>>,
}

/// The other brokers of a cluster in a test.
#[cfg(test)]
pub(crate) trait Others: Send + Sync + std::fmt::Debug {
    /// Every broker, in the order of ids.
    fn brokers(&self) -> Vec<Arc<KnownBroker>>;
    /// The broker that leads a shard.
    fn leader(&self, shard: ShardId) -> Option<Leader>;
    /// The brokers that hold a shard.
    fn holders(&self, shard: ShardId) -> Holders;
    /// The shard of the broker that leads it.
    fn led(&self, shard: ShardId) -> Option<Arc<ropewalk_node::ShardHandle>>;
}

impl Cluster {
    /// The cluster of a broker that is alone.
    #[must_use]
    pub fn alone(node: Arc<Node>, own: KnownBroker) -> Arc<Self> {
        Arc::new(Self {
            node,
            own: Arc::new(own),
            #[cfg(test)]
            others: None,
        })
    }

    /// The cluster of a broker that knows of others what a test says.
    #[cfg(test)]
    pub(crate) fn among(node: Arc<Node>, own: KnownBroker, others: Arc<dyn Others>) -> Arc<Self> {
        Arc::new(Self { node, own: Arc::new(own), others: Some(others) })
    }

    /// This broker.
    #[must_use]
    pub fn own(&self) -> &Arc<KnownBroker> {
        &self.own
    }

    /// Every broker of the catalog, in the order of ids. This one is always among them.
    #[must_use]
    pub fn brokers(&self) -> Vec<Arc<KnownBroker>> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.brokers();
        }
        vec![Arc::clone(&self.own)]
    }

    /// A broker by its id; `None` if the catalog does not list it.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<Arc<KnownBroker>> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.brokers().into_iter().find(|broker| broker.id == id);
        }
        (id == self.own.id).then(|| Arc::clone(&self.own))
    }

    /// The broker that leads a shard, as far as this one knows; `None` while there is none.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<Leader> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.leader(shard);
        }
        let term = self.node.shard(shard)?.leading()?;
        Some(Leader { broker: self.own.id, term })
    }

    /// The brokers that hold a shard.
    #[must_use]
    pub fn holders(&self, _shard: ShardId) -> Holders {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.holders(_shard);
        }
        let own = vec![self.own.id];
        Holders { voters: own.clone(), learners: Vec::new(), reachable: own }
    }

    /// Proposes a command to the shard's leader, wherever it is, and waits until it is applied
    /// there.
    ///
    /// # Errors
    /// See [`ProposeError`]. [`ProposeError::NotLeader`] if no leader is known or the one that was
    /// asked does not lead any more; [`ProposeError::Unknown`] if the connection to it was lost.
    pub async fn propose(&self, shard: ShardId, command: Command) -> Result<Outcome, ProposeError> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            let led = others.led(shard).ok_or(ProposeError::NotLeader)?;
            return led.propose(command).await;
        }
        match self.node.shard(shard) {
            Some(shard) => shard.propose(command).await,
            None => Err(ProposeError::NotLeader),
        }
    }
}
