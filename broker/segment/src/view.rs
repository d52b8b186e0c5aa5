//! The view: summaries of a partition's segments in memory.
//!
//! [`crate::Segments`] changes the view, [`crate::Reader`] reads it. Its lock is held only for
//! changes in memory and lookups, never while a batch is read or written, so readers do not wait
//! for an append.
//!
//! Invariants:
//! - **O4.** `segments` is sorted, and each begins where the previous one ends.
//! - The view has only complete batches: an append is added after its last byte is written.
//! - **R1.** A segment costs one [`Segment`], about 150 bytes; its index stays on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use ropewalk_disk::{Disk, File, Open};

use crate::error::{Damage, Result, SegmentError};
use crate::files::{self, FileCache, INDEX, LOG, OpenFiles, Slot};
use crate::index::cut::RunningTotals;
use crate::index::search::IndexFile;
use crate::suspects::Suspects;

/// State shared by the writer and the readers of one partition.
#[derive(Debug)]
pub(crate) struct SharedSegments {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: Arc<FileCache>,
    pub(crate) dir: PathBuf,
    pub(crate) view: RwLock<View>,
    /// Offsets that could not be read after their size had been promised.
    pub(crate) suspects: Suspects,
}

impl SharedSegments {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        files: Arc<FileCache>,
        dir: PathBuf,
        view: View,
    ) -> Arc<Self> {
        let view = RwLock::new(view);
        Arc::new(Self { disk, files, dir, view, suspects: Suspects::default() })
    }

    pub(crate) fn path(&self, base_offset: i64, extension: &str) -> PathBuf {
        files::path(&self.dir, base_offset, extension)
    }

    /// Opens the files of a segment in the view. If one is missing, that is damage.
    fn open_files(&self, base_offset: i64) -> Result<OpenFiles> {
        let open = |extension| {
            let path: Arc<Path> = self.path(base_offset, extension).into();
            let file = self.disk.open(&path, Open::Read);
            file.map(|file| (file, Arc::clone(&path)))
                .map_err(|error| SegmentError::open(&path, error))
        };
        let ((log, log_path), (index, index_path)) = (open(LOG)?, open(INDEX)?);
        let index = IndexFile::new(index, index_path, base_offset, 0);
        Ok(OpenFiles { log, log_path, index })
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync_dir(&self) -> Result<()> {
        let synced = self.disk.sync_dir(&self.dir, "segment-directory");
        synced.map_err(|error| SegmentError::sync(&self.dir, error))
    }

    /// Makes the directory's own name durable.
    pub(crate) fn sync_parent(&self) -> Result<()> {
        let parent = self.dir.parent().unwrap_or(Path::new("."));
        let synced = self.disk.sync_dir(parent, "partition-directory");
        synced.map_err(|error| SegmentError::sync(parent, error))
    }
}

/// The segments of one partition.
#[derive(Debug)]
pub(crate) struct View {
    /// The log start offset. It may be above `next_offset` as long as the records in between are
    /// only in the tail.
    pub(crate) start_offset: i64,
    /// Offset of the next batch.
    pub(crate) next_offset: i64,
    pub(crate) segments: Vec<Segment>,
    /// Whether batches can be appended to the last segment.
    pub(crate) appending: bool,
    /// A committed replacement whose files are not renamed yet.
    pub(crate) unfinished: Option<UnfinishedReplacement>,
}

/// A committed replacement whose files may not be renamed yet.
#[derive(Debug)]
pub(crate) struct UnfinishedReplacement {
    pub(crate) base_offset: i64,
    pub(crate) replaced: Vec<SegmentInfo>,
}

/// The summary of one segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    /// Offset behind the last batch that can be read.
    pub(crate) written_end: i64,
    /// Offset where the segment ends: above `written_end` if compaction removed the last batches or
    /// they are damaged.
    pub(crate) end_offset: i64,
    pub(crate) created_ms: i64,
    pub(crate) running: RunningTotals,
    pub(crate) blocks: u32,
    /// Leader epoch of the last batch.
    pub(crate) leader_epoch: i32,
    /// Whether compaction has processed it with every key.
    pub(crate) clean: bool,
    /// The damage for which `written_end..end_offset` cannot be read. `None` if compaction emptied
    /// this range.
    pub(crate) damage: Option<Box<Damage>>,
    /// The open files while their names may not match, because they are being replaced.
    pub(crate) held: Option<Arc<OpenFiles>>,
    /// The open files otherwise, between two reads.
    pub(crate) slot: Arc<Slot>,
}

