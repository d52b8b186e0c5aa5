//! Why a connection ends.
//!
//! Kafka's protocol has no way to say goodbye: whatever cannot be answered in the words of the
//! request's version ends the connection, and the reason goes to the log.

use std::io;

use ropewalk_codec::{ApiKey, DecodeError, EncodeError};

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Close {
    /// The client went away, between two requests or in the middle of one.
    #[error("the client closed the connection")]
    Gone,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
    /// The length in front of a frame is not a length.
    #[error("a frame length of {0} is not positive")]
    FrameLength(i32),
    /// Larger than `socket.request.max.bytes`.
    #[error("a frame of {size_bytes} bytes is over socket.request.max.bytes={size_bytes_max}")]
    FrameTooLarge {
        /// What the client announced.
        size_bytes: usize,
        /// The limit.
        size_bytes_max: usize,
    },
    /// A frame was begun and not finished in time.
    #[error("a frame took too long to arrive")]
    FrameTooSlow,
    /// An answer was not taken in time.
    #[error("the client does not read its answers")]
    AnswerNotTaken,
    /// Nothing was said for `connections.max.idle.ms`.
    #[error("idle for longer than connections.max.idle.ms")]
    Idle,
    /// Not an API of Kafka's.
    #[error("there is no API with key {0}")]
    UnknownApi(i16),
    /// An API, or a version of one, that is not advertised.
    #[error("{} version {version} is not served here", api.name())]
    NotServed {
        /// The API.
        api: ApiKey,
        /// The version asked for.
        version: i16,
    },
    /// The body is not what its header says.
    #[error("malformed {}: {error}", api.name())]
    Malformed {
        /// The API.
        api: ApiKey,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The header is not one.
    #[error("malformed request header: {0}")]
    MalformedHeader(DecodeError),
    /// An error where no answer may be sent (Produce with acks=0): closing is the only way to tell.
    #[error("acks=0 leaves no other way to tell of error {code}")]
    Unanswerable {
        /// Kafka's code for it.
        code: i16,
    },
    /// A bug of ours: an answer without words in the version asked for.
    #[error("the answer to {} version {version} cannot be written: {error}", api.name())]
    Unencodable {
        /// The API.
        api: ApiKey,
        /// The version asked for.
        version: i16,
        /// Why.
        error: EncodeError,
    },
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

impl Close {
    /// The label of `ropewalk_connections_closed_total`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Gone => "client",
            Self::Socket(_) => "socket",
            Self::FrameLength(_) | Self::FrameTooLarge { .. } => "frame_size",
            Self::FrameTooSlow => "frame_slow",
            Self::AnswerNotTaken => "answer_not_taken",
            Self::Idle => "idle",
            Self::UnknownApi(_) | Self::NotServed { .. } => "not_served",
            Self::Malformed { .. } | Self::MalformedHeader(_) => "malformed",
            Self::Unanswerable { .. } => "unanswerable",
            Self::Unencodable { .. } => "unencodable",
            Self::Stopping => "stopping",
        }
    }
}
