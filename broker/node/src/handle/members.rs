//! Who takes part in a shard and who leads it, as the driver has published it.

use ropewalk_shard::HistoryId;

use super::{Replication, ShardHandle};

impl ShardHandle {
    /// Who takes part in the shard and who leads it.
    #[must_use]
    pub fn replication(&self) -> Replication {
        self.replication.read().clone()
    }

    /// [`Replication::term`] and [`Replication::leader`], without a copy of the members.
    #[must_use]
    pub fn leader_seen(&self) -> (u64, Option<u64>) {
        let held = self.replication.read();
        (held.term, held.leader)
    }

    /// The term of the leader that this replica follows as a voter. `None` if it leads, knows of no
    /// leader, has stopped, or is a learner, which may still lack what its leader's log begins
    /// after. A replica that hears nothing of its leader for an election timeout knows of none.
    #[must_use]
    pub fn following(&self) -> Option<u64> {
        let own = self.replica().filter(|_| !self.is_halted())?;
        let held = self.replication.read();
        held.leader.filter(|leader| *leader != own && held.members.is_voter(own))?;
        Some(held.term)
    }

    /// The history of the shard that the members belong to, without a copy of them.
    #[must_use]
    pub fn history(&self) -> HistoryId {
        self.replication.read().members.history
    }
}
