//! Format of the index of a segment. This file has no I/O.
//!
//! ```text
//! header, 64 bytes: "RWINDEX\0", version u32, flags u32, base offset i64, created at (ms) i64,
//!                   end offset i64 (-1: where the last entry ends), 20 zero bytes, CRC-32C u32
//! entry, 48 bytes:  first offset u32 and end offset u32 (both relative to the base offset),
//!                   position u32, length u32, largest timestamp of the block i64,
//!                   largest timestamp of the segment up to here i64, records of data up to
//!                   here u32, leader epoch u32, CRC-32C of the block u32,
//!                   CRC-32C of the entry u32
//! ```
//! Numbers are little-endian. An entry describes a *block*: adjacent whole batches of one leader
//! epoch in the log, at most [`BLOCK_BYTES_MAX`] bytes unless a single batch is larger. The
//! checksum of the block covers the batches' prefixes (offset and epoch), which Kafka's checksum
//! does not. Because of the running totals every lookup is a binary search, and the last entry is
//! the summary of the segment.
//!
//! [`cut`] makes the entries when batches are appended, [`search`] finds entries, [`rebuild`] makes
//! an index from its log.
//!
//! Invariants:
//! - **D3.** Header and entries have checksums. That of an entry is seeded with the base offset and
//!   the number of the entry, so an entry of another file or at another position is refused.
//! - Offsets, positions, running timestamp, record count and epoch never decrease from one entry to
//!   the next.
//!
//! A crash leaves entries behind the durable end, which recovery cuts. A damaged index is rebuilt.

pub(crate) mod cut;
pub(crate) mod search;
pub(crate) mod rebuild;

/// Largest size of a block in bytes, unless a single batch is larger.
pub const BLOCK_BYTES_MAX: u32 = 64 * 1024;
/// Size of the index header in bytes.
pub(crate) const HEADER_BYTES: usize = 64;
/// Size of an entry in bytes.
pub(crate) const ENTRY_BYTES: usize = 48;

const MAGIC: [u8; 8] = *b"RWINDEX\0";
const VERSION: u32 = 1;
const COMPACTED: u32 = 1;
const CLEAN: u32 = 2;
const HEADER_CRC_AT: usize = HEADER_BYTES - 4;
const ENTRY_CRC_AT: usize = ENTRY_BYTES - 4;

/// Properties of a segment that do not depend on its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: i64,
    pub(crate) created_ms: i64,
    /// The end offset of a compacted segment, because compaction may remove the last batches.
    pub(crate) compacted_end: Option<i64>,
    /// Whether compaction has searched later records of each of its keys.
    pub(crate) is_clean: bool,
}

/// One block of a segment's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// First offset of the block's first batch.
    pub(crate) base_offset: i64,
    /// Offset behind the block's last batch.
    pub(crate) next_offset: i64,
    /// Position of the block in the log.
    pub(crate) position: u32,
    pub(crate) length: u32,
    pub(crate) max_timestamp_ms: i64,
    /// Largest timestamp in the segment up to and including this block.
    pub(crate) running_timestamp_ms: i64,
    /// Number of records without control records in the segment, up to and including this block.
    pub(crate) running_records: u32,
    pub(crate) leader_epoch: i32,
    /// CRC-32C of the block's bytes, prefixes included.
    pub(crate) crc: u32,
}

impl Entry {
    /// Position behind the block in the log.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.position) + u64::from(self.length)
    }
}

/// Size in bytes of an index with this many blocks.
pub(crate) fn size_bytes(blocks: u32) -> u64 {
    entry_at(blocks)
}

/// Position of an entry in the file.
pub(crate) fn entry_at(number: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(number) * ENTRY_BYTES as u64
}

/// Encodes a whole index.
pub(crate) fn encode(header: &Header, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = encode_header(header).to_vec();
    for (number, entry) in (0..).zip(entries) {
        bytes.extend(encode_entry(entry, header.base_offset, number));
    }
    bytes
}

