//! Every bound of this crate, with the reason for its value.

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

const _: () = assert!(
    BLOCKS_MAX as u64 * 36
        + EPOCHS_MAX as u64 * 12
        + PRODUCERS_MAX as u64 * (11 + PRODUCER_BATCHES_MAX as u64 * 24)
        + 1024
        <= FOOTER_BYTES_MAX as u64,
    "every footer fits"
);
const _: () = assert!(PAGE_ENTRIES_MAX as u64 * 64 + 1024 <= PAGE_BYTES_MAX, "every page fits");
