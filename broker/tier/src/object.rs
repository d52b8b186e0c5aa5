//! The format of an object: the batches of one offset range of one partition.
//!
//! ```text
//! header   "RWOBJECT", version u32, size of the header u32, topic id (16 bytes), partition i32,
//!          base offset i64, end offset i64, history u64, term u64, length of the cluster id u8,
//!          cluster id, CRC-32C of all this u32
//! body     the batches as Kafka's record batch v2, one behind the other, nothing else
//! footer   the header again,
//!          number of blocks u32, for each block:
//!              first offset i64, end offset i64, length u32, largest timestamp i64,
//!              records of data u32, CRC-32C of its bytes u32
//!          number of epochs u32, for each: epoch i32, first offset i64
//!          number of producers u32, for each:
//!              producer id i64, producer epoch i16, number of batches u8, for each batch:
//!                  first sequence i32, last sequence i32, base offset i64, timestamp i64
//! trailer  size of the footer u32, CRC-32C of the footer u32, "RWOBJEND"
//! ```
//!
//! Numbers are little-endian, timestamps are milliseconds since 1970. A *block* is adjacent whole
//! batches of at most [`crate::limits::BLOCK_BYTES_MAX`] bytes, unless a single batch is larger.
//! The blocks fill the body, so their positions follow from their lengths. A range of blocks can
//! be sent to a consumer as it is.
//!
//! [`Encoder`] writes an object. A reader fetches the end of the object ([`tail_range`]), gets the
//! [`Footer`] from it ([`read_tail`]), finds blocks by offset or timestamp, fetches their bytes,
//! and verifies them ([`Footer::verify_blocks`]); [`batches`] splits them. [`verify`] checks a
//! whole object against its name, as a scrubber does.
//!
//! # Contents
//!
//! - The range `[base, end)` may begin inside the first batch, because a log start can. Every other
//!   batch is within the range. Offsets ascend; they may have gaps, where a topic was compacted.
//! - The epochs are those of the batches, each with its first offset.
//! - The producers are the idempotent ones that wrote in the range, ascending by id, each with its
//!   last epoch and its last batches in it, at most [`crate::limits::PRODUCER_BATCHES_MAX`]. A
//!   restore that reads the objects of a partition in order, and lets a later object add to the
//!   batches of the same epoch, gets what the partition had (D5).
//! - There is no list of aborted transactions, because this broker has no transactions. Version 2
//!   will have it.
//!
//! # Invariants
//!
//! - Every byte is covered by a checksum: header and footer by their own, the body by those of the
//!   blocks, which also cover the prefixes of batches. The SHA-256 of all bytes is in the name.
//! - The footer repeats the header, so a footer is not accepted for another object.
//! - Equal batches of the same range, history and term give equal bytes.

mod encode;
mod footer;
mod summary;
mod whole;

use bytes::Bytes;
use ropewalk_batch::{BatchError, Header, StampedBatch};

use crate::format::{Fields, FormatError};
use crate::identity::{IDENTITY_BYTES_MAX, IDENTITY_BYTES_MIN, Identity};
use crate::names::{ObjectRef, PartitionKey};

pub use encode::{EncodeError, EncodedObject, Encoder, Push};
pub use footer::{Footer, Tail, read_tail, tail_range};
pub use whole::verify;

const MAGIC: &[u8; 8] = b"RWOBJECT";
const END_MAGIC: &[u8; 8] = b"RWOBJEND";
const VERSION: u32 = 1;
/// Magic, version and size of the header.
const FRONT_BYTES: usize = 8 + 4 + 4;
const HEADER_BYTES_MIN: usize = FRONT_BYTES + IDENTITY_BYTES_MIN + 4;
const HEADER_BYTES_MAX: usize = FRONT_BYTES + IDENTITY_BYTES_MAX + 4;
const TRAILER_BYTES: usize = 4 + 4 + 8;
const BLOCK_BYTES: usize = 8 + 8 + 4 + 8 + 4 + 4;
const EPOCH_BYTES: usize = 4 + 8;
const PRODUCER_BYTES_MIN: usize = 8 + 2 + 1;
const PRODUCER_BATCH_BYTES: usize = 4 + 4 + 8 + 8;

