//! What is known of a partition's segments in memory: the summary of each, and who may look at it.
//!
//! Place in the walk: [`crate::Segments`] changes the view, [`crate::Reader`] looks at it. The lock is held
//! for the time of a look or of a change in memory, never while a batch is read or written, so readers
//! do not wait for an append.
//!
//! Invariants:
//! - **O4.** `segments` is sorted, and each begins where the one before it ends.
//! - Only what is written whole is in the view: an append gets in after its last byte.
//! - **R1.** A segment costs one [`Segment`], about a hundred bytes; its index stays on disk.
//!
//! A crash loses the view; recovery makes it again from the files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use ropewalk_disk::{Disk, File};

use crate::error::{Damage, Result, SegmentError};
use crate::files::{self, FileCache, INDEX, LOG};
use crate::index::cut::Running;
use crate::index::search::IndexFile;

/// What the writer and the readers of one partition share.
#[derive(Debug)]
pub(crate) struct SharedSegments {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: Arc<FileCache>,
    pub(crate) dir: PathBuf,
    pub(crate) view: RwLock<View>,
}

impl SharedSegments {
    pub(crate) fn path(&self, base_offset: i64, extension: &str) -> PathBuf {
        files::path(&self.dir, base_offset, extension)
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
    /// The first offset that is kept. It may lie beyond `next_offset` for as long as the records in
    /// between are in the tail only.
    pub(crate) start_offset: i64,
    /// The offset that the next batch continues.
    pub(crate) next_offset: i64,
    pub(crate) segments: Vec<Segment>,
    /// Whether the last segment takes more batches.
    pub(crate) appending: bool,
    /// A compacted segment whose files do not have their names yet.
    pub(crate) unfinished: Option<UnfinishedReplacement>,
}

/// A replacement that is committed and whose files may not have their names yet.
#[derive(Debug)]
pub(crate) struct UnfinishedReplacement {
    pub(crate) base_offset: i64,
    pub(crate) replaced: Vec<SegmentInfo>,
}

/// The summary of one segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    /// The offset after the last batch that can be read.
    pub(crate) written_end: i64,
    /// Where the segment ends: after `written_end` if compaction or damage took the last batches.
    pub(crate) end_offset: i64,
    pub(crate) created_ms: i64,
    pub(crate) running: Running,
    pub(crate) blocks: u32,
    /// Epoch of the last batch.
    pub(crate) leader_epoch: i32,
    /// Whether compaction has been over it with every key.
    pub(crate) clean: bool,
    /// Why `written_end..end_offset` cannot be read, if it is not that compaction emptied it.
    pub(crate) damage: Option<Box<Damage>>,
    /// The files, for as long as they may not be found under their names: while they are replaced.
    pub(crate) held: Option<Arc<OpenFiles>>,
}

/// The open files of a segment.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    pub(crate) log: Arc<dyn File>,
    pub(crate) index: Arc<dyn File>,
}

/// A segment opened to be read. It stays readable when its files are replaced or removed.
#[derive(Debug, Clone)]
pub(crate) struct OpenSegment {
    pub(crate) log: Arc<dyn File>,
    pub(crate) log_path: PathBuf,
    pub(crate) log_bytes: u32,
    pub(crate) index: IndexFile,
}

/// What the outside may know of a segment: enough for retention, tiering and the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first offset, and the name of its files.
    pub base_offset: i64,
    /// The offset at which the next segment begins.
    pub next_offset: i64,
    /// Bytes of batches.
    pub size_bytes: u64,
    /// Largest timestamp of its records; `None` if it has none left.
    pub max_timestamp_ms: Option<i64>,
    /// When its first batch was written here.
    pub created_ms: i64,
    /// Records that are data.
    pub records: u64,
    /// Whether it takes no more batches.
    pub is_sealed: bool,
    /// Whether compaction has been over it.
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
            running: Running::EMPTY,
            blocks: 0,
            leader_epoch: -1,
            clean: false,
            damage: None,
            held: None,
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

    /// Opens the files. Only under the lock of the view, so that they are the ones the view speaks of.
    pub(crate) fn open(&self, shared: &SharedSegments) -> Result<OpenSegment> {
        let log_path = shared.path(self.base_offset, LOG);
        let index_path = shared.path(self.base_offset, INDEX);
        let (log, index) = match &self.held {
            Some(held) => (held.log.clone(), held.index.clone()),
            None => (cached(shared, &log_path)?, cached(shared, &index_path)?),
        };
        let (base_offset, blocks) = (self.base_offset, self.blocks);
        let index = IndexFile { file: index, path: index_path, base_offset, blocks };
        Ok(OpenSegment { log, log_path, log_bytes: self.running.position, index })
    }
}

/// A file that the view says is there: if it is not, that is damage.
fn cached(shared: &SharedSegments, path: &std::path::Path) -> Result<Arc<dyn File>> {
    shared.files.read(&shared.disk, path).map_err(|error| SegmentError::open(path, error))
}

impl View {
    /// The first segment with batches at or after `offset`, `None` if there are none.
    ///
    /// Damaged ends are not passed over: an offset inside of one is its error.
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

    /// Where the next new segment begins.
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
