//! The entries that may be applied, and the memory that they take before and after.
//!
//! Committed entries are no part of a [`Ready`](super::Ready). A replica may have to wait for
//! memory before it applies them; meanwhile it takes entries, acknowledges what is durable, and
//! votes.

#[cfg(doc)]
use super::EntrySource;
use super::{Engine, Entry};

impl Engine {
    /// The next entry to apply, if it is committed and durable here.
    #[must_use]
    pub fn next_to_apply(&self) -> Option<u64> {
        let next = self.node.raft.raft_log.applied + 1;
        (next <= self.to_apply).then_some(next)
    }

    /// An entry of the log. Its payload is read back if it is no longer in memory.
    ///
    /// # Errors
    /// When the payload cannot be read, or its checksum does not match.
    pub fn entry(&self, index: u64) -> Result<Entry, String> {
        self.node.store().entry(index)
    }

    /// Bytes of the payload of an entry.
    pub(crate) fn len_bytes(&self, index: u64) -> u64 {
        self.node.store().bytes_of(index, index).unwrap_or(0)
    }

    /// Whether the next entry to apply needs memory for its records and there is none: see
    /// [`EntrySource::has_room`].
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.next_to_apply().is_some_and(|next| self.node.store().waits_for_room(next))
    }

    /// Bytes of the payloads of the log in memory.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.node.store().payload_bytes()
    }

    /// Reports that everything through `index` is applied. A single replica releases the payloads.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        if self.is_lone() {
            self.node.mut_store().discard_through(index);
        } else {
            self.node.mut_store().release(index);
        }
        self.campaign_alone();
    }

    /// Reports that a snapshot through `index` is durable. The log is kept from there on.
    pub fn compacted(&mut self, index: u64) {
        let index = index.min(self.node.raft.raft_log.applied);
        self.node.mut_store().discard_through(index);
    }
}
