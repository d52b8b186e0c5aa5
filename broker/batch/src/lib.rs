//! Kafka's record batch v2: header, checksum, checks, records, compression. No I/O.
//!
//! A batch is checked once, when a client hands it in, and from then on the same bytes go to
//! every follower, to the write-ahead log, to the segment files and back to consumers. Nothing
//! below this crate looks inside a batch again except compaction and lookups by timestamp.
//!
//! # The walk
//!
//! 1. [`Header`] reads the 61 bytes in front; the first 16 of them ([`PREFIX_LEN`]) lie outside
//!    the checksum, so a broker can say where the batch landed without touching the rest.
//! 2. [`check`](check()) is the door: everything Produce demands of a batch, and every rewriting that is
//!    the broker's job (true maximum timestamp, LogAppendTime, recompression).
//! 3. [`Stamped`] is a checked batch that was given its offset.
//! 4. [`records`](records()) opens a batch, [`first_at_or_after`] finds a timestamp in it,
//!    [`Builder`] makes one.
//!
//! # Invariants
//!
//! - **B1, bounded.** No length read from a batch sizes an allocation, and nothing is decompressed
//!   beyond a limit the caller names. Checking a compressed batch streams through a small window.
//! - **B2, no panic.** Any bytes at all give a batch or an error.
//! - **B3, the checksum covers all but the prefix.** Whoever changes a byte past the prefix seals
//!   the batch again; whoever stamps an offset never does.
//!
//! There is no state here, so a crash leaves nothing behind.

mod error;
mod varint;
mod header;
mod stamped;
mod frame;
mod compression;
mod records;
mod check;
mod builder;
mod seek;

pub use builder::Builder;
pub use check::{
    Checked, RECORD_ERRORS_MAX, RecordError, RecordFault, Refusal, Rules, Target, check,
};
pub use compression::Compression;
pub use error::BatchError;
pub use header::{
    HEADER_LEN, Header, MAGIC, NO_TIMESTAMP, PREFIX_LEN, TimestampType, sequence_after,
};
pub use records::{Record, Records, records};
pub use seek::first_at_or_after;
pub use stamped::Stamped;
