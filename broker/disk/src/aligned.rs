//! A byte buffer whose start is aligned in memory.
//!
//! Writes that bypass the page cache require it. It is a `Vec` that is one block longer than needed
//! and is used from its first aligned byte on, so that no `unsafe` is needed.

use std::fmt;

/// Alignment in memory and in files. It suits every disk that we know.
pub const ALIGN_BYTES: usize = 4096;

/// A growable buffer that starts on a multiple of [`ALIGN_BYTES`].
pub struct Aligned {
    /// Fully initialized; `start + capacity <= memory.len()`.
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// An empty buffer that can hold `capacity` bytes, rounded up to whole blocks.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(ALIGN_BYTES);
        let memory = vec![0; capacity + ALIGN_BYTES];
        let start = memory.as_ptr().align_offset(ALIGN_BYTES);
        // `align_offset` may return `usize::MAX` for "not possible". Then direct writes fail, and
        // the file falls back to cached writes.
        let start = if start <= ALIGN_BYTES { start } else { 0 };
        Self { memory, start, len: 0 }
    }

    /// Number of bytes that fit without reallocation.
    pub fn capacity(&self) -> usize {
        (self.memory.len() - self.start) / ALIGN_BYTES * ALIGN_BYTES
    }

    /// Number of bytes in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Discards the content and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends `bytes`, and reallocates if they do not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.start + self.len;
        self.memory[end..end + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends zeroes up to the next multiple of `boundary`.
    pub fn pad_to_multiple(&mut self, boundary: usize) {
        self.resize(self.len.next_multiple_of(boundary));
    }

    /// Truncates the content or appends zeroes, so that `len` bytes are in use.
    pub fn resize(&mut self, len: usize) {
        if len > self.len {
            self.reserve(len - self.len);
            self.memory[self.start + self.len..self.start + len].fill(0);
        }
        self.len = len;
    }

    /// Makes room for `more` bytes, and reallocates if needed.
    pub fn reserve(&mut self, more: usize) {
        let needed = self.len + more;
        if needed > self.capacity() {
            let mut larger = Self::with_capacity(needed.max(self.capacity() * 2));
            larger.memory[larger.start..larger.start + self.len].copy_from_slice(self);
            larger.len = self.len;
            *self = larger;
        }
    }

    /// Discards the content and reduces the capacity to at most `capacity` bytes.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.len = 0;
        if self.capacity() > capacity.next_multiple_of(ALIGN_BYTES) {
            *self = Self::with_capacity(capacity);
        }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aligned").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_aligned(buffer: &Aligned) -> bool {
        (buffer.as_ptr() as usize).is_multiple_of(ALIGN_BYTES)
    }

    #[test]
    fn stays_aligned_and_keeps_its_content_while_it_grows() {
        let mut buffer = Aligned::with_capacity(1);
        let mut model = Vec::new();
        for round in 0..200_u32 {
            let piece = vec![round as u8; 97];
            buffer.extend_from_slice(&piece);
            model.extend_from_slice(&piece);
            assert!(is_aligned(&buffer));
        }
        assert_eq!(&*buffer, &*model);
    }

    #[test]
    fn padding_is_zero_although_the_memory_was_used_before() {
        let mut buffer = Aligned::with_capacity(8192);
        buffer.extend_from_slice(&[0xff; 8192]);
        buffer.clear();
        buffer.extend_from_slice(b"x");
        buffer.pad_to_multiple(ALIGN_BYTES);
        assert_eq!(buffer.len(), ALIGN_BYTES);
        assert!(buffer[1..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn shrinking_gives_memory_back() {
        let mut buffer = Aligned::with_capacity(4 << 20);
        buffer.shrink_to(65_536);
        assert_eq!(buffer.capacity(), 65_536);
        assert!(is_aligned(&buffer));
    }
}
