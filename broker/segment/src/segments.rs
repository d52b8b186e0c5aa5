//! Writes the segments of a partition.
//!
//! The flushers call [`Segments::append`] with applied batches that are durable in the write-ahead
//! log. A checkpoint reads the [`DurableEnd`] that its snapshot will name ([`Segments::end`]) and
//! syncs everything before it (`sync`); appends go on meanwhile.
//!
//! # Invariants
//!
//! - One append is one large write to the log and a small one to the index (two of each if the
//!   segment becomes full in between). A batch is never split between segments.
//! - The view changes after both writes, so readers see only complete batches.
//! - Write-back starts with the append, so that a sync has little left to write and does not delay
//!   those of the write-ahead log.
//! - **D2.** After a failed fsync every call returns that error. Files with unsynced data stay open
//!   until their fsync, because the kernel reports a write-back error only to open file
//!   descriptors.
//! - If a failed write may have left bytes behind the end of a segment, the segment is cut to its
//!   exact length before a new one begins.
//!
//! # After a crash
//!
//! Batches appended after the last [`Segments::sync`] may be there completely, in part or not at
//! all. Recovery cuts them at the durable end without reading them.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::StampedBatch;
use ropewalk_disk::{Disk, Open};

use crate::compaction::install::install;
use crate::compaction::{Compaction, CompactionJob, Replacement};
use crate::durable_end::DurableEnd;
use crate::error::{Damage, Result, SegmentError};
use crate::files::{self, FileCache, INDEX, LOG};
use crate::index::cut::{Cutter, Facts, RunningTotals};
use crate::index::{self, BLOCK_BYTES_MAX, Header, encode_entry, encode_header};
use crate::read::Reader;
use crate::view::{Segment, SegmentInfo, SharedSegments};

mod sync;

pub use sync::PendingSync;
use sync::Tail;

/// Limits of a segment, and the granularity of its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentConfig {
    /// Largest size of a segment in bytes (`segment.bytes`).
    pub segment_bytes: u64,
    /// Age at which a new segment begins, in milliseconds (`segment.ms`).
    pub segment_ms: i64,
    /// Bytes of batches per entry of the index, at most [`BLOCK_BYTES_MAX`].
    pub index_interval_bytes: u32,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600 * 1_000,
            index_interval_bytes: BLOCK_BYTES_MAX,
        }
    }
}

/// The segment files of one partition, for writing.
#[derive(Debug)]
pub struct Segments {
    pub(crate) shared: Arc<SharedSegments>,
    /// Segments with unsynced bytes, oldest first.
    dirty: Vec<Tail>,
    /// Number of times that files were created or removed.
    names_changed: u64,
    /// The value of `names_changed` that the last sync of the directory covered.
    names_synced: u64,
    /// Whether the directory itself is not durable yet.
    nameless: bool,
    /// Whether a failed write may have left bytes behind the end of the last segment.
    torn: bool,
    /// The error of the fsync that failed.
    failed: Option<SegmentError>,
    /// Damage that recovery found.
    pub(crate) damages: Vec<Damage>,
    /// Files below the log start offset that recovery found, for the caller to remove.
    pub(crate) stale: Vec<PathBuf>,
}

impl Segments {
    /// Opens the segments in `dir` and cuts everything behind the durable end `at`, whatever its
    /// checksums are. Without a durable end, all segments are removed, and the log is empty at
    /// `log_start`.
    ///
    /// No file is created before the first append. Readers of an earlier `Segments` of the same
    /// directory must have ended. Damage below the durable end does not prevent the partition from
    /// being opened: see [`Segments::damages`].
    pub fn open(
        disk: Arc<dyn Disk>,
        files: Arc<FileCache>,
        dir: PathBuf,
        at: Option<&DurableEnd>,
        log_start: i64,
    ) -> Result<Self> {
        let recovered = crate::recover::recover(&*disk, &dir, at, log_start)?;
        // Segments in a snapshot are durable, and so is their directory.
        let nameless = recovered.view.segments.is_empty();
        Ok(Self {
            shared: SharedSegments::new(disk, files, dir, recovered.view),
            dirty: Vec::new(),
            names_changed: u64::from(recovered.dir_dirty),
            names_synced: 0,
            nameless,
            torn: false,
            failed: None,
            damages: recovered.damages,
            stale: recovered.stale,
        })
    }

