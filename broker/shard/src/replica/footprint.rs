//! What a replica keeps in memory.

use super::Replica;
use crate::footprint::Footprint;

impl Replica {
    /// What the replica and its engine keep in memory now.
    pub(crate) fn footprint(&self) -> Footprint {
        let mut footprint = self.engine.footprint();
        footprint.items += self.proposals.len() + self.reads.len() + self.checks.len();
        footprint
    }
}
