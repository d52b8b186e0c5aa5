//! Settings for the segments and the compaction of a partition, from its topic's configuration.

use std::fmt;

use ropewalk_segment::SegmentConfig;
use ropewalk_shard::PartitionId;

/// Gives the settings of each partition.
pub trait Policy: Send + Sync + fmt::Debug {
    /// When a partition's segments are rolled.
    fn segments(&self, partition: PartitionId) -> SegmentConfig;
    /// How a partition is compacted; `None` if its topic does not have `cleanup.policy=compact`.
    fn compaction(&self, partition: PartitionId) -> Option<CompactionPolicy> {
        let _ = partition;
        None
    }
}

/// How a partition is compacted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompactionPolicy {
    /// The least share of bytes not compacted yet (`min.cleanable.dirty.ratio`).
    pub dirty_ratio_min: f64,
    /// How long a tombstone is kept (`delete.retention.ms`).
    pub delete_retention_ms: i64,
    /// How long a record is not compacted (`min.compaction.lag.ms`).
    pub lag_ms_min: i64,
    /// After how long a record is compacted whatever the share is (`max.compaction.lag.ms`).
    pub lag_ms_max: i64,
}
