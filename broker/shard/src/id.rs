//! Identifiers of shards, replicas, brokers, topics and partitions, and the hash slots of groups.
//!
//! A shard keys everything by topic id, never by name: a topic that is deleted and created again
//! under the same name is another topic.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The number of a shard: one Raft group, with many partitions and the groups that hash to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u32);

impl ShardId {
    /// Shard 0, which holds the catalog of topics, partitions, shards and brokers.
    pub const CATALOG: Self = Self(0);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::CATALOG { f.write_str("catalog") } else { write!(f, "shard-{}", self.0) }
    }
}

/// The Raft node id of one broker's copy of a shard. The catalog assigns these and never reuses
/// one, so a replica that lost its disk cannot vote under its old id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

/// The history of a shard. A repair that continues a shard without a majority of its voters founds
/// a new one, because the other replicas may have committed entries that it lacks: replicas of
/// different histories exchange no messages. 0 for the history since the shard was created.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct HistoryId(pub u64);

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number by which Kafka clients address a broker (`node.id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BrokerId(pub i32);

/// The id of a topic (KIP-516). Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub Uuid);

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One partition of a topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// The topic that the partition belongs to.
    pub topic: TopicId,
    /// Its number in the topic, from 0.
    pub index: i32,
}

impl PartitionId {
    /// Length of [`Self::to_bytes`], bytes.
    pub const LEN: usize = 20;

    /// Topic id, then the index, both big-endian. The bytes sort like the id itself.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(self.topic.0.as_bytes());
        bytes[16..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// The reverse of [`Self::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let mut topic = [0; 16];
        topic.copy_from_slice(&bytes[..16]);
        let mut index = [0; 4];
        index.copy_from_slice(&bytes[16..]);
        Self { topic: TopicId(Uuid::from_bytes(topic)), index: i32::from_be_bytes(index) }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Number of hash slots for groups and transactional ids. The catalog maps slots to shards, so
/// that a shard can be added without moving every group.
pub const SLOTS: usize = 4096;

/// The slot of a group id or a transactional id: CRC-32C modulo [`SLOTS`].
#[must_use]
pub fn slot(id: &str) -> usize {
    crc32c::crc32c(id.as_bytes()) as usize % SLOTS
}
