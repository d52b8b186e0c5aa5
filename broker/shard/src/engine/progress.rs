//! How far the log of each member is, as the leader knows it.

use raft::ProgressState;

use super::Engine;
use crate::limits;

/// How far the log of one member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Raft id of the replica.
    pub replica: u64,
    /// The last index that the replica has durably, as far as the leader knows.
    pub matched: u64,
    /// Whether the replica votes; otherwise it is a learner.
    pub is_voter: bool,
    /// Whether the replica lacks at most [`limits::CAUGHT_UP_ENTRIES_MAX`] entries of the leader's
    /// log and is being sent them, and has answered within the last election timeout. Such a
    /// learner can be promoted. One that waits for files may lack entries that no log has any more.
    pub is_caught_up: bool,
}

impl Engine {
    /// How far each member is, by replica; empty unless this replica leads.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        if !self.is_leader() {
            return Vec::new();
        }
        let members = self.members.iter().map(|replica| {
            let known = self.node.raft.prs().get(replica);
            Progress {
                replica,
                matched: known.map_or(0, |progress| progress.matched),
                is_voter: self.members.is_voter(replica),
                is_caught_up: self.is_caught_up(replica),
            }
        });
        let mut members: Vec<Progress> = members.collect();
        members.sort_unstable_by_key(|member| member.replica);
        members
    }

    /// See [`Progress::is_caught_up`]. This replica leads.
    pub(super) fn is_caught_up(&self, replica: u64) -> bool {
        let known = self.node.raft.prs().get(replica);
        replica == self.id()
            || known.is_some_and(|progress| {
                let lacks = self.last_index().saturating_sub(progress.matched);
                let is_sent = lacks == 0 || progress.state == ProgressState::Replicate;
                let is_heard = !self.heard.is_silent(replica);
                is_heard && is_sent && lacks <= limits::CAUGHT_UP_ENTRIES_MAX
            })
    }
}
