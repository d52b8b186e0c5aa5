//! Frames and streams of protocol version 1.
//!
//! Each stream after the hello begins with a [`Preface`] of seven bytes: `protocol: u16`,
//! `lane: u8`, `shard: u32`. Frames follow, each with its length before it (`u32`). Integers are
//! little-endian.
//!
//! | lane | stream | frames |
//! |---|---|---|
//! | control | one, one-way | [`Control`] |
//! | append | one for each shard, one-way | a message of the shard's replica |
//! | bulk | one for each request, both ways | the request; the answer has no preface |
//!
//! A frame of the control lane is `0: u8`, `shard: u32` and a message, or `1: u8`, `count: u32` and
//! for each heartbeat `shard: u32`, `length: u32` and the message. The messages have an encoding
//! and versions of their own.
//!
//! A length never sizes an allocation: buffers grow with the bytes that arrive.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use ropewalk_shard::ShardId;

use crate::limits;

/// Length of the length of a frame, bytes.
pub const LENGTH_BYTES: usize = 4;

/// Length of a [`Preface`], bytes.
pub const PREFACE_BYTES: usize = 7;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats and answers of followers, of all shards. First in line on its connection.
    Control,
    /// Entries of the log. The shards do not wait for each other.
    Append,
    /// Requests and answers with pieces of files, on a connection of its own.
    Bulk,
}

impl Lane {
    /// All lanes, in the order of [`Self::index`].
    pub const ALL: [Self; 3] = [Self::Control, Self::Append, Self::Bulk];

    /// The position of the lane in an array.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Most bytes of a frame in the lane.
    #[must_use]
    pub fn frame_bytes_max(self) -> usize {
        match self {
            Self::Control => limits::CONTROL_FRAME_BYTES_MAX,
            Self::Append => limits::APPEND_FRAME_BYTES_MAX,
            Self::Bulk => limits::BULK_FRAME_BYTES_MAX,
        }
    }
}

/// Why bytes are no frame or no preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame is longer than its lane allows.
    #[error(
        "a frame of the {lane:?} lane has {length} bytes, at most {} are allowed",
        lane.frame_bytes_max()
    )]
    TooLong {
        /// The lane of the frame.
        lane: Lane,
        /// The announced length.
        length: u32,
    },
    /// A hello or its answer is too long.
    #[error("a hello has {0} bytes, at most {max} are allowed", max = limits::HELLO_BYTES_MAX)]
    Hello(u32),
    /// The bytes end inside a field.
    #[error("a frame is cut off")]
    Truncated,
    /// Bytes after the last heartbeat.
    #[error("{0} bytes follow the last heartbeat of a frame")]
    Trailing(usize),
    /// An unknown kind of frame of the control lane.
    #[error("a frame of the control lane has the unknown kind {0}")]
    Kind(u8),
    /// An unknown lane.
    #[error("a stream names the unknown lane {0}")]
    Lane(u8),
    /// Another version than the one that was agreed on.
    #[error("a stream has version {found} of the protocol, {agreed} was agreed on")]
    Protocol {
        /// The version in the preface.
        found: u16,
        /// The version in the answer to the hello.
        agreed: u16,
    },
}

impl From<TryGetError> for FrameError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// The first bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preface {
    /// The agreed version of the protocol.
    pub protocol: u16,
    /// What the stream carries.
    pub lane: Lane,
    /// The shard of a stream of the append lane; 0 in the other lanes, and ignored there.
    pub shard: ShardId,
}

impl Preface {
    /// The preface as bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(PREFACE_BYTES);
        out.put_u16_le(self.protocol);
        out.put_u8(self.lane as u8);
        out.put_u32_le(self.shard.0);
        out.freeze()
    }

    /// The reverse of [`Self::encode`], for a connection with the version `agreed`.
    ///
    /// # Errors
    /// When the version is another one, or the lane is unknown.
    pub fn decode(bytes: [u8; PREFACE_BYTES], agreed: u16) -> Result<Self, FrameError> {
        let mut input = bytes.as_slice();
        let found = input.try_get_u16_le()?;
        if found != agreed {
            return Err(FrameError::Protocol { found, agreed });
        }
        let lane = input.try_get_u8()?;
        let known = Lane::ALL.into_iter().find(|known| *known as u8 == lane);
        let shard = ShardId(input.try_get_u32_le()?);
        Ok(Self { protocol: found, lane: known.ok_or(FrameError::Lane(lane))?, shard })
    }
}

/// The length of a frame as bytes.
///
/// # Errors
/// When the frame is longer than the lane allows.
pub fn encode_length(lane: Lane, length: usize) -> Result<Bytes, FrameError> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    decode_length(lane, length.to_le_bytes())?;
    Ok(Bytes::copy_from_slice(&length.to_le_bytes()))
}

/// The reverse of [`encode_length`].
///
/// # Errors
/// When the frame is longer than the lane allows.
pub fn decode_length(lane: Lane, bytes: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(bytes);
    match usize::try_from(length) {
        Ok(bytes) if bytes <= lane.frame_bytes_max() => Ok(bytes),
        Ok(_) | Err(_) => Err(FrameError::TooLong { lane, length }),
    }
}

/// A message of a shard.
pub type ShardMessage = (ShardId, Bytes);

/// A frame of the control lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// One message alone.
    Message(ShardMessage),
    /// The heartbeats of many shards and the answers to heartbeats.
    Heartbeats(Vec<ShardMessage>),
}

impl Control {
    /// Appends the frame, with its length before it.
    pub fn encode_to(&self, out: &mut BytesMut) {
        let length = match self {
            Self::Message((_, message)) => 1 + 4 + message.len(),
            Self::Heartbeats(all) => {
                1 + 4 + all.iter().map(|(_, message)| 8 + message.len()).sum::<usize>()
            }
        };
        out.reserve(LENGTH_BYTES + length);
        out.put_u32_le(u32::try_from(length).expect("a frame is bounded"));
        match self {
            Self::Message((shard, message)) => {
                out.put_u8(0);
                out.put_u32_le(shard.0);
                out.put_slice(message);
            }
            Self::Heartbeats(all) => {
                out.put_u8(1);
                out.put_u32_le(u32::try_from(all.len()).expect("a frame is bounded"));
                for (shard, message) in all {
                    out.put_u32_le(shard.0);
                    out.put_u32_le(u32::try_from(message.len()).expect("a frame is bounded"));
                    out.put_slice(message);
                }
            }
        }
    }

    /// Reads a frame without its length. The messages share the memory of `input`.
    ///
    /// # Errors
    /// When `input` is not exactly one frame.
    pub fn decode(mut input: Bytes) -> Result<Self, FrameError> {
        match input.try_get_u8()? {
            0 => {
                let shard = ShardId(input.try_get_u32_le()?);
                Ok(Self::Message((shard, input)))
            }
            1 => {
                let count = input.try_get_u32_le()?;
                let mut all = Vec::new();
                for _ in 0..count {
                    let shard = ShardId(input.try_get_u32_le()?);
                    let length = usize::try_from(input.try_get_u32_le()?)
                        .map_err(|_| FrameError::Truncated)?;
                    if input.remaining() < length {
                        return Err(FrameError::Truncated);
                    }
                    all.push((shard, input.split_to(length)));
                }
                match input.remaining() {
                    0 => Ok(Self::Heartbeats(all)),
                    trailing => Err(FrameError::Trailing(trailing)),
                }
            }
            kind => Err(FrameError::Kind(kind)),
        }
    }
}

#[cfg(test)]
mod tests;
