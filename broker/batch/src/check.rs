//! Validation: every batch of a client is checked here once, before it is stored.
//!
//! # Order
//!
//! 1. The header alone: one batch, format 2, checksum, counts, no flag that only a broker may set.
//! 2. Every record's framing, decompressed through a window: [`survey`]. Errors are reported per
//!    record.
//! 3. The changes that the broker has to make ([`rewrite`]): the true maximum timestamp, the
//!    broker's timestamp, the topic's codec, offset deltas that count up by one. The batch then
//!    gets a new length and checksum.
//! 4. The size as stored is compared with the limit.
//!
//! A batch that needs no change is returned as the same `Bytes`, without a copy. Of the prefix,
//! only the length is read: [`crate::StampedBatch`] replaces the prefix.

use bytes::Bytes;

use crate::codec::Compression;
use crate::error::BatchError;
use crate::frame::StoredRecords;
use crate::header::{HEADER_LEN, Header, TimestampType};
use crate::records;

mod refusal;
mod survey;
mod rewrite;

pub use refusal::{RECORD_ERRORS_MAX, RecordError, RecordFault, Refusal};

/// What the topic's configuration and the version of the request require of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Largest batch as stored (`max.message.bytes`).
    pub size_bytes_max: usize,
    /// Whether every record needs a key (`cleanup.policy` has `compact`).
    pub compacted: bool,
    /// Whether the producer or the broker sets the timestamps (`message.timestamp.type`).
    pub timestamp: TimestampType,
    /// Largest age of a CreateTime (`message.timestamp.before.max.ms`).
    pub before_ms_max: i64,
    /// How far a CreateTime may be in the future (`message.timestamp.after.max.ms`).
    pub after_ms_max: i64,
    /// How batches are stored (`compression.type`).
    pub compression: Target,
    /// Whether the request has a version that may carry zstd (Produce 7 and later).
    pub zstd_allowed: bool,
    /// Most bytes that the records of a batch may decompress to.
    pub decompressed_bytes_max: usize,
}

/// The compression with which a topic stores its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The codec that the producer chose.
    Producer,
    /// No compression at all.
    Uncompressed,
    /// This codec. Batches with another codec are recompressed at this level.
    Codec(Compression, i32),
}

impl Target {
    fn codec(self, sent: Compression) -> (Compression, i32) {
        match self {
            Self::Producer => (sent, sent.level_default()),
            Self::Uncompressed => (Compression::None, 0),
            Self::Codec(codec, level) => (codec, level),
        }
    }
}

/// A batch that passed validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidBatch {
    /// The batch as it will be stored, except for its prefix.
    pub bytes: Bytes,
    /// The header of `bytes`.
    pub header: Header,
}

/// Validates a batch of a client, and rewrites it where the rules require that. `now_ms` is the
/// broker's clock.
pub fn check(bytes: Bytes, rules: &Rules, now_ms: i64) -> Result<ValidBatch, Refusal> {
    let header = admit(&bytes, rules)?;
    let sent = header.compression();
    let (codec, level) = rules.compression.codec(sent);
    if codec == sent {
        // Refused before any expensive work, because rewriting does not make the batch smaller.
        fits(bytes.len(), rules)?;
    }
    let limit_bytes = rules.decompressed_bytes_max;
    let plain = match codec == sent {
        true => None,
        false => Some(records::plain(&header, &bytes, limit_bytes)?),
    };
    let survey =
        survey::survey(&header, stored(&header, &bytes, plain.as_ref(), rules), rules, now_ms)?;

    let wanted = Header { max_timestamp_ms: survey.max_timestamp_ms, ..header };
    let wanted = wanted.with_timestamp_type(rules.timestamp, now_ms);
    let bytes = if codec != sent || !survey.contiguous {
        let plain = match plain {
            Some(plain) => plain,
            None => records::plain(&header, &bytes, limit_bytes)?,
        };
        rewrite::rebuild(wanted, &plain, (codec, level), !survey.contiguous)?
    } else if wanted != header {
        wanted.seal(bytes.to_vec())?
    } else {
        return Ok(ValidBatch { bytes, header });
    };
    fits(bytes.len(), rules)?;
    let header = Header::parse(&bytes)?;
    Ok(ValidBatch { bytes, header })
}

/// The records to survey. They are decompressed already if the topic needs another codec.
fn stored<'a>(
    header: &Header,
    bytes: &'a Bytes,
    plain: Option<&'a Bytes>,
    rules: &Rules,
) -> StoredRecords<'a> {
    let limit_bytes = rules.decompressed_bytes_max;
    match plain {
        Some(plain) => StoredRecords { codec: Compression::None, bytes: plain, limit_bytes },
        None => {
            let codec = header.compression();
            StoredRecords { codec, bytes: &bytes[HEADER_LEN..], limit_bytes }
        }
    }
}

/// Checks everything that the header and the checksum show.
fn admit(bytes: &Bytes, rules: &Rules) -> Result<Header, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::invalid("there is no record batch"));
    }
    let header = Header::verify(bytes)?;
    if header.compression() == Compression::Zstd && !rules.zstd_allowed {
        return Err(Refusal::UnsupportedCompression {
            message: "zstd needs a newer version of the request".into(),
        });
    }
    if header.count <= 0 {
        return Err(Refusal::invalid("the batch has no records"));
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.count) {
        return Err(Refusal::invalid("the last offset does not match the count of records"));
    }
    if header.is_control() {
        return Err(Refusal::invalid("clients may not write control records"));
    }
    if header.delete_horizon_ms().is_some() {
        return Err(Refusal::invalid("clients may not set a delete horizon"));
    }
    if header.has_producer_id() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return Err(Refusal::invalid("a producer id comes with an epoch and a sequence number"));
    }
    if header.is_transactional() && !header.has_producer_id() {
        return Err(Refusal::invalid("a transactional batch has no producer id"));
    }
    Ok(header)
}

fn fits(size_bytes: usize, rules: &Rules) -> Result<(), Refusal> {
    if size_bytes > rules.size_bytes_max {
        return Err(Refusal::TooLarge {
            message: format!(
                "batch of {size_bytes} bytes is over the limit of {}",
                rules.size_bytes_max
            ),
        });
    }
    Ok(())
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Short { .. } | BatchError::Length(_) | BatchError::Checksum { .. } => {
                Self::Corrupt { message: error.to_string() }
            }
            BatchError::Magic(_) => Self::UnsupportedForMagic { message: error.to_string() },
            BatchError::UnknownCompression(_) => {
                Self::UnsupportedCompression { message: error.to_string() }
            }
            BatchError::TooBig { .. } => Self::TooLarge { message: error.to_string() },
            BatchError::Trailing { .. } => Self::invalid("there is more than one record batch"),
            BatchError::Codec { .. } | BatchError::Malformed(_) => {
                Self::invalid(&error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests;
