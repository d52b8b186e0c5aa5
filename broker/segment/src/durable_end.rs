//! The durable end of a partition's segments: stored in snapshots, and used by recovery.

/// Position up to which the segments of a partition are durable. Recovery cuts everything behind
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DurableEnd {
    /// Base offset of the segment for the next batch.
    pub segment_base: i64,
    /// Length of its log in bytes. At 0 the segment does not exist yet, and the previous one is
    /// sealed.
    pub position_bytes: u64,
    /// Number of entries of its index.
    pub blocks: u32,
    /// Offset of the next batch.
    pub next_offset: i64,
}
