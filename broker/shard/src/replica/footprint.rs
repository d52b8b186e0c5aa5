//! What a replica keeps in memory.

use super::Replica;
use crate::footprint::Footprint;

impl Replica {
    /// What the replica and its engine keep in memory now.
    pub(crate) fn footprint(&self) -> Footprint {
        let mut footprint = self.engine.footprint();
        let reads = self.reads_confirmed.iter().chain(&self.read_contexts);
        footprint.items += self.proposals.len()
            + self.reads_asked.len()
            + self.checks.len()
            + reads.map(|(_, tickets)| 1 + tickets.len()).sum::<usize>();
        footprint
    }
}
