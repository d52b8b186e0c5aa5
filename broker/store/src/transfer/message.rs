//! Messages of a transfer and their encoding.
//!
//! The receiver asks for everything: the sender sends a piece only as the answer to a
//! [`Body::Fetch`], so a receiver that is full, slow or gone costs no more than one piece. A
//! message may be lost, repeated or come late; a side that waits for an answer asks again.
//!
//! # Encoding
//!
//! Version 1, integers little-endian: `version: u8`, `kind: u8`, `shard: u32`, `from: u64`,
//! `to: u64`, then the fields of the kind in the order of declaration, then `CRC-32C: u32` over all
//! before. [`Message::decode`] accepts nothing else and no trailing bytes; it allocates no more
//! than the input holds.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use ropewalk_shard::engine::{EntryId, Members};
use ropewalk_shard::{Payload, ShardId};
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::pins::PinId;

/// Version of the encoding.
pub const VERSION: u8 = 1;

const CRC_BYTES: usize = 4;

/// A pinned snapshot of a shard with its files: the replica that pinned it, and a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetId {
    /// Raft id of the replica whose files these are.
    pub replica: u64,
    /// Drawn when the set is pinned.
    pub number: u64,
}

impl SetId {
    /// The id of the pin that keeps the files of the set.
    pub(crate) fn pin(self) -> PinId {
        (self.replica, self.number)
    }
}

/// A message between two replicas of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The shard that is transferred.
    pub shard: ShardId,
    /// Raft id of the replica that sends the message.
    pub from: u64,
    /// Raft id of the replica that receives the message.
    pub to: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The receiver wants a set.
    Want,
    /// The sender has pinned a set.
    Offer(Offer),
    /// The sender can pin no set now, and offers one as soon as it can.
    Wait,
    /// The receiver wants a piece.
    Fetch(Fetch),
    /// The answer to [`Body::Fetch`].
    Piece {
        /// What the receiver asked for. `length` is that of `bytes`.
        of: Fetch,
        /// The bytes, at most [`limits::TRANSFER_PIECE_BYTES_MAX`].
        bytes: Bytes,
    },
    /// The sender no longer has the set: the receiver wants another, and keeps what it has.
    Expired {
        /// Id of the set.
        set: SetId,
    },
    /// The receiver fetches no more of the set.
    Stop {
        /// Id of the set.
        set: SetId,
        /// Why it stops.
        reason: StopReason,
    },
}

/// What Raft's snapshot message says: where the state is, not the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Id of the set.
    pub set: SetId,
    /// The last entry that the set includes.
    pub last: EntryId,
    /// The members as of that entry.
    pub members: Members,
    /// Length of the encoded list of the files, at most [`limits::TRANSFER_LIST_BYTES_MAX`].
    pub list_bytes: u64,
    /// The [sum](ropewalk_segment::copy::sum_of) of the encoded list.
    pub list_sum: u32,
    /// Length of all files together.
    pub files_bytes: u64,
}

/// A range of a file of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// Id of the set.
    pub set: SetId,
    /// The file in the set.
    pub item: Item,
    /// Position in the file.
    pub position_bytes: u64,
    /// Length of the range, at most [`limits::TRANSFER_PIECE_BYTES_MAX`].
    pub length_bytes: u32,
}

/// A file of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The list of the files.
    List,
    /// The only file of the entry with this number in the list, or the log of a segment.
    File(u32),
    /// The index of the segment with this number in the list.
    Index(u32),
}

/// Why a receiver fetches no more of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The set is installed.
    Installed,
    /// The receiver's log has the last entry of the set.
    NotNeeded,
    /// The receiver's broker receives as much as it can.
    Busy,
    /// The receiver's disk has no space.
    Full,
    /// The files are not what the list says: the sender's disk is damaged.
    Damaged,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the message is cut off")]
    Truncated,
    /// The checksum does not match: the message was damaged in transit.
    #[error("the checksum of the message does not match")]
    Checksum,
    /// Another version of the encoding.
    #[error("the message has version {0}, this broker reads version {VERSION}")]
    Version(u8),
    /// An unknown kind of message, file or reason.
    #[error("the message has the unknown kind {0}")]
    Kind(u8),
    /// A length over its limit.
    #[error("a length in the message is {0} bytes, over its limit")]
    TooLong(u64),
    /// The members cannot be decoded.
    #[error("the members in the message cannot be decoded")]
    Members,
    /// Bytes after the last field.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// Most bytes of the encoded members.
const MEMBERS_BYTES_MAX: usize = 4 << 10;

impl Message {
    /// The answer to this message.
    #[must_use]
    pub fn answer(&self, body: Body) -> Self {
        Self { shard: self.shard, from: self.to, to: self.from, body }
    }

