//! The other brokers of a cluster as a test says.

use std::sync::Arc;

use ropewalk_shard::{BrokerId, ShardId};

use super::{Holders, KnownBroker, Leader, Seen};

/// The other brokers of a cluster in a test.
pub(crate) trait Others: Send + Sync + std::fmt::Debug {
    /// Every broker, in the order of ids.
    fn brokers(&self) -> Vec<Arc<KnownBroker>>;
    /// Whether a broker is connected, or was heard of lately.
    fn is_alive(&self, broker: BrokerId) -> bool;
    /// The broker that leads a shard.
    fn leader(&self, shard: ShardId) -> Option<Leader>;
    /// The newest term of a shard, and the last known leader in it.
    fn last_leader(&self, shard: ShardId) -> Seen;
    /// The brokers that hold a shard.
    fn holders(&self, shard: ShardId) -> Holders;
    /// The broker of a replica.
    fn broker_of(&self, shard: ShardId, replica: u64) -> Option<BrokerId>;
    /// The shard of the broker that leads it.
    fn led(&self, shard: ShardId) -> Option<Arc<ropewalk_node::ShardHandle>>;
}
