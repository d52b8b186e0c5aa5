//! Writes the files that replace compacted segments.
//!
//! [`super::CompactionJob`] adds the kept batches; [`super::install`] then installs the pair of
//! files.
//!
//! Invariants: both files are complete and durable, including their names, before a
//! [`super::Replacement`] exists. The write buffer is bounded.
//!
//! A crash leaves `.cleaned` files, which the next recovery removes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_batch::StampedBatch;
use ropewalk_disk::{File, Open};

use super::{Compaction, Replacement};
use crate::error::{Result, SegmentError};
use crate::files::{CLEANED_INDEX, CLEANED_LOG, OpenFiles};
use crate::index::cut::{Cutter, Facts, RunningTotals};
use crate::index::search::IndexFile;
use crate::index::{self, BLOCK_BYTES_MAX, Header};
use crate::view::{Segment, SegmentInfo, SharedSegments};

/// Number of bytes that are collected before a write.
const BUFFER_BYTES: usize = 1 << 20;

/// A compacted segment that is being written.
#[derive(Debug)]
pub(crate) struct Output {
    shared: Arc<SharedSegments>,
    base_offset: i64,
    log: Arc<dyn File>,
    log_path: PathBuf,
    written_bytes: u64,
    buffer: Vec<u8>,
    cutter: Cutter,
    written_end: i64,
    leader_epoch: i32,
}

impl Output {
    pub(crate) fn create(shared: &Arc<SharedSegments>, base_offset: i64) -> Result<Self> {
        let log_path = shared.path(base_offset, CLEANED_LOG);
        let log = shared.disk.open(&log_path, Open::CreateOrTruncate);
        Ok(Self {
            shared: shared.clone(),
            base_offset,
            log: log.map_err(|error| SegmentError::io(&log_path, error))?,
            log_path,
            written_bytes: 0,
            buffer: Vec::new(),
            cutter: Cutter::new(RunningTotals::EMPTY, BLOCK_BYTES_MAX),
            written_end: base_offset,
            leader_epoch: -1,
        })
    }

    /// Whether another segment can be merged into this one, even if all of its batches are kept.
    pub(crate) fn has_room(&self, next: &SegmentInfo, request: &Compaction) -> bool {
        let size_bytes_max = request.segment_bytes.min(u64::from(u32::MAX));
        let size_bytes = u64::from(self.cutter.running().position) + next.size_bytes;
        let offsets = next.next_offset - self.base_offset;
        size_bytes <= size_bytes_max && offsets <= i64::from(u32::MAX)
    }

    pub(crate) fn push(&mut self, batch: &StampedBatch) -> Result<()> {
        let prefix = batch.prefix();
        let body = &batch.bytes[prefix.len()..];
        self.cutter.batch(&Facts::of(&batch.header()));
        for bytes in [&prefix[..], body] {
            self.cutter.bytes(bytes);
            self.buffer.extend_from_slice(bytes);
        }
        self.written_end = batch.next_offset();
        self.leader_epoch = batch.leader_epoch;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Makes the pair of files durable.
    pub(crate) fn finish(
        mut self,
        header: &Header,
        replaced: Vec<SegmentInfo>,
    ) -> Result<Replacement> {
        self.flush()?;
        let running = self.cutter.running();
        let entries = self.cutter.finish();
        let index_path = self.shared.path(self.base_offset, CLEANED_INDEX);
        let index = self.shared.disk.open(&index_path, Open::CreateOrTruncate);
        let index = index.map_err(|error| SegmentError::io(&index_path, error))?;
        let bytes = index::encode(header, &entries);
        index.write_all_at(&bytes, 0).map_err(|error| SegmentError::io(&index_path, error))?;
        sync(&self.log, &self.log_path)?;
        sync(&index, &index_path)?;
        self.shared.sync_dir()?;

        let mut segment = Segment::empty(self.base_offset, header.created_ms);
        segment.written_end = self.written_end;
        segment.end_offset = header.compacted_end.unwrap_or(self.written_end);
        segment.running = running;
        segment.blocks = entries.len() as u32;
        segment.leader_epoch = self.leader_epoch;
        segment.clean = header.is_clean;
        let index = IndexFile::new(index, index_path.into(), self.base_offset, 0);
        let log_path = self.log_path.into();
        segment.held = Some(Arc::new(OpenFiles { log: self.log, log_path, index }));
        Ok(Replacement { segment, replaced })
    }

    /// Removes the file, which is not needed.
    pub(crate) fn discard(self) {
        // A remaining file is removed by the next recovery, or overwritten.
        let _left_behind = self.shared.disk.remove(&self.log_path);
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.log.write_all_at(&self.buffer, self.written_bytes);
        written.map_err(|error| SegmentError::io(&self.log_path, error))?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn sync(file: &Arc<dyn File>, path: &Path) -> Result<()> {
    file.sync("compaction").map_err(|error| SegmentError::sync(path, error))
}
