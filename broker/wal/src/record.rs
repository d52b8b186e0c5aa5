//! The records of the log and their encoding in a round.

use bytes::Bytes;
use ropewalk_crc::SuffixSum;
use ropewalk_disk::Aligned;

use crate::layout::{Seed, u32_at, u64_at};

/// Length of the header of a record.
pub(crate) const RECORD_HEADER_BYTES: usize = 48;
/// Alignment of records in bytes, so that a search for the next record takes larger steps.
pub(crate) const RECORD_ALIGN_BYTES: usize = 8;

/// Identifies one broker's replica of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaKey {
    /// Number of the shard.
    pub shard: u32,
    /// Id of the replica, which is never reused.
    pub replica: u64,
}

/// Index and term of a Raft log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogId {
    /// Index of the entry; 0 is before the first entry.
    pub index: u64,
    /// Raft term in which the entry was proposed.
    pub term: u64,
}

/// Raft's persistent state besides its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// Current Raft term.
    pub term: u64,
    /// The replica that got the vote of this term; 0 is none.
    pub vote: u64,
    /// Last index that is known to be committed.
    pub commit: u64,
}

/// The bytes of an entry, as chunks that are not joined.
///
/// The log sums every byte of a chunk made from plain [`Bytes`]. For a record batch the caller
/// passes the checksum in the batch's header instead ([`Chunk::known`] with
/// `ropewalk_batch::Header::suffix_sum`), provided that this broker has verified the batch since it
/// came over the network: a checksum that does not match the bytes makes the record a damaged one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(Chunks);

/// A part of a [`Payload`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    bytes: Bytes,
    known: Option<SuffixSum>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunks {
    One(Chunk),
    Many(Vec<Chunk>),
}

impl Chunk {
    /// Bytes whose end was summed before.
    ///
    /// # Panics
    /// When the suffix begins behind the bytes.
    pub fn known(bytes: Bytes, suffix: SuffixSum) -> Self {
        assert!(suffix.from <= bytes.len(), "the suffix is a part of the chunk");
        Self { bytes, known: Some(suffix) }
    }

    /// The bytes of the chunk.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The checksum of bytes with the checksum `crc` and this chunk behind them.
    fn append_to(&self, crc: u32) -> u32 {
        match self.known {
            Some(suffix) => ropewalk_crc::append_known(crc, &self.bytes, suffix),
            None => ropewalk_crc::append(crc, &self.bytes),
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, known: None }
    }
}

impl Payload {
    /// Sum of the lengths of the chunks.
    pub fn len(&self) -> usize {
        self.chunks().iter().map(|chunk| chunk.bytes.len()).sum()
    }

    /// Whether the payload has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunks in order.
    pub fn chunks(&self) -> &[Chunk] {
        match &self.0 {
            Chunks::One(chunk) => std::slice::from_ref(chunk),
            Chunks::Many(chunks) => chunks,
        }
    }
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        Self(Chunks::One(chunk.into()))
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(chunks: Vec<Bytes>) -> Self {
        Self(Chunks::Many(chunks.into_iter().map(Chunk::from).collect()))
    }
}

impl From<Vec<Chunk>> for Payload {
    fn from(chunks: Vec<Chunk>) -> Self {
        Self(Chunks::Many(chunks))
    }
}

/// One change of the state of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A Raft log entry. Entries of a replica are contiguous. An index at or below the last one
    /// replaces all entries from there on.
    Entry {
        /// The replica of the log.
        key: ReplicaKey,
        /// Index in the replica's log.
        index: u64,
        /// The term in which it was proposed.
        term: u64,
        /// The Raft engine's kind of entry.
        kind: u8,
        /// The proposed bytes.
        data: Payload,
    },
    /// Term, vote and commit. Replaces the previous ones.
    HardState {
        /// The replica concerned.
        key: ReplicaKey,
        /// The new state.
        state: HardState,
    },
    /// The Raft configuration. Replaces the previous one.
    ConfState {
        /// The replica concerned.
        key: ReplicaKey,
        /// The configuration in the shard's encoding.
        data: Bytes,
    },
    /// A replica is created from a snapshot; its log starts after `index`.
    Created {
        /// The replica concerned.
        key: ReplicaKey,
        /// The index of the snapshot.
        index: u64,
        /// The term of that index.
        term: u64,
        /// The configuration at that index.
        conf_state: Bytes,
    },
    /// The replica installed a snapshot of its leader: its log is replaced and starts after
    /// `index`.
    SnapshotInstalled {
        /// The replica concerned.
        key: ReplicaKey,
        /// The index of the snapshot.
        index: u64,
        /// The term of that index.
        term: u64,
        /// The configuration at that index.
        conf_state: Bytes,
    },
    /// The log up to and including `index` is covered by a durable snapshot.
    Truncated {
        /// The replica concerned.
        key: ReplicaKey,
        /// Last index that is no longer needed.
        index: u64,
        /// The term of that index.
        term: u64,
    },
    /// The replica is removed permanently.
    ReplicaDestroyed {
        /// The replica concerned.
        key: ReplicaKey,
    },
    /// The operator accepted that a damaged replica lost records (`repair --accept-loss`): its log
    /// now ends at `index`, and it no longer counts as damaged.
    LossAccepted {
        /// The replica concerned.
        key: ReplicaKey,
        /// Last index that is kept.
        index: u64,
    },
}

