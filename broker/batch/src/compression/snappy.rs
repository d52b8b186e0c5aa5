//! Snappy as Kafka clients send it: a sequence of blocks in the framing of Java's library
//! ("xerial"), or one raw block.
//!
//! A block states its decompressed size and must be decompressed in one piece. The format expands a
//! byte to at most [`EXPANSION_MAX`] bytes. So a larger stated size is refused before a buffer is
//! allocated, and so is a size over the caller's limit.

use std::io::{self, Read};

const FRAMING: &[u8; 8] = b"\x82SNAPPY\0";
/// Version of the framing, then the oldest version that can read it.
const FRAMING_LEN: usize = 16;
const FRAMING_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// A copy of 64 bytes takes three bytes, so a byte yields at most 22.
const EXPANSION_MAX: usize = 22;
/// Bytes that Java's library puts into one block.
const BLOCK_BYTES: usize = 32 * 1024;

/// Reader of the decompressed bytes of a sequence of blocks.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    left: &'a [u8],
    framed: bool,
    limit_bytes: usize,
    block: Vec<u8>,
    at: usize,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(stored: &'a [u8], limit_bytes: usize) -> Self {
        let framed = stored.len() >= FRAMING_LEN && stored.starts_with(FRAMING);
        let left = if framed { &stored[FRAMING_LEN..] } else { stored };
        Self { left, framed, limit_bytes, block: Vec::new(), at: 0 }
    }

    /// Splits off the next block as stored.
    fn next_stored(&mut self) -> io::Result<&'a [u8]> {
        if !self.framed {
            return Ok(std::mem::take(&mut self.left));
        }
        let (size, rest) = self.left.split_first_chunk().ok_or_else(|| invalid("cut off"))?;
        let size = usize::try_from(i32::from_be_bytes(*size)).map_err(|_| invalid("block size"))?;
        let (stored, rest) = rest.split_at_checked(size).ok_or_else(|| invalid("cut off"))?;
        self.left = rest;
        Ok(stored)
    }

    fn decompress(&mut self, stored: &[u8]) -> io::Result<()> {
        let size_bytes = snap::raw::decompress_len(stored)?;
        if size_bytes > stored.len().saturating_mul(EXPANSION_MAX) {
            return Err(invalid("block states an impossible size"));
        }
        if size_bytes > self.limit_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.block.clear();
        self.block.resize(size_bytes, 0);
        snap::raw::Decoder::new().decompress(stored, &mut self.block)?;
        self.at = 0;
        Ok(())
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && !self.left.is_empty() {
            let stored = self.next_stored()?;
            self.decompress(stored)?;
        }
        let count = (&self.block[self.at..]).read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

/// Appends blocks in Java's framing, which every client reads.
pub(super) fn compress(plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(FRAMING);
    out.extend_from_slice(&FRAMING_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for piece in plain.chunks(BLOCK_BYTES) {
        let block = encoder.compress_vec(piece)?;
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
