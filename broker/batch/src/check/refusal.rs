//! Why a batch was refused, split by what the client is told.

use std::fmt;

/// A batch with more faults than this reports the first ones: the rest would only repeat them,
/// and the answer must not outgrow the request.
pub const RECORD_ERRORS_MAX: usize = 256;

/// Why a batch was not admitted. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are not those the client sealed. Sending them again may help.
    #[error("{message}")]
    Corrupt {
        /// What does not fit.
        message: String,
    },

    /// Over a limit; a smaller batch of the same records may pass.
    #[error("{message}")]
    TooLarge {
        /// Which limit.
        message: String,
    },

    /// Timestamps the topic does not take.
    #[error("{} records have a timestamp this topic does not take", record_errors.len())]
    InvalidTimestamp {
        /// Which records, in their order.
        record_errors: Vec<RecordError>,
    },

    /// The bytes are intact, but no batch a client may write.
    #[error("{message}")]
    InvalidRecord {
        /// What is wrong.
        message: String,
        /// Which records, in their order; none when the whole batch is at fault.
        record_errors: Vec<RecordError>,
    },

    /// A codec this request may not use.
    #[error("{message}")]
    UnsupportedCompression {
        /// Which one, and why.
        message: String,
    },

    /// A message format other than 2.
    #[error("{message}")]
    UnsupportedForMagic {
        /// Which one.
        message: String,
    },
}

impl Refusal {
    /// The whole batch is invalid.
    pub(crate) fn invalid(message: &str) -> Self {
        Self::InvalidRecord { message: message.into(), record_errors: Vec::new() }
    }

    /// Single records are at fault; the first one decides what the batch is refused for.
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

/// One record's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordError {
    /// Which record of the batch, from 0.
    pub batch_index: i32,
    /// What is wrong with it. Displays as the message for the client.
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
    /// The producer says the time is the broker's.
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
