//! Requests between brokers in the bulk lane, and their answers.
//!
//! # Encoding
//!
//! Version 1, integers little-endian. A request is `version: u8`, `kind: u8` and the fields of the
//! kind:
//!
//! | kind | fields | answer |
//! |---|---|---|
//! | 0 files | a message of a transfer of files (below) | empty |
//! | 1 propose | `shard: u32`, the command as an entry | `version: u8`, result in postcard |
//! | 2 report | see below | empty |
//! | 3 transfer | `shard: u32`, `replica: u64` | `version: u8`, `is_taken: u8` |
//!
//! The message is that of [`ropewalk_store::transfer::message`]. The entry is that of
//! [`ropewalk_shard::command`], with term 0 and time 0.
//!
//! A report is `broker: i32`, `incarnation: u64`, `sequence: u64`, `flags: u8`, `count: u32`; for
//! each shard `shard: u32`, `term: u64`, `replica: u64`, `bytes_per_second: u64`, `count: u8`; for
//! each of its replicas `replica: u64`, `state: u8` (1 votes, 2 is caught up), `matched: u64`.
//!
//! [`Request::decode`] accepts nothing else and no trailing bytes, except after a command. A count
//! sizes no allocation.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use ropewalk_peer::limits::BULK_FRAME_BYTES_MAX;
use ropewalk_shard::command::{self, Command, CommandError, Envelope};
use ropewalk_shard::{BrokerId, Outcome, Payload, ProposeError, ReplicaId, ShardId};
use ropewalk_store::limits::TRANSFER_PIECE_BYTES_MAX;
use ropewalk_store::transfer::message::{DecodeError as FilesError, Message as FilesMessage};

use super::report::{Flags, LedShard, MEMBERS_MAX, Member, Report, SHARDS_MAX};

/// Version of the encoding.
pub const VERSION: u8 = 1;

/// Most bytes of an encoded command that is sent to another broker.
pub const COMMAND_BYTES_MAX: usize = BULK_FRAME_BYTES_MAX - 16;

const _: () = assert!(
    TRANSFER_PIECE_BYTES_MAX as usize + 1024 <= BULK_FRAME_BYTES_MAX,
    "a piece of a file fits a request"
);
const _: () = assert!(
    32 + SHARDS_MAX * (29 + MEMBERS_MAX * 17) <= BULK_FRAME_BYTES_MAX,
    "the largest report fits a request"
);

/// A request of another broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A message of a transfer of files.
    Files(FilesMessage),
    /// A command for a shard that the receiver leads.
    Propose {
        /// Id of the shard.
        shard: ShardId,
        /// The command to propose.
        command: Command,
    },
    /// What the sender says of itself.
    Report(Report),
    /// The receiver, which leads the shard, lets this replica lead in its place.
    Transfer {
        /// Id of the shard.
        shard: ShardId,
        /// Raft id of the replica.
        to: ReplicaId,
    },
}

/// Why bytes are no request or no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the request is cut off")]
    Truncated,
    /// Another version of the encoding.
    #[error("the request has version {0}, this broker reads version {VERSION}")]
    Version(u8),
    /// An unknown kind of request.
    #[error("the request has the unknown kind {0}")]
    Kind(u8),
    /// The message of a transfer cannot be read.
    #[error("the request has no message of a transfer: {0}")]
    Files(#[from] FilesError),
    /// The command cannot be read.
    #[error("the request has no command: {0}")]
    Command(#[from] CommandError),
    /// A flag with an unknown value.
    #[error("the request has the unknown flag {0}")]
    Flag(u8),
    /// A report with too many shards or replicas.
    #[error("the request has {0} elements in a list, over the limit")]
    TooMany(u32),
    /// A result that cannot be read.
    #[error("the answer has no result of a proposal")]
    Outcome,
    /// Bytes after the last field.
    #[error("{0} bytes follow the request")]
    Trailing(usize),
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// A request with a command that is encoded already.
pub(super) fn propose(shard: ShardId, command: &Payload) -> Payload {
    let mut head = head(KIND_PROPOSE);
    head.put_u32_le(shard.0);
    after(head, command)
}

/// A command as [`propose`] takes it.
pub(super) fn encode_command(command: &Command) -> Payload {
    command::encode(0, 0, command)
}

const KIND_FILES: u8 = 0;
const KIND_PROPOSE: u8 = 1;
const KIND_REPORT: u8 = 2;
const KIND_TRANSFER: u8 = 3;

fn head(kind: u8) -> BytesMut {
    let mut head = BytesMut::with_capacity(32);
    head.put_u8(VERSION);
    head.put_u8(kind);
    head
}

fn after(head: BytesMut, rest: &Payload) -> Payload {
    let mut chunks = vec![head.freeze()];
    chunks.extend(rest.chunks().iter().cloned());
    chunks.into()
}

impl Request {
    /// The request as bytes. Payloads are not copied.
    #[must_use]
    pub fn encode(&self) -> Payload {
        match self {
            Self::Files(message) => after(head(KIND_FILES), &message.encode()),
            Self::Propose { shard, command } => propose(*shard, &encode_command(command)),
            Self::Report(report) => {
                let mut out = head(KIND_REPORT);
                put_report(&mut out, report);
                out.freeze().into()
            }
            Self::Transfer { shard, to } => {
                let mut out = head(KIND_TRANSFER);
                out.put_u32_le(shard.0);
                out.put_u64_le(to.0);
                out.freeze().into()
            }
        }
    }

    /// The reverse of [`Self::encode`]. Payloads share the memory of `input`.
    ///
    /// # Errors
    /// When `input` is not one request of this version.
    pub fn decode(mut input: Bytes) -> Result<Self, DecodeError> {
        let version = input.try_get_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let request = match input.try_get_u8()? {
            KIND_FILES => return Ok(Self::Files(FilesMessage::decode(input)?)),
            KIND_PROPOSE => {
                let shard = ShardId(input.try_get_u32_le()?);
                let Envelope { command, .. } = Envelope::decode(&input.into())?;
                return Ok(Self::Propose { shard, command });
            }
            KIND_REPORT => Self::Report(report(&mut input)?),
            KIND_TRANSFER => {
                let shard = ShardId(input.try_get_u32_le()?);
                Self::Transfer { shard, to: ReplicaId(input.try_get_u64_le()?) }
            }
            kind => return Err(DecodeError::Kind(kind)),
        };
        ended(&input)?;
        Ok(request)
    }
}

/// The answer to [`Request::Propose`].
#[must_use]
pub fn encode_result(result: &Result<Outcome, ProposeError>) -> Payload {
    let out = vec![VERSION];
    let out = postcard::to_extend(result, out).expect("a result always encodes");
    Bytes::from(out).into()
}

/// The reverse of [`encode_result`].
///
/// # Errors
/// When `input` is not exactly one result of this version.
pub fn decode_result(mut input: Bytes) -> Result<Result<Outcome, ProposeError>, DecodeError> {
    let version = input.try_get_u8()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let (result, rest) = postcard::take_from_bytes(&input).map_err(|_| DecodeError::Outcome)?;
    ended(rest)?;
    Ok(result)
}

/// The answer to [`Request::Transfer`]: whether the receiver leads the shard and has asked the
/// replica to lead.
#[must_use]
pub fn encode_taken(is_taken: bool) -> Payload {
    Bytes::from(vec![VERSION, u8::from(is_taken)]).into()
}

/// The reverse of [`encode_taken`].
///
/// # Errors
/// When `input` is not exactly one such answer of this version.
pub fn decode_taken(mut input: Bytes) -> Result<bool, DecodeError> {
    let version = input.try_get_u8()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let is_taken = match input.try_get_u8()? {
        flag @ (0 | 1) => flag == 1,
        other => return Err(DecodeError::Flag(other)),
    };
    ended(&input)?;
    Ok(is_taken)
}

fn ended(rest: &[u8]) -> Result<(), DecodeError> {
    if rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(rest.len())) }
}

