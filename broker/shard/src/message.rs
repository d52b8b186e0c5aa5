//! Messages between the replicas of a shard: Raft's RPCs with typed fields, and their encoding.
//!
//! A message names replicas, not brokers. Which cluster and shard it belongs to, and at which
//! broker a replica is, is the caller's concern. Its encoding names the history of the shard: a
//! replica that a repair left behind cannot take part in the new one.
//!
//! # Encoding
//!
//! Version 2, integers little-endian: `version: u8`, `kind: u8`, `history: u64`, `from: u64`,
//! `to: u64`, `term: u64`, then the fields of the kind in the order of declaration. An entry is
//! `index: u64`, `term: u64`, `kind: u8`, `length: u32` and its payload. [`Message::decode`]
//! accepts nothing else and no trailing bytes; it allocates no more than the input holds. A broker
//! that does not read kind 8 gets none: a replica sends it only after an entry of format 5.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};

use crate::entry::{Entry, EntryId, EntryKind};
use crate::id::HistoryId;
use crate::limits;
use crate::payload::Payload;

/// Version of the encoding.
pub const VERSION: u8 = 2;

/// A message from one replica to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Raft id of the sender.
    pub from: u64,
    /// Raft id of the receiver.
    pub to: u64,
    /// The sender's term; of a pre-vote request, the term that it would campaign in.
    pub term: u64,
    /// The RPC and its fields.
    pub body: Body,
}

/// Raft's RPCs: Ongaro's thesis, figure 3.1 and sections 3.10, 6.4 and 9.6, and one of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Entries of the leader's log.
    Append {
        /// The entry before the first one sent.
        previous: EntryId,
        /// The leader's commit index.
        commit: u64,
        /// The entries, without a gap after `previous`.
        entries: Vec<Entry>,
    },
    /// The follower's log matches the leader's through `index`, and that part is durable.
    Appended {
        /// The last matching index.
        index: u64,
        /// The follower's commit index.
        commit: u64,
    },
    /// The follower's log has another entry, or none, at `index`.
    AppendRejected {
        /// Index of `previous` in the refused message.
        index: u64,
        /// Where the logs may match: an entry of the follower at or before `index`.
        hint: EntryId,
        /// The follower's commit index.
        commit: u64,
    },
    /// The leader is alive.
    Heartbeat {
        /// The leader's commit index, at most what the follower is known to have.
        commit: u64,
        /// Identifies the ReadIndex round that the answer confirms; empty for none.
        context: Bytes,
    },
    /// The answer to [`Body::Heartbeat`].
    HeartbeatResponse {
        /// The follower's commit index.
        commit: u64,
        /// The context of the heartbeat.
        context: Bytes,
        /// Whether the follower's disk has no space for record batches: entries are not sent to it
        /// until it has.
        is_full: bool,
    },
    /// A request for a vote.
    RequestVote {
        /// The candidate's last entry.
        last: EntryId,
        /// The last entry that the candidate knows to be committed.
        committed: EntryId,
        /// Whether this only asks whether the vote would be granted (thesis 9.6).
        is_pre_vote: bool,
        /// Whether the leader asked the candidate to campaign (thesis 3.10).
        is_transfer: bool,
    },
    /// The answer to [`Body::RequestVote`].
    Vote {
        /// Whether the vote is granted.
        granted: bool,
        /// Whether the request was a pre-vote.
        is_pre_vote: bool,
        /// The last entry that the voter knows to be committed; zero in a granted vote.
        committed: EntryId,
    },
    /// The leader asks a follower that has its whole log to campaign now.
    TimeoutNow,
    /// The digest of a voter's state, for the comparison of replicas. Not one of Raft's messages.
    StateDigest {
        /// Index of the entry after which it was computed: a
        /// [`CheckState`](crate::command::ShardCommand::CheckState).
        index: u64,
        /// The CRC-32C of the canonical encoding of the state.
        digest: u32,
    },
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the message is cut off")]
    Truncated,
    /// Another version of the encoding.
    #[error("the message has version {0}, this broker reads version {VERSION}")]
    Version(u8),
    /// A replica of another history of the shard.
    #[error("the message is of history {found} of the shard, this replica's is {own}")]
    History {
        /// The history in the message.
        found: HistoryId,
        /// The history of the receiver.
        own: HistoryId,
    },
    /// An unknown kind of message.
    #[error("the message has the unknown kind {0}")]
    Kind(u8),
    /// An unknown kind of entry.
    #[error("an entry of the message has the unknown kind {0}")]
    EntryKind(u8),
    /// A flag that is neither 0 nor 1.
    #[error("a flag of the message is {0}, must be 0 or 1")]
    Flag(u8),
    /// A ReadIndex context that is too long.
    #[error("the context has {0} bytes, at most {max} are allowed", max = limits::CONTEXT_BYTES_MAX)]
    Context(usize),
    /// Bytes after the last field.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

