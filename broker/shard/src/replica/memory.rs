//! When committed entries are applied: while there is memory for their records.
//!
//! A leader applies at once, because its callers wait for memory before they propose. A replica
//! that does not serve waits itself: one that replays its log after a start, a follower, and a new
//! leader before the first entry of its term. Meanwhile it votes and acknowledges what is durable.
//!
//! # Limits
//!
//! The records in memory exceed the budget of the broker by at most
//! [`limits::APPLIED_AT_ONCE_BYTES_MAX`] for each shard, or by one larger entry. A replica that
//! waits takes no more entries once its log has [`limits::UNAPPLIED_BYTES_MAX`] in memory besides
//! [`limits::LOG_WINDOW_BYTES`]. What it took before it had to wait is at most what a leader leaves
//! uncommitted, [`limits::UNCOMMITTED_BYTES_MAX`].

use super::{Replica, StopReason, Work};
use crate::limits;
use crate::state::State;

impl Replica {
    /// Whether so much that is committed waits for memory that no more entries of the leader may be
    /// taken.
    #[must_use]
    pub fn is_backlogged(&self) -> bool {
        let bytes_max = limits::LOG_WINDOW_BYTES + limits::UNAPPLIED_BYTES_MAX;
        self.engine.payload_bytes() >= bytes_max && self.waits_for_room()
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.leading.is_none() && self.engine.waits_for_room()
    }

    /// Applies committed entries: all if this replica serves, and a piece of them otherwise.
    /// Returns whether there were any.
    pub(super) fn apply_committed(&mut self, state: &mut State, work: &mut Work) -> bool {
        let serves = self.leading.is_some();
        let (mut bytes, mut any) = (0, false);
        while let Some(index) = self.engine.next_to_apply() {
            bytes += self.engine.len_bytes(index);
            let is_piece = any && bytes > limits::APPLIED_AT_ONCE_BYTES_MAX && !serves;
            if is_piece || self.waits_for_room() {
                break;
            }
            any = true;
            let unread = |reason| StopReason::Unread { index, reason };
            let entry = self.engine.entry(index).map_err(unread);
            let applied = entry.and_then(|entry| self.apply(state, entry, work));
            if let Some(reason) = applied.err().or_else(|| self.checks.finding.take()) {
                self.stop(reason, work);
                break;
            }
        }
        any
    }
}
