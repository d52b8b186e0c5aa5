//! Every bound of the store, and what they must hold against those of the shards and of the log.

use ropewalk_shard::limits::WRITE_BYTES_MAX;

/// A tail this long is written to segments without waiting for a checkpoint.
pub const TAIL_BYTES_TO_FLUSH: usize = 1 << 20;

/// Logs that were flushed and not synced, unless the options say less. Each has two files open.
pub const UNSYNCED_LOGS_MAX: usize = 1536;

/// Spill and tail of a partition that are smaller together go to the shard's spill file at a
/// checkpoint, not to a segment.
pub const SPILL_BYTES_MAX: usize = 32 << 10;

/// So many syncs of segments that somebody waits for are made together instead of one after the other.
pub const SYNCED_TOGETHER_MIN: usize = 64;

/// Syncs under way at once when they are made together.
pub const SYNCS_TOGETHER: usize = 8;

/// Runs of a partition in spill files. Above it a checkpoint writes them anew as one.
pub const SPILL_RUNS_MAX: usize = 4;

/// Between two looks for partitions that are to be compacted, milliseconds.
pub const COMPACTION_INTERVAL_MS: i64 = 15_000;

/// Memory for the keys of the partition that is being compacted.
pub const COMPACTION_KEYS_BYTES_MAX: usize = 16 << 20;

/// What the records of one batch may take when they are decompressed to be compacted.
pub const COMPACTION_RECORDS_BYTES_MAX: usize = 128 << 20;

const _: () = assert!(
    WRITE_BYTES_MAX as u64 <= ropewalk_wal::round_records_bytes_max(ropewalk_wal::FILE_BYTES),
    "a submission fits a log file"
);