impl Message {
    /// Bytes of the payloads of the entries in the message.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.entries().iter().map(|entry| entry.data.len()).sum()
    }

    /// The entries of an [`Body::Append`]; empty for any other message.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        if let Body::Append { entries, .. } = &self.body { entries } else { &[] }
    }

    /// The same as messages of at most [`limits::MESSAGE_BYTES_MAX`] bytes of payloads each, or of
    /// one larger entry.
    pub(crate) fn split(self) -> Vec<Self> {
        let Self { from, to, term, body } = self;
        let Body::Append { mut previous, commit, entries } = body else {
            return vec![Self { from, to, term, body }];
        };
        let (mut out, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for entry in entries {
            bytes += entry.data.len() as u64;
            if bytes > limits::MESSAGE_BYTES_MAX && !part.is_empty() {
                bytes = entry.data.len() as u64;
                let entries = std::mem::take(&mut part);
                let last: EntryId = entries.last().map(Entry::id).expect("it is not empty");
                let body = Body::Append { previous, commit, entries };
                out.push(Self { from, to, term, body });
                previous = last;
            }
            part.push(entry);
        }
        let body = Body::Append { previous, commit, entries: part };
        out.push(Self { from, to, term, body });
        out
    }

    /// The message as bytes, for replicas of the same history. Payloads are not copied, except
    /// small ones.
    #[must_use]
    pub fn encode(&self, history: HistoryId) -> Payload {
        let mut out = Encoder::default();
        self.encode_to(history, &mut out);
        out.chunks.push(out.rest.freeze());
        out.chunks.into()
    }

    fn encode_to(&self, history: HistoryId, encoder: &mut Encoder) {
        let out = &mut encoder.rest;
        out.put_u8(VERSION);
        out.put_u8(self.body.kind());
        out.put_u64_le(history.0);
        out.put_u64_le(self.from);
        out.put_u64_le(self.to);
        out.put_u64_le(self.term);
        match &self.body {
            Body::Append { previous, commit, entries } => {
                put_id(out, *previous);
                out.put_u64_le(*commit);
                out.put_u32_le(u32::try_from(entries.len()).expect("a message is bounded"));
                for entry in entries {
                    put_id(&mut encoder.rest, entry.id());
                    encoder.rest.put_u8(entry.kind as u8);
                    encoder.put_payload(&entry.data);
                }
            }
            Body::Appended { index, commit } => {
                out.put_u64_le(*index);
                out.put_u64_le(*commit);
            }
            Body::AppendRejected { index, hint, commit } => {
                out.put_u64_le(*index);
                put_id(out, *hint);
                out.put_u64_le(*commit);
            }
            Body::Heartbeat { commit, context } => {
                out.put_u64_le(*commit);
                put_bytes(out, context);
            }
            Body::HeartbeatResponse { commit, context, is_full } => {
                out.put_u64_le(*commit);
                put_bytes(out, context);
                out.put_u8(u8::from(*is_full));
            }
            Body::RequestVote { last, committed, is_pre_vote, is_transfer } => {
                put_id(out, *last);
                put_id(out, *committed);
                out.put_u8(u8::from(*is_pre_vote));
                out.put_u8(u8::from(*is_transfer));
            }
            Body::Vote { granted, is_pre_vote, committed } => {
                out.put_u8(u8::from(*granted));
                out.put_u8(u8::from(*is_pre_vote));
                put_id(out, *committed);
            }
            Body::TimeoutNow => {}
            Body::StateDigest { index, digest } => {
                out.put_u64_le(*index);
                out.put_u32_le(*digest);
            }
        }
    }

    /// The reverse of [`Self::encode`], for a replica of the history `own`. Payloads share the
    /// memory of `input`.
    ///
    /// # Errors
    /// When `input` is not exactly one message of this version and history.
    pub fn decode(mut input: Bytes, own: HistoryId) -> Result<Self, DecodeError> {
        let version = input.try_get_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = input.try_get_u8()?;
        let found = HistoryId(input.try_get_u64_le()?);
        if found != own {
            return Err(DecodeError::History { found, own });
        }
        let (from, to, term) =
            (input.try_get_u64_le()?, input.try_get_u64_le()?, input.try_get_u64_le()?);
        let body = Body::decode(kind, &mut input)?;
        if input.has_remaining() {
            return Err(DecodeError::Trailing(input.remaining()));
        }
        Ok(Self { from, to, term, body })
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Append { .. } => 0,
            Self::Appended { .. } => 1,
            Self::AppendRejected { .. } => 2,
            Self::Heartbeat { .. } => 3,
            Self::HeartbeatResponse { .. } => 4,
            Self::RequestVote { .. } => 5,
            Self::Vote { .. } => 6,
            Self::TimeoutNow => 7,
            Self::StateDigest { .. } => 8,
        }
    }

    fn decode(kind: u8, input: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match kind {
            0 => {
                let (previous, commit) = (id(input)?, input.try_get_u64_le()?);
                let count = input.try_get_u32_le()?;
                let mut entries = Vec::new();
                for _ in 0..count {
                    entries.push(entry(input)?);
                }
                Self::Append { previous, commit, entries }
            }
            1 => Self::Appended { index: input.try_get_u64_le()?, commit: input.try_get_u64_le()? },
            2 => Self::AppendRejected {
                index: input.try_get_u64_le()?,
                hint: id(input)?,
                commit: input.try_get_u64_le()?,
            },
            3 => Self::Heartbeat { commit: input.try_get_u64_le()?, context: context(input)? },
            4 => Self::HeartbeatResponse {
                commit: input.try_get_u64_le()?,
                context: context(input)?,
                is_full: flag(input)?,
            },
            5 => Self::RequestVote {
                last: id(input)?,
                committed: id(input)?,
                is_pre_vote: flag(input)?,
                is_transfer: flag(input)?,
            },
            6 => Self::Vote {
                granted: flag(input)?,
                is_pre_vote: flag(input)?,
                committed: id(input)?,
            },
            7 => Self::TimeoutNow,
            8 => Self::StateDigest {
                index: input.try_get_u64_le()?,
                digest: input.try_get_u32_le()?,
            },
            kind => return Err(DecodeError::Kind(kind)),
        })
    }
}

