//! The seam between a shard's driver and the other brokers: where its messages go, and how it reads
//! entries that a follower lacks.

use std::fmt;

use ropewalk_shard::engine::Entry;
use ropewalk_shard::message::Message;
use ropewalk_shard::{BrokerId, HistoryId, ShardId};
use ropewalk_store::replica_log;
use ropewalk_store::transfer::message::Message as FilesMessage;
use ropewalk_wal::{Reader, ReplicaKey};

use crate::sends::OnItsWay;

/// The brokers that hold the other replicas of the shards.
pub trait Peers: Send + Sync + fmt::Debug {
    /// Sends a message to the replica [`Message::to`] of the shard in this history, and never
    /// waits. Returns whether it was taken; a message that was taken may still be lost, doubled or
    /// overtaken.
    fn send(&self, shard: ShardId, history: HistoryId, message: Message) -> bool;

    /// The broker to which [`Self::send_entries`] sends messages for a replica; `None` if it is not
    /// known, or if nothing that was sent is held in memory.
    fn broker_of(&self, shard: ShardId, replica: u64) -> Option<BrokerId> {
        let _ = (shard, replica);
        None
    }

    /// Like [`Self::send`], for a message with entries to a replica whose broker is known.
    /// `on_its_way` is dropped when the message is no longer held here.
    fn send_entries(
        &self,
        shard: ShardId,
        history: HistoryId,
        message: Message,
        on_its_way: OnItsWay,
    ) -> bool {
        drop(on_its_way);
        self.send(shard, history, message)
    }

    /// Sends a message of a transfer of files to the replica that it names, and never waits.
    /// Returns whether it was taken; one that is lost is asked for again.
    fn send_files(&self, message: FilesMessage) -> bool;
}

/// The peers of a broker that is alone. Its replicas have no messages to send.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn send(&self, _: ShardId, _: HistoryId, _: Message) -> bool {
        false
    }

    fn send_files(&self, _: FilesMessage) -> bool {
        false
    }
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