pub(crate) fn encode_header(header: &Header) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    let compacted = if header.compacted_end.is_some() { COMPACTED } else { 0 };
    let flags = compacted | if header.is_clean { CLEAN } else { 0 };
    out[0..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&flags.to_le_bytes());
    out[16..24].copy_from_slice(&header.base_offset.to_le_bytes());
    out[24..32].copy_from_slice(&header.created_ms.to_le_bytes());
    out[32..40].copy_from_slice(&header.compacted_end.unwrap_or(-1).to_le_bytes());
    let crc = ropewalk_crc::of(&out[..HEADER_CRC_AT]);
    out[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Decodes a header; the error describes what is wrong.
pub(crate) fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, String> {
    if bytes[0..8] != MAGIC {
        return Err("this is not a segment index".to_owned());
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return Err(format!("version {version} of the index format is unknown"));
    }
    if u32_at(bytes, HEADER_CRC_AT) != ropewalk_crc::of(&bytes[..HEADER_CRC_AT]) {
        return Err("the checksum of the index header is wrong".to_owned());
    }
    let flags = u32_at(bytes, 12);
    let header = Header {
        base_offset: i64_at(bytes, 16),
        created_ms: i64_at(bytes, 24),
        compacted_end: (flags & COMPACTED != 0).then_some(i64_at(bytes, 32)),
        is_clean: flags & CLEAN != 0,
    };
    if header.base_offset < 0 || header.compacted_end.is_some_and(|end| end < header.base_offset) {
        return Err("the index header names impossible offsets".to_owned());
    }
    Ok(header)
}

/// Encodes entry `number` of the segment with this base offset.
pub(crate) fn encode_entry(entry: &Entry, base_offset: i64, number: u32) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    out[0..4].copy_from_slice(&relative(entry.base_offset, base_offset).to_le_bytes());
    out[4..8].copy_from_slice(&relative(entry.next_offset, base_offset).to_le_bytes());
    out[8..12].copy_from_slice(&entry.position.to_le_bytes());
    out[12..16].copy_from_slice(&entry.length.to_le_bytes());
    out[16..24].copy_from_slice(&entry.max_timestamp_ms.to_le_bytes());
    out[24..32].copy_from_slice(&entry.running_timestamp_ms.to_le_bytes());
    out[32..36].copy_from_slice(&entry.running_records.to_le_bytes());
    out[36..40].copy_from_slice(&entry.leader_epoch.to_le_bytes());
    out[40..44].copy_from_slice(&entry.crc.to_le_bytes());
    let crc = entry_crc(&out, base_offset, number);
    out[ENTRY_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Decodes entry `number`; the error describes what is wrong.
pub(crate) fn decode_entry(
    bytes: &[u8; ENTRY_BYTES],
    base_offset: i64,
    number: u32,
) -> Result<Entry, String> {
    if u32_at(bytes, ENTRY_CRC_AT) != entry_crc(bytes, base_offset, number) {
        return Err(format!("the checksum of index entry {number} is wrong"));
    }
    let absolute = |at| base_offset.checked_add(i64::from(u32_at(bytes, at)));
    let (Some(first), Some(next)) = (absolute(0), absolute(4)) else {
        return Err(format!("index entry {number} names an impossible offset"));
    };
    let entry = Entry {
        base_offset: first,
        next_offset: next,
        position: u32_at(bytes, 8),
        length: u32_at(bytes, 12),
        max_timestamp_ms: i64_at(bytes, 16),
        running_timestamp_ms: i64_at(bytes, 24),
        running_records: u32_at(bytes, 32),
        leader_epoch: u32_at(bytes, 36).cast_signed(),
        crc: u32_at(bytes, 40),
    };
    if entry.length == 0 || next <= first || entry.end() > u64::from(u32::MAX) {
        return Err(format!("index entry {number} describes an impossible block"));
    }
    Ok(entry)
}

/// Sets magic, version and checksum of a header that a test made up.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn reseal_header(bytes: &mut [u8; HEADER_BYTES], base_offset: i64) {
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&base_offset.to_le_bytes());
    let crc = ropewalk_crc::of(&bytes[..HEADER_CRC_AT]);
    bytes[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// Sets the checksums of an entry that a test made up: of the entry and of its block.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn reseal_entry(
    bytes: &mut [u8; ENTRY_BYTES],
    log: &[u8],
    base_offset: i64,
    number: u32,
) {
    let (position, length) = (u32_at(bytes, 8) as usize, u32_at(bytes, 12) as usize);
    let block = position.checked_add(length).and_then(|end| log.get(position..end));
    if let Some(block) = block {
        bytes[40..44].copy_from_slice(&ropewalk_crc::of(block).to_le_bytes());
    }
    let crc = entry_crc(bytes, base_offset, number);
    bytes[ENTRY_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

fn entry_crc(bytes: &[u8; ENTRY_BYTES], base_offset: i64, number: u32) -> u32 {
    let seed =
        ropewalk_crc::append(ropewalk_crc::of(&base_offset.to_le_bytes()), &number.to_le_bytes());
    ropewalk_crc::append(seed, &bytes[..ENTRY_CRC_AT])
}

fn relative(offset: i64, base_offset: i64) -> u32 {
    u32::try_from(offset - base_offset).expect("a segment is rolled before its offsets pass u32")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("every field lies inside"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(*bytes[at..].first_chunk().expect("every field lies inside"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry {
        Entry {
            base_offset: 1_000,
            next_offset: 1_010,
            position: 4_096,
            length: 600,
            max_timestamp_ms: 7,
            running_timestamp_ms: 9,
            running_records: 55,
            leader_epoch: 3,
            crc: 0xdead_beef,
        }
    }

    #[test]
    fn d3_an_entry_is_believed_only_in_its_own_place() {
        let bytes = encode_entry(&entry(), 900, 5);
        assert_eq!(decode_entry(&bytes, 900, 5), Ok(entry()));
        assert!(decode_entry(&bytes, 901, 5).is_err());
        assert!(decode_entry(&bytes, 900, 6).is_err());
    }

    #[test]
    fn d3_zeroes_are_no_entry_and_no_header() {
        assert!(decode_entry(&[0; ENTRY_BYTES], 0, 0).is_err());
        assert!(decode_header(&[0; HEADER_BYTES]).is_err());
    }

    proptest! {
        #[test]
        fn d3_every_flipped_bit_is_seen(bit in 0..ENTRY_BYTES * 8, header_bit in 0..HEADER_BYTES * 8) {
            let mut bytes = encode_entry(&entry(), 900, 5);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_entry(&bytes, 900, 5).is_err());

            let header = Header { base_offset: 900, created_ms: 5, compacted_end: Some(1_200), is_clean: true };
            let mut bytes = encode_header(&header);
            prop_assert_eq!(decode_header(&bytes), Ok(header));
            bytes[header_bit / 8] ^= 1 << (header_bit % 8);
            prop_assert!(decode_header(&bytes).is_err());
        }
    }
}