    /// The message as bytes. The bytes of a piece are not copied.
    #[must_use]
    pub fn encode(&self) -> Payload {
        let mut head = BytesMut::new();
        head.put_u8(VERSION);
        head.put_u8(self.body.kind());
        head.put_u32_le(self.shard.0);
        head.put_u64_le(self.from);
        head.put_u64_le(self.to);
        let mut chunks = Vec::new();
        match &self.body {
            Body::Want | Body::Wait => {}
            Body::Offer(offer) => put_offer(&mut head, offer),
            Body::Fetch(fetch) => put_fetch(&mut head, fetch),
            Body::Piece { of, bytes } => {
                put_fetch(&mut head, of);
                chunks.push(bytes.clone());
            }
            Body::Expired { set } => put_set(&mut head, *set),
            Body::Stop { set, reason } => {
                put_set(&mut head, *set);
                head.put_u8(*reason as u8);
            }
        }
        chunks.insert(0, head.freeze());
        let crc = chunks.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, chunk));
        chunks.push(Bytes::copy_from_slice(&crc.to_le_bytes()));
        chunks.into()
    }

    /// The reverse of [`Self::encode`]. The bytes of a piece share the memory of `input`.
    ///
    /// # Errors
    /// When `input` is not exactly one message of this version.
    pub fn decode(mut input: Bytes) -> Result<Self, DecodeError> {
        let checked = input.len().checked_sub(CRC_BYTES).ok_or(DecodeError::Truncated)?;
        let crc = input.split_off(checked).get_u32_le();
        if crc32c::crc32c(&input) != crc {
            return Err(DecodeError::Checksum);
        }
        let input = &mut input;
        let version = input.try_get_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = input.try_get_u8()?;
        let (shard, from, to) =
            (ShardId(input.try_get_u32_le()?), input.try_get_u64_le()?, input.try_get_u64_le()?);
        let body = Body::decode(kind, input)?;
        if input.has_remaining() {
            return Err(DecodeError::Trailing(input.remaining()));
        }
        Ok(Self { shard, from, to, body })
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Want => 0,
            Self::Offer(_) => 1,
            Self::Wait => 2,
            Self::Fetch(_) => 3,
            Self::Piece { .. } => 4,
            Self::Expired { .. } => 5,
            Self::Stop { .. } => 6,
        }
    }

    fn decode(kind: u8, input: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match kind {
            0 => Self::Want,
            1 => Self::Offer(offer(input)?),
            2 => Self::Wait,
            3 => Self::Fetch(fetch(input)?),
            4 => {
                let of = fetch(input)?;
                need(input, of.length_bytes as usize)?;
                Self::Piece { of, bytes: input.split_to(of.length_bytes as usize) }
            }
            5 => Self::Expired { set: set(input)? },
            6 => Self::Stop { set: set(input)?, reason: reason(input)? },
            kind => return Err(DecodeError::Kind(kind)),
        })
    }
}

fn put_set(out: &mut BytesMut, set: SetId) {
    out.put_u64_le(set.replica);
    out.put_u64_le(set.number);
}

fn put_offer(out: &mut BytesMut, offer: &Offer) {
    put_set(out, offer.set);
    out.put_u64_le(offer.last.index);
    out.put_u64_le(offer.last.term);
    let members = postcard::to_allocvec(&offer.members).expect("members always encode");
    out.put_u32_le(u32::try_from(members.len()).expect("members are bounded"));
    out.put_slice(&members);
    out.put_u64_le(offer.list_bytes);
    out.put_u32_le(offer.list_sum);
    out.put_u64_le(offer.files_bytes);
}

fn put_fetch(out: &mut BytesMut, fetch: &Fetch) {
    put_set(out, fetch.set);
    let (kind, number) = match fetch.item {
        Item::List => (0, 0),
        Item::File(number) => (1, number),
        Item::Index(number) => (2, number),
    };
    out.put_u8(kind);
    out.put_u32_le(number);
    out.put_u64_le(fetch.position_bytes);
    out.put_u32_le(fetch.length_bytes);
}

fn need(input: &Bytes, bytes: usize) -> Result<(), DecodeError> {
    if input.remaining() < bytes { Err(DecodeError::Truncated) } else { Ok(()) }
}

fn set(input: &mut Bytes) -> Result<SetId, DecodeError> {
    Ok(SetId { replica: input.try_get_u64_le()?, number: input.try_get_u64_le()? })
}

fn offer(input: &mut Bytes) -> Result<Offer, DecodeError> {
    let set = set(input)?;
    let last = EntryId { index: input.try_get_u64_le()?, term: input.try_get_u64_le()? };
    let length = input.try_get_u32_le()? as usize;
    if length > MEMBERS_BYTES_MAX {
        return Err(DecodeError::TooLong(length as u64));
    }
    need(input, length)?;
    let members = input.split_to(length);
    let (members, rest) =
        postcard::take_from_bytes::<Members>(&members).map_err(|_| DecodeError::Members)?;
    if !rest.is_empty() {
        return Err(DecodeError::Members);
    }
    let list_bytes = input.try_get_u64_le()?;
    if list_bytes > limits::TRANSFER_LIST_BYTES_MAX {
        return Err(DecodeError::TooLong(list_bytes));
    }
    Ok(Offer {
        set,
        last,
        members,
        list_bytes,
        list_sum: input.try_get_u32_le()?,
        files_bytes: input.try_get_u64_le()?,
    })
}

fn fetch(input: &mut Bytes) -> Result<Fetch, DecodeError> {
    let (set, kind, number) = (set(input)?, input.try_get_u8()?, input.try_get_u32_le()?);
    let item = match kind {
        0 if number == 0 => Item::List,
        1 => Item::File(number),
        2 => Item::Index(number),
        kind => return Err(DecodeError::Kind(kind)),
    };
    let (position_bytes, length_bytes) = (input.try_get_u64_le()?, input.try_get_u32_le()?);
    if length_bytes > limits::TRANSFER_PIECE_BYTES_MAX {
        return Err(DecodeError::TooLong(u64::from(length_bytes)));
    }
    Ok(Fetch { set, item, position_bytes, length_bytes })
}

fn reason(input: &mut Bytes) -> Result<StopReason, DecodeError> {
    use StopReason::{Busy, Damaged, Full, Installed, NotNeeded};
    let number = input.try_get_u8()?;
    let all = [Installed, NotNeeded, Busy, Full, Damaged];
    all.get(usize::from(number)).copied().ok_or(DecodeError::Kind(number))
}

#[cfg(test)]
mod tests;
