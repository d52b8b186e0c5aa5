//! The seam between a shard's driver and the other brokers: where its messages go, and how it reads
//! entries that a follower lacks.

use std::fmt;

use ropewalk_shard::ShardId;
use ropewalk_shard::engine::Entry;
use ropewalk_shard::message::Message;
use ropewalk_store::replica_log;
use ropewalk_wal::{Reader, ReplicaKey};

/// The brokers that hold the other replicas of the shards.
pub trait Peers: Send + Sync + fmt::Debug {
    /// Sends a message to the replica [`Message::to`] of the shard, and never waits. Returns
    /// whether it was taken; a message that was taken may still be lost, doubled or overtaken.
    fn send(&self, shard: ShardId, message: Message) -> bool;

    /// Says that a replica lacks entries that the log no longer has: it needs the shard's files.
    fn needs_files(&self, shard: ShardId, replica: u64);
}

/// The peers of a broker that is alone. Its replicas have no messages to send.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn send(&self, _: ShardId, _: Message) -> bool {
        false
    }

    fn needs_files(&self, _: ShardId, _: u64) {}
}

/// Reads the log while it is written, as a trait that tests replace.
pub trait LogReader: Send + Sync + fmt::Debug {
    /// Sets whether entries of this replica may be read from now on.
    fn set_followed(&self, key: ReplicaKey, is_followed: bool);

    /// The entries from `first` through `last`; `None` if the log does not have them all. Blocks.
    fn read(&self, key: ReplicaKey, first: u64, last: u64) -> Option<Vec<Entry>>;
}

impl LogReader for Reader {
    fn set_followed(&self, key: ReplicaKey, is_followed: bool) {
        if is_followed {
            self.follow(key, &[]);
        } else {
            self.unfollow(key);
        }
    }

    fn read(&self, key: ReplicaKey, first: u64, last: u64) -> Option<Vec<Entry>> {
        replica_log::read(self, key, first, last)
    }
}
