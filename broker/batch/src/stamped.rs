//! A validated batch with its offset in the log.
//!
//! The bytes are shared with the caller that proposed them, so the offset and the leader epoch are
//! not written into them but held in fields. [`StampedBatch::prefix`] returns the 16 bytes to send
//! or store in front of [`StampedBatch::body`].

use bytes::Bytes;
use ropewalk_crc::SuffixSum;

use crate::error::BatchError;
use crate::header::{HEADER_LEN, Header, PREFIX_LEN};

/// A batch and the offset that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StampedBatch {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Epoch of the leader that appended the batch.
    pub leader_epoch: i32,
    /// Offset of the last record minus the base offset.
    pub last_offset_delta: i32,
    /// Largest timestamp of the records.
    pub max_timestamp_ms: i64,
    /// Number of records in the batch.
    pub count: i32,
    /// The whole batch as it was proposed. Its first [`PREFIX_LEN`] bytes are ignored.
    pub bytes: Bytes,
}

impl StampedBatch {
    /// Stamps a batch that was validated before; only its header is read. It is an error if the
    /// offsets would overflow.
    pub fn new(bytes: Bytes, base_offset: i64, leader_epoch: i32) -> Result<Self, BatchError> {
        let header = Header::parse(&bytes)?;
        header.exactly(&bytes)?;
        if header.last_offset_delta < 0 || header.count < 0 {
            return Err(BatchError::Malformed("the last offset is before the first"));
        }
        if base_offset < 0 || base_offset > i64::MAX - i64::from(i32::MAX) - 1 {
            return Err(BatchError::Malformed("the base offset is out of range"));
        }
        Ok(Self {
            base_offset,
            leader_epoch,
            last_offset_delta: header.last_offset_delta,
            max_timestamp_ms: header.max_timestamp_ms,
            count: header.count,
            bytes,
        })
    }

    /// A batch with the offset and epoch in its own prefix, as read from a segment file. The caller
    /// has verified the checksum: see [`Header::verify`].
    pub fn read(bytes: Bytes) -> Result<Self, BatchError> {
        let header = Header::parse(&bytes)?;
        Self::new(bytes, header.base_offset, header.leader_epoch)
    }

    /// The 16 bytes to write in front of [`StampedBatch::body`].
    pub fn prefix(&self) -> [u8; PREFIX_LEN] {
        let mut prefix = [0; PREFIX_LEN];
        prefix[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        prefix[8..12].copy_from_slice(&self.bytes[8..12]);
        prefix[12..].copy_from_slice(&self.leader_epoch.to_be_bytes());
        prefix
    }

    /// All of the batch except its prefix.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(PREFIX_LEN..)
    }

    /// The checksum that the header states, as the sum of the end of [`StampedBatch::body`].
    pub fn body_sum(&self) -> SuffixSum {
        let whole = self.header().suffix_sum();
        SuffixSum { from: whole.from - PREFIX_LEN, ..whole }
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Offset behind the last record, where the next batch begins.
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// Size of the whole batch.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The header with this offset and epoch.
    pub fn header(&self) -> Header {
        debug_assert!(self.bytes.len() >= HEADER_LEN);
        let header = Header::parse(&self.bytes).expect("the header was parsed when stamping");
        Header { base_offset: self.base_offset, leader_epoch: self.leader_epoch, ..header }
    }
}
