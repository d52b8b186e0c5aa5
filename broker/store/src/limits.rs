//! The bounds of the store. Assertions check that a submission of a shard fits a WAL file, and the
//! commands that free space fit its reserve.

use ropewalk_shard::limits::{
    ENTRY_OVERHEAD_BYTES, FREEING_COMMAND_BYTES_MAX, RESERVE_CATCH_UP_BYTES_MAX, WRITE_BYTES_MAX,
};

/// A tail of this size is written to segments without waiting for a checkpoint, bytes.
pub const TAIL_BYTES_TO_FLUSH: usize = 1 << 20;

/// Number of threads that write tails to segments. Each serves the shards whose number has the same
/// remainder.
pub const FLUSHERS: usize = 2;

/// Default for the most logs that are flushed and not synced. Each keeps two files open.
pub const UNSYNCED_LOGS_MAX: usize = 1536;

/// At a checkpoint, spill and tail of a partition that together are smaller than this are written
/// to the shard's spill file, not to a segment, bytes.
pub const SPILL_BYTES_MAX: usize = 32 << 10;

/// The write-ahead log is normally at most this many times as long as the size at which a
/// checkpoint is due for its length: the snapshots that exist cover its older half, and the next
/// checkpoint releases that.
pub const WAL_HALVES: u64 = 2;

/// At this many times that size, the syncs of a checkpoint no longer wait for their budget.
pub const WAL_HALVES_URGENT: u64 = 3;

/// From this number on, urgent syncs of segments run in parallel instead of one after the other.
pub const SYNCED_TOGETHER_MIN: usize = 64;

/// Most syncs in parallel.
pub const SYNCS_TOGETHER: usize = 8;

/// Runs of a partition in spill files at which a checkpoint rewrites them as one.
pub const SPILL_RUNS_MAX: usize = 4;

/// Interval of the search for partitions to compact, milliseconds.
pub const COMPACTION_INTERVAL_MS: i64 = 15_000;

/// Most memory for the keys of the partition that is being compacted, bytes.
pub const COMPACTION_KEYS_BYTES_MAX: usize = 16 << 20;

/// Largest decompressed size of the records of one batch in a compaction, bytes.
pub const COMPACTION_RECORDS_BYTES_MAX: usize = 128 << 20;

/// Most transfers of shards that a broker sends at once, and most that it receives at once. Others
/// wait.
pub const TRANSFERS_MAX: usize = 2;

/// Most transfers that wait for another to end.
pub const TRANSFERS_WAITING_MAX: usize = 256;

/// Most bytes of a file in one message of a transfer. A receiver has one such message on its way.
pub const TRANSFER_PIECE_BYTES_MAX: u32 = 1 << 20;

/// Most bytes of the list of the files of a transfer; about 40 per segment.
pub const TRANSFER_LIST_BYTES_MAX: u64 = 64 << 20;

/// Received files that are made durable together at the latest.
pub const TRANSFER_UNSYNCED_FILES_MAX: usize = 64;

/// After so long without an answer, the receiver of a transfer asks again, milliseconds.
pub const TRANSFER_RETRY_MS: i64 = 5_000;

/// After so long without a question, the sender of a transfer releases its files, milliseconds.
pub const TRANSFER_IDLE_MS: i64 = 60_000;

const _: () = assert!(
    TRANSFER_RETRY_MS * 3 <= TRANSFER_IDLE_MS,
    "three questions or answers of a transfer may be lost"
);

const _: () = assert!(
    WRITE_BYTES_MAX as u64 <= ropewalk_wal::round_records_bytes_max(ropewalk_wal::FILE_BYTES),
    "a submission fits a log file"
);
const _: () = assert!(
    (FREEING_COMMAND_BYTES_MAX + ENTRY_OVERHEAD_BYTES) as u64
        <= (ropewalk_wal::RESERVE_BYTES - ropewalk_wal::RELEASE_BYTES) / 2,
    "a command that frees space fits the reserve with the frame of its round"
);
const _: () = assert!(
    RESERVE_CATCH_UP_BYTES_MAX <= ropewalk_wal::FILE_BYTES / 32,
    "what full followers of many shards are sent fits the file that is the reserve"
);
