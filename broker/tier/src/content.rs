//! What is put into a bucket: bytes in pieces, and their SHA-256.

use aws_lc_rs::digest;
use bytes::Bytes;

/// Bytes and their SHA-256. Clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pieces: Vec<Bytes>,
    size_bytes: u64,
    sha256: [u8; 32],
}

impl Content {
    /// Computes the SHA-256 of the pieces, one behind the other: 50 ms for 64 MiB.
    #[must_use]
    pub fn new(pieces: Vec<Bytes>) -> Self {
        let size_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let sha256 = sha256(pieces.iter().map(|piece| &piece[..]));
        Self { pieces, size_bytes, sha256 }
    }

    /// The bytes, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Number of bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// SHA-256 of all bytes.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The part of the SHA-256 that is in a name.
    pub(crate) fn short(&self) -> u64 {
        short(&self.sha256)
    }

    /// All bytes in one piece: a copy, unless there is only one.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.pieces[..] {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![bytes])
    }
}

/// SHA-256 of all pieces, one behind the other.
pub(crate) fn sha256<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut sum = digest::Context::new(&digest::SHA256);
    for piece in pieces {
        sum.update(piece);
    }
    sum.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

/// The part of a SHA-256 that is in a name.
pub(crate) fn short(sha256: &[u8; 32]) -> u64 {
    u64::from_be_bytes(*sha256.first_chunk().expect("a SHA-256 has 32 bytes"))
}
