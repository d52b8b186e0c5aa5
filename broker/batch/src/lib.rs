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
//! 3. [`StampedBatch`] is a checked batch that was given its offset.
//! 4. [`records`](records()) opens a batch, [`first_at_or_after`] finds a timestamp in it,
//!    [`Builder`] makes one.
//! 5. [`retain`](retain()) is compaction's part: it takes records out of a batch and moves nothing else.
//!
//! # Invariants
//!
//! - **B1, bounded.** No length read from a batch sizes an allocation, and nothing is decompressed
//!   beyond a limit the caller names. Checking a compressed batch streams through a small window.
//! - **B2, no panic.** Any bytes at all give a batch or an error.
//! - **B3, the checksum covers all but the prefix.** Whoever changes a byte past the prefix seals
//!   the batch again; whoever stamps an offset never does.
//!
//! # What compaction may rely on
//!
//! [`retain`](retain()) never moves an offset. What it gives back has the base offset, last offset, leader
//! epoch, producer, sequence numbers and codec of the batch that went in, so a log made of its
//! results continues where the original did, and a producer's last sequence number can still be
//! told. A batch without records left becomes a header with a count of 0 and no codec: keep it
//! while it is the last of its producer or of the log, leave it out otherwise; asked again about
//! such a batch, it gives the same answer. Tombstones live in two steps (KIP-534): the first pass
//! that keeps one writes the time it may go into the batch (the delete horizon, now plus
//! `delete.retention.ms`), and a pass after that time drops it. Control batches are passed
//! through: their markers are a decision about a transaction, not about a key.
//!
//! There is no state here, so a crash leaves nothing behind.

mod error;
mod varint;
mod header;
mod stamped;
mod frame;
mod codec;
mod compression;
mod records;
mod check;
mod builder;
mod seek;
mod retain;

pub use builder::Builder;
pub use check::{
    Checked, RECORD_ERRORS_MAX, RecordError, RecordFault, Refusal, Rules, Target, check,
};
pub use codec::Compression;
pub use error::BatchError;
pub use header::{
    HEADER_LEN, Header, MAGIC, NO_TIMESTAMP, PREFIX_LEN, TimestampType, sequence_after,
};
pub use records::{Record, Records, records};
pub use retain::{RewriteOutcome, Tombstones, retain};
pub use seek::first_at_or_after;
pub use stamped::StampedBatch;
