//! Reads a file forward in large pieces, with bounded memory.

use std::io;

use ropewalk_disk::File;

use crate::layout::Seed;

const WINDOW_BYTES: u64 = 1 << 20;

/// A piece of a file in memory, which is replaced when other bytes are read.
pub(super) struct Window<'a> {
    file: &'a dyn File,
    file_len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Self { file, file_len: file.len()?, start: 0, bytes: Vec::new() })
    }

    pub(super) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The `len` bytes at `at`; `None` if the file ends before. So a length from the disk is
    /// bounded by the file.
    pub(super) fn get(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        if at.checked_add(len).is_none_or(|end| end > self.file_len) {
            return Ok(None);
        }
        let held = self.start..self.start + self.bytes.len() as u64;
        if at < held.start || at + len > held.end {
            let more = len.max(WINDOW_BYTES).min(self.file_len - at);
            self.bytes.resize(usize::try_from(more).map_err(io::Error::other)?, 0);
            self.file.read_exact_at(&mut self.bytes, at)?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.bytes[from..from + len as usize]))
    }

    /// The checksum of a range of bytes; `None` if the file ends before.
    pub(super) fn crc(&mut self, seed: Seed, at: u64, len: u64) -> io::Result<Option<u32>> {
        if at.checked_add(len).is_none_or(|end| end > self.file_len) {
            return Ok(None);
        }
        let (mut seed, mut at, mut left) = (seed, at, len);
        while left > 0 {
            let piece = left.min(WINDOW_BYTES);
            let Some(bytes) = self.get(at, piece)? else { return Ok(None) };
            seed = seed.after(bytes);
            at += piece;
            left -= piece;
        }
        Ok(Some(seed.value()))
    }
}