impl Record {
    /// The replica of the record.
    pub fn key(&self) -> ReplicaKey {
        match self {
            Self::Entry { key, .. }
            | Self::HardState { key, .. }
            | Self::ConfState { key, .. }
            | Self::Created { key, .. }
            | Self::SnapshotInstalled { key, .. }
            | Self::Truncated { key, .. }
            | Self::ReplicaDestroyed { key }
            | Self::LossAccepted { key, .. } => *key,
        }
    }

    /// Size in a round in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.body_len().next_multiple_of(RECORD_ALIGN_BYTES)
    }

    pub(crate) fn body_len(&self) -> usize {
        match self {
            Self::Entry { data, .. } => data.len(),
            Self::HardState { .. } => size_of::<u64>(),
            Self::ConfState { data, .. } => data.len(),
            Self::Created { conf_state, .. } | Self::SnapshotInstalled { conf_state, .. } => {
                conf_state.len()
            }
            Self::Truncated { .. } | Self::ReplicaDestroyed { .. } | Self::LossAccepted { .. } => 0,
        }
    }

    /// Appends the record to a round. The caller has checked that the body fits a `u32`.
    pub(crate) fn encode(&self, seed: Seed, out: &mut Aligned) {
        let start = out.len();
        out.resize(start + RECORD_HEADER_BYTES);
        let body_crc = self.encode_body(out);
        let header = RecordHeader {
            kind: self.kind(),
            entry_kind: if let Self::Entry { kind, .. } = self { *kind } else { 0 },
            key: self.key(),
            index: self.index(),
            term: self.term(),
            body_len: u32::try_from(out.len() - start - RECORD_HEADER_BYTES)
                .expect("a planned round is smaller than its file"),
            body_crc,
        };
        out.pad_to_multiple(RECORD_ALIGN_BYTES);
        header.encode(seed, &mut out[start..start + RECORD_HEADER_BYTES]);
    }

    /// Appends the body and returns its checksum, which is not seeded: it is the only checksum of
    /// these bytes in the log, and may be combined from checksums that the chunks already have.
    fn encode_body(&self, out: &mut Aligned) -> u32 {
        let vote;
        let body: &[u8] = match self {
            Self::Entry { data, .. } => {
                return data.chunks().iter().fold(0, |crc, chunk| {
                    out.extend_from_slice(&chunk.bytes);
                    chunk.append_to(crc)
                });
            }
            Self::HardState { state, .. } => {
                vote = state.vote.to_le_bytes();
                &vote
            }
            Self::ConfState { data, .. } => data,
            Self::Created { conf_state, .. } | Self::SnapshotInstalled { conf_state, .. } => {
                conf_state
            }
            Self::Truncated { .. } | Self::ReplicaDestroyed { .. } | Self::LossAccepted { .. } => {
                &[]
            }
        };
        out.extend_from_slice(body);
        ropewalk_crc::of(body)
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Entry { .. } => Kind::Entry,
            Self::HardState { .. } => Kind::HardState,
            Self::ConfState { .. } => Kind::ConfState,
            Self::Created { .. } => Kind::Created,
            Self::SnapshotInstalled { .. } => Kind::SnapshotInstalled,
            Self::Truncated { .. } => Kind::Truncated,
            Self::ReplicaDestroyed { .. } => Kind::ReplicaDestroyed,
            Self::LossAccepted { .. } => Kind::LossAccepted,
        }
    }

    fn index(&self) -> u64 {
        match self {
            Self::Entry { index, .. }
            | Self::Created { index, .. }
            | Self::SnapshotInstalled { index, .. }
            | Self::Truncated { index, .. }
            | Self::LossAccepted { index, .. } => *index,
            Self::HardState { state, .. } => state.commit,
            Self::ConfState { .. } | Self::ReplicaDestroyed { .. } => 0,
        }
    }

    fn term(&self) -> u64 {
        match self {
            Self::Entry { term, .. }
            | Self::Created { term, .. }
            | Self::SnapshotInstalled { term, .. }
            | Self::Truncated { term, .. } => *term,
            Self::HardState { state, .. } => state.term,
            Self::ConfState { .. } | Self::ReplicaDestroyed { .. } | Self::LossAccepted { .. } => 0,
        }
    }
}