/// A run of adjacent whole batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First offset of the first batch.
    pub first_offset: i64,
    /// Offset behind the last batch.
    pub end_offset: i64,
    /// Position of the first byte in the object.
    pub position: u64,
    /// Number of bytes.
    pub length: u32,
    /// Largest timestamp of the batches, in milliseconds; -1 if they have none.
    pub max_timestamp_ms: i64,
    /// Number of records, without control records.
    pub records: u32,
    /// CRC-32C of the bytes, with the prefixes of the batches.
    pub crc: u32,
}

/// The first offset of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The leader epoch.
    pub epoch: i32,
    /// Base offset of its first batch in the object.
    pub start_offset: i64,
}

/// An idempotent producer that wrote in the range of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// The id of the producer.
    pub id: i64,
    /// The epoch of its last batch.
    pub epoch: i16,
    /// Its last batches of that epoch, oldest first, 1 to [`crate::limits::PRODUCER_BATCHES_MAX`].
    pub batches: Vec<ProducerBatch>,
}

/// A batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Sequence number of the first record, -1 for a control batch.
    pub first_sequence: i32,
    /// Sequence number of the last record, -1 for a control batch.
    pub last_sequence: i32,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Largest timestamp in milliseconds.
    pub timestamp_ms: i64,
}

/// The header at the beginning of an object and of its footer.
fn encode_header(identity: &Identity) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(header_bytes(&identity.partition).to_le_bytes());
    identity.encode(&mut out);
    out.extend(ropewalk_crc::of(&out).to_le_bytes());
    out
}

/// Size of the header of an object of this partition.
fn header_bytes(partition: &PartitionKey) -> u32 {
    (HEADER_BYTES_MIN + partition.cluster.as_str().len()) as u32
}

/// Reads the header at the beginning of `bytes`. Returns it with its size.
fn decode_header(bytes: &[u8]) -> Result<(Identity, usize), FormatError> {
    const WHAT: &str = "header of the object";
    if !bytes.starts_with(MAGIC) {
        return Err(FormatError::Magic { what: "object" });
    }
    let mut fields = Fields::new(WHAT, &bytes[MAGIC.len()..]);
    let found = fields.u32()?;
    if found != VERSION {
        return Err(FormatError::Version { what: "object", found, newest: VERSION });
    }
    let size = fields.u32()? as usize;
    if !(HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&size) {
        return Err(FormatError::invalid(WHAT, format!("its size is {size}")));
    }
    let header = bytes.get(..size).ok_or(FormatError::Short { what: WHAT })?;
    let (summed, crc) = header.split_at(size - 4);
    if ropewalk_crc::of(summed).to_le_bytes() != crc {
        return Err(FormatError::Checksum { what: WHAT });
    }
    let mut fields = Fields::new(WHAT, &summed[FRONT_BYTES..]);
    let identity = Identity::decode(WHAT, &mut fields)?;
    fields.finish()?;
    Ok((identity, size))
}

/// Splits adjacent whole batches, such as the bytes of blocks. Each batch is verified by its own
/// checksum. Ends after the first error.
pub fn batches(run: Bytes) -> impl Iterator<Item = Result<StampedBatch, BatchError>> {
    let mut rest = run;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let batch = next_batch(&mut rest);
        if batch.is_err() {
            rest.clear();
        }
        Some(batch)
    })
}

fn next_batch(rest: &mut Bytes) -> Result<StampedBatch, BatchError> {
    let size = Header::parse(rest)?.size_bytes();
    if size > rest.len() {
        return Err(BatchError::Short { needed: size, given: rest.len() });
    }
    let bytes = rest.split_to(size);
    Header::verify(&bytes)?;
    StampedBatch::read(bytes)
}

/// The reference of an object, without its size and digest.
fn reference(identity: &Identity, blocks: &[Block], first_epoch: i32) -> ObjectRef {
    ObjectRef {
        base: identity.base,
        end: identity.end,
        history: identity.origin.history,
        term: identity.origin.term,
        size_bytes: 0,
        digest: 0,
        max_timestamp_ms: blocks.iter().map(|block| block.max_timestamp_ms).max().unwrap_or(-1),
        first_epoch,
    }
}

#[cfg(test)]
mod tests;
