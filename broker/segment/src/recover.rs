//! Recovery: restores a partition's files to the state at its durable end.
//!
//! [`crate::Segments::open`] calls it with the end from the snapshot. Steps: complete compaction's
//! committed replacements and drop its uncommitted ones; remove segments after the end; cut the
//! last one; read the summary of each. Every step can be repeated, so a crash during recovery has
//! no effect.
//!
//! # Invariants
//!
//! - Everything after the durable end is removed, whatever its checksums are: the shard's log may
//!   not contain it, or will write it again.
//! - **D3.** Below the end every offset from the log start on belongs to a readable segment or to a
//!   recorded [`Damage`]. A damaged or missing index is rebuilt from its log, with every batch
//!   verified; a missing log or a damaged batch is damage. No batch is appended to a damaged last
//!   segment.
//! - Unless an index is rebuilt, only the headers and last entries of indexes are read here;
//!   everything else is verified when it is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Disk, File, Open};

use crate::durable_end::DurableEnd;
use crate::error::{Damage, Result, SegmentError};
use crate::files::{self, INDEX, LOG};
use crate::index::cut::RunningTotals;
use crate::index::rebuild::{self, ExpectedLog};
use crate::index::search::IndexFile;
use crate::index::{self, Entry, Header};
use crate::view::{Segment, View};

/// The result of [`recover`].
#[derive(Debug)]
pub(crate) struct RecoveredSegments {
    pub(crate) view: View,
    pub(crate) damages: Vec<Damage>,
    /// Files below the log start offset.
    pub(crate) stale: Vec<PathBuf>,
    /// Whether names in the directory changed since its last sync.
    pub(crate) dir_dirty: bool,
}

/// Reads the segments in `dir` and cuts them at `at`.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    at: Option<&DurableEnd>,
    log_start: i64,
) -> Result<RecoveredSegments> {
    let mut recovery = Recovery {
        disk,
        dir,
        segments: Vec::new(),
        damages: Vec::new(),
        stale: Vec::new(),
        dir_dirty: false,
    };
    let bases = recovery.finish_replacements()?;
    let bases = recovery.remove_beyond(bases, at)?;
    let Some(at) = at else {
        return Ok(recovery.finish(log_start, log_start, false));
    };
    let (sealed, tail): (Vec<i64>, Vec<i64>) =
        bases.into_iter().partition(|base| *base < at.segment_base);
    recovery.load_sealed(&sealed, at.segment_base, log_start)?;
    recovery.mark_missing(log_start, at.segment_base);
    let has_tail = at.position_bytes > 0 && at.next_offset > log_start;
    let mut appending = false;
    if !has_tail {
        tail.into_iter().for_each(|base| recovery.keep_for_caller(base));
    } else if recovery.was_repaired(at) {
        recovery.load_sealed(&tail, at.next_offset, log_start)?;
    } else {
        recovery.load_tail(at)?;
        appending = recovery.segments.last().is_some_and(|tail| tail.damage.is_none());
    }
    Ok(recovery.finish(log_start, at.next_offset, appending))
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    segments: Vec<Segment>,
    damages: Vec<Damage>,
    stale: Vec<PathBuf>,
    dir_dirty: bool,
}

/// Summary of a segment from its index.
struct Summary {
    header: Header,
    blocks: u32,
    last: Option<Entry>,
}

