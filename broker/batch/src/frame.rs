//! The framing of records, read without an allocation per record.
//!
//! The same functions read records in memory ([`Slice`]) and records that come out of a
//! decompressor through a small window ([`Window`]). So checking a compressed batch takes the same
//! memory for every batch.

use std::io::Read;
use std::ops::Range;

use crate::codec::Compression;
use crate::compression;
use crate::error::BatchError;

/// A source of the bytes of the records.
pub(crate) trait Source {
    /// Number of bytes read so far.
    fn position(&self) -> usize;
    fn byte(&mut self) -> Result<u8, BatchError>;
    fn skip(&mut self, count: usize) -> Result<(), BatchError>;
    /// Whether no bytes are left.
    fn is_done(&mut self) -> Result<bool, BatchError>;
}

/// One record's framing. Positions are counted from the start of the records.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    /// Position of the attributes, the byte after the record's length.
    pub(crate) attributes_at: usize,
    /// The bytes of the offset delta.
    pub(crate) offset_delta_at: Range<usize>,
    pub(crate) key: Option<Range<usize>>,
    pub(crate) value: Option<Range<usize>>,
    /// Position of the first byte after the count of headers.
    pub(crate) headers_at: usize,
    pub(crate) header_count: i32,
    pub(crate) end: usize,
}

impl Frame {
    /// The timestamp of a record in a batch with this base. The sum wraps, as in every client.
    pub(crate) fn timestamp_ms(&self, base_timestamp_ms: i64) -> i64 {
        base_timestamp_ms.wrapping_add(self.timestamp_delta)
    }
}

/// Records as stored, and the limit of their decompressed size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredRecords<'a> {
    pub(crate) codec: Compression,
    pub(crate) bytes: &'a [u8],
    pub(crate) limit_bytes: usize,
}

/// Calls `visit` with the framing of `count` records in offset order, until it returns false. If it
/// was called for all, no byte may follow the last record.
pub(crate) fn walk(
    stored: StoredRecords<'_>,
    count: i32,
    visit: impl FnMut(&Frame) -> Result<bool, BatchError>,
) -> Result<(), BatchError> {
    let StoredRecords { codec, bytes, limit_bytes } = stored;
    if codec == Compression::None {
        return walk_source(&mut Slice::new(bytes), count, visit);
    }
    let reader = compression::reader(codec, bytes, limit_bytes)?;
    walk_source(&mut Window::new(reader, codec, limit_bytes), count, visit)
}

fn walk_source<S: Source>(
    source: &mut S,
    count: i32,
    mut visit: impl FnMut(&Frame) -> Result<bool, BatchError>,
) -> Result<(), BatchError> {
    for _ in 0..count {
        if !visit(&next(source)?)? {
            return Ok(());
        }
    }
    if source.is_done()? { Ok(()) } else { Err(TRAILING) }
}

/// Reads one record's framing and skips its content.
///
/// Always inlined, with the functions that it calls: the compiler then drops the fields that the
/// visitor does not read, and a walk over small records takes less than half the time.
#[inline(always)]
pub(crate) fn next<S: Source>(source: &mut S) -> Result<Frame, BatchError> {
    let length = varint(source)?;
    let attributes_at = source.position();
    let end = attributes_at + usize::try_from(length).map_err(|_| NEGATIVE)?;
    source.byte()?;
    let timestamp_delta = varlong(source)?;
    let offset_delta_from = source.position();
    let offset_delta = varint(source)?;
    let offset_delta_at = offset_delta_from..source.position();
    let key = blob(source)?;
    let value = blob(source)?;
    let header_count = varint(source)?;
    let headers_at = source.position();
    if header_count < 0 {
        return Err(NEGATIVE);
    }
    for _ in 0..header_count {
        header(source)?;
    }
    if source.position() != end {
        return Err(BatchError::Malformed("a record does not end where it says"));
    }
    Ok(Frame {
        timestamp_delta,
        offset_delta,
        attributes_at,
        offset_delta_at,
        key,
        value,
        headers_at,
        header_count,
        end,
    })
}

/// Reads one record header: the positions of its key and its value.
pub(crate) fn header<S: Source>(
    source: &mut S,
) -> Result<(Range<usize>, Option<Range<usize>>), BatchError> {
    let key = blob(source)?.ok_or(BatchError::Malformed("a header has no key"))?;
    Ok((key, blob(source)?))
}