/// The lowest bits of a byte, the first flag in the lowest.
fn bits(flags: &[bool]) -> u8 {
    flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag))
}

/// The reverse of [`bits`].
fn flags<const N: usize>(bits: u8) -> Result<[bool; N], DecodeError> {
    if bits >> N != 0 {
        return Err(DecodeError::Flag(bits));
    }
    Ok(std::array::from_fn(|at| bits >> at & 1 == 1))
}

fn put_report(out: &mut BytesMut, report: &Report) {
    let Flags { is_just_started, has_slow_disk, is_draining } = report.flags;
    out.put_i32_le(report.broker.0);
    out.put_u64_le(report.incarnation);
    out.put_u64_le(report.sequence);
    out.put_u8(bits(&[is_just_started, has_slow_disk, is_draining]));
    out.put_u32_le(u32::try_from(report.led.len()).expect("a report is bounded"));
    for led in &report.led {
        out.put_u32_le(led.shard.0);
        out.put_u64_le(led.term);
        out.put_u64_le(led.replica.0);
        out.put_u64_le(led.bytes_per_second);
        out.put_u8(u8::try_from(led.members.len()).expect("a shard has few members"));
        for member in &led.members {
            out.put_u64_le(member.replica.0);
            out.put_u8(bits(&[member.is_voter, member.is_caught_up]));
            out.put_u64_le(member.matched);
        }
    }
}

fn report(input: &mut Bytes) -> Result<Report, DecodeError> {
    let broker = BrokerId(input.try_get_i32_le()?);
    let (incarnation, sequence) = (input.try_get_u64_le()?, input.try_get_u64_le()?);
    let [is_just_started, has_slow_disk, is_draining] = flags(input.try_get_u8()?)?;
    let count = input.try_get_u32_le()?;
    if count as usize > SHARDS_MAX {
        return Err(DecodeError::TooMany(count));
    }
    let mut led = Vec::new();
    for _ in 0..count {
        led.push(led_shard(input)?);
    }
    let flags = Flags { is_just_started, has_slow_disk, is_draining };
    Ok(Report { broker, incarnation, sequence, flags, led })
}

fn led_shard(input: &mut Bytes) -> Result<LedShard, DecodeError> {
    let (shard, term) = (ShardId(input.try_get_u32_le()?), input.try_get_u64_le()?);
    let (replica, bytes_per_second) = (ReplicaId(input.try_get_u64_le()?), input.try_get_u64_le()?);
    let count = input.try_get_u8()?;
    if usize::from(count) > MEMBERS_MAX {
        return Err(DecodeError::TooMany(count.into()));
    }
    let mut members = Vec::new();
    for _ in 0..count {
        let replica = ReplicaId(input.try_get_u64_le()?);
        let [is_voter, is_caught_up] = flags(input.try_get_u8()?)?;
        let matched = input.try_get_u64_le()?;
        members.push(Member { replica, is_voter, is_caught_up, matched });
    }
    Ok(LedShard { shard, term, replica, bytes_per_second, members })
}

#[cfg(test)]
mod tests;
