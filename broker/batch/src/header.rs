//! The header of a batch: the 61 bytes in front of its records.
//!
//! The first 16 bytes (base offset, length, leader epoch) are outside the checksum, and the broker
//! writes them. For all other bytes the checksum holds; [`Header::seal`] computes it again and is
//! the only function of this crate that changes them.

use bytes::Bytes;
use ropewalk_crc::SuffixSum;

use crate::codec::Compression;
use crate::error::BatchError;

/// Bytes of a batch before its records.
pub const HEADER_LEN: usize = 61;
/// Length of the prefix that the checksum does not cover: base offset, length, leader epoch.
pub const PREFIX_LEN: usize = 16;
/// The only message format that this crate supports.
pub const MAGIC: i8 = 2;
/// Kafka's value for "no timestamp".
pub const NO_TIMESTAMP: i64 = -1;

/// Bytes that the length field does not count: the base offset and the length field.
const LENGTH_FREE: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Where the timestamps of a batch come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer sets one per record.
    CreateTime,
    /// The broker sets one for the whole batch: its maximum timestamp.
    LogAppendTime,
}

/// The fields of a batch's header, as in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record. Outside the checksum.
    pub base_offset: i64,
    /// Bytes that follow this field. Outside the checksum.
    pub batch_length: i32,
    /// Epoch of the leader that stamped the batch. Outside the checksum.
    pub leader_epoch: i32,
    /// Message format, 2.
    pub magic: i8,
    /// CRC-32C of all bytes from the attributes to the end.
    pub crc: u32,
    /// Codec and flags, as bits.
    pub attributes: i16,
    /// Offset of the last record minus the base offset, also if compaction removed that record.
    pub last_offset_delta: i32,
    /// Base of the records' timestamps. With the delete horizon flag it is also the delete horizon.
    pub base_timestamp_ms: i64,
    /// Largest timestamp of the records. With LogAppendTime it is the broker's time.
    pub max_timestamp_ms: i64,
    /// Id of the idempotent producer, -1 for none.
    pub producer_id: i64,
    /// Epoch of the producer, -1 for none.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 for none.
    pub base_sequence: i32,
    /// Number of records in the batch.
    pub count: i32,
}

