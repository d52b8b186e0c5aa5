//! Where replicas are placed, and what the catalog knows of the brokers.
//!
//! The placement is the desired state. The leader of each shard changes the members of Raft until
//! they are those of the catalog.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{BrokerId, ReplicaId};

/// What a replica is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It receives the log and does not vote.
    Learner,
    /// It receives the log and votes.
    Voter,
    /// It is being removed. A leaving replica never gets another role.
    Leaving,
}

/// A replica that the catalog has placed on a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedReplica {
    /// The broker that holds it.
    pub broker: BrokerId,
    /// What it is to be.
    pub role: Role,
}

/// The replicas of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Each replica that is not removed.
    pub replicas: BTreeMap<ReplicaId, PlacedReplica>,
}

impl ShardInfo {
    /// A shard with one replica, which votes.
    #[must_use]
    pub fn lone(replica: ReplicaId, broker: BrokerId) -> Self {
        let placed = PlacedReplica { broker, role: Role::Voter };
        Self { replicas: BTreeMap::from([(replica, placed)]) }
    }

    /// The broker of each replica.
    #[must_use]
    pub fn brokers(&self) -> BTreeMap<ReplicaId, BrokerId> {
        self.replicas.iter().map(|(replica, placed)| (*replica, placed.broker)).collect()
    }

    /// The replica on a broker, which is the only one there; `None` if it has none.
    #[must_use]
    pub fn on(&self, broker: BrokerId) -> Option<(ReplicaId, Role)> {
        let mut all = self.replicas.iter();
        all.find(|(_, placed)| placed.broker == broker)
            .map(|(replica, placed)| (*replica, placed.role))
    }
}

/// Whether a broker takes replicas, and whether it leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It takes replicas and keeps them.
    #[default]
    Serving,
    /// It is to be left: its replicas are moved to other brokers, and no shard has fewer of them
    /// afterwards.
    Draining,
    /// It is to be left, and shards may have fewer replicas afterwards. Since format 7 of the
    /// commands, like all below.
    DrainingToFewer,
    /// It is to be restarted: it keeps its replicas and leads no shard. This ends when a later
    /// start of it has caught up, or at the deadline.
    Restarting {
        /// The start that is to end: [`BrokerInfo::incarnation`] at the time of the request.
        incarnation: u64,
        /// Time at which the preparation ends, Unix milliseconds.
        deadline_ms: i64,
    },
    /// It serves again, without a restart: the one that was prepared did not end before its
    /// deadline. The next start of the broker, or the next change, replaces this.
    NotRestarted {
        /// The deadline that has passed, Unix milliseconds.
        deadline_ms: i64,
    },
}

impl Standing {
    /// Whether the broker's replicas are moved to other brokers.
    #[must_use]
    pub fn is_draining(self) -> bool {
        match self {
            Self::Draining | Self::DrainingToFewer => true,
            Self::Serving | Self::Restarting { .. } | Self::NotRestarted { .. } => false,
        }
    }

    /// Whether the broker is to be restarted.
    #[must_use]
    pub fn is_restarting(self) -> bool {
        matches!(self, Self::Restarting { .. })
    }
}

/// Where other brokers reach a broker over QUIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEndpoint {
    /// Host name or address.
    pub host: String,
    /// UDP ports of the connection for Raft and of the one for bulk data.
    pub ports: [u16; 2],
}

/// What the catalog stores of a broker. The proposer validates names and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// The broker's `broker.rack`.
    pub rack: Option<String>,
    /// Where other brokers reach it; `None` for one that is alone.
    pub peer: Option<PeerEndpoint>,
    /// Host and port that clients of each listener are given, by the listener's name.
    pub endpoints: BTreeMap<String, (String, u16)>,
    /// Address of its admin server, `HOST:PORT`.
    pub admin: Option<String>,
    /// The start of the broker that registered this, counted in its data directory from 1; 0 for a
    /// broker without a formatted directory, which joins. A lower one than the catalog has is
    /// refused: it is an older start, or the directory was lost with the votes that it held.
    pub incarnation: u64,
    /// Whether it takes replicas and leads. A registration keeps the standing of a known broker,
    /// but a new start ends [`Standing::NotRestarted`].
    pub standing: Standing,
}
