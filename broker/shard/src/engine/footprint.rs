//! What the engine keeps in memory.

use super::Engine;
use crate::footprint::Footprint;

impl Engine {
    /// What the engine and its view of the log keep in memory now.
    pub(crate) fn footprint(&self) -> Footprint {
        let raft = &self.node.raft;
        let mut footprint = raft.raft_log.store.footprint();
        let unreported = usize::try_from(self.number - self.persisted).expect("they are in memory");
        let unstable = &raft.raft_log.unstable.entries;
        footprint.items += unreported
            + self.terms_in_flight.len()
            + self.messages.len()
            + self.full.len()
            + self.held.len()
            + raft.msgs.len()
            + raft.read_states.len()
            + raft.read_only.pending_read_index.len()
            + unstable.len();
        footprint.bytes += unstable.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        footprint
    }
}
