//! Looking up a timestamp inside a batch, as ListOffsets needs it.

use crate::error::BatchError;
use crate::frame::{self, StoredRecords};
use crate::header::{HEADER_LEN, TimestampType};
use crate::stamped::StampedBatch;

/// Offset and timestamp of the first record at or after `timestamp_ms`, if the batch has one.
///
/// Timestamps may go back and forth, so this is the first in the order of offsets. Asked for the
/// batch's own maximum it gives the first record that has it. Reads at most `limit_bytes` of
/// records.
pub fn first_at_or_after(
    batch: &StampedBatch,
    timestamp_ms: i64,
    limit_bytes: usize,
) -> Result<Option<(i64, i64)>, BatchError> {
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
            found = Some((batch.base_offset + i64::from(frame.offset_delta), ms));
        }
        Ok(found.is_none())
    })?;
    Ok(found)
}
