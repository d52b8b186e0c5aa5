//! The part of a driver that concerns the other replicas: messages, entries for followers, and the
//! end of a replica that contradicts them.

use std::collections::BTreeSet;
use std::sync::Arc;

use ropewalk_shard::driver::Event;
use ropewalk_shard::engine::Fetch;
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::replica::StopReason;
use ropewalk_shard::send_budget::Turn;
use tracing::{error, warn};

use super::{Driver, Fetched};
use crate::blocking;
use crate::handle::{Halt, Replication};
use crate::supervision::Failure;

impl Driver {
    /// Records that the replica has stopped, also on the disk if it must not start again.
    ///
    /// # Errors
    /// When a sync of the disk failed (D2).
    pub(super) async fn halt(&mut self, reason: &StopReason) -> Result<(), Failure> {
        let (id, replica) = (self.shard.id(), self.core.replica().id());
        error!(shard = %id, %reason, "replica stopped");
        let (text, ends_with_upgrade) = (reason.to_string(), reason.ends_with_upgrade());
        self.shard.set_progress(Vec::new());
        self.shard.set_halted(Halt { reason: text.clone(), ends_with_upgrade });
        if !reason.needs_mark() {
            return Ok(());
        }
        let logs = Arc::clone(&self.context.logs);
        let mark = move || logs.quarantine(replica, &text);
        match blocking::start(mark).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_final() => return Err(Failure::Disk(error.to_string())),
            Ok(Err(error)) => {
                warn!(shard = %id, %error, "marking the replica failed, a restart will run it again");
            }
            Err(error) => return Err(Failure::Fault(error)),
        }
        Ok(())
    }

    /// Sends messages. Raft is informed of entries that were not taken, or have to wait for their
    /// turn: it sends them again.
    pub(super) fn send(&mut self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let (shard, history) = (self.shard.id(), self.core.replica().members().history);
        let peers = Arc::clone(&self.context.peers);
        let broker_of = |replica| peers.broker_of(shard, replica);
        let (admitted, held) = self.context.sends.admit(shard, messages, broker_of);
        let mut unreachable = BTreeSet::new();
        for (message, on_its_way) in admitted {
            let entries_for = matches!(message.body, Body::Append { .. }).then_some(message.to);
            let is_taken = match on_its_way {
                Some(on_its_way) => peers.send_entries(shard, history, message, on_its_way),
                None => peers.send(shard, history, message),
            };
            if !is_taken {
                unreachable.extend(entries_for);
            }
        }
        for (replica, first) in held {
            self.event(Event::Held { replica, first });
        }
        for replica in unreachable {
            self.event(Event::Unreachable(replica));
        }
    }

    /// Sends what waits for a broker that takes entries of this shard again. Returns why the
    /// replica stopped, once.
    pub(super) fn take_turn(&mut self, turn: Turn) -> Option<StopReason> {
        let members: Vec<u64> = self.core.replica().members().iter().collect();
        for replica in members {
            let broker = self.context.peers.broker_of(self.shard.id(), replica);
            // One whose broker is no longer known has no other turn.
            if broker.is_none_or(|broker| broker == turn.peer) {
                self.event(Event::Sendable(replica));
            }
        }
        let stopped = self.settle();
        self.context.sends.end_turn(turn);
        stopped
    }

    /// Reads entries without holding up the driver.
    pub(super) fn fetch(&self, Fetch { id, first, last }: Fetch) {
        let (log, key, answer) = (Arc::clone(&self.context.log), self.key(), self.fetch.clone());
        blocking::start(move || {
            let read = || log.read(key, first, last);
            // A request without an answer would never be asked again.
            let entries = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
            let _ = answer.send(Fetched { id, entries: entries.ok().flatten() });
        });
    }

    /// Publishes who takes part and who leads. A replica with peers has its entries located in the
    /// log, because a follower may need them. The log does not have all entries before the first
    /// peer, so a new member needs a snapshot of now.
    pub(super) fn publish(&self) {
        let replica = self.core.replica();
        let members = replica.members();
        let new = self.shard.set_replication(replica.term(), replica.leader(), members);
        let Some(Replication { members: before, .. }) = new else { return };
        self.context.log.set_followed(self.key(), !members.is_lone(replica.id().0));
        // At a start nothing was known before.
        if before.contains(replica.id().0) && members.iter().any(|id| !before.contains(id)) {
            self.context.logs.checkpoint();
        }
        self.publish_progress();
    }

    /// Publishes how far the members are. That changes with every entry, so it is published now and
    /// then only.
    pub(super) fn publish_progress(&self) {
        self.shard.set_progress(self.core.replica().progress());
    }
}