impl Recovery<'_> {
    fn finish(self, start_offset: i64, next_offset: i64, appending: bool) -> RecoveredSegments {
        let mut segments = self.segments;
        segments.shrink_to_fit();
        RecoveredSegments {
            view: View { start_offset, next_offset, segments, appending, unfinished: None },
            damages: self.damages,
            stale: self.stale,
            dir_dirty: self.dir_dirty,
        }
    }

    /// Completes or undoes what a crash interrupted, and returns the base offsets of the segments.
    fn finish_replacements(&mut self) -> Result<Vec<i64>> {
        let dir = self.dir;
        let exists = self.disk.exists(dir).map_err(|error| SegmentError::io(dir, error))?;
        if !exists {
            return Ok(Vec::new());
        }
        let names = self.disk.list(dir).map_err(|error| SegmentError::io(dir, error))?;
        let found: Vec<(i64, &str)> = names.iter().filter_map(|name| files::parse(name)).collect();
        for (base, extension) in &found {
            let committed = found.contains(&(*base, files::SWAP_INDEX));
            match *extension {
                files::SWAP_INDEX => self.complete_replacement(*base, &found)?,
                files::CLEANED_LOG if committed => {}
                files::CLEANED_LOG | files::CLEANED_INDEX | files::REBUILT_INDEX => {
                    self.remove(*base, extension)?;
                }
                _ => {}
            }
        }
        let named = |extension: &str| [LOG, INDEX, files::SWAP_INDEX].contains(&extension);
        let mut bases: Vec<i64> = found.iter().filter(|(_, e)| named(e)).map(|(b, _)| *b).collect();
        bases.dedup(); // The names are sorted.
        Ok(bases)
    }

    /// Completes a committed replacement, whose files are both complete and durable, by renaming
    /// them.
    fn complete_replacement(&mut self, base: i64, found: &[(i64, &str)]) -> Result<()> {
        if found.contains(&(base, files::CLEANED_LOG)) {
            self.rename(base, files::CLEANED_LOG, LOG)?;
        }
        self.rename(base, files::SWAP_INDEX, INDEX)
    }

    fn remove_beyond(&mut self, bases: Vec<i64>, at: Option<&DurableEnd>) -> Result<Vec<i64>> {
        let is_beyond = |base: i64| match at {
            None => true,
            Some(at) if at.position_bytes == 0 => base >= at.segment_base,
            Some(at) => base > at.segment_base,
        };
        let (beyond, kept): (Vec<i64>, Vec<i64>) =
            bases.into_iter().partition(|base| is_beyond(*base));
        for base in beyond {
            self.remove_segment(base)?;
        }
        Ok(kept)
    }

    /// Reads the summaries of sealed segments; the last one ends at `end_offset`.
    fn load_sealed(&mut self, bases: &[i64], end_offset: i64, log_start: i64) -> Result<()> {
        let mut covered = i64::MIN;
        for (index, base) in bases.iter().enumerate() {
            let (base, boundary) = (*base, bases.get(index + 1).copied().unwrap_or(end_offset));
            if base < covered {
                self.remove_segment(base)?; // Merged into the previous one.
                continue;
            }
            let summary = self.summary(base, None);
            let compacted_end = summary.as_ref().ok().and_then(|found| found.header.compacted_end);
            let end_offset = compacted_end.unwrap_or(boundary);
            covered = end_offset;
            if end_offset <= log_start {
                self.keep_for_caller(base);
                continue;
            }
            let expected = ExpectedLog {
                base_offset: base,
                end_offset,
                log_bytes: None,
                gaps: compacted_end.is_some(),
            };
            self.mark_missing(log_start, base);
            let segment = self.load(expected, summary)?;
            self.segments.push(segment);
        }
        Ok(())
    }

    /// Keeps the files of a segment below the log start for the caller to remove, because an older
    /// snapshot may need them.
    fn keep_for_caller(&mut self, base: i64) {
        self.stale.extend([LOG, INDEX].map(|name| files::path(self.dir, base, name)));
    }

    /// Whether a repair replaced the segment for the next batch after the end was recorded. It is
    /// then sealed, and shorter than the end says.
    fn was_repaired(&self, at: &DurableEnd) -> bool {
        let summary = self.summary(at.segment_base, Some(0));
        let end = summary.ok().and_then(|found| found.header.compacted_end);
        end.is_some_and(|end| end <= at.next_offset)
    }

    /// Reads the summary of the segment for the next batch, and cuts it.
    fn load_tail(&mut self, at: &DurableEnd) -> Result<()> {
        let expected = ExpectedLog {
            base_offset: at.segment_base,
            end_offset: at.next_offset,
            log_bytes: Some(at.position_bytes),
            gaps: false,
        };
        let summary = self.summary(at.segment_base, Some(at.blocks));
        let segment = self.load(expected, summary)?;
        if segment.damage.is_none() {
            self.cut(at.segment_base, LOG, at.position_bytes)?;
            self.cut(at.segment_base, INDEX, index::size_bytes(segment.blocks))?;
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Loads a segment from its index, or from its log if the index is wrong.
    fn load(&mut self, expected: ExpectedLog, summary: Result<Summary>) -> Result<Segment> {
        let base = expected.base_offset;
        let log_path = files::path(self.dir, base, LOG);
        let log = match self.open(&log_path, Open::Read) {
            Ok(log) => log,
            Err(SegmentError::Damaged(damage)) => return Ok(self.lost(&expected, damage)),
            Err(error) => return Err(error),
        };
        let log_bytes = log.len().map_err(|error| SegmentError::io(&log_path, error))?;
        let header = match summary {
            Ok(found) if found.agrees(&expected, log_bytes) => return Ok(found.segment(&expected)),
            Ok(found) => found.header,
            Err(SegmentError::Damaged(_)) => {
                Header { base_offset: base, created_ms: 0, compacted_end: None, is_clean: false }
            }
            Err(error) => return Err(error),
        };
        tracing::warn!(log = %log_path.display(), "segment index invalid, rebuilding it from the log");
        let scan = rebuild::scan(&*log, &log_path, &expected)?;
        self.write_index(&header, &scan.entries)?;
        let blocks = scan.entries.len() as u32;
        let rebuilt = Summary { header, blocks, last: scan.entries.last().copied() };
        let mut segment = rebuilt.segment(&expected);
        if let Some(damage) = scan.damage {
            segment.end_offset = expected.end_offset;
            segment.damage = Some(Box::new(damage.clone()));
            self.damages.push(damage);
        }
        Ok(segment)
    }

    /// Reads the summary from the index of a segment. `blocks` is the number of valid entries,
    /// `None` for all.
    fn summary(&self, base: i64, blocks: Option<u32>) -> Result<Summary> {
        let path = files::path(self.dir, base, INDEX);
        let file = self.open(&path, Open::Read)?;
        let bytes = file.len().map_err(|error| SegmentError::io(&path, error))?;
        let there = bytes.saturating_sub(index::HEADER_BYTES as u64) / index::ENTRY_BYTES as u64;
        let there = u32::try_from(there).unwrap_or(u32::MAX);
        let blocks = blocks.unwrap_or(there);
        let index = IndexFile::new(file, path.into(), base, blocks);
        let header = index.header()?;
        let last = blocks.checked_sub(1).map(|number| index.entry(number)).transpose()?;
        Ok(Summary { header, blocks, last })
    }

    /// Replaces a damaged index by a rebuilt one.
    fn write_index(&mut self, header: &Header, entries: &[Entry]) -> Result<()> {
        let base = header.base_offset;
        let path = files::path(self.dir, base, files::REBUILT_INDEX);
        let file = self.open(&path, Open::CreateOrTruncate)?;
        let bytes = index::encode(header, entries);
        file.write_all_at(&bytes, 0).map_err(|error| SegmentError::io(&path, error))?;
        file.sync("segment-index").map_err(|error| SegmentError::sync(&path, error))?;
        self.rename(base, files::REBUILT_INDEX, INDEX)
    }

    /// Records the offsets between the last segment and `base` as damaged, if there are any.
    fn mark_missing(&mut self, log_start: i64, base: i64) {
        let from = self.segments.last().map_or(log_start, |last| last.end_offset);
        if from < base {
            let path = files::path(self.dir, from, LOG);
            let what = format!("the file with the offsets up to {base} is missing");
            let expected =
                ExpectedLog { base_offset: from, end_offset: base, log_bytes: None, gaps: false };
            let lost = self.lost(&expected, Damage::new(&path, 0, what));
            self.segments.push(lost);
        }
    }

    fn lost(&mut self, expected: &ExpectedLog, damage: Damage) -> Segment {
        let mut segment = Segment::empty(expected.base_offset, 0);
        segment.end_offset = expected.end_offset;
        segment.damage = Some(Box::new(damage.clone()));
        self.damages.push(damage);
        segment
    }

    fn open(&self, path: &Path, how: Open) -> Result<Arc<dyn File>> {
        self.disk.open(path, how).map_err(|error| SegmentError::open(path, error))
    }

    fn cut(&self, base: i64, extension: &str, bytes: u64) -> Result<()> {
        let path = files::path(self.dir, base, extension);
        let file = self.open(&path, Open::ReadWrite)?;
        let length = file.len().map_err(|error| SegmentError::io(&path, error))?;
        if length > bytes {
            file.set_len(bytes).map_err(|error| SegmentError::io(&path, error))?;
        }
        Ok(())
    }

    /// Renames a file, durably.
    fn rename(&mut self, base: i64, from: &str, to: &str) -> Result<()> {
        let from = files::path(self.dir, base, from);
        self.disk
            .rename(&from, &files::path(self.dir, base, to))
            .map_err(|error| SegmentError::io(&from, error))?;
        let synced = self.disk.sync_dir(self.dir, "segment-directory");
        synced.map_err(|error| SegmentError::sync(self.dir, error))
    }

    fn remove_segment(&mut self, base: i64) -> Result<()> {
        self.remove(base, LOG)?;
        self.remove(base, INDEX)
    }

    fn remove(&mut self, base: i64, extension: &str) -> Result<()> {
        let path = files::path(self.dir, base, extension);
        match self.disk.remove(&path) {
            Ok(()) => self.dir_dirty = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SegmentError::io(&path, error)),
        }
        Ok(())
    }
}

impl Summary {
    /// Whether the segment is as expected, as far as its index shows without reading the log.
    fn agrees(&self, expected: &ExpectedLog, log_bytes: u64) -> bool {
        let written = self.last.map_or(0, |last| last.end());
        let end = self.last.map_or(expected.base_offset, |last| last.next_offset);
        match expected.log_bytes {
            Some(durable) => {
                written == durable && log_bytes >= durable && end <= expected.end_offset
            }
            None if expected.gaps => written == log_bytes && end <= expected.end_offset,
            None => written <= log_bytes && end == expected.end_offset,
        }
    }

    fn segment(&self, expected: &ExpectedLog) -> Segment {
        let mut segment = Segment::empty(expected.base_offset, self.header.created_ms);
        segment.clean = self.header.is_clean;
        segment.blocks = self.blocks;
        if let Some(last) = self.last {
            segment.written_end = last.next_offset;
            segment.leader_epoch = last.leader_epoch;
            segment.running = RunningTotals {
                position: last.position + last.length,
                timestamp_ms: last.running_timestamp_ms,
                records: last.running_records,
            };
        }
        segment.end_offset = self.header.compacted_end.unwrap_or(segment.written_end);
        segment
    }
}
