//! What the node sends to the other brokers.

use std::sync::atomic::Ordering;

use ropewalk_node::Peers;
use ropewalk_node::sends::OnItsWay;
use ropewalk_peer::{Held, Sent};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, HistoryId, ShardId};
use ropewalk_store::transfer::message::Message as FilesMessage;

use super::{FILES_WAITING_MAX, Link};

impl Link {
    fn send_held(
        &self,
        shard: ShardId,
        history: HistoryId,
        message: &Message,
        held: Option<Held>,
    ) -> bool {
        let Some(ends) = self.ends.get() else { return false };
        let Some(broker) = self.broker_of(shard, message.to) else { return false };
        let is_heartbeat =
            matches!(message.body, Body::Heartbeat { .. } | Body::HeartbeatResponse { .. });
        let sent = ends.peers.send_held(broker, (shard, history), message, held) == Sent::Taken;
        if sent && is_heartbeat {
            self.heartbeats.notify_one();
        }
        sent
    }
}

impl Peers for Link {
    fn send(&self, shard: ShardId, history: HistoryId, message: Message) -> bool {
        self.send_held(shard, history, &message, None)
    }

    fn broker_of(&self, shard: ShardId, replica: u64) -> Option<BrokerId> {
        self.broker_of(shard, replica)
    }

    fn send_entries(
        &self,
        shard: ShardId,
        history: HistoryId,
        message: Message,
        on_its_way: OnItsWay,
    ) -> bool {
        self.send_held(shard, history, &message, Some(Box::new(on_its_way)))
    }

    fn send_files(&self, message: FilesMessage) -> bool {
        let Some(broker) = self.broker_of(message.shard, message.to) else { return false };
        if !self.is_connected(broker) {
            return false;
        }
        let waiting = &self.lanes(broker).files_waiting;
        if waiting.fetch_add(1, Ordering::AcqRel) >= FILES_WAITING_MAX {
            waiting.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        self.files.send((broker, message)).is_ok()
    }
}