/// Reads a length and skips as many bytes; -1 is null.
#[inline(always)]
fn blob<S: Source>(source: &mut S) -> Result<Option<Range<usize>>, BatchError> {
    let length = varint(source)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| NEGATIVE)?;
    let from = source.position();
    source.skip(length)?;
    Ok(Some(from..from + length))
}

#[inline(always)]
pub(crate) fn varint<S: Source>(source: &mut S) -> Result<i32, BatchError> {
    let value = unzigzag(source, 5)?;
    i32::try_from(value).map_err(|_| BatchError::Malformed("a number is out of range"))
}

#[inline(always)]
fn varlong<S: Source>(source: &mut S) -> Result<i64, BatchError> {
    unzigzag(source, 10)
}

#[inline(always)]
fn unzigzag<S: Source>(source: &mut S, bytes_max: u32) -> Result<i64, BatchError> {
    let first = source.byte()?;
    let mut raw = u64::from(first & 0x7f);
    let mut last = first;
    let mut shift = 7;
    while last & 0x80 != 0 {
        if shift == 7 * bytes_max {
            return Err(BatchError::Malformed("a number does not end"));
        }
        last = source.byte()?;
        raw |= u64::from(last & 0x7f) << shift;
        shift += 7;
    }
    Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
}

const NEGATIVE: BatchError = BatchError::Malformed("a length is negative");
/// Error for bytes after the last record.
pub(crate) const TRAILING: BatchError = BatchError::Malformed("bytes follow the last record");
const CUT_OFF: BatchError = BatchError::Malformed("the records end too early");

/// Records in memory.
#[derive(Debug)]
pub(crate) struct Slice<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Slice<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Reads from the position `at`.
    pub(crate) fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }
}

impl Source for Slice<'_> {
    #[inline]
    fn position(&self) -> usize {
        self.at
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, BatchError> {
        let byte = *self.bytes.get(self.at).ok_or(CUT_OFF)?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Result<(), BatchError> {
        if count > self.bytes.len() - self.at {
            return Err(CUT_OFF);
        }
        self.at += count;
        Ok(())
    }

    fn is_done(&mut self) -> Result<bool, BatchError> {
        Ok(self.at == self.bytes.len())
    }
}

const WINDOW_BYTES: usize = 16 * 1024;

/// Records that a decompressor yields. One window of them is in memory at a time.
pub(crate) struct Window<R> {
    reader: R,
    codec: Compression,
    limit_bytes: usize,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    /// Number of bytes before the window.
    passed: usize,
}

impl<R: Read> Window<R> {
    /// Reads `reader`. Fails as soon as it has yielded more than `limit_bytes`.
    pub(crate) fn new(reader: R, codec: Compression, limit_bytes: usize) -> Self {
        let buffer = vec![0; WINDOW_BYTES].into_boxed_slice();
        Self { reader, codec, limit_bytes, buffer, at: 0, end: 0, passed: 0 }
    }

    /// Reads the next window. False at the end of the data.
    fn refill(&mut self) -> Result<bool, BatchError> {
        self.passed += self.end;
        self.at = 0;
        self.end = 0;
        self.end = self
            .reader
            .read(&mut self.buffer)
            .map_err(|e| compression::failed(self.codec, &e, self.limit_bytes))?;
        if self.passed + self.end > self.limit_bytes {
            return Err(BatchError::TooBig { limit_bytes: self.limit_bytes });
        }
        Ok(self.end > 0)
    }
}

impl<R: Read> Source for Window<R> {
    #[inline]
    fn position(&self) -> usize {
        self.passed + self.at
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, BatchError> {
        if self.at == self.end && !self.refill()? {
            return Err(CUT_OFF);
        }
        let byte = self.buffer[self.at];
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, mut count: usize) -> Result<(), BatchError> {
        while count > self.end - self.at {
            count -= self.end - self.at;
            if !self.refill()? {
                return Err(CUT_OFF);
            }
        }
        self.at += count;
        Ok(())
    }

    fn is_done(&mut self) -> Result<bool, BatchError> {
        Ok(self.at == self.end && !self.refill()?)
    }
}
