//! Reads every record of a batch once: its framing, and what the rules require of it.
//!
//! It allocates nothing per record, so a valid batch costs one pass over its length fields.

use super::{RECORD_ERRORS_MAX, RecordError, RecordFault, Refusal, Rules};
use crate::error::BatchError;
use crate::frame::{self, Frame, StoredRecords};
use crate::header::{Header, NO_TIMESTAMP, TimestampType};

/// Properties of a batch whose records are all valid.
pub(super) struct Survey {
    pub(super) max_timestamp_ms: i64,
    /// Whether the offset deltas count up by one, as they should.
    pub(super) contiguous: bool,
}

/// Checks the records of a batch with this header.
pub(super) fn survey(
    header: &Header,
    stored: StoredRecords<'_>,
    rules: &Rules,
    now_ms: i64,
) -> Result<Survey, Refusal> {
    let mut seen = Survey { max_timestamp_ms: NO_TIMESTAMP, contiguous: true };
    let mut errors: Vec<RecordError> = Vec::new();
    let mut batch_index = 0;
    frame::walk(stored, header.count, |frame| {
        let timestamp_ms = frame.timestamp_ms(header.base_timestamp_ms);
        seen.max_timestamp_ms = seen.max_timestamp_ms.max(timestamp_ms);
        seen.contiguous &= frame.offset_delta == batch_index;
        if let Some(fault) = fault(header, frame, timestamp_ms, (rules, now_ms))
            && errors.len() < RECORD_ERRORS_MAX
        {
            errors.push(RecordError { batch_index, fault });
        }
        batch_index += 1;
        Ok::<bool, BatchError>(true)
    })?;
    if errors.is_empty() { Ok(seen) } else { Err(Refusal::records(errors)) }
}

fn fault(
    header: &Header,
    frame: &Frame,
    timestamp_ms: i64,
    (rules, now_ms): (&Rules, i64),
) -> Option<RecordFault> {
    if rules.compacted && frame.key.is_none() {
        return Some(RecordFault::NoKey);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Some(RecordFault::AppendTimeClaimed);
    }
    if rules.timestamp == TimestampType::CreateTime && timestamp_ms != NO_TIMESTAMP {
        let age_ms = now_ms.saturating_sub(timestamp_ms);
        if age_ms > rules.before_ms_max || age_ms.saturating_neg() > rules.after_ms_max {
            return Some(RecordFault::TimestampOutOfRange { timestamp_ms });
        }
    }
    None
}
