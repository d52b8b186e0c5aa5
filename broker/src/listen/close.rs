//! Reasons to close a connection.
//!
//! Kafka's protocol has no message for closing a connection: whatever cannot be expressed in the
//! request's version closes the connection, and the reason is logged.

use std::io;

use ropewalk_codec::{ApiKey, DecodeError, EncodeError};

/// The reason why a connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum Close {
    /// The client disconnected, between two requests or within one.
    #[error("the client closed the connection")]
    Gone,
    /// A socket operation failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
    /// The length field of a frame is not positive.
    #[error("the frame length is {0}, must be positive")]
    FrameLength(i32),
    /// The frame exceeds `socket.request.max.bytes`.
    #[error("a frame of {size_bytes} bytes is over socket.request.max.bytes={size_bytes_max}")]
    FrameTooLarge {
        /// The announced size, bytes.
        size_bytes: usize,
        /// The limit, bytes.
        size_bytes_max: usize,
    },
    /// The frame exceeds the size limit of its API.
    #[error("{} of {size_bytes} bytes exceeds the limit of {size_bytes_max} of this API", api.name())]
    RequestTooLarge {
        /// The API of the request.
        api: ApiKey,
        /// The announced size, bytes.
        size_bytes: usize,
        /// The limit, bytes.
        size_bytes_max: usize,
    },
    /// A frame was not complete in time.
    #[error("a frame took too long to arrive")]
    FrameTooSlow,
    /// The client did not receive a response in time.
    #[error("the client does not read its answers")]
    AnswerNotTaken,
    /// The rest of a response that had begun could not be read.
    #[error("an answer that had begun cannot be finished: {0}")]
    AnswerBroken(String),
    /// The connection was idle for `connections.max.idle.ms`.
    #[error("idle for longer than connections.max.idle.ms")]
    Idle,
    /// The API key is not one of Kafka's.
    #[error("there is no API with key {0}")]
    UnknownApi(i16),
    /// The API or its version is not advertised.
    #[error("{} version {version} is not served here", api.name())]
    NotServed {
        /// The API of the request.
        api: ApiKey,
        /// The requested version.
        version: i16,
    },
    /// The body does not match the request's API and version.
    #[error("malformed {}: {error}", api.name())]
    Malformed {
        /// The API of the request.
        api: ApiKey,
        /// The decoder's error.
        error: DecodeError,
    },
    /// The request header cannot be decoded.
    #[error("malformed request header: {0}")]
    MalformedHeader(DecodeError),
    /// An error of a request without a response (Produce with acks=0): closing the connection is
    /// the only way to report it.
    #[error("acks=0 has no response, so error {code} closes the connection")]
    Unanswerable {
        /// Kafka's error code.
        code: i16,
    },
    /// A batch was not stored, and the batches after it must not be stored before it.
    #[error("a batch of a new idempotent producer was not stored: it has to be sent again first")]
    OutOfOrder,
    /// A bug: the response cannot be encoded in the requested version.
    #[error("the answer to {} version {version} cannot be written: {error}", api.name())]
    Unencodable {
        /// The API of the request.
        api: ApiKey,
        /// The requested version.
        version: i16,
        /// The encoder's error.
        error: EncodeError,
    },
    /// A bug: serving the connection panicked.
    #[error("serving the connection panicked: {0}")]
    Panicked(String),
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
    /// The broker serves no clients until it reaches the other brokers again.
    #[error("the broker does not reach the other brokers")]
    CutOff,
}

impl Close {
    /// Whether the client's configuration has to change before it can be served, or the peer is not
    /// a Kafka client.
    pub(crate) fn is_clients_fault(&self) -> bool {
        match self {
            Self::FrameLength(_)
            | Self::FrameTooLarge { .. }
            | Self::RequestTooLarge { .. }
            | Self::FrameTooSlow
            | Self::AnswerNotTaken
            | Self::UnknownApi(_)
            | Self::NotServed { .. }
            | Self::Malformed { .. }
            | Self::MalformedHeader(_)
            | Self::Unanswerable { .. } => true,
            Self::Gone
            | Self::Socket(_)
            | Self::AnswerBroken(_)
            | Self::Idle
            | Self::OutOfOrder
            | Self::Unencodable { .. }
            | Self::Panicked(_)
            | Self::Stopping
            | Self::CutOff => false,
        }
    }

