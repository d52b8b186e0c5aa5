//! Writes the protocol's primitive types into a list of chunks.
//!
//! Small values are copied into a buffer; large `Bytes` are added by reference, so that a Fetch
//! response does not copy records. The caller writes the chunks to the socket with one vectored
//! write.
//!
//! `flexible` selects the encoding of lengths, as in [`crate::Reader`].

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::{EncodeError, Records};

/// Smallest size of bytes that are added by reference: below it, a copy is cheaper than one more
/// chunk.
pub const BY_REFERENCE_BYTES_MIN: usize = 1024;

/// The bytes written so far.
#[derive(Debug, Default)]
pub struct Writer {
    /// Finished pieces, in order.
    pieces: Vec<Piece>,
    /// The buffer for small values.
    tail: BytesMut,
    /// Total number of bytes in `pieces`.
    pieces_bytes: usize,
}

#[derive(Debug)]
enum Piece {
    Copied(BytesMut),
    Referenced(Bytes),
    Later(usize),
}

/// A part of what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Bytes to send.
    Bytes(Bytes),
    /// A place for this many bytes of [`Records::later`].
    Later(usize),
}

impl Writer {
    /// An empty writer. It allocates when the first value is written.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty writer with room for a response without arrays, the most frequent kind.
    pub(crate) fn with_room() -> Self {
        Self { tail: BytesMut::with_capacity(256), ..Self::default() }
    }

    /// Number of bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces_bytes + self.tail.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunks, for a vectored write.
    ///
    /// # Panics
    /// If there are [`Records::later`].
    #[must_use]
    pub fn into_chunks(self) -> Vec<Bytes> {
        let chunk = |part| match part {
            Part::Bytes(bytes) => bytes,
            Part::Later(_) => unreachable!("bytes that follow later are no chunk"),
        };
        self.into_parts().into_iter().map(chunk).collect()
    }

    /// The parts in order: chunks, and the places of bytes that follow later.
    #[must_use]
    pub fn into_parts(mut self) -> Vec<Part> {
        self.cut();
        let part = |piece| match piece {
            Piece::Copied(bytes) => Part::Bytes(bytes.freeze()),
            Piece::Referenced(bytes) => Part::Bytes(bytes),
            Piece::Later(size_bytes) => Part::Later(size_bytes),
        };
        self.pieces.into_iter().map(part).collect()
    }

