//! The part of the engine that concerns other replicas: their messages, full disks, entries that a
//! follower lacks, and transfers of leadership.

#[cfg(doc)]
use super::Fetch;
use super::{Engine, Entry, MessageRejection, convert};
use crate::message::{Body, Message};

impl Engine {
    /// Handles a message of another replica.
    ///
    /// # Errors
    /// See [`MessageRejection`]. The message has no effect.
    pub fn step(&mut self, message: Message) -> Result<(), MessageRejection> {
        self.admit(&message)?;
        if let Body::Heartbeat { commit, .. } = message.body {
            self.acknowledge_committed(message.from, message.term, commit);
        }
        if let Body::HeartbeatResponse { is_full, .. } = message.body {
            self.set_follower_full(message.from, is_full);
        }
        for entry in message.entries() {
            self.node.store().pass(entry.id(), entry.data.clone());
        }
        // The crate's errors concern the state of the engine, not the message.
        let _ = self.node.step(convert::to_raft(message));
        Ok(())
    }

    /// Sets whether the disk of this replica has no space for record batches. The leader learns of
    /// it with the next answer to a heartbeat.
    pub fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    /// Whether so many followers have full disks that record batches cannot be committed now.
    #[must_use]
    pub fn is_majority_full(&self) -> bool {
        let voters = &self.members.voters;
        let full = voters.iter().filter(|id| self.full.contains(id)).count();
        2 * (voters.len() - full) <= voters.len()
    }

    fn set_follower_full(&mut self, replica: u64, is_full: bool) {
        if is_full && self.full.insert(replica) {
            self.node.report_unreachable(replica);
        } else if !is_full {
            self.full.remove(&replica);
        }
    }

    /// Acknowledges the committed part of the log to a leader that does not know of it. The log of
    /// a replica that has installed a snapshot begins after everything that the leader could send.
    fn acknowledge_committed(&mut self, leader: u64, term: u64, commit: u64) {
        let log = &self.node.raft.raft_log;
        let index = log.committed.min(log.persisted);
        if term == self.durable_term && term == self.term() && commit < index {
            let body = Body::Appended { index, commit: index };
            self.messages.push(Message { from: self.id(), to: leader, term, body });
        }
    }

    /// The last index that is durable in this replica's log together with all before it.
    pub(crate) fn durable_index(&self) -> u64 {
        self.node.raft.raft_log.persisted
    }

    /// Reports that messages to this replica are lost: entries are sent again from the last one
    /// that it acknowledged.
    pub fn unreachable(&mut self, replica: u64) {
        self.node.report_unreachable(replica);
    }

    /// Asks `replica` to lead. Proposals are refused as busy until it leads, or until an election
    /// timeout has passed.
    pub fn transfer_leadership(&mut self, replica: u64) {
        if self.is_leader() && self.members.voters.contains(&replica) {
            self.node.transfer_leader(replica);
        }
    }

    /// Passes in the entries that a [`Fetch`] asked for; `None` when the log no longer has them, or
    /// they cannot be read. Their follower then gets a snapshot.
    pub fn fetched(&mut self, id: u64, entries: Option<Vec<Entry>>) {
        if let Some(context) = self.node.mut_store().answer(id, entries) {
            self.node.on_entries_fetched(context);
            self.node.mut_store().clear_answer();
        }
    }

    /// Whether a message carries record batches to a follower that has no space for them. If a
    /// command waits behind batches, and a majority is full, the followers have to take them into
    /// the reserve of their logs: the command may be the one that frees space.
    pub(super) fn is_useless(&self, message: &Message) -> bool {
        let is_awaited = self.last_command > self.committed() && self.is_majority_full();
        self.full.contains(&message.to)
            && !is_awaited
            && message.entries().iter().any(Entry::has_batches)
    }

    /// Remembers the newest of the appended entries that carries no record batches.
    pub(super) fn note_commands(&mut self, entries: &[Entry]) {
        if let Some(command) = entries.iter().rfind(|entry| !entry.has_batches()) {
            self.last_command = command.index;
        }
    }
}
