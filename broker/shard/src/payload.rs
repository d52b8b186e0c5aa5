//! Payloads of entries: bytes in chunks that are not joined.
//!
//! A record batch is received once and is then passed on by reference: to the write-ahead log, to
//! the followers and to the tail of its partition log. An entry of batches is therefore a list of
//! chunks, and only what is read back from a disk or a connection is in one piece.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Bytes as chunks. Two payloads are equal when their bytes are, however they are divided.
#[derive(Debug, Clone, Default)]
pub struct Payload(Chunks);

#[derive(Debug, Clone)]
enum Chunks {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Default for Chunks {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl Payload {
    /// Sum of the lengths of the chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks().iter().map(Bytes::len).sum()
    }

    /// Whether the payload has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks().iter().all(Bytes::is_empty)
    }

    /// The chunks in order, at least one.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        match &self.0 {
            Chunks::One(chunk) => std::slice::from_ref(chunk),
            Chunks::Many(chunks) => chunks,
        }
    }

    /// The bytes in one piece. Copies them if there are several chunks.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if let [chunk] = self.chunks() {
            return chunk.clone();
        }
        let mut joined = BytesMut::with_capacity(self.len());
        self.chunks().iter().for_each(|chunk| joined.extend_from_slice(chunk));
        joined.freeze()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for Payload {}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        Self(Chunks::One(chunk))
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(mut chunks: Vec<Bytes>) -> Self {
        match chunks.len() {
            0 | 1 => Self(Chunks::One(chunks.pop().unwrap_or_default())),
            _ => Self(Chunks::Many(chunks.into())),
        }
    }
}