    /// A handle for reading. It does not wait for appends.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Reads whole batches: see [`Reader::read`].
    pub fn read(&self, from: i64, bytes_max: usize, at_least_one: bool) -> Result<Vec<Bytes>> {
        self.reader().read(from, bytes_max, at_least_one)
    }

    /// Writes batches that continue the log. They can be read when this returns, and are durable
    /// after the next [`Segments::sync`].
    ///
    /// After an error [`Segments::next_offset`] shows which batches were written: if a segment
    /// became full in between, the batches in that segment stay.
    pub fn append(
        &mut self,
        batches: &[StampedBatch],
        now_ms: i64,
        config: &SegmentConfig,
    ) -> Result<()> {
        self.usable()?;
        self.check_order(batches)?;
        let mut rest = batches;
        while let Some(first) = rest.first() {
            let fitting = self.room(rest, now_ms, config);
            if fitting == 0 {
                self.seal()?;
                self.begin(first, now_ms)?;
                continue;
            }
            let (fit, later) = rest.split_at(fitting);
            self.write(fit, config)?;
            rest = later;
        }
        Ok(())
    }

    /// Skips offsets that compaction removed from the source of the batches.
    pub fn advance_to(&mut self, offset: i64) {
        let mut view = self.shared.view.write();
        view.next_offset = view.next_offset.max(offset);
    }

    /// Seals the last segment: the next append begins a new one.
    pub fn seal(&mut self) -> Result<()> {
        self.usable()?;
        if self.torn {
            self.trim()?;
        }
        self.shared.view.write().appending = false;
        Ok(())
    }

    /// Raises the log start offset and returns the files that are no longer needed. The caller
    /// removes them when no kept snapshot needs them.
    #[must_use = "the files stay until the caller removes them"]
    pub fn set_log_start(&mut self, offset: i64) -> Vec<PathBuf> {
        let mut unneeded = std::mem::take(&mut self.stale);
        let mut view = self.shared.view.write();
        view.start_offset = view.start_offset.max(offset);
        let gone = view.segments.partition_point(|segment| segment.end_offset <= offset);
        for segment in view.segments.drain(..gone) {
            for extension in [LOG, INDEX] {
                unneeded.push(self.shared.path(segment.base_offset, extension));
            }
            self.dirty.retain(|tail| tail.base_offset != segment.base_offset);
        }
        view.segments.shrink_to_fit();
        if view.segments.is_empty() {
            view.appending = false;
            self.torn = false;
        }
        unneeded
    }

    /// Prepares a compaction; `None` if all candidates are compacted already.
    #[must_use]
    pub fn plan_compaction(&self, request: Compaction) -> Option<CompactionJob> {
        let oldest_dirty = self.dirty.first().map_or(i64::MAX, |tail| tail.base_offset);
        let mut infos = self.infos();
        infos.retain(|info| info.base_offset < oldest_dirty);
        CompactionJob::new(self.shared.clone(), request, &infos)
    }

    /// Replaces segments by a compacted one. Returns `false` if retention removed the old ones in
    /// the meantime.
    pub fn install(&mut self, replacement: Replacement) -> Result<bool> {
        self.usable()?;
        install(&self.shared, replacement).inspect_err(|error| {
            if matches!(error, SegmentError::SyncFailed { .. }) {
                self.failed = Some(error.clone());
            }
        })
    }

    /// Removes all files, because the partition is deleted or recreated. Reads in progress can
    /// finish.
    pub fn remove_all(self) -> Result<()> {
        let shared = &self.shared;
        let dir = &shared.dir;
        if shared.disk.exists(dir).map_err(|error| SegmentError::io(dir, error))? {
            crate::recover::recover(&*shared.disk, dir, None, 0)?;
        }
        shared.view.write().segments.clear();
        Ok(())
    }

    /// The log start offset.
    #[must_use]
    pub fn start_offset(&self) -> i64 {
        self.shared.view.read().start_offset
    }

