//! Followers whose disks have no space for record batches, as their leader treats them.
//!
//! - A full follower is sent no record batches, so that it never fills the reserve of its log; the
//!   others go on.
//! - A command that frees space must reach a full follower, or it stays full for ever. It is sent
//!   the batches before the command, if they are at most [`limits::RESERVE_CATCH_UP_BYTES_MAX`],
//!   and a snapshot otherwise.
//! - If batches cannot be committed because too many followers are full or silent, none is proposed
//!   ([`Engine::is_majority_full`]). Those that were proposed before are sent to full followers if
//!   a command waits behind them: it may be the one that frees space.

use super::Engine;
use crate::entry::Entry;
use crate::limits;
use crate::message::{Body, Message};

impl Engine {
    /// Sets whether the disk of this replica has no space for record batches. The leader learns of
    /// it with the next answer to a heartbeat.
    pub fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    /// Whether record batches cannot be committed now because the disks of followers are full. A
    /// follower that was not heard of for an election timeout cannot take the place of a full one.
    #[must_use]
    pub fn is_majority_full(&self) -> bool {
        let voters = &self.members.voters;
        let own = self.id();
        let is_full = |id: &&u64| self.full.contains(id);
        let is_silent = |id: &&u64| **id != own && self.heard.is_silent(**id);
        let lost = voters.iter().filter(|id| is_full(id) || is_silent(id)).count();
        voters.iter().any(|id| self.full.contains(id)) && 2 * (voters.len() - lost) <= voters.len()
    }

    /// Takes note of what a follower says of its disk.
    pub(super) fn set_follower_full(&mut self, replica: u64, is_full: bool) {
        if !is_full {
            self.full.remove(&replica);
            return;
        }
        if self.full.insert(replica) {
            self.node.report_unreachable(replica);
        }
        let matched = self.matched(replica);
        let is_known = self.last_freeing > self.last_at_start;
        if is_known && self.last_freeing > matched && !self.is_within_reserve(matched) {
            self.node.mut_store().request_snapshot(replica);
        }
    }

    fn matched(&self, replica: u64) -> u64 {
        self.node.raft.prs().get(replica).map_or(0, |progress| progress.matched)
    }

    /// Whether the entries after `matched`, through the newest one that frees space, fit the
    /// reserve of a full follower.
    fn is_within_reserve(&self, matched: u64) -> bool {
        let bytes = self.node.store().bytes_of(matched + 1, self.last_freeing);
        bytes.is_some_and(|bytes| bytes <= limits::RESERVE_CATCH_UP_BYTES_MAX)
    }

    /// Whether a message is of use to its receiver. Entries that a full follower does not need to
    /// reach a command that frees space are taken out.
    pub(super) fn is_useful(&self, message: &mut Message) -> bool {
        let has_batches = message.entries().iter().any(Entry::has_batches);
        if !has_batches || !self.full.contains(&message.to) {
            return true;
        }
        if self.last_command > self.committed() && self.is_majority_full() {
            return true;
        }
        let to = message.to;
        let Body::Append { entries, .. } = &mut message.body else { return true };
        entries.retain(|entry| entry.index <= self.last_freeing);
        !entries.is_empty() && self.is_within_reserve(self.matched(to))
    }

    /// Remembers the newest of the appended entries that carry no record batches, and that free
    /// space.
    pub(super) fn note_commands(&mut self, entries: &[Entry]) {
        if let Some(command) = entries.iter().rfind(|entry| !entry.has_batches()) {
            self.last_command = command.index;
        }
        if let Some(freeing) = entries.iter().rfind(|entry| entry.frees_space()) {
            self.last_freeing = freeing.index;
        }
    }
}
