//! Finds entries in an index file.
//!
//! Reads and lookups need the first entry with some property. The property is monotonic over the
//! entries, so a binary search over the file finds it. A consumer that reads on needs the entries
//! after those of its last read, so the last few windows of entries that reads needed stay in
//! memory as long as the files stay open.
//!
//! Invariants:
//! - **D3**, every entry that is read is verified; a damaged one is an error with its number.
//! - **R1**, a segment keeps at most [`WINDOWS`] windows of [`WINDOW_ENTRIES`] entries.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_disk::File;

use super::{ENTRY_BYTES, Entry, HEADER_BYTES, Header, decode_entry, decode_header, entry_at};
use crate::error::{Damage, Result, SegmentError};

/// When at most this many entries are left to search, they are read at once.
const PAGE_ENTRIES: u32 = 64;

/// Number of entries in a window: 8 MiB of log at the usual size of a block, 7 KiB of memory.
const WINDOW_ENTRIES: u32 = 128;
/// Most windows of a segment: consumers of one segment at different positions.
const WINDOWS: usize = 4;

/// The open index file of one segment.
#[derive(Debug, Clone)]
pub(crate) struct IndexFile {
    file: Arc<dyn File>,
    pub(crate) path: Arc<Path>,
    base_offset: i64,
    /// Number of entries that may be read. Later ones may be in the middle of a write.
    pub(crate) blocks: u32,
    windows: Arc<Windows>,
}

/// Adjacent entries that reads needed, oldest window first. Entries never change.
#[derive(Debug, Default)]
struct Windows(Mutex<VecDeque<Arc<[Entry]>>>);

impl Windows {
    /// The window with the entry that holds `offset`, or is the next one in it.
    fn around(&self, offset: i64) -> Option<Arc<[Entry]>> {
        let holds = |window: &&Arc<[Entry]>| {
            window.first().is_some_and(|first| first.base_offset <= offset)
                && window.last().is_some_and(|last| offset < last.next_offset)
        };
        self.0.lock().iter().find(holds).cloned()
    }

    fn keep(&self, window: Arc<[Entry]>) {
        let begin = |window: &Arc<[Entry]>| window.first().map(|first| first.base_offset);
        let mut windows = self.0.lock();
        // The last window of a segment grows.
        windows.retain(|kept| begin(kept) != begin(&window));
        if windows.len() >= WINDOWS {
            windows.pop_front();
        }
        windows.push_back(window);
    }
}

impl IndexFile {
    pub(crate) fn new(file: Arc<dyn File>, path: Arc<Path>, base_offset: i64, blocks: u32) -> Self {
        Self { file, path, base_offset, blocks, windows: Arc::default() }
    }

    /// The same index with this number of entries that may be read.
    pub(crate) fn with_blocks(&self, blocks: u32) -> Self {
        Self { blocks, ..self.clone() }
    }

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

    /// Adjacent entries from the one that holds `offset` on, or from the next one if compaction
    /// removed it: at least one, at most a window; none if there is none. Keeps what it reads for
    /// the next call.
    pub(crate) fn entries_from(&self, offset: i64) -> Result<impl Iterator<Item = Entry> + use<>> {
        let window = match self.windows.around(offset) {
            Some(window) => window,
            None => {
                let first = self.partition_point(|entry| entry.next_offset <= offset)?;
                let first = first - first % WINDOW_ENTRIES;
                let window: Arc<[Entry]> = self.entries(first, WINDOW_ENTRIES)?.into();
                self.windows.keep(Arc::clone(&window));
                window
            }
        };
        let first = window.partition_point(|entry| entry.next_offset <= offset);
        Ok((first..window.len()).map(move |at| window[at]))
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
