//! Where the segments of a partition are durable to: what a snapshot names, and recovery cuts at.

/// Up to where a partition's segments are durable: all that is needed to cut them there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DurableEnd {
    /// The segment that takes the next batch.
    pub segment_base: i64,
    /// Length of its log. At 0 the segment does not exist yet, and the one before it is sealed.
    pub position_bytes: u64,
    /// Entries of its index.
    pub blocks: u32,
    /// The offset that the next batch continues.
    pub next_offset: i64,
}