    /// What the peer probably is, judged by the bytes in place of a frame's length.
    pub(crate) fn guess(&self) -> &'static str {
        match self {
            Self::FrameLength(length) => protocol_of(length.to_be_bytes()).unwrap_or(STRANGER),
            Self::FrameTooLarge { size_bytes, .. } => {
                let length = u32::try_from(*size_bytes).unwrap_or(0);
                let large = "a Kafka client with a very large request, or another protocol";
                protocol_of(length.to_be_bytes()).unwrap_or(large)
            }
            // A PostgreSQL client that requests TLS: length 8, then 1234 and 5679.
            Self::UnknownApi(1234) => "a PostgreSQL client",
            Self::UnknownApi(_) | Self::MalformedHeader(_) => STRANGER,
            Self::FrameTooSlow => "a port scanner or another protocol, or a very slow client",
            Self::NotServed { .. } => {
                "a Kafka client that is too old, too new or asks what is not served"
            }
            Self::Gone
            | Self::Socket(_)
            | Self::RequestTooLarge { .. }
            | Self::AnswerNotTaken
            | Self::AnswerBroken(_)
            | Self::Idle
            | Self::Malformed { .. }
            | Self::Unanswerable { .. }
            | Self::OutOfOrder
            | Self::Unencodable { .. }
            | Self::Panicked(_)
            | Self::Stopping
            | Self::CutOff => "a Kafka client",
        }
    }

    /// The label of `ropewalk_connections_closed_total`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Gone => "client",
            Self::Socket(_) => "socket",
            Self::FrameLength(_) | Self::FrameTooLarge { .. } | Self::RequestTooLarge { .. } => {
                "frame_size"
            }
            Self::FrameTooSlow => "frame_slow",
            Self::AnswerNotTaken => "answer_not_taken",
            Self::AnswerBroken(_) => "answer_broken",
            Self::Idle => "idle",
            Self::UnknownApi(_) | Self::NotServed { .. } => "not_served",
            Self::Malformed { .. } | Self::MalformedHeader(_) => "malformed",
            Self::Unanswerable { .. } => "unanswerable",
            Self::OutOfOrder => "out_of_order",
            Self::Unencodable { .. } => "unencodable",
            Self::Panicked(_) => "panic",
            Self::Stopping => "stopping",
            Self::CutOff => "cut_off",
        }
    }
}

const STRANGER: &str = "not a Kafka client: a port scanner or another protocol";

/// The protocol that these first four bytes identify, if it is a known one.
fn protocol_of(first: [u8; 4]) -> Option<&'static str> {
    const TLS_HANDSHAKE: u8 = 22;
    const MQTT_CONNECT: u8 = 16;
    Some(match &first {
        [TLS_HANDSHAKE, 3, ..] => "a TLS hello: this listener speaks PLAINTEXT",
        b"GET " | b"HEAD" | b"POST" | b"PUT " | b"DELE" | b"OPTI" | b"PATC" | b"CONN" | b"TRAC" => {
            "an HTTP request: this is the port for Kafka clients"
        }
        b"PRI " => "an HTTP/2 request: this is the port for Kafka clients",
        b"SSH-" => "an SSH client",
        b"AMQP" => "an AMQP client",
        b"PROX" | b"\r\n\r\n" => "a load balancer with the PROXY protocol, or a port scanner",
        [MQTT_CONNECT, ..] => "an MQTT client",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kafka_client_is_recognised_by_its_first_bytes() {
        let guess = |first: [u8; 4]| match i32::from_be_bytes(first) {
            length @ 1.. => {
                let size_bytes = usize::try_from(length).expect("positive");
                Close::FrameTooLarge { size_bytes, size_bytes_max: 1 }.guess()
            }
            length => Close::FrameLength(length).guess(),
        };
        for (first, expected) in [
            (*b"GET ", "an HTTP request"),
            (*b"POST", "an HTTP request"),
            (*b"PRI ", "an HTTP/2 request"),
            ([0x16, 3, 1, 2], "a TLS hello"),
            ([0x16, 3, 3, 0], "a TLS hello"),
            (*b"SSH-", "an SSH client"),
            ([0x07, 0, 0, 1], "a Kafka client with a very large request"),
            ([0x80, 0, 0, 1], "not a Kafka client"),
            ([0xff, 0xff, 0xff, 0xfb], "not a Kafka client"),
        ] {
            let guess = guess(first);
            assert!(guess.starts_with(expected), "{first:?}: {guess}");
        }
        assert_eq!(Close::UnknownApi(1234).guess(), "a PostgreSQL client");
    }
}
