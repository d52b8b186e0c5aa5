//! The first message of a connection and its answer.
//!
//! The side that dialled sends a [`Hello`] on the first stream, and the other side answers with an
//! [`Answer`]. Nothing else is sent before, and a connection counts as connected only when the
//! hello is answered: in TLS 1.3 the side that dials completes its handshake before the other side
//! has verified the certificate.
//!
//! # Encoding
//!
//! Integers are little-endian. A hello is `magic: "RWPEER"`, `lowest: u16` and `highest: u16` (the
//! versions of the protocol that the sender speaks), `class: u8`, `broker: i32`, `to: i32`,
//! `incarnation: u64`, `process: u64`, `features: u32`, `length: u8` and the cluster id, and, if
//! the sender is not older than this field, `count: u8` and for each earlier start `incarnation:
//! u64` and `process: u64`. An answer is `0: u8`, `protocol: u16` and a hello, or `1: u8`, `reason:
//! u8`, `length: u16` and a text.
//!
//! This layout belongs to no version: it has to be read before a version is agreed on. Fields may
//! be appended, so a reader ignores what follows the last field that it knows.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use ropewalk_shard::BrokerId;

use crate::limits;

const MAGIC: &[u8; 6] = b"RWPEER";

/// The versions of the protocol that this code speaks. A version determines the layout of all
/// streams after the hello, not that of the messages in them, which have versions of their own.
pub const PROTOCOLS: Protocols = Protocols { lowest: 1, highest: 1 };

/// A range of versions of the protocol, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// The lowest version.
    pub lowest: u16,
    /// The highest version.
    pub highest: u16,
}

impl Protocols {
    /// The highest version that is in both ranges.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.lowest, self.highest)
    }
}

/// The lanes that share a connection. Each class has a connection and a UDP socket of its own, so
/// that files in transfer do not share a congestion window with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The control lane and the append lane.
    Raft,
    /// The bulk lane.
    Bulk,
}

impl Class {
    /// Both classes, in the order of [`Self::index`].
    pub const ALL: [Self; 2] = [Self::Raft, Self::Bulk];

    /// The position of the class in an array.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raft => "raft",
            Self::Bulk => "bulk",
        })
    }
}

/// What one side says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The versions that it speaks.
    pub protocols: Protocols,
    /// The lanes of the connection.
    pub class: Class,
    /// Id of the broker that sends the hello.
    pub broker: BrokerId,
    /// Id of the broker that it wants to reach.
    pub to: BrokerId,
    /// Number of the start of the broker. A later start of the same data directory has a higher
    /// one.
    pub incarnation: u64,
    /// Drawn at random when the process starts. Two processes with the same incarnation are copies
    /// of one broker.
    pub process: u64,
    /// The feature level that the broker can read and write. The meaning is the caller's.
    pub features: u32,
    /// Id of the cluster, at most [`limits::CLUSTER_ID_BYTES_MAX`] bytes.
    pub cluster_id: String,
    /// The starts of the data directory before this one, without a gap, oldest first; at most
    /// [`limits::EARLIER_STARTS_MAX`]. Starts before the first of them are not known.
    pub earlier: Vec<Start>,
}

/// One start of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// A later start has a higher number.
    pub incarnation: u64,
    /// Distinguishes copies of a broker, which have the same incarnation.
    pub process: u64,
}

/// Why a hello is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bytes are no hello.
    Malformed,
    /// No common version of the protocol.
    Protocol,
    /// The hello or the certificate names another cluster.
    Cluster,
    /// Certificate, hello and the broker that was dialled do not agree on the broker id.
    Broker,
    /// The hello names a class that does not belong to this port.
    Class,
    /// The broker is not a member of the cluster, as far as the refusing side knows.
    NotMember,
    /// A later start of the same broker is known.
    Stale,
    /// Another process with the same broker id and incarnation is known, or the data directory does
    /// not know a start of the broker that is known here.
    Copy,
    /// The two brokers are connected already.
    Duplicate,
    /// A reason that this version does not know.
    Other(u8),
}

impl Reason {
    const KNOWN: [Self; 9] = [
        Self::Malformed,
        Self::Protocol,
        Self::Cluster,
        Self::Broker,
        Self::Class,
        Self::NotMember,
        Self::Stale,
        Self::Copy,
        Self::Duplicate,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::Protocol => 2,
            Self::Cluster => 3,
            Self::Broker => 4,
            Self::Class => 5,
            Self::NotMember => 6,
            Self::Stale => 7,
            Self::Copy => 8,
            Self::Duplicate => 9,
            Self::Other(code) => code,
        }
    }

    fn of_code(code: u8) -> Self {
        Self::KNOWN.into_iter().find(|reason| reason.code() == code).unwrap_or(Self::Other(code))
    }
}

/// A refused hello: the reason and its details.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The reason, for programs.
    pub reason: Reason,
    /// A sentence with the values that do not agree, for people.
    pub text: String,
}

impl Refusal {
    /// A refusal. A longer text is cut at [`limits::REFUSAL_TEXT_BYTES_MAX`].
    #[must_use]
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = text.len().min(limits::REFUSAL_TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { reason, text }
    }
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The brokers are connected.
    Accepted {
        /// The version of the protocol that both sides use from here on.
        protocol: u16,
        /// What the answering side says about itself.
        hello: Hello,
    },
    /// The connection is closed.
    Refused(Refusal),
}

