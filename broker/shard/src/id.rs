//! Names of things: shards, replicas, brokers, topics, partitions, slots.
//!
//! Everything in a shard is keyed by topic id, never by name: a topic that is deleted and
//! made again under the same name is another topic.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One Raft group. It is home to many partitions and to the groups that hash to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u32);

impl ShardId {
    /// Shard 0: which queues, partitions, shards and brokers exist.
    pub const CATALOG: Self = Self(0);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::CATALOG { f.write_str("catalog") } else { write!(f, "shard-{}", self.0) }
    }
}

/// One broker's copy of a shard, as Raft knows it. The catalog gives these out and never
/// reuses one, so a replica that lost its disk cannot vote under its old name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

/// A broker, as Kafka's clients know it (`node.id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BrokerId(pub i32);

/// A topic's identity (KIP-516). Never reused.
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
    /// The topic.
    pub topic: TopicId,
    /// Its place in the topic, from 0.
    pub index: i32,
}

impl PartitionId {
    /// How many bytes [`Self::to_bytes`] gives.
    pub const LEN: usize = 20;

    /// Topic id, then the index, both big-endian: sorts like the pair itself.
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

/// How many hash slots groups and transactional ids fall into. The catalog maps slots to
/// shards, so that a shard can be added without moving every group.
pub const SLOTS: usize = 4096;

/// The slot of a group id or a transactional id: CRC-32C modulo [`SLOTS`].
#[must_use]
pub fn slot(id: &str) -> usize {
    crc32c::crc32c(id.as_bytes()) as usize % SLOTS
}
