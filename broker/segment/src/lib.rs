//! Segment files of a partition: write, index, read, retention, compaction.