/// Why bytes are no hello or no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the message is cut off")]
    Truncated,
    /// The bytes do not begin with the magic.
    #[error("the message does not begin with RWPEER")]
    Magic,
    /// A range of versions whose end is before its start.
    #[error("the versions of the protocol are not a range")]
    Range,
    /// An unknown class of connections.
    #[error("the class {0} is unknown")]
    Class(u8),
    /// An answer that neither accepts nor refuses.
    #[error("the answer {0} is unknown")]
    Answer(u8),
    /// A cluster id or a text that is too long.
    #[error("a text has {0} bytes")]
    Length(usize),
    /// Too many earlier starts.
    #[error("the message has {0} earlier starts")]
    Starts(u8),
    /// A cluster id or a text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

impl Hello {
    /// The hello as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_to(&mut out);
        out.freeze()
    }

    fn encode_to(&self, out: &mut BytesMut) {
        out.put_slice(MAGIC);
        out.put_u16_le(self.protocols.lowest);
        out.put_u16_le(self.protocols.highest);
        out.put_u8(self.class as u8);
        out.put_i32_le(self.broker.0);
        out.put_i32_le(self.to.0);
        out.put_u64_le(self.incarnation);
        out.put_u64_le(self.process);
        out.put_u32_le(self.features);
        let length = u8::try_from(self.cluster_id.len()).expect("a cluster id is bounded");
        out.put_u8(length);
        out.put_slice(self.cluster_id.as_bytes());
        out.put_u8(u8::try_from(self.earlier.len()).expect("the starts are bounded"));
        for start in &self.earlier {
            out.put_u64_le(start.incarnation);
            out.put_u64_le(start.process);
        }
    }

    /// The reverse of [`Self::encode`]. Further bytes are ignored.
    ///
    /// # Errors
    /// When `input` does not begin with a hello.
    pub fn decode(mut input: &[u8]) -> Result<Self, DecodeError> {
        let input = &mut input;
        if input.remaining() < MAGIC.len() {
            return Err(DecodeError::Truncated);
        }
        if !input.starts_with(MAGIC) {
            return Err(DecodeError::Magic);
        }
        input.advance(MAGIC.len());
        let protocols =
            Protocols { lowest: input.try_get_u16_le()?, highest: input.try_get_u16_le()? };
        if protocols.lowest > protocols.highest {
            return Err(DecodeError::Range);
        }
        let class = input.try_get_u8()?;
        let known = Class::ALL.into_iter().find(|known| *known as u8 == class);
        Ok(Self {
            protocols,
            class: known.ok_or(DecodeError::Class(class))?,
            broker: BrokerId(input.try_get_i32_le()?),
            to: BrokerId(input.try_get_i32_le()?),
            incarnation: input.try_get_u64_le()?,
            process: input.try_get_u64_le()?,
            features: input.try_get_u32_le()?,
            cluster_id: {
                let length = usize::from(input.try_get_u8()?);
                text(input, length, limits::CLUSTER_ID_BYTES_MAX)?
            },
            earlier: earlier(input)?,
        })
    }
}

impl Answer {
    /// The answer as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Accepted { protocol, hello } => {
                out.put_u8(0);
                out.put_u16_le(*protocol);
                hello.encode_to(&mut out);
            }
            Self::Refused(refusal) => {
                out.put_u8(1);
                out.put_u8(refusal.reason.code());
                out.put_u16_le(u16::try_from(refusal.text.len()).expect("a text is bounded"));
                out.put_slice(refusal.text.as_bytes());
            }
        }
        out.freeze()
    }

    /// The reverse of [`Self::encode`]. Further bytes are ignored.
    ///
    /// # Errors
    /// When `input` does not begin with an answer.
    pub fn decode(mut input: &[u8]) -> Result<Self, DecodeError> {
        let input = &mut input;
        match input.try_get_u8()? {
            0 => {
                let protocol = input.try_get_u16_le()?;
                Ok(Self::Accepted { protocol, hello: Hello::decode(input)? })
            }
            1 => {
                let reason = Reason::of_code(input.try_get_u8()?);
                let length = usize::from(input.try_get_u16_le()?);
                let text = text(input, length, limits::REFUSAL_TEXT_BYTES_MAX)?;
                Ok(Self::Refused(Refusal { reason, text }))
            }
            other => Err(DecodeError::Answer(other)),
        }
    }
}

/// The earlier starts. A sender that is older than the field has none.
fn earlier(input: &mut &[u8]) -> Result<Vec<Start>, DecodeError> {
    if !input.has_remaining() {
        return Ok(Vec::new());
    }
    let count = input.try_get_u8()?;
    if usize::from(count) > limits::EARLIER_STARTS_MAX {
        return Err(DecodeError::Starts(count));
    }
    let mut starts = Vec::new();
    for _ in 0..count {
        let (incarnation, process) = (input.try_get_u64_le()?, input.try_get_u64_le()?);
        starts.push(Start { incarnation, process });
    }
    Ok(starts)
}

fn text(input: &mut &[u8], length: usize, max: usize) -> Result<String, DecodeError> {
    if length > max {
        return Err(DecodeError::Length(length));
    }
    let bytes = input.get(..length).ok_or(DecodeError::Truncated)?;
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Text)?.to_owned();
    input.advance(length);
    Ok(text)
}

#[cfg(test)]
mod tests;