/// The kinds of records with their numbers on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Entry = 1,
    HardState = 2,
    ConfState = 3,
    Created = 4,
    SnapshotInstalled = 5,
    Truncated = 6,
    ReplicaDestroyed = 7,
    LossAccepted = 8,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Entry,
            2 => Self::HardState,
            3 => Self::ConfState,
            4 => Self::Created,
            5 => Self::SnapshotInstalled,
            6 => Self::Truncated,
            7 => Self::ReplicaDestroyed,
            8 => Self::LossAccepted,
            _ => return None,
        })
    }
}

/// The header of a record in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) entry_kind: u8,
    pub(crate) key: ReplicaKey,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
}

impl RecordHeader {
    fn encode(&self, seed: Seed, out: &mut [u8]) {
        out[4..8].copy_from_slice(&self.body_crc.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12] = self.kind as u8;
        out[13] = self.entry_kind;
        out[16..20].copy_from_slice(&self.key.shard.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.replica.to_le_bytes());
        out[32..40].copy_from_slice(&self.index.to_le_bytes());
        out[40..48].copy_from_slice(&self.term.to_le_bytes());
        let crc = seed.crc(&out[4..RECORD_HEADER_BYTES]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// `None` if the bytes are not the header of a record of this round.
    pub(crate) fn parse(bytes: &[u8], seed: Seed) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if u32_at(bytes, 0) != seed.crc(&bytes[4..]) {
            return None;
        }
        Some(Self {
            kind: Kind::from_number(bytes[12])?,
            entry_kind: bytes[13],
            key: ReplicaKey { shard: u32_at(bytes, 16), replica: u64_at(bytes, 24) },
            index: u64_at(bytes, 32),
            term: u64_at(bytes, 40),
            body_len: u32_at(bytes, 8),
            body_crc: u32_at(bytes, 4),
        })
    }

    /// Decodes the record with this body, whose checksum the caller has verified. `None` if the
    /// body does not fit the kind.
    pub(crate) fn decode(&self, body: Bytes) -> Option<Record> {
        let Self { key, index, term, .. } = *self;
        Some(match self.kind {
            Kind::Entry => {
                Record::Entry { key, index, term, kind: self.entry_kind, data: body.into() }
            }
            Kind::HardState => {
                let vote = u64::from_le_bytes(body.as_ref().try_into().ok()?);
                Record::HardState { key, state: HardState { term, vote, commit: index } }
            }
            Kind::ConfState => Record::ConfState { key, data: body },
            Kind::Created => Record::Created { key, index, term, conf_state: body },
            Kind::SnapshotInstalled => {
                Record::SnapshotInstalled { key, index, term, conf_state: body }
            }
            Kind::Truncated => Record::Truncated { key, index, term },
            Kind::ReplicaDestroyed => Record::ReplicaDestroyed { key },
            Kind::LossAccepted => Record::LossAccepted { key, index },
        })
    }

    /// Number of bytes from the start of this record to the start of the next.
    pub(crate) fn size_bytes(&self) -> u64 {
        let body_len = u64::from(self.body_len).next_multiple_of(RECORD_ALIGN_BYTES as u64);
        RECORD_HEADER_BYTES as u64 + body_len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn known_sums_give_the_checksum_of_the_whole_payload(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            from in any::<prop::sample::Index>(),
        ) {
            let known = |bytes: &Vec<u8>| {
                let from = from.index(bytes.len() + 1);
                let suffix = SuffixSum { from, crc: ropewalk_crc::of(&bytes[from..]) };
                Chunk::known(Bytes::copy_from_slice(bytes), suffix)
            };
            let payload = Payload::from(chunks.iter().map(known).collect::<Vec<Chunk>>());
            let joined = Payload::from(Bytes::from(chunks.concat()));
            let encoded = |data| {
                let key = ReplicaKey { shard: 1, replica: 2 };
                let mut out = Aligned::with_capacity(0);
                Record::Entry { key, index: 3, term: 4, kind: 0, data }.encode(Seed::NONE, &mut out);
                out.to_vec()
            };
            prop_assert_eq!(encoded(payload), encoded(joined));
        }
    }

    #[test]
    fn d3_a_chunk_that_changes_after_it_was_summed_fails_its_checksum() {
        let suffix = SuffixSum { from: 2, crc: ropewalk_crc::of(b"batch") };
        let chunk = Chunk::known(Bytes::from_static(b"a batcH"), suffix);
        let key = ReplicaKey { shard: 1, replica: 2 };
        let data = Payload::from(vec![chunk]);
        let mut out = Aligned::with_capacity(0);
        Record::Entry { key, index: 3, term: 4, kind: 0, data }.encode(Seed::NONE, &mut out);
        let header = RecordHeader::parse(&out, Seed::NONE).expect("the header is right");
        let body = &out[RECORD_HEADER_BYTES..][..header.body_len as usize];
        assert_ne!(ropewalk_crc::of(body), header.body_crc);
    }
}
