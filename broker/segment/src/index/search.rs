//! Finds entries in an index file.
//!
//! Reads and lookups need the first entry with some property. The property is monotonic over the
//! entries, so a binary search over the file finds it. Nothing is kept in memory between two
//! searches; the page cache of the operating system is the cache.
//!
//! Invariants: **D3**, every entry that is read is verified; a damaged one is an error with its
//! number.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::File;

use super::{ENTRY_BYTES, Entry, HEADER_BYTES, Header, decode_entry, decode_header, entry_at};
use crate::error::{Damage, Result, SegmentError};

/// When at most this many entries are left to search, they are read at once.
const PAGE_ENTRIES: u32 = 64;

/// The open index file of one segment.
#[derive(Debug, Clone)]
pub(crate) struct IndexFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    pub(crate) base_offset: i64,
    /// Number of entries that may be read. Later ones may be in the middle of a write.
    pub(crate) blocks: u32,
}

impl IndexFile {
    pub(crate) fn header(&self) -> Result<Header> {
        let mut bytes = [0; HEADER_BYTES];
        read(&*self.file, &self.path, &mut bytes, 0)?;
        let header = decode_header(&bytes).map_err(|what| Damage::new(&self.path, 0, what))?;
        if header.base_offset != self.base_offset {
            return Err(Damage::new(&self.path, 0, "the index belongs to another segment").into());
        }
        Ok(header)
    }

    pub(crate) fn entry(&self, number: u32) -> Result<Entry> {
        let mut bytes = [0; ENTRY_BYTES];
        read(&*self.file, &self.path, &mut bytes, entry_at(number))?;
        self.decode(&bytes, number)
    }

    /// Reads entries from `first` on, at most `count` of them.
    pub(crate) fn entries(&self, first: u32, count: u32) -> Result<Vec<Entry>> {
        let count = count.min(self.blocks.saturating_sub(first));
        let mut bytes = vec![0; count as usize * ENTRY_BYTES];
        read(&*self.file, &self.path, &mut bytes, entry_at(first))?;
        let (chunks, _) = bytes.as_chunks::<ENTRY_BYTES>();
        let entries: Vec<Entry> = (first..)
            .zip(chunks)
            .map(|(number, chunk)| self.decode(chunk, number))
            .collect::<Result<_>>()?;
        for (number, pair) in (first..).zip(entries.windows(2)) {
            if pair[1].base_offset < pair[0].next_offset
                || u64::from(pair[1].position) != pair[0].end()
            {
                let what = format!("index entries {number} and {} do not fit together", number + 1);
                return Err(Damage::new(&self.path, entry_at(number), what).into());
            }
        }
        Ok(entries)
    }

    /// The number of the first entry for which `is_before` is false. It must be true for all
    /// entries before that one, and false for all others.
    pub(crate) fn partition_point(&self, is_before: impl Fn(&Entry) -> bool) -> Result<u32> {
        let (mut low, mut high) = (0, self.blocks);
        while high - low > PAGE_ENTRIES {
            let middle = low + (high - low) / 2;
            if is_before(&self.entry(middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let page = self.entries(low, high - low)?;
        Ok(low + page.partition_point(is_before) as u32)
    }

    fn decode(&self, bytes: &[u8; ENTRY_BYTES], number: u32) -> Result<Entry> {
        let damage = |what| Damage::new(&self.path, entry_at(number), what).into();
        decode_entry(bytes, self.base_offset, number).map_err(damage)
    }
}

/// Reads exactly as many bytes as `into` has. If the file is shorter, that is damage.
pub(crate) fn read(file: &dyn File, path: &Path, into: &mut [u8], at: u64) -> Result<()> {
    file.read_exact_at(into, at).map_err(|error| SegmentError::read(path, at, error))
}