/// A segment opened for reading. It stays readable when its files are replaced or removed.
#[derive(Debug, Clone)]
pub(crate) struct OpenSegment {
    pub(crate) log: Arc<dyn File>,
    pub(crate) log_path: Arc<Path>,
    pub(crate) log_bytes: u32,
    pub(crate) index: IndexFile,
}

/// Public summary of a segment, for retention, tiering and the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// First offset, which is also in the names of its files.
    pub base_offset: i64,
    /// Offset at which the next segment begins.
    pub next_offset: i64,
    /// Size of its batches in bytes.
    pub size_bytes: u64,
    /// Largest timestamp of its records; `None` if it has no records.
    pub max_timestamp_ms: Option<i64>,
    /// Time at which this broker wrote its first batch.
    pub created_ms: i64,
    /// Number of records, without control records.
    pub records: u64,
    /// Whether it is sealed: no batch can be appended.
    pub is_sealed: bool,
    /// Whether compaction has processed it.
    pub is_compacted: bool,
}

impl Segment {
    /// A segment without a batch.
    pub(crate) fn empty(base_offset: i64, created_ms: i64) -> Self {
        Self {
            base_offset,
            written_end: base_offset,
            end_offset: base_offset,
            created_ms,
            running: RunningTotals::EMPTY,
            blocks: 0,
            leader_epoch: -1,
            clean: false,
            damage: None,
            held: None,
            slot: Arc::default(),
        }
    }

    pub(crate) fn info(&self, is_sealed: bool) -> SegmentInfo {
        SegmentInfo {
            base_offset: self.base_offset,
            next_offset: self.end_offset,
            size_bytes: u64::from(self.running.position),
            max_timestamp_ms: Some(self.running.timestamp_ms).filter(|ms| *ms != i64::MIN),
            created_ms: self.created_ms,
            records: u64::from(self.running.records),
            is_sealed,
            is_compacted: self.clean,
        }
    }

    /// Opens the files. Must be called under the lock of the view, so that they are the files that
    /// the view describes.
    pub(crate) fn open(&self, shared: &SharedSegments) -> Result<OpenSegment> {
        let files = match &self.held {
            Some(held) => Arc::clone(held),
            None => shared.files.files(&self.slot, || shared.open_files(self.base_offset))?,
        };
        let log_bytes = self.running.position;
        let (log, log_path) = (Arc::clone(&files.log), Arc::clone(&files.log_path));
        let index = files.index.with_blocks(self.blocks);
        Ok(OpenSegment { log, log_path, log_bytes, index })
    }
}

impl View {
    /// The first segment with batches at or after `offset`, `None` if there are none.
    ///
    /// An offset inside a damaged range is an error; damage is not skipped.
    pub(crate) fn holding(&self, offset: i64) -> Result<Option<&Segment>> {
        let first = self.segments.partition_point(|segment| segment.end_offset <= offset);
        for segment in &self.segments[first..] {
            if segment.written_end > offset {
                return Ok(Some(segment));
            }
            if let Some(damage) = &segment.damage {
                return Err((**damage).clone().into());
            }
        }
        Ok(None)
    }

    /// Base offset of the next new segment.
    pub(crate) fn next_base(&self) -> i64 {
        let empty = self.start_offset.min(self.next_offset);
        self.segments.last().map_or(empty, |last| last.end_offset)
    }

    pub(crate) fn infos(&self) -> Vec<SegmentInfo> {
        let count = self.segments.len();
        let sealed = |index| index + 1 < count || !self.appending;
        self.segments.iter().enumerate().map(|(i, segment)| segment.info(sealed(i))).collect()
    }
}
