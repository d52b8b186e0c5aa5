//! Kafka's record batch, format 2: header, checksum, validation, records, compression. No I/O.
//!
//! A batch is validated once, when a client sends it. From then on the same bytes go to every
//! follower, to the write-ahead log, to the segment files and back to consumers. After validation,
//! only compaction and lookups by timestamp read the records of a batch.
//!
//! # Contents
//!
//! 1. [`Header`]: the 61 bytes in front of the records. The first 16 of them ([`PREFIX_LEN`]) are
//!    outside the checksum, so a broker can write the offset of the batch without changing the
//!    rest.
//! 2. [`check`](check()): validation. It covers everything that Produce requires of a batch, and
//!    every change that the broker has to make (true maximum timestamp, LogAppendTime,
//!    recompression).
//! 3. [`StampedBatch`]: a validated batch with the offset that it was given.
//! 4. [`records`](records()) reads the records of a batch, [`first_at_or_after`] finds a timestamp
//!    in it, [`Builder`] makes a batch.
//! 5. [`retain`](retain()): removes records from a batch, for compaction.
//!
//! # Example
//!
//! A broker validates a batch of a client, gives it an offset, and a consumer reads its records:
//!
//! ```
//! use ropewalk_batch::{Builder, Rules, StampedBatch, Target, TimestampType, check, records};
//!
//! let now_ms = 1_700_000_000_000;
//! let sent = Builder::new()
//!     .record(now_ms, Some(b"key"), Some(b"first"))
//!     .record(now_ms + 1, None, Some(b"second"))
//!     .build();
//!
//! let rules = Rules {
//!     size_bytes_max: 1 << 20,
//!     compacted: false,
//!     timestamp: TimestampType::CreateTime,
//!     before_ms_max: i64::MAX,
//!     after_ms_max: 3_600_000,
//!     compression: Target::Producer,
//!     zstd_allowed: true,
//!     decompressed_bytes_max: 64 << 20,
//! };
//! let valid = check(sent.clone(), &rules, now_ms)?;
//! assert_eq!(valid.bytes, sent, "nothing had to be changed");
//!
//! // The rules of a compacted topic refuse the record without a key.
//! assert!(check(sent, &Rules { compacted: true, ..rules }, now_ms).is_err());
//!
//! let (offset, leader_epoch) = (100, 7);
//! let stamped = StampedBatch::new(valid.bytes, offset, leader_epoch)?;
//! assert_eq!(stamped.next_offset(), 102);
//!
//! let records: Vec<_> =
//!     records(&valid.header, stamped.bytes, 64 << 20)?.collect::<Result<_, _>>()?;
//! assert_eq!(records[1].value.as_deref(), Some(b"second".as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - **B1, bounded.** No length read from a batch sizes an allocation, and nothing is decompressed
//!   beyond a limit that the caller gives. Checking a compressed batch streams through a small
//!   window.
//! - **B2, no panic.** Any bytes give a batch or an error.
//! - **B3, the checksum covers all but the prefix.** Code that changes a byte behind the prefix
//!   computes length and checksum again ([`Builder`], [`check`](check())). Stamping an offset does
//!   not.
//!
//! # Guarantees for compaction
//!
//! [`retain`](retain()) never moves an offset. The batch that it returns has the base offset, last
//! offset, leader epoch, producer, sequence numbers and codec of the original batch. So a log made
//! of such batches has the same offsets as the original log, and the last sequence number of a
//! producer can still be read. A batch without records becomes a header with a count of 0 and no
//! codec. The caller keeps it while it is the last batch of its producer or of the log, and drops
//! it otherwise; `retain` returns it unchanged.
//!
//! Tombstones are removed in two steps (KIP-534). The first pass that keeps a tombstone writes the
//! time of its removal into the batch (the delete horizon: now plus `delete.retention.ms`). A pass
//! after that time removes the tombstone. Control batches stay unchanged, because a transaction
//! marker does not belong to a key.

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
    RECORD_ERRORS_MAX, RecordError, RecordFault, Refusal, Rules, Target, ValidBatch, check,
};
pub use codec::Compression;
pub use error::BatchError;
pub use header::{
    HEADER_LEN, Header, MAGIC, NO_TIMESTAMP, PREFIX_LEN, TimestampType, sequence_after,
};
pub use records::{Record, Records, records};
pub use retain::{RewriteOutcome, Tombstones, retain};
pub use seek::{OffsetAndTimestamp, first_at_or_after};
pub use stamped::StampedBatch;