impl Header {
    /// Reads the header. The records may be missing, and the checksum is not verified.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        Self::read(bytes)?.with_known_codec()
    }

    /// Reads the header of `bytes`, which must be exactly one batch with a valid checksum.
    pub fn verify(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = Self::read(bytes)?;
        header.exactly(bytes)?;
        let computed = checksum(bytes);
        if computed != header.crc {
            return Err(BatchError::Checksum { stated: header.crc, computed });
        }
        header.with_known_codec()
    }

    fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        if let Some(&magic) = bytes.get(PREFIX_LEN)
            && magic.cast_signed() != MAGIC
        {
            return Err(BatchError::Magic(magic.cast_signed()));
        }
        let front: &[u8; HEADER_LEN] = bytes
            .first_chunk()
            .ok_or(BatchError::Short { needed: HEADER_LEN, given: bytes.len() })?;
        let header = Self {
            base_offset: i64::from_be_bytes(field(front, 0)),
            batch_length: i32::from_be_bytes(field(front, 8)),
            leader_epoch: i32::from_be_bytes(field(front, 12)),
            magic: i8::from_be_bytes(field(front, PREFIX_LEN)),
            crc: u32::from_be_bytes(field(front, CRC_AT)),
            attributes: i16::from_be_bytes(field(front, CRC_FROM)),
            last_offset_delta: i32::from_be_bytes(field(front, 23)),
            base_timestamp_ms: i64::from_be_bytes(field(front, 27)),
            max_timestamp_ms: i64::from_be_bytes(field(front, 35)),
            producer_id: i64::from_be_bytes(field(front, 43)),
            producer_epoch: i16::from_be_bytes(field(front, 51)),
            base_sequence: i32::from_be_bytes(field(front, 53)),
            count: i32::from_be_bytes(field(front, 57)),
        };
        if header.size_bytes() < HEADER_LEN {
            return Err(BatchError::Length(header.batch_length));
        }
        Ok(header)
    }

    fn with_known_codec(self) -> Result<Self, BatchError> {
        let code = (self.attributes & COMPRESSION_MASK) as u8;
        match Compression::from_code(code) {
            Some(_) => Ok(self),
            None => Err(BatchError::UnknownCompression(code)),
        }
    }

    /// Refuses bytes whose number differs from the length in this header.
    pub(crate) fn exactly(&self, bytes: &[u8]) -> Result<(), BatchError> {
        match bytes.len().checked_sub(self.size_bytes()) {
            Some(0) => Ok(()),
            Some(extra) => Err(BatchError::Trailing { extra }),
            None => Err(BatchError::Short { needed: self.size_bytes(), given: bytes.len() }),
        }
    }

    /// Size of the whole batch.
    pub fn size_bytes(&self) -> usize {
        LENGTH_FREE + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// The codec of the records. [`Header::parse`] refuses unknown codecs.
    pub fn compression(&self) -> Compression {
        Compression::from_code((self.attributes & COMPRESSION_MASK) as u8).unwrap_or_default()
    }

    /// Whether the producer or the broker set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the records are transaction markers instead of data.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The time from which compaction may remove the tombstones of this batch (KIP-534), if a pass
    /// has set it. It is stored as the base timestamp.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp_ms)
    }

    /// The checksum of this header as the sum of the end of the batch. Of a batch that was
    /// validated, larger pieces of which it is a part are summed without reading it again; and
    /// bytes that change in memory afterwards then do not match the sum of the piece.
    pub fn suffix_sum(&self) -> SuffixSum {
        SuffixSum { from: CRC_FROM, crc: self.crc }
    }

    /// Whether an idempotent producer wrote the batch.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// Offset of the last record, counted from the base offset in these bytes.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Sequence number of the last record, -1 without sequence numbers. It follows from the offset
    /// delta, so compaction does not change it.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        sequence_after(self.base_sequence, self.last_offset_delta)
    }

    /// The header for a topic with this timestamp type, at the broker's time `now_ms`.
    pub(crate) fn with_timestamp_type(mut self, whose: TimestampType, now_ms: i64) -> Self {
        self.set_timestamp_type(whose);
        if whose == TimestampType::LogAppendTime {
            self.max_timestamp_ms = now_ms;
        }
        self
    }

    pub(crate) fn set_compression(&mut self, codec: Compression) {
        self.attributes = (self.attributes & !COMPRESSION_MASK) | i16::from(codec.code());
    }

    pub(crate) fn set_timestamp_type(&mut self, whose: TimestampType) {
        self.set_flag(LOG_APPEND_TIME, whose == TimestampType::LogAppendTime);
    }

    pub(crate) fn set_transactional(&mut self, on: bool) {
        self.set_flag(TRANSACTIONAL, on);
    }

    pub(crate) fn set_control(&mut self, on: bool) {
        self.set_flag(CONTROL, on);
    }

    /// Sets or clears the flag that makes the base timestamp a delete horizon.
    pub(crate) fn set_delete_horizon(&mut self, on: bool) {
        self.set_flag(DELETE_HORIZON, on);
    }

    fn set_flag(&mut self, flag: i16, on: bool) {
        self.attributes = if on { self.attributes | flag } else { self.attributes & !flag };
    }

    /// Finishes a batch. `out` is [`HEADER_LEN`] bytes to overwrite, then the records as stored.
    /// Length and checksum are computed from `out`; all other fields are those of this header.
    pub(crate) fn seal(mut self, mut out: Vec<u8>) -> Result<Bytes, BatchError> {
        self.batch_length = i32::try_from(out.len() - LENGTH_FREE)
            .map_err(|_| BatchError::TooBig { limit_bytes: i32::MAX as usize })?;
        self.magic = MAGIC;
        self.write(&mut out);
        let crc = checksum(&out);
        out[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        Ok(out.into())
    }

    fn write(&self, out: &mut [u8]) {
        out[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        out[12..PREFIX_LEN].copy_from_slice(&self.leader_epoch.to_be_bytes());
        out[PREFIX_LEN..CRC_AT].copy_from_slice(&self.magic.to_be_bytes());
        out[CRC_AT..CRC_FROM].copy_from_slice(&self.crc.to_be_bytes());
        out[CRC_FROM..23].copy_from_slice(&self.attributes.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp_ms.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[57..HEADER_LEN].copy_from_slice(&self.count.to_be_bytes());
    }
}

/// The sequence number `steps` after `sequence`. Sequence numbers wrap from 2^31-1 to 0.
pub fn sequence_after(sequence: i32, steps: i32) -> i32 {
    (i64::from(sequence) + i64::from(steps)).rem_euclid(1 << 31) as i32
}

/// CRC-32C of the bytes that the checksum covers. `bytes` is a whole batch.
fn checksum(bytes: &[u8]) -> u32 {
    ropewalk_crc::of(&bytes[CRC_FROM..])
}

fn field<const N: usize>(front: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    *front[at..].first_chunk().expect("every field lies inside the header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(sequence_after(5, 3), 8);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 3), 1);
    }

    #[test]
    fn an_old_format_is_named_even_when_it_is_short() {
        let mut v1 = vec![0; 40];
        v1[PREFIX_LEN] = 1;
        assert_eq!(Header::parse(&v1), Err(BatchError::Magic(1)));
        assert_eq!(Header::parse(&[0; 10]), Err(BatchError::Short { needed: 61, given: 10 }));
    }

    #[test]
    fn a_length_below_a_header_is_refused() {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[PREFIX_LEN] = 2;
        for length in [-1, 0, 48, i32::MIN] {
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Header::parse(&bytes), Err(BatchError::Length(length)));
        }
    }
}
