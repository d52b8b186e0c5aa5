//! Every bound of this crate, with the reason for its value.

use std::time::Duration;

/// Longest cluster id in bytes: the bound that a hello between brokers has.
pub const CLUSTER_ID_BYTES_MAX: usize = 63;

/// Most bytes of batches in one object: what an upload and a check hold in memory. An uploader
/// aims below it, at some 64 MiB, and the largest batch (32 MiB) fits on top of that.
pub const BODY_BYTES_MAX: u64 = 256 << 20;

/// Largest size of a block in bytes, unless a single batch is larger. A block is the unit of
/// lookups and checksums.
pub const BLOCK_BYTES_MAX: u32 = 64 << 10;

/// Most blocks of an object: two adjacent blocks are larger than [`BLOCK_BYTES_MAX`] together.
pub const BLOCKS_MAX: u32 = (2 * (BODY_BYTES_MAX / BLOCK_BYTES_MAX as u64) + 1) as u32;

/// Most leader epochs in one object: the number that a partition keeps.
pub const EPOCHS_MAX: u32 = 1024;

/// Most producers in one object. An object with that many ends early.
pub const PRODUCERS_MAX: u32 = 64 << 10;

/// Batches that an object names per producer: as many as a partition keeps to detect duplicates.
pub const PRODUCER_BATCHES_MAX: usize = 5;

/// Largest footer of an object in bytes. The bounds above fit.
pub const FOOTER_BYTES_MAX: u32 = 16 << 20;

/// Bytes that are read at once from the end of an object. They contain the whole footer of an
/// object of 64 MiB with up to a hundred producers.
pub const TAIL_BYTES: u64 = 64 << 10;

/// Most entries of a manifest page.
pub const PAGE_ENTRIES_MAX: u32 = 4096;

/// Largest manifest page in bytes. [`PAGE_ENTRIES_MAX`] entries fit.
pub const PAGE_BYTES_MAX: u64 = 512 << 10;

/// Largest checkpoint in bytes. That of a shard has room for 500,000 offsets of groups, that of the
/// catalog for 400,000 small topics.
pub const CHECKPOINT_BYTES_MAX: u64 = 64 << 20;

/// Attempts of one operation on a bucket, while the store is unavailable.
pub const ATTEMPTS_MAX: u32 = 4;

/// Pause before the second attempt. Each later pause is four times as long, and up to half of it is
/// added at random. So an operation waits for 3.2 s at most, besides its attempts.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Time for a connection to a store.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for an operation that moves no bytes of an object.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes per second that an operation has to move on top: 64 MiB may take another 128 s.
pub const BYTES_PER_SECOND_MIN: u64 = 512 << 10;

/// Age at which keys in files are read again.
pub const KEYS_READ_AGAIN: Duration = Duration::from_secs(10);

/// Largest claim in bytes.
pub const CLAIM_BYTES_MAX: u64 = 4 << 10;

/// Size of what is fetched and cached of an object, unless a single block is larger.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Most objects that a check reads and verifies at one time. Each takes its size in memory.
pub const CHECKS_AT_ONCE: usize = 4;

/// Most problems that the report of a check lists. All are counted.
pub const PROBLEMS_MAX: usize = 10_000;

/// Most footers that the rebuild of a partition reads for its producers.
pub const REBUILD_FOOTERS_MAX: usize = 64;

/// Footers that the rebuild of a partition reads at one time.
pub const REBUILD_READS_AT_ONCE: usize = 8;

/// Age of records before the newest ones whose producers are not restored, milliseconds: one day,
/// the time after which brokers remove a silent producer by default.
pub const REBUILD_AGE_MAX_MS: i64 = 24 * 3_600_000;

/// Most producers of a rebuilt partition: as many as a partition keeps.
pub const REBUILD_PRODUCERS_MAX: usize = 10_000;

/// Most bytes of records that one read returns, unless a single batch is larger.
pub const READ_BYTES_MAX: u64 = 8 << 20;

/// Largest decompressed size of one batch that a lookup by timestamp reads.
pub const RECORDS_BYTES_MAX: usize = 256 << 20;

/// Default of the chunks in a reader's cache.
pub const CACHE_BYTES: u64 = 64 << 20;

/// Default of the footers in a reader's cache: those of some 250 objects of 64 MiB.
pub const FOOTER_CACHE_BYTES: u64 = 16 << 20;

/// Default of the manifest pages in a reader's cache: some 20 with 4096 entries.
pub const PAGE_CACHE_BYTES: u64 = 8 << 20;

/// Default of the chunks that a reader fetches at one time.
pub const FETCH_BYTES: u64 = 32 << 20;

/// Default of the chunks that are fetched ahead of a sequential reader.
pub const AHEAD_CHUNKS: u32 = 4;

/// Most fetches ahead at one time.
pub const AHEAD_FETCHES_MAX: usize = 16;

const _: () = assert!(
    BLOCKS_MAX as u64 * 36
        + EPOCHS_MAX as u64 * 12
        + PRODUCERS_MAX as u64 * (11 + PRODUCER_BATCHES_MAX as u64 * 24)
        + 1024
        <= FOOTER_BYTES_MAX as u64,
    "every footer fits"
);
const _: () = assert!(PAGE_ENTRIES_MAX as u64 * 64 + 1024 <= PAGE_BYTES_MAX, "every page fits");
const _: () = assert!(READ_BYTES_MAX < FETCH_BYTES, "one read does not wait for itself");
const _: () = assert!(CHUNK_BYTES * 8 <= CACHE_BYTES, "what is fetched ahead stays in the cache");
const _: () = assert!(BLOCK_BYTES_MAX as u64 <= CHUNK_BYTES, "a chunk has whole blocks");
