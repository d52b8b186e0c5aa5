//! What the driver's core keeps in memory.

use super::{Core, Proposal};
use crate::footprint::Footprint;

impl Core {
    /// What the core, its replica and its engine keep in memory now.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let mut footprint = self.replica.footprint();
        footprint.items += self.queue.len()
            + self.calls.len()
            + self.waiters.len()
            + self.writes.in_flight()
            + self.inbox.len();
        let waiting = self.queue.iter().map(|pending| match &pending.what {
            Proposal::Appends(items) => items.iter().map(|item| item.batch.len() as u64).sum(),
            Proposal::Command(_) => 0,
        });
        footprint.bytes +=
            waiting.sum::<u64>() + self.writes.payload_bytes() + self.inbox.payload_bytes();
        footprint
    }
}
