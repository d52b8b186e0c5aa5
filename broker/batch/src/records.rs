//! Reads the records of a batch.
//!
//! Keys, values and headers are slices of the batch's own bytes, or of the one buffer that its
//! records were decompressed into. A record that is kept keeps the whole buffer in memory.

use std::ops::Range;

use bytes::Bytes;

use crate::codec::Compression;
use crate::compression;
use crate::error::BatchError;
use crate::frame::{self, Slice, Source};
use crate::header::{HEADER_LEN, Header, TimestampType};

/// One record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Offset of the record minus the base offset of its batch.
    pub offset_delta: i32,
    /// The producer's timestamp, or the broker's if the batch has LogAppendTime.
    pub timestamp_ms: i64,
    /// The key that compaction compares. Null and empty are different.
    pub key: Option<Bytes>,
    /// Null marks a tombstone.
    pub value: Option<Bytes>,
    /// In the order of the bytes, duplicates included.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Reads the records of `batch`, which is the whole batch with this header. At most `limit_bytes`
/// are decompressed.
pub fn records(header: &Header, batch: Bytes, limit_bytes: usize) -> Result<Records, BatchError> {
    Ok(Records {
        plain: plain(header, &batch, limit_bytes)?,
        at: 0,
        left: header.count,
        base_timestamp_ms: header.base_timestamp_ms,
        append_time_ms: (header.timestamp_type() == TimestampType::LogAppendTime)
            .then_some(header.max_timestamp_ms),
    })
}

/// The records of a batch, decompressed if necessary.
pub(crate) fn plain(
    header: &Header,
    batch: &Bytes,
    limit_bytes: usize,
) -> Result<Bytes, BatchError> {
    header.exactly(batch)?;
    let codec = header.compression();
    if codec == Compression::None {
        return Ok(batch.slice(HEADER_LEN..));
    }
    Ok(compression::decompress(codec, &batch[HEADER_LEN..], limit_bytes)?.into())
}

/// Iterator over the records of one batch, in offset order. It ends after an error.
#[derive(Debug, Clone)]
pub struct Records {
    plain: Bytes,
    at: usize,
    left: i32,
    base_timestamp_ms: i64,
    append_time_ms: Option<i64>,
}

impl Records {
    fn read(&mut self) -> Result<Record, BatchError> {
        let mut source = Slice::at(&self.plain, self.at);
        let frame = frame::next(&mut source)?;
        if self.left == 1 && !source.is_done()? {
            return Err(frame::TRAILING);
        }
        let timestamp_ms = match self.append_time_ms {
            Some(append_time_ms) => append_time_ms,
            None => frame.timestamp_ms(self.base_timestamp_ms),
        };
        let cut = |range: Range<usize>| self.plain.slice(range);
        let mut source = Slice::at(&self.plain, frame.headers_at);
        let mut headers = Vec::new();
        for _ in 0..frame.header_count {
            let (key, value) = frame::header(&mut source)?;
            headers.push((cut(key), value.map(cut)));
        }
        self.at = frame.end;
        Ok(Record {
            offset_delta: frame.offset_delta,
            timestamp_ms,
            key: frame.key.map(cut),
            value: frame.value.map(cut),
            headers,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        let record = self.read();
        self.left = if record.is_ok() { self.left - 1 } else { 0 };
        Some(record)
    }
}
