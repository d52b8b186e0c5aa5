//! The part of the engine that concerns other replicas: their messages, entries that a follower
//! lacks, and transfers of leadership.

#[cfg(doc)]
use super::Fetch;
use super::{Engine, Entry, EntryId, MessageRejection, convert};
use crate::message::{Body, Message};

impl Engine {
    /// Handles a message of another replica.
    ///
    /// # Errors
    /// See [`MessageRejection`]. The message has no effect.
    pub fn step(&mut self, message: Message) -> Result<(), MessageRejection> {
        self.admit(&message)?;
        if self.members.contains(message.from) {
            self.heard.note(message.from);
        }
        if let Body::Heartbeat { commit, .. } = message.body {
            self.acknowledge_committed(message.from, message.term, commit);
        }
        if let Body::HeartbeatResponse { is_full, .. } = message.body {
            self.set_follower_full(message.from, is_full);
        }
        for entry in message.entries() {
            self.node.store().pass(entry.id(), entry.data.clone());
        }
        if let Some(message) = convert::to_raft(message) {
            // The crate's errors concern the state of the engine, not the message.
            let _ = self.node.step(message);
        }
        Ok(())
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

    /// Whether the log lacks the entry `last` and all that it knows to be committed is before it: a
    /// snapshot that includes the entry may replace the log. Otherwise entries that this replica
    /// acknowledged would be lost with it.
    #[must_use]
    pub fn lacks(&self, last: EntryId) -> bool {
        let log = &self.node.raft.raft_log;
        log.committed < last.index && !log.match_term(last.index, last.term)
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
}
