//! One round in a file: a frame of header, directory and records.

use ropewalk_disk::Aligned;

use crate::layout::{BLOCK_BYTES, SEQUENCE_MAX, Seed, align_up, u32_at, u64_at};
use crate::record::{RECORD_HEADER_BYTES, Record, ReplicaKey};

/// Bytes before the directory.
pub(crate) const FRAME_HEADER_BYTES: usize = 40;
/// Bytes of the directory before its rows.
pub(crate) const DIRECTORY_HEADER_BYTES: usize = 16;
const DIRECTORY_ROW_BYTES: usize = 16;
const MAGIC: &[u8; 4] = b"RWRD";

/// Identifies a round of the log, and seeds its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundId {
    pub(crate) file_sequence: u64,
    pub(crate) salt: u64,
    pub(crate) round: u64,
}

impl RoundId {
    fn seed(self) -> Seed {
        Seed::of_round(self.salt, self.round)
    }
}

/// Size of a round with records of this many replicas, before padding to whole blocks.
pub(crate) fn frame_bytes(keys: usize, records_bytes: usize) -> usize {
    FRAME_HEADER_BYTES + DIRECTORY_HEADER_BYTES + keys * DIRECTORY_ROW_BYTES + records_bytes
}

/// Encodes a whole round, padded, into `out`, which is empty.
pub(crate) fn encode<'a>(
    round_id: RoundId,
    directory: impl ExactSizeIterator<Item = (ReplicaKey, u32)>,
    records: impl Iterator<Item = &'a Record>,
    out: &mut Aligned,
) {
    let seed = round_id.seed();
    out.resize(FRAME_HEADER_BYTES);
    encode_directory(round_id.round, seed, directory, out);
    let mut heads = seed.after(&out[FRAME_HEADER_BYTES..]);
    let mut count = 0_u32;
    for record in records {
        let at = out.len();
        record.encode(seed, out);
        heads = heads.after(&out[at..at + RECORD_HEADER_BYTES]);
        count += 1;
    }
    let length = u32::try_from(out.len()).expect("a planned round is smaller than its file");
    let header = &mut out[..FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&round_id.file_sequence.to_le_bytes());
    header[16..24].copy_from_slice(&round_id.round.to_le_bytes());
    header[24..28].copy_from_slice(&length.to_le_bytes());
    header[28..32].copy_from_slice(&heads.value().to_le_bytes());
    header[32..36].copy_from_slice(&count.to_le_bytes());
    let crc = Seed::of_file(round_id.salt).crc(&header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    out.pad_to_multiple(BLOCK_BYTES as usize);
}

fn encode_directory(
    round: u64,
    seed: Seed,
    directory: impl ExactSizeIterator<Item = (ReplicaKey, u32)>,
    out: &mut Aligned,
) {
    let start = out.len();
    let keys = u32::try_from(directory.len()).expect("a planned round is smaller than its file");
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&keys.to_le_bytes());
    out.extend_from_slice(&round.to_le_bytes());
    for (key, records) in directory {
        out.extend_from_slice(&key.shard.to_le_bytes());
        out.extend_from_slice(&records.to_le_bytes());
        out.extend_from_slice(&key.replica.to_le_bytes());
    }
    let crc = seed.crc(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A frame's header with a valid checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) round: u64,
    /// Length of header, directory and records in bytes, without padding.
    pub(crate) length: u32,
    /// Seeded checksum of the directory and of the headers of all records. Each body has its own in
    /// the header of its record.
    pub(crate) heads_crc: u32,
    pub(crate) records: u32,
}

impl FrameHeader {
    /// `None` if the bytes are not the header of a frame of this file.
    pub(crate) fn parse(bytes: &[u8], file_sequence: u64, salt: u64) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        let ours = bytes.starts_with(MAGIC)
            && u64_at(bytes, 8) == file_sequence
            && u32_at(bytes, 4) == Seed::of_file(salt).crc(&bytes[8..]);
        let header = Self {
            round: u64_at(bytes, 16),
            length: u32_at(bytes, 24),
            heads_crc: u32_at(bytes, 28),
            records: u32_at(bytes, 32),
        };
        let length_min = FRAME_HEADER_BYTES + DIRECTORY_HEADER_BYTES;
        let sane = header.round <= SEQUENCE_MAX && header.length as usize >= length_min;
        (ours && sane).then_some(header)
    }

    /// The length of the frame including padding.
    pub(crate) fn padded_bytes(&self) -> u64 {
        align_up(u64::from(self.length))
    }
}

/// The length of a directory in bytes, from its own count of rows. Only [`parse_directory`]
/// verifies it. `None` if the directory belongs to another round.
pub(crate) fn directory_bytes(bytes: &[u8], round: u64) -> Option<u64> {
    let bytes = bytes.get(..DIRECTORY_HEADER_BYTES)?;
    let rows = u64::from(u32_at(bytes, 4));
    (u64_at(bytes, 8) == round)
        .then_some(DIRECTORY_HEADER_BYTES as u64 + rows * DIRECTORY_ROW_BYTES as u64)
}

/// The replicas with records in a round, each with its number of records. `bytes` is the whole
/// directory. `None` if the checksum is wrong.
pub(crate) fn parse_directory(bytes: &[u8], seed: Seed) -> Option<Vec<(ReplicaKey, u32)>> {
    let rows = bytes.get(DIRECTORY_HEADER_BYTES..)?;
    if u32_at(bytes, 0) != seed.crc(&bytes[4..]) {
        return None;
    }
    let row = |row: &[u8]| {
        (ReplicaKey { shard: u32_at(row, 0), replica: u64_at(row, 8) }, u32_at(row, 4))
    };
    Some(rows.chunks_exact(DIRECTORY_ROW_BYTES).map(row).collect())
}
