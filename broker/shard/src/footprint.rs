//! How much a replica keeps in memory.

#[cfg(doc)]
use crate::limits;

/// What one replica keeps in memory besides its state. Each part has a bound in [`limits`], or is
/// bounded by the calls that are open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Log entries of which index, term and length are in memory: those after the newest snapshot,
    /// at most [`limits::LOG_ENTRIES_MAX`] of them applied.
    pub entries: usize,
    /// Everything else that is kept one by one: open calls and proposals, reads, writes in flight,
    /// messages, requests for entries.
    pub items: usize,
    /// Bytes of payloads: of the log, of waiting messages, of writes in flight, of waiting batches.
    /// A payload in several places counts several times.
    pub bytes: u64,
}
