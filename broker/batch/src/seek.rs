//! Finds a timestamp inside a batch, for ListOffsets.

use crate::error::BatchError;
use crate::frame::{self, StoredRecords};
use crate::header::{HEADER_LEN, TimestampType};
use crate::stamped::StampedBatch;

/// A record that was found by its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// Offset of the record.
    pub offset: i64,
    /// Timestamp of the record.
    pub timestamp_ms: i64,
}

/// The first record with a timestamp of `timestamp_ms` or later, if the batch has one.
///
/// Timestamps of a batch need not ascend; "first" is by offset. For the batch's own maximum
/// timestamp, this is the first record that has it. Decompresses at most `limit_bytes`.
pub fn first_at_or_after(
    batch: &StampedBatch,
    timestamp_ms: i64,
    limit_bytes: usize,
) -> Result<Option<OffsetAndTimestamp>, BatchError> {
    if batch.max_timestamp_ms < timestamp_ms {
        return Ok(None);
    }
    let header = batch.header();
    let codec = header.compression();
    let stored = StoredRecords { codec, bytes: &batch.bytes[HEADER_LEN..], limit_bytes };
    let mut found = None;
    frame::walk(stored, header.count, |frame| {
        let ms = match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp_ms,
            TimestampType::CreateTime => frame.timestamp_ms(header.base_timestamp_ms),
        };
        if ms >= timestamp_ms {
            let offset = batch.base_offset + i64::from(frame.offset_delta);
            found = Some(OffsetAndTimestamp { offset, timestamp_ms: ms });
        }
        Ok(found.is_none())
    })?;
    Ok(found)
}