    /// Everything as one chunk, copied if there are several.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let length = self.len();
        let mut chunks = self.into_chunks();
        match chunks.len() {
            0 => Bytes::new(),
            1 => chunks.remove(0),
            _ => {
                let mut all = BytesMut::with_capacity(length);
                chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
                all.freeze()
            }
        }
    }

    /// Writes a boolean.
    pub fn put_bool(&mut self, value: bool) {
        self.tail.put_u8(value.into());
    }

    /// Writes an `int8`.
    pub fn put_i8(&mut self, value: i8) {
        self.tail.put_i8(value);
    }

    /// Writes an `int16`.
    pub fn put_i16(&mut self, value: i16) {
        self.tail.put_i16(value);
    }

    /// Writes a `uint16`.
    pub fn put_u16(&mut self, value: u16) {
        self.tail.put_u16(value);
    }

    /// Writes an `int32`.
    pub fn put_i32(&mut self, value: i32) {
        self.tail.put_i32(value);
    }

    /// Writes a `uint32`.
    pub fn put_u32(&mut self, value: u32) {
        self.tail.put_u32(value);
    }

    /// Writes an `int64`.
    pub fn put_i64(&mut self, value: i64) {
        self.tail.put_i64(value);
    }

    /// Writes a `float64`.
    pub fn put_f64(&mut self, value: f64) {
        self.tail.put_f64(value);
    }

    /// Writes a UUID.
    pub fn put_uuid(&mut self, value: Uuid) {
        self.tail.put_slice(value.as_bytes());
    }

    /// Writes an unsigned varint.
    pub fn put_uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.tail.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.tail.put_u8(value as u8);
    }

    /// Writes a string.
    pub fn put_string(&mut self, value: &str, flexible: bool) -> Result<(), EncodeError> {
        let Ok(length @ 0..) = i16::try_from(value.len()) else {
            return Err(EncodeError::TooLong(value.len()));
        };
        if flexible {
            self.put_uvarint(length as u32 + 1)
        } else {
            self.put_i16(length)
        }
        self.tail.put_slice(value.as_bytes());
        Ok(())
    }

    /// Writes bytes, by reference if they are large.
    pub fn put_bytes(&mut self, value: &Bytes, flexible: bool) -> Result<(), EncodeError> {
        self.put_length(value.len(), flexible)?;
        self.put_bytes_chunk(value.clone());
        Ok(())
    }

    /// Writes records that are not null.
    pub fn put_records(&mut self, value: &Records, flexible: bool) -> Result<(), EncodeError> {
        self.put_length(value.len(), flexible)?;
        value.chunks().iter().for_each(|chunk| self.put_bytes_chunk(chunk.clone()));
        self.put_later(value.later_bytes());
        Ok(())
    }

    /// Writes the length of bytes or the count of an array.
    pub fn put_length(&mut self, length: usize, flexible: bool) -> Result<(), EncodeError> {
        let Ok(length @ 0..) = i32::try_from(length) else {
            return Err(EncodeError::TooLong(length));
        };
        if flexible {
            self.put_uvarint(length as u32 + 1)
        } else {
            self.put_i32(length)
        }
        Ok(())
    }

    /// Writes a null string.
    pub fn put_null_string(&mut self, flexible: bool) {
        if flexible { self.put_uvarint(0) } else { self.put_i16(-1) }
    }

    /// Writes null bytes, records or array.
    pub fn put_null(&mut self, flexible: bool) {
        if flexible { self.put_uvarint(0) } else { self.put_i32(-1) }
    }

    /// Writes the tagged fields that end a struct of a flexible version.
    pub fn put_tags(&mut self, tags: Tags) {
        self.put_uvarint(tags.count);
        self.append(tags.fields);
    }

    /// Ends a struct of a flexible version that has no tagged fields.
    pub fn put_no_tags(&mut self) {
        self.put_uvarint(0);
    }

    /// Appends bytes as they are, by reference if they are large.
    pub fn put_bytes_chunk(&mut self, bytes: Bytes) {
        if bytes.len() < BY_REFERENCE_BYTES_MIN {
            self.tail.put_slice(&bytes);
        } else {
            self.cut();
            self.push(Piece::Referenced(bytes));
        }
    }

    /// Leaves a place for bytes that follow later.
    fn put_later(&mut self, size_bytes: usize) {
        if size_bytes > 0 {
            self.cut();
            self.push(Piece::Later(size_bytes));
        }
    }

    /// Writes the length of the rest into the first four bytes, which the caller has reserved.
    pub(crate) fn patch_length(&mut self) -> Result<(), EncodeError> {
        let length = self.len() - size_of::<i32>();
        let prefix = i32::try_from(length).map_err(|_| EncodeError::TooLong(length))?.to_be_bytes();
        let first = match self.pieces.first_mut() {
            Some(Piece::Copied(bytes)) => bytes,
            Some(Piece::Referenced(_) | Piece::Later(_)) => {
                unreachable!("a frame begins with four reserved bytes")
            }
            None => &mut self.tail,
        };
        first[..prefix.len()].copy_from_slice(&prefix);
        Ok(())
    }

    fn append(&mut self, other: Self) {
        for piece in other.pieces {
            match piece {
                Piece::Copied(bytes) => self.tail.put_slice(&bytes),
                Piece::Referenced(bytes) => self.put_bytes_chunk(bytes),
                Piece::Later(size_bytes) => self.put_later(size_bytes),
            }
        }
        self.tail.put_slice(&other.tail);
    }

    /// Ends the tail, so that the next bytes begin a new piece.
    fn cut(&mut self) {
        if !self.tail.is_empty() {
            let piece = self.tail.split();
            self.push(Piece::Copied(piece));
        }
    }

    fn push(&mut self, piece: Piece) {
        self.pieces_bytes += match &piece {
            Piece::Copied(bytes) => bytes.len(),
            Piece::Referenced(bytes) => bytes.len(),
            Piece::Later(size_bytes) => *size_bytes,
        };
        self.pieces.push(piece);
    }
}

/// The tagged fields of one struct. They are collected first, because their number is written in
/// front.
#[derive(Debug, Default)]
pub struct Tags {
    count: u32,
    fields: Writer,
}

impl Tags {
    /// An empty list of tagged fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field. Tags must ascend.
    pub fn put(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut field = Writer::new();
        write(&mut field)?;
        let size = u32::try_from(field.len()).map_err(|_| EncodeError::TooLong(field.len()))?;
        self.fields.put_uvarint(tag);
        self.fields.put_uvarint(size);
        self.fields.append(field);
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
