//! The 61 bytes in front of a batch's records.
//!
//! The first 16 bytes (base offset, length, leader epoch) lie outside the checksum: the broker
//! stamps them. Everything else was sealed by whoever wrote the batch, and sealing again
//! ([`Header::seal`]) is the only way this crate changes it.

use bytes::Bytes;

use crate::codec::Compression;
use crate::error::BatchError;

/// Bytes of a batch before its records.
pub const HEADER_LEN: usize = 61;
/// Bytes at the front that the checksum does not cover: base offset, length, leader epoch.
pub const PREFIX_LEN: usize = 16;
/// The message format this crate knows.
pub const MAGIC: i8 = 2;
/// What Kafka writes where there is no timestamp.
pub const NO_TIMESTAMP: i64 = -1;

/// Bytes that the length field does not count: the base offset and the length itself.
const LENGTH_FREE: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Whose clock the timestamps of a batch come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's, one per record.
    CreateTime,
    /// The broker's, one for the whole batch: its maximum timestamp.
    LogAppendTime,
}

/// A batch's header, as it stands in the bytes.
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
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Offset of the last record less the base offset, also where compaction dropped that record.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from; the delete horizon where that flag is set.
    pub base_timestamp_ms: i64,
    /// Largest timestamp of the records; the broker's clock for LogAppendTime.
    pub max_timestamp_ms: i64,
    /// Idempotent producer, -1 for none.
    pub producer_id: i64,
    /// Epoch of the producer.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 for none.
    pub base_sequence: i32,
    /// How many records there are.
    pub count: i32,
}

impl Header {
    /// Reads the header. The records need not be there yet; the checksum is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        Self::read(bytes)?.with_known_codec()
    }

    /// Reads the header of `bytes`, which must be exactly one batch whose checksum holds.
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

    /// Refuses bytes that are not exactly as long as this header says.
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

    /// The codec of the records. [`Header::parse`] admits none that is unknown.
    pub fn compression(&self) -> Compression {
        Compression::from_code((self.attributes & COMPRESSION_MASK) as u8).unwrap_or_default()
    }

    /// Whose clock the timestamps are.
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

    /// Whether the records are markers of the broker, not data.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// From when on compaction may drop the tombstones of this batch (KIP-534), once it has
    /// decided so. The base timestamp then holds it.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp_ms)
    }

    /// Whether an idempotent producer wrote it.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// Offset of the last record, by the base offset in these bytes.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Sequence number of the last record, -1 without sequence numbers. It goes by offsets, so
    /// compaction does not change it.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        sequence_after(self.base_sequence, self.last_offset_delta)
    }

    /// The header for a topic whose timestamps are of this type, at this time of the broker.
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

    /// Marks the base timestamp as a delete horizon, or as no longer one.
    pub(crate) fn set_delete_horizon(&mut self, on: bool) {
        self.set_flag(DELETE_HORIZON, on);
    }

    fn set_flag(&mut self, flag: i16, on: bool) {
        self.attributes = if on { self.attributes | flag } else { self.attributes & !flag };
    }

    /// Finishes a batch: `out` holds [`HEADER_LEN`] bytes to overwrite and then the records as
    /// they are stored. Length and checksum come from there, all else from this header.
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

/// The sequence number `steps` after `sequence`: they wrap from 2^31-1 to 0.
pub fn sequence_after(sequence: i32, steps: i32) -> i32 {
    (i64::from(sequence) + i64::from(steps)).rem_euclid(1 << 31) as i32
}

/// CRC-32C of what the checksum covers. `bytes` is a whole batch.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(&bytes[CRC_FROM..])
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
