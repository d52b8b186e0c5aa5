//! Record batches as bytes. The codec does not parse them.
//!
//! A decoded field is one slice of the frame. An encoded field may have many chunks, because a
//! Fetch response has a new prefix for every batch and the batch's body by reference. It may also
//! be encoded before its bytes are read from the disk: [`Records::later`].

use std::fmt;

use bytes::{Bytes, BytesMut};

/// The value of a field of type `records`: null, or bytes in one or more chunks.
///
/// Values are equal if their bytes are, whatever the chunks.
#[derive(Clone, Default)]
pub struct Records(Chunks);

#[derive(Clone, Default)]
enum Chunks {
    #[default]
    Null,
    One(Bytes),
    Many(Vec<Bytes>),
    Later(usize),
}

impl Records {
    /// A null field. It is different from empty records.
    #[must_use]
    pub const fn null() -> Self {
        Self(Chunks::Null)
    }

    /// Records of zero bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Chunks::One(Bytes::new()))
    }

    /// Records whose bytes are the concatenated chunks.
    #[must_use]
    pub fn from_chunks(chunks: Vec<Bytes>) -> Self {
        Self(Chunks::Many(chunks))
    }

    /// Records of this many bytes, which follow when the response is sent: see
    /// [`crate::Writer::into_parts`]. They have no chunks here.
    #[must_use]
    pub const fn later(size_bytes: usize) -> Self {
        Self(Chunks::Later(size_bytes))
    }

    /// Whether this is null.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self.0, Chunks::Null)
    }

    /// Number of bytes; 0 for null.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Chunks::Later(size_bytes) => *size_bytes,
            Chunks::Null | Chunks::One(_) | Chunks::Many(_) => {
                self.chunks().iter().map(Bytes::len).sum()
            }
        }
    }

    /// Number of bytes that are not here.
    pub(crate) fn later_bytes(&self) -> usize {
        self.len() - self.chunks().iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether there are no bytes. Null is empty, too.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunks in order; none for null, and none of bytes that follow later.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        match &self.0 {
            Chunks::Null | Chunks::Later(_) => &[],
            Chunks::One(bytes) => std::slice::from_ref(bytes),
            Chunks::Many(chunks) => chunks,
        }
    }

    /// The bytes if there is exactly one chunk, as always after decoding. None for null.
    #[must_use]
    pub fn single(&self) -> Option<Bytes> {
        match self.chunks() {
            [bytes] => Some(bytes.clone()),
            _ => None,
        }
    }

    /// All bytes as one chunk, copied only if there are several. None for null.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Bytes> {
        if self.is_null() {
            return None;
        }
        self.single().or_else(|| {
            let mut all = BytesMut::with_capacity(self.len());
            self.chunks().iter().for_each(|chunk| all.extend_from_slice(chunk));
            Some(all.freeze())
        })
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self(Chunks::One(bytes))
    }
}

impl From<Option<Bytes>> for Records {
    fn from(bytes: Option<Bytes>) -> Self {
        bytes.map_or_else(Self::null, Self::from)
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |records: &Self| records.chunks().to_vec().into_iter().flatten();
        self.is_null() == other.is_null()
            && self.len() == other.len()
            && bytes(self).eq(bytes(other))
    }
}

impl Eq for Records {}

/// Prints sizes only: records are client data and must not appear in logs.
impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            return f.write_str("Records(null)");
        }
        write!(f, "Records({} bytes in {} chunks)", self.len(), self.chunks().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_about_bytes_and_not_about_chunks() {
        let whole = Records::from(Bytes::from_static(b"abcd"));
        let cut = Records::from_chunks(vec![Bytes::from_static(b"a"), Bytes::from_static(b"bcd")]);
        assert_eq!(whole, cut);
        assert_eq!(cut.to_bytes(), whole.single());
        assert_eq!(cut.single(), None);
        assert_eq!(cut.len(), 4);
    }

    #[test]
    fn null_is_not_empty() {
        assert_ne!(Records::null(), Records::empty());
        assert_eq!(Records::null(), Records::default());
        assert_eq!(Records::null().to_bytes(), None);
        assert_eq!(Records::from_chunks(vec![]), Records::empty());
        assert_eq!(Records::from_chunks(vec![]).to_bytes(), Some(Bytes::new()));
    }
}
