//! Reads the protocol's primitive types from one frame. Every length is checked first.
//!
//! There are two encodings of lengths: the classic one has a fixed size (-1 is null); the compact
//! one of flexible versions (KIP-482) is an unsigned varint with the length plus one (0 is null).
//! The `flexible` argument selects the encoding.
//!
//! # Invariants
//!
//! - A count is refused if the rest of the frame cannot hold that many elements of the smallest
//!   size.
//! - Before an array is allocated, its memory is subtracted from an allowance that depends only on
//!   the size of the frame. So the memory of a decoded message is bounded although an element can
//!   be many times larger in memory than on the wire, and although arrays nest.
//! - The depth of recursion does not depend on input: the schemas determine it.

use bytes::{Buf, Bytes};
use uuid::Uuid;

use crate::{DecodeError, Records, Str};

/// The arrays of a decoded message take at most this many times the size of its frame, …
pub const ALLOCATION_FACTOR: usize = 16;
/// … plus this many bytes, so that small frames never reach the bound.
pub const ALLOCATION_BASE_BYTES: usize = 64 * 1024;

/// Kafka's limit for strings, in both encodings.
const STRING_BYTES_MAX: usize = 0x7fff;

/// A read position in a frame.
#[derive(Debug)]
pub struct Reader {
    rest: Bytes,
    allowance_bytes: usize,
}

impl Reader {
    /// Reads `frame` from its start.
    #[must_use]
    pub fn new(frame: Bytes) -> Self {
        let allowance_bytes =
            frame.len().saturating_mul(ALLOCATION_FACTOR).saturating_add(ALLOCATION_BASE_BYTES);
        Self { rest: frame, allowance_bytes }
    }

    /// Lowers the limit of the memory that the arrays of the message may take. Never raises it.
    #[must_use]
    pub fn with_allowance(mut self, bytes_max: usize) -> Self {
        self.allowance_bytes = self.allowance_bytes.min(bytes_max);
        self
    }

    /// Number of bytes that are not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the decoding. Bytes behind the message are an error.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }

    /// Reads a boolean: any byte but 0 is true, as in Kafka.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }

    /// Reads an `int8`.
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.rest.try_get_i8().map_err(|_| DecodeError::Truncated)
    }

    /// Reads an `int16`.
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.rest.try_get_i16().map_err(|_| DecodeError::Truncated)
    }

    /// Reads a `uint16`.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.rest.try_get_u16().map_err(|_| DecodeError::Truncated)
    }

    /// Reads an `int32`.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.rest.try_get_i32().map_err(|_| DecodeError::Truncated)
    }

    /// Reads a `uint32`.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.rest.try_get_u32().map_err(|_| DecodeError::Truncated)
    }

    /// Reads an `int64`.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.rest.try_get_i64().map_err(|_| DecodeError::Truncated)
    }

    /// Reads a `float64`.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.rest.try_get_f64().map_err(|_| DecodeError::Truncated)
    }

    /// Reads a UUID.
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.rest.try_get_u128().map(Uuid::from_u128).map_err(|_| DecodeError::Truncated)
    }

    /// Reads an unsigned varint of at most 32 bits.
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.rest.try_get_u8().map_err(|_| DecodeError::Truncated)?;
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::Varint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    /// Reads a string.
    pub fn string(&mut self, flexible: bool) -> Result<Str, DecodeError> {
        self.nullable_string(flexible)?.ok_or(DecodeError::UnexpectedNull)
    }

    /// Reads a string or null.
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<Str>, DecodeError> {
        let length = if flexible { self.compact_length()? } else { self.i16()?.into() };
        match self.checked(length)? {
            Some(length) if length > STRING_BYTES_MAX => Err(DecodeError::Length(length as i64)),
            Some(length) => Str::from_utf8(self.rest.split_to(length)).map(Some),
            None => Ok(None),
        }
    }

    /// Reads bytes that must not be null.
    pub fn bytes(&mut self, flexible: bool) -> Result<Bytes, DecodeError> {
        self.nullable_bytes(flexible)?.ok_or(DecodeError::UnexpectedNull)
    }

    /// Reads bytes or null.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, DecodeError> {
        let length = self.length(flexible)?;
        Ok(self.checked(length)?.map(|length| self.rest.split_to(length)))
    }

    /// Reads records, which must not be null. They are not parsed.
    pub fn records(&mut self, flexible: bool) -> Result<Records, DecodeError> {
        self.bytes(flexible).map(Records::from)
    }

    /// Reads records or null, without parsing them.
    pub fn nullable_records(&mut self, flexible: bool) -> Result<Records, DecodeError> {
        self.nullable_bytes(flexible).map(Records::from)
    }

    /// Reads an array whose elements take at least `size_min` bytes each.
    pub fn array<T>(
        &mut self,
        flexible: bool,
        size_min: usize,
        read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        self.nullable_array(flexible, size_min, read)?.ok_or(DecodeError::UnexpectedNull)
    }

    /// Reads an array or null.
    pub fn nullable_array<T>(
        &mut self,
        flexible: bool,
        size_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let length = self.length(flexible)?;
        let Some(count) = self.checked(length)? else { return Ok(None) };
        if count.saturating_mul(size_min) > self.rest.len() {
            return Err(DecodeError::Length(length));
        }
        let bytes = count.saturating_mul(size_of::<T>());
        self.allowance_bytes =
            self.allowance_bytes.checked_sub(bytes).ok_or(DecodeError::TooLarge)?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(Some(elements))
    }

    /// Reads a struct or null: a byte in front says which.
    pub fn nullable<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.i8()? < 0 { Ok(None) } else { read(self).map(Some) }
    }

    /// Reads the tagged fields at the end of a struct. `read` gets each tag; it reads the field and
    /// returns true, or returns false if the tag is unknown, and the field is skipped.
    pub fn tags(
        &mut self,
        mut read: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let after = self.rest.len().checked_sub(size).ok_or(DecodeError::Truncated)?;
            if !read(self, tag)? {
                self.rest.advance(size);
            }
            if self.rest.len() != after {
                return Err(DecodeError::TagSize);
            }
        }
        Ok(())
    }

    /// Skips the tagged fields of a struct without any in the schema.
    pub fn skip_tags(&mut self) -> Result<(), DecodeError> {
        self.tags(|_, _| Ok(false))
    }

    /// The length of bytes or an array, as on the wire.
    fn length(&mut self, flexible: bool) -> Result<i64, DecodeError> {
        if flexible { self.compact_length() } else { self.i32().map(i64::from) }
    }

    fn compact_length(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from(self.uvarint()?) - 1)
    }

    /// Checks that the rest of the frame can hold this length, since every element takes at least
    /// one byte. None is null.
    fn checked(&self, length: i64) -> Result<Option<usize>, DecodeError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(Some(length)),
            Err(_) if length == -1 => Ok(None),
            _ => Err(DecodeError::Length(length)),
        }
    }
}

#[cfg(test)]
mod tests;
