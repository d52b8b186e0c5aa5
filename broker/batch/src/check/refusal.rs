//! Reasons to refuse a batch, split by the error code that the client gets.

use std::fmt;

/// Most record errors that one response lists. It bounds the size of the response.
pub const RECORD_ERRORS_MAX: usize = 256;

/// Why a batch was refused. No part of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The checksum or the length does not match the bytes. A retry may succeed.
    #[error("{message}")]
    Corrupt {
        /// What does not match.
        message: String,
    },

    /// The batch is over a size limit. A smaller batch of the same records may pass.
    #[error("{message}")]
    TooLarge {
        /// Size and limit, for the client.
        message: String,
    },

    /// Timestamps outside the range that the topic accepts.
    #[error("{} records have a timestamp that this topic does not accept", record_errors.len())]
    InvalidTimestamp {
        /// The records at fault, in offset order.
        record_errors: Vec<RecordError>,
    },

    /// The bytes are intact, but clients may not write such a batch.
    #[error("{message}")]
    InvalidRecord {
        /// What is wrong.
        message: String,
        /// The records at fault, in offset order. Empty if the whole batch is invalid.
        record_errors: Vec<RecordError>,
    },

    /// The version of the request does not allow this codec.
    #[error("{message}")]
    UnsupportedCompression {
        /// Codec and reason, for the client.
        message: String,
    },

    /// A message format other than 2.
    #[error("{message}")]
    UnsupportedForMagic {
        /// The format, for the client.
        message: String,
    },
}

impl Refusal {
    /// Refuses the whole batch.
    pub(crate) fn invalid(message: &str) -> Self {
        Self::InvalidRecord { message: message.into(), record_errors: Vec::new() }
    }

    /// Refuses the batch because of single records. The first error decides the variant.
    pub(crate) fn records(record_errors: Vec<RecordError>) -> Self {
        match record_errors.first().map(|first| first.fault) {
            Some(RecordFault::NoKey) | None => Self::InvalidRecord {
                message: format!("{} records are invalid", record_errors.len()),
                record_errors,
            },
            Some(RecordFault::TimestampOutOfRange { .. } | RecordFault::AppendTimeClaimed) => {
                Self::InvalidTimestamp { record_errors }
            }
        }
    }
}

/// An error in one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordError {
    /// Index of the record in the batch, from 0.
    pub batch_index: i32,
    /// What is wrong with it. Its `Display` is the message for the client.
    pub fault: RecordFault,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFault {
    /// The topic is compacted and the record has no key.
    NoKey,
    /// Too far from the broker's clock.
    TimestampOutOfRange {
        /// The record's timestamp.
        timestamp_ms: i64,
    },
    /// The batch has the LogAppendTime flag, which only the broker sets.
    AppendTimeClaimed,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("Compacted topic cannot accept message without key."),
            Self::TimestampOutOfRange { timestamp_ms } => {
                write!(f, "Timestamp {timestamp_ms} of message is out of the accepted range.")
            }
            Self::AppendTimeClaimed => {
                f.write_str("Producer should not set timestamp type to LogAppendTime.")
            }
        }
    }
}
