//! Errors of decoding and encoding.
//!
//! After any [`DecodeError`] the caller closes the connection, because the boundaries of the
//! following frames are unknown; the variants differ only in the log line. An [`EncodeError`] is a
//! bug of this broker, or a response that the client's version cannot carry.

use thiserror::Error;

/// Reason why bytes are not the expected message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The frame ends inside a field.
    #[error("the frame ends inside a field")]
    Truncated,
    /// A length or count is negative, or more than the rest of the frame can hold.
    #[error("a length or count of {0} does not fit the frame")]
    Length(i64),
    /// A variable-length integer has more bits than its type.
    #[error("a variable-length integer is too long")]
    Varint,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// Null where this version does not allow it.
    #[error("null where the version does not allow it")]
    UnexpectedNull,
    /// A tagged field is shorter or longer than the size in front of it.
    #[error("a tagged field disagrees with its size")]
    TagSize,
    /// The decoded message would take much more memory than the frame.
    #[error("the decoded message would take far more memory than the frame")]
    TooLarge,
    /// There are bytes behind the end of the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The message does not exist in this version.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// The message's name in the schema.
        message: &'static str,
        /// The version in the request.
        version: i16,
    },
}

/// Reason why a message cannot be encoded in a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The message does not exist in this version.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// The message's name in the schema.
        message: &'static str,
        /// The version to encode.
        version: i16,
    },
    /// A field that this version lacks has a value that must not be dropped.
    #[error("{field} is set, and version {version} cannot carry it")]
    UnsupportedField {
        /// Struct and field, separated by a dot.
        field: &'static str,
        /// The version to encode.
        version: i16,
    },
    /// A field is null, and this version does not allow it.
    #[error("{field} is null, and version {version} does not allow it")]
    UnexpectedNull {
        /// Struct and field, separated by a dot.
        field: &'static str,
        /// The version to encode.
        version: i16,
    },
    /// A string, array or frame is too long for its length field.
    #[error("{0} is too long for the wire")]
    TooLong(usize),
}
