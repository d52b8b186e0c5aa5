//! What the configuration of topics says about the files of their partitions.

use std::fmt;

use ropewalk_segment::SegmentConfig;
use ropewalk_shard::PartitionId;

/// What the configuration of topics says about files.
pub trait Policy: Send + Sync + fmt::Debug {
    /// How a partition's segments are cut.
    fn segments(&self, partition: PartitionId) -> SegmentConfig;
    /// How a partition is compacted; `None` if it is not.
    fn compaction(&self, partition: PartitionId) -> Option<CompactionPolicy> {
        let _ = partition;
        None
    }
}

/// How a partition is compacted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompactionPolicy {
    /// The share that must be new since the last time (`min.cleanable.dirty.ratio`).
    pub dirty_ratio_min: f64,
    /// How long the mark of a deleted key stays (`delete.retention.ms`).
    pub delete_retention_ms: i64,
    /// How long a record is safe (`min.compaction.lag.ms`).
    pub lag_ms_min: i64,
    /// After how long the share no longer matters (`max.compaction.lag.ms`).
    pub lag_ms_max: i64,
}
