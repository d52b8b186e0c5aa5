//! What can be wrong with a frame, and what cannot be said in a version.
//!
//! Whoever decodes does one thing with every [`DecodeError`]: close the connection, since the stream
//! cannot be trusted any more. The variants exist for the log line. An [`EncodeError`] is our own bug,
//! or an answer that the client's version has no words for.

use thiserror::Error;

/// Why bytes are not the message they were said to be.
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
    /// The decoded message would take more memory than the frame's size justifies.
    #[error("the decoded message would take far more memory than the frame")]
    TooLarge,
    /// Bytes are left behind the end of the message.
    #[error("{0} bytes are left behind the message")]
    Trailing(usize),
    /// The message does not exist in this version.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// The message's name in the schema.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
}

/// Why a message cannot be written in the version asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The message does not exist in this version.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// The message's name in the schema.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A field that this version lacks has a value that must not be lost.
    #[error("{field} is set, and version {version} cannot carry it")]
    UnsupportedField {
        /// Struct and field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A field is null, and this version does not allow it.
    #[error("{field} is null, and version {version} does not allow it")]
    UnexpectedNull {
        /// Struct and field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A string, array or frame is longer than its length field can say.
    #[error("{0} is too long for the wire")]
    TooLong(usize),
}
