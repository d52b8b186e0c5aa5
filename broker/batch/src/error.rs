//! Why bytes are not a batch we can read.
//!
//! Split by what the reader does next: wait for more bytes, distrust the medium, tell the writer
//! that its data makes no sense, or refuse to spend the memory. The door ([`crate::check()`])
//! turns these into its own [`crate::Refusal`].

use crate::codec::Compression;

/// Why bytes could not be read as a batch or as its records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are fewer bytes than the batch says it has. More may follow, or the tail is torn.
    #[error("batch of {needed} bytes is cut off after {given}")]
    Short {
        /// Size the batch needs, as far as it can be told.
        needed: usize,
        /// Size that was there.
        given: usize,
    },

    /// More bytes were given than the one batch that was asked for.
    #[error("{extra} bytes follow the batch")]
    Trailing {
        /// Bytes past the end of the batch.
        extra: usize,
    },

    /// The length field cannot be that of a batch.
    #[error("batch length {0} is less than a header")]
    Length(i32),

    /// A message format older (or newer) than v2.
    #[error("message format {0} is not supported, only 2 is")]
    Magic(i8),

    /// The bytes are not those that were sealed.
    #[error("checksum is {computed:#010x}, the batch says {stated:#010x}")]
    Checksum {
        /// CRC-32C in the header.
        stated: u32,
        /// CRC-32C of the bytes.
        computed: u32,
    },

    /// A compression codec nobody has defined.
    #[error("compression codec {0} is unknown")]
    UnknownCompression(u8),

    /// The compressed records do not decompress.
    #[error("{codec} records do not decompress: {reason}")]
    Codec {
        /// The codec the batch names.
        codec: Compression,
        /// What the codec said.
        reason: String,
    },

    /// The records would take more memory than the caller allows.
    #[error("records take more than {limit_bytes} bytes")]
    TooBig {
        /// The caller's limit.
        limit_bytes: usize,
    },

    /// The bytes are intact, but they are not records.
    #[error("malformed records: {0}")]
    Malformed(&'static str),
}
