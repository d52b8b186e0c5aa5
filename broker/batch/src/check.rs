//! The door: what a client hands in is checked here, once, before anybody stores it.
//!
//! # Order
//!
//! 1. The header alone: one batch, format 2, checksum, counts, nothing only a broker may set.
//! 2. Every record's framing, decompressing through a window: [`survey`]. Its faults are told per
//!    record.
//! 3. What the broker has to change is changed ([`rewrite`]) and sealed: the true maximum
//!    timestamp, the broker's own time, the topic's codec, offsets that do not count up by one.
//! 4. The size is compared as the batch would be stored.
//!
//! A batch that needs no change comes out as the very `Bytes` that went in. Of the prefix
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

/// What a topic, and the version of the request, ask of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Largest batch as stored (`max.message.bytes`).
    pub size_bytes_max: usize,
    /// Every record needs a key (`cleanup.policy` has `compact`).
    pub compacted: bool,
    /// Whose clock (`message.timestamp.type`).
    pub timestamp: TimestampType,
    /// How far a CreateTime may lie in the past (`message.timestamp.before.max.ms`).
    pub before_ms_max: i64,
    /// How far a CreateTime may lie in the future (`message.timestamp.after.max.ms`).
    pub after_ms_max: i64,
    /// How batches are stored (`compression.type`).
    pub compression: Target,
    /// Whether the request is of a version that knows zstd.
    pub zstd_allowed: bool,
    /// How far a batch may decompress.
    pub decompressed_bytes_max: usize,
}

/// The compression a topic wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// As the producer sent it.
    Producer,
    /// None.
    Uncompressed,
    /// This codec; batches of another are compressed again, at this level.
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

/// A batch that may be proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The batch as it will be stored, except for its prefix.
    pub bytes: Bytes,
    /// Its header.
    pub header: Header,
}

/// Admits a batch a client sent, rewritten where the rules ask for it. `now_ms` is the broker's
/// clock.
pub fn check(bytes: Bytes, rules: &Rules, now_ms: i64) -> Result<Checked, Refusal> {
    let header = admit(&bytes, rules)?;
    let sent = header.compression();
    let (codec, level) = rules.compression.codec(sent);
    if codec == sent {
        // Known before any work is done; rewriting does not make it smaller.
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
        return Ok(Checked { bytes, header });
    };
    fits(bytes.len(), rules)?;
    let header = Header::parse(&bytes)?;
    Ok(Checked { bytes, header })
}

/// The records to survey: decompressed when they had to be anyway.
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

/// Everything that can be told from the header and the checksum.
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