/// Chunks that are at most this large are copied, bytes.
const COPIED_BYTES_MAX: usize = 512;

/// The encoding of a message so far.
#[derive(Default)]
struct Encoder {
    chunks: Vec<Bytes>,
    /// What follows the chunks.
    rest: BytesMut,
}

impl Encoder {
    fn put_payload(&mut self, payload: &Payload) {
        self.rest.put_u32_le(u32::try_from(payload.len()).expect("a payload is bounded"));
        for chunk in payload.chunks() {
            if chunk.len() <= COPIED_BYTES_MAX {
                self.rest.put_slice(chunk);
            } else {
                self.chunks.push(self.rest.split().freeze());
                self.chunks.push(chunk.clone());
            }
        }
    }
}

fn put_id(out: &mut BytesMut, id: EntryId) {
    out.put_u64_le(id.index);
    out.put_u64_le(id.term);
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("a payload is bounded"));
    out.put_slice(bytes);
}

fn need(input: &Bytes, bytes: usize) -> Result<(), DecodeError> {
    if input.remaining() < bytes { Err(DecodeError::Truncated) } else { Ok(()) }
}

fn flag(input: &mut Bytes) -> Result<bool, DecodeError> {
    match input.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Flag(other)),
    }
}

fn id(input: &mut Bytes) -> Result<EntryId, DecodeError> {
    Ok(EntryId { index: input.try_get_u64_le()?, term: input.try_get_u64_le()? })
}

fn bytes(input: &mut Bytes) -> Result<Bytes, DecodeError> {
    let len = usize::try_from(input.try_get_u32_le()?).map_err(|_| DecodeError::Truncated)?;
    need(input, len)?;
    Ok(input.split_to(len))
}

fn context(input: &mut Bytes) -> Result<Bytes, DecodeError> {
    let context = bytes(input)?;
    if context.len() > limits::CONTEXT_BYTES_MAX {
        return Err(DecodeError::Context(context.len()));
    }
    Ok(context)
}

fn entry(input: &mut Bytes) -> Result<Entry, DecodeError> {
    let EntryId { index, term } = id(input)?;
    let kind = input.try_get_u8()?;
    let kind = EntryKind::from_u8(kind).ok_or(DecodeError::EntryKind(kind))?;
    Ok(Entry { index, term, kind, data: bytes(input)?.into() })
}

#[cfg(test)]
mod tests;
