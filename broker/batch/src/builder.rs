//! Makes a batch of records: for compaction, for the broker's own records, for load generators and
//! for tests. Batches of producers are stored as they arrive and do not use it.

use bytes::Bytes;

use crate::codec::Compression;
use crate::compression;
use crate::error::BatchError;
use crate::header::{HEADER_LEN, Header, MAGIC, NO_TIMESTAMP, TimestampType};
use crate::records::Record;
use crate::varint;

/// Collects records into one batch.
///
/// Defaults: offset 0, no producer, no compression, CreateTime.
#[derive(Debug, Clone)]
pub struct Builder {
    header: Header,
    level: Option<i32>,
    base_timestamp_ms: Option<i64>,
    records: Vec<u8>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty batch.
    pub fn new() -> Self {
        let header = Header {
            base_offset: 0,
            batch_length: 0,
            leader_epoch: -1,
            magic: MAGIC,
            crc: 0,
            attributes: 0,
            last_offset_delta: -1,
            base_timestamp_ms: NO_TIMESTAMP,
            max_timestamp_ms: NO_TIMESTAMP,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: 0,
        };
        Self { header, level: None, base_timestamp_ms: None, records: Vec::new() }
    }

    /// An empty batch with everything else of `original`: offsets, producer, sequence number,
    /// codec, timestamp type. The last offset stays as it is, whatever records are added.
    pub(crate) fn like(original: &Header) -> Self {
        let mut header = Header { count: 0, ..*original };
        header.set_delete_horizon(false);
        if header.timestamp_type() == TimestampType::CreateTime {
            header.max_timestamp_ms = NO_TIMESTAMP;
        }
        Self { header, level: None, base_timestamp_ms: None, records: Vec::new() }
    }

    /// Sets the offset of the first record and the epoch of the leader.
    pub fn stamp(mut self, base_offset: i64, leader_epoch: i32) -> Self {
        self.header.base_offset = base_offset;
        self.header.leader_epoch = leader_epoch;
        self
    }

    /// Compresses the records, at the codec's default level.
    pub fn compression(mut self, codec: Compression) -> Self {
        self.header.set_compression(codec);
        self
    }

    /// Compresses at this level instead of the default level.
    pub fn level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }

    /// Sets the idempotent producer and the sequence number of the first record.
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Makes the batch part of a transaction.
    pub fn transactional(mut self) -> Self {
        self.header.set_transactional(true);
        self
    }

    /// Makes the batch a control batch: its records are transaction markers.
    pub fn control(mut self) -> Self {
        self.header.set_control(true);
        self
    }

    /// Sets LogAppendTime: the broker's timestamp for the whole batch.
    pub fn append_time(mut self, append_time_ms: i64) -> Self {
        self.header.set_timestamp_type(TimestampType::LogAppendTime);
        self.header.max_timestamp_ms = append_time_ms;
        self
    }

    /// Sets the time from which compaction may remove tombstones. Must be called before the first
    /// record is added, because it is then the base of all timestamps.
    pub fn delete_horizon(mut self, horizon_ms: i64) -> Self {
        debug_assert!(self.records.is_empty(), "the horizon is the base of all timestamps");
        self.header.set_delete_horizon(true);
        self.base_timestamp_ms = Some(horizon_ms);
        self
    }

    /// Adds a record after the last one.
    pub fn record(self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.record_with_headers(timestamp_ms, (key, value), &[])
    }

    /// Adds a record with headers after the last one.
    pub fn record_with_headers(
        mut self,
        timestamp_ms: i64,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Self {
        let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        self.push(&Record {
            offset_delta: self.header.last_offset_delta.saturating_add(1),
            timestamp_ms,
            key: key.map(own),
            value: value.map(own),
            headers: headers.iter().map(|(k, v)| (own(k), v.map(own))).collect(),
        });
        self
    }

    /// Adds a record with its own offset delta. It may leave a gap, and tests use it for invalid
    /// deltas.
    pub fn push(&mut self, record: &Record) {
        let base_ms = *self.base_timestamp_ms.get_or_insert(record.timestamp_ms);
        let header = &mut self.header;
        if header.timestamp_type() == TimestampType::CreateTime {
            header.max_timestamp_ms = header.max_timestamp_ms.max(record.timestamp_ms);
        }
        header.last_offset_delta = header.last_offset_delta.max(record.offset_delta);
        header.count += 1;
        encode(record, record.timestamp_ms.wrapping_sub(base_ms), &mut self.records);
    }

    /// Size of the records so far, before compression.
    pub fn records_bytes(&self) -> usize {
        self.records.len()
    }

    /// Returns the batch. Panics if it has 2 GiB or more.
    pub fn build(self) -> Bytes {
        self.try_build().expect("a batch that is built stays under 2 GiB")
    }

    pub(crate) fn try_build(mut self) -> Result<Bytes, BatchError> {
        self.header.base_timestamp_ms = self.base_timestamp_ms.unwrap_or(NO_TIMESTAMP);
        let codec = self.header.compression();
        let mut out = vec![0; HEADER_LEN];
        let level = self.level.unwrap_or(codec.level_default());
        compression::compress(codec, level, &self.records, &mut out)?;
        self.header.seal(out)
    }
}

/// Appends one record with its framing.
fn encode(record: &Record, timestamp_delta: i64, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    body.push(0); // No record attribute is defined.
    varint::write_i64(&mut body, timestamp_delta);
    varint::write_i32(&mut body, record.offset_delta);
    encode_blob(record.key.as_deref(), &mut body);
    encode_blob(record.value.as_deref(), &mut body);
    varint::write_i64(&mut body, record.headers.len() as i64);
    for (key, value) in &record.headers {
        encode_blob(Some(key), &mut body);
        encode_blob(value.as_deref(), &mut body);
    }
    varint::write_i64(out, body.len() as i64);
    out.extend_from_slice(&body);
}

fn encode_blob(blob: Option<&[u8]>, out: &mut Vec<u8>) {
    varint::write_i64(out, blob.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(blob.unwrap_or_default());
}