    /// Offset of the next batch.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.shared.view.read().next_offset
    }

    /// Size of the batches in all segments in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let view = self.shared.view.read();
        view.segments.iter().map(|segment| u64::from(segment.running.position)).sum()
    }

    /// Summaries of the segments, oldest first.
    #[must_use]
    pub fn infos(&self) -> Vec<SegmentInfo> {
        self.shared.view.read().infos()
    }

    /// Damage that recovery found. Reads of damaged ranges fail with it; all other reads succeed.
    #[must_use]
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// The end of what was appended so far. It is durable after a sync that begins later.
    #[must_use]
    pub fn end(&self) -> DurableEnd {
        let view = self.shared.view.read();
        match view.segments.last() {
            Some(last) if view.appending => DurableEnd {
                segment_base: last.base_offset,
                position_bytes: u64::from(last.running.position),
                blocks: last.blocks,
                next_offset: view.next_offset,
            },
            _ => DurableEnd {
                segment_base: view.next_base(),
                position_bytes: 0,
                blocks: 0,
                next_offset: view.next_offset,
            },
        }
    }

    fn usable(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn check_order(&self, batches: &[StampedBatch]) -> Result<()> {
        let mut expected = self.next_offset();
        for batch in batches {
            if batch.base_offset != expected {
                return Err(SegmentError::NotNext { expected, found: batch.base_offset });
            }
            expected = batch.next_offset();
        }
        Ok(())
    }

    /// Number of the batches that fit into the last segment.
    fn room(&self, batches: &[StampedBatch], now_ms: i64, config: &SegmentConfig) -> usize {
        let view = self.shared.view.read();
        let Some(last) = view.segments.last().filter(|_| view.appending) else { return 0 };
        let is_new = last.blocks == 0;
        if !is_new && now_ms.saturating_sub(last.created_ms) >= config.segment_ms {
            return 0;
        }
        let size_bytes_max = config.segment_bytes.min(u64::from(u32::MAX));
        let mut size_bytes = u64::from(last.running.position);
        let fitting = batches.iter().take_while(|batch| {
            size_bytes += batch.size_bytes() as u64;
            let offsets = batch.next_offset() - last.base_offset;
            size_bytes <= size_bytes_max && offsets <= i64::from(u32::MAX)
        });
        // A batch that is larger than a segment gets a segment of its own.
        if is_new { fitting.count().max(1) } else { fitting.count() }
    }

    /// Begins a new segment at the end of the last one.
    fn begin(&mut self, first: &StampedBatch, now_ms: i64) -> Result<()> {
        let (disk, dir) = (&self.shared.disk, &self.shared.dir);
        files::make_dir(&**disk, dir).map_err(|error| SegmentError::io(dir, error))?;
        let mut base_offset = self.shared.view.read().next_base();
        if first.next_offset() - base_offset > i64::from(u32::MAX) {
            // Compaction removed so many offsets that an index cannot span them.
            let compacted_end = Some(first.base_offset);
            self.create(&Header {
                base_offset,
                created_ms: now_ms,
                compacted_end,
                is_clean: true,
            })?;
            base_offset = first.base_offset;
        }
        let header =
            Header { base_offset, created_ms: now_ms, compacted_end: None, is_clean: false };
        self.create(&header)?;
        self.shared.view.write().appending = true;
        Ok(())
    }

    /// Creates the files of a segment without batches.
    fn create(&mut self, header: &Header) -> Result<()> {
        let base_offset = header.base_offset;
        let create = |extension| {
            let path = self.shared.path(base_offset, extension);
            let file = self.shared.disk.open(&path, Open::CreateOrTruncate);
            file.map_err(|error| SegmentError::io(&path, error))
        };
        let (log, index) = (create(LOG)?, create(INDEX)?);
        self.names_changed += 1;
        index
            .write_all_at(&encode_header(header), 0)
            .map_err(|error| SegmentError::io(&self.shared.path(base_offset, INDEX), error))?;
        self.dirty.push(Tail { base_offset, log, index, changes: 0 });
        let mut segment = Segment::empty(base_offset, header.created_ms);
        segment.clean = header.is_clean;
        segment.end_offset = header.compacted_end.unwrap_or(base_offset);
        let mut view = self.shared.view.write();
        view.segments.reserve_exact(1);
        view.segments.push(segment);
        Ok(())
    }

    /// Writes batches behind the end of the last segment, which has room for them.
    fn write(&mut self, batches: &[StampedBatch], config: &SegmentConfig) -> Result<()> {
        let (base_offset, blocks, running) = {
            let view = self.shared.view.read();
            let last = view.segments.last().expect("room was found in the last segment");
            (last.base_offset, last.blocks, last.running)
        };
        let AppendedBlocks { entries, running: running_after, prefixes } =
            blocks_of(batches, running, config);
        let mut slices = Vec::with_capacity(2 * batches.len());
        for (prefix, batch) in prefixes.iter().zip(batches) {
            slices.push(IoSlice::new(prefix));
            slices.push(IoSlice::new(&batch.bytes[prefix.len()..]));
        }
        let index_bytes: Vec<u8> = (blocks..)
            .zip(&entries)
            .flat_map(|(number, entry)| encode_entry(entry, base_offset, number))
            .collect();

        let (log_path, index_path) =
            (self.shared.path(base_offset, LOG), self.shared.path(base_offset, INDEX));
        let tail = self.tail(base_offset)?;
        let written = tail
            .log
            .write_vectored_all_at(&slices, u64::from(running.position))
            .map_err(|error| SegmentError::io(&log_path, error))
            .and_then(|()| {
                let written = tail.index.write_all_at(&index_bytes, index::entry_at(blocks));
                written.map_err(|error| SegmentError::io(&index_path, error))
            });
        if let Err(error) = written {
            self.torn = true;
            return Err(error);
        }
        let bytes = slices.iter().map(|slice| slice.len() as u64).sum();
        tail.log.start_write_back(u64::from(running.position), bytes);

        let (last_batch, last_entry) = (batches.last(), entries.last());
        let mut view = self.shared.view.write();
        view.next_offset = last_batch.map_or(view.next_offset, StampedBatch::next_offset);
        let next_offset = view.next_offset;
        let segment = view.segments.last_mut().expect("room was found in the last segment");
        segment.blocks += entries.len() as u32;
        segment.running = running_after;
        segment.leader_epoch = last_entry.map_or(segment.leader_epoch, |last| last.leader_epoch);
        (segment.written_end, segment.end_offset) = (next_offset, next_offset);
        Ok(())
    }

    /// Returns the last segment, opened for writing, for a change. It stays open until its fsync.
    fn tail(&mut self, base_offset: i64) -> Result<&Tail> {
        let is_open = self.dirty.last().is_some_and(|tail| tail.base_offset == base_offset);
        if !is_open {
            let open = |extension| {
                let path = self.shared.path(base_offset, extension);
                let file = self.shared.disk.open(&path, Open::ReadWrite);
                file.map_err(|error| SegmentError::io(&path, error))
            };
            let (log, index) = (open(LOG)?, open(INDEX)?);
            self.dirty.push(Tail { base_offset, log, index, changes: 0 });
        }
        let tail = self.dirty.last_mut().expect("just pushed");
        tail.changes += 1;
        Ok(tail)
    }

    /// Cuts bytes that a failed write left behind the end of the last segment.
    fn trim(&mut self) -> Result<()> {
        let last = self.shared.view.read().segments.last().cloned();
        if let Some(last) = last {
            let log_path = self.shared.path(last.base_offset, LOG);
            let tail = self.tail(last.base_offset)?;
            tail.log
                .set_len(u64::from(last.running.position))
                .and_then(|()| tail.index.set_len(index::size_bytes(last.blocks)))
                .map_err(|error| SegmentError::io(&log_path, error))?;
        }
        self.torn = false;
        Ok(())
    }
}

/// The index entries of appended batches.
struct AppendedBlocks {
    entries: Vec<index::Entry>,
    /// The totals of the segment after the batches.
    running: RunningTotals,
    prefixes: Vec<[u8; ropewalk_batch::PREFIX_LEN]>,
}

/// The index entries of batches that continue a segment at `running`, the totals after them, and
/// the prefixes of the batches.
fn blocks_of(
    batches: &[StampedBatch],
    running: RunningTotals,
    config: &SegmentConfig,
) -> AppendedBlocks {
    let mut cutter = Cutter::new(running, config.index_interval_bytes);
    let mut prefixes = Vec::with_capacity(batches.len());
    for batch in batches {
        let prefix = batch.prefix();
        cutter.batch(&Facts::of(&batch.header()));
        cutter.bytes(&prefix);
        cutter.bytes_known(&batch.bytes[prefix.len()..], batch.body_sum());
        prefixes.push(prefix);
    }
    let running = cutter.running();
    AppendedBlocks { entries: cutter.finish(), running, prefixes }
}
