//! Reasons why bytes are not a readable batch.
//!
//! Split by what the reader does next: wait for more bytes, treat the storage as damaged, report to
//! the writer that its data is invalid, or refuse to use the memory. Validation
//! ([`crate::check()`]) maps these to [`crate::Refusal`].

use crate::codec::Compression;

/// Why bytes could not be read as a batch or as its records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are fewer bytes than the batch's length says. More may follow, or the tail is torn.
    #[error("batch of {needed} bytes is cut off after {given}")]
    Short {
        /// Size of the batch as far as its bytes show it.
        needed: usize,
        /// Number of bytes that were given.
        given: usize,
    },

    /// There are bytes behind the one batch that was expected.
    #[error("{extra} bytes follow the batch")]
    Trailing {
        /// Number of bytes behind the end of the batch.
        extra: usize,
    },

    /// The length field is less than the length of a header.
    #[error("batch length {0} is less than a header")]
    Length(i32),

    /// A message format other than 2.
    #[error("message format {0} is not supported, only 2 is")]
    Magic(i8),

    /// The checksum does not match the bytes.
    #[error("checksum is {computed:#010x}, the batch states {stated:#010x}")]
    Checksum {
        /// CRC-32C in the header.
        stated: u32,
        /// CRC-32C of the bytes.
        computed: u32,
    },

    /// A compression codec that Kafka does not define.
    #[error("compression codec {0} is unknown")]
    UnknownCompression(u8),

    /// The compressed records cannot be decompressed.
    #[error("{codec} records do not decompress: {reason}")]
    Codec {
        /// The codec in the attributes of the batch.
        codec: Compression,
        /// Error text of the codec.
        reason: String,
    },

    /// The records are larger than the caller's limit.
    #[error("records take more than {limit_bytes} bytes")]
    TooBig {
        /// The caller's limit.
        limit_bytes: usize,
    },

    /// The checksum matches, but the bytes are not valid records.
    #[error("malformed records: {0}")]
    Malformed(&'static str),
}
