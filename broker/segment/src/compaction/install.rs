//! Replaces segments by compacted ones.
//!
//! This is the last step of a compaction, under the writer's lock of the partition.
//!
//! # Order, and the state after a crash
//!
//! 1. `.log.cleaned` and `.index.cleaned` are durable: after a crash they are removed.
//! 2. `.index.cleaned` is renamed to `.index.swap`, and the directory is synced. **This is the
//!    commit**: from here on recovery completes the replacement.
//! 3. Readers get the open handles of the new files, so the names may differ for a moment.
//! 4. `.log.cleaned` is renamed to `.log` and synced; `.index.swap` is renamed to `.index` and
//!    synced. In this order a crash never leaves a new index beside an old log without the
//!    `.index.swap` file.
//! 5. The other segments that were merged are removed. If a crash leaves them, recovery sees that
//!    the new segment covers them.
//!
//! Invariants: a segment that changed since the job began is not replaced. Reads planned before
//! keep their files. A committed replacement is completed before another one begins: until then its
//! log has the name to which the next one would be written.

use std::io;

use crate::error::{Result, SegmentError};
use crate::files::{CLEANED_INDEX, CLEANED_LOG, INDEX, LOG, SWAP_INDEX};
use crate::view::{Segment, SegmentInfo, SharedSegments, UnfinishedReplacement};

/// Complete files that can replace one or several segments.
#[derive(Debug)]
pub struct Replacement {
    pub(crate) segment: Segment,
    pub(crate) replaced: Vec<SegmentInfo>,
}

impl Replacement {
    /// Number of bytes that the replacement saves.
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        let before: u64 = self.replaced.iter().map(|info| info.size_bytes).sum();
        before.saturating_sub(u64::from(self.segment.running.position))
    }
}

/// Installs a replacement. Returns false if it is no longer applicable.
pub(crate) fn install(shared: &SharedSegments, replacement: Replacement) -> Result<bool> {
    let Replacement { segment, replaced } = replacement;
    let base_offset = segment.base_offset;
    if position(shared, &replaced).is_none() {
        for extension in [CLEANED_LOG, CLEANED_INDEX] {
            // A remaining file is removed by the next recovery, or overwritten.
            let _left_behind = shared.disk.remove(&shared.path(base_offset, extension));
        }
        return Ok(false);
    }
    rename(shared, base_offset, CLEANED_INDEX, SWAP_INDEX)?;

    let at = position(shared, &replaced).expect("only the writer, who waits here, moves segments");
    let mut view = shared.view.write();
    view.segments.splice(at..at + replaced.len(), [segment]);
    view.unfinished = Some(UnfinishedReplacement { base_offset, replaced });
    drop(view);
    finish(shared)?;
    Ok(true)
}

/// Completes a committed replacement, if an earlier attempt failed. May be called again after an
/// error.
pub(crate) fn finish(shared: &SharedSegments) -> Result<()> {
    let Some(unfinished) = shared.view.write().unfinished.take() else { return Ok(()) };
    let named = unfinished.name(shared);
    let mut view = shared.view.write();
    if let Err(error) = named {
        view.unfinished = Some(unfinished);
        return Err(error);
    }
    let base_offset = unfinished.base_offset;
    if let Some(segment) = view.segments.iter_mut().find(|it| it.base_offset == base_offset) {
        segment.held = None;
    }
    view.segments.shrink_to_fit();
    Ok(())
}

impl UnfinishedReplacement {
    fn name(&self, shared: &SharedSegments) -> Result<()> {
        let Self { base_offset, replaced } = self;
        let is_there =
            shared.view.read().segments.iter().any(|segment| segment.base_offset == *base_offset);
        if is_there {
            rename(shared, *base_offset, CLEANED_LOG, LOG).or_else(ignore_missing)?;
            rename(shared, *base_offset, SWAP_INDEX, INDEX).or_else(ignore_missing)?;
        } else {
            // Retention removed it in the meantime.
            remove(shared, *base_offset, SWAP_INDEX)?;
            remove(shared, *base_offset, CLEANED_LOG)?;
        }
        for info in replaced {
            for extension in [LOG, INDEX] {
                if info.base_offset != *base_offset {
                    remove(shared, info.base_offset, extension)?;
                }
            }
        }
        Ok(())
    }
}

/// A missing file was handled by an earlier attempt.
fn ignore_missing(error: SegmentError) -> Result<()> {
    let is_gone = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
    let is_done = matches!(&error, SegmentError::Io { source, .. } if is_gone(source));
    if is_done { Ok(()) } else { Err(error) }
}

fn remove(shared: &SharedSegments, base_offset: i64, extension: &str) -> Result<()> {
    let path = shared.path(base_offset, extension);
    let removed = shared.disk.remove(&path);
    removed.map_err(|error| SegmentError::io(&path, error)).or_else(ignore_missing)
}

/// Index in the view of the segments to replace, if all of them are unchanged.
fn position(shared: &SharedSegments, replaced: &[SegmentInfo]) -> Option<usize> {
    let infos = shared.view.read().infos();
    infos.windows(replaced.len()).position(|window| window == replaced)
}

fn rename(shared: &SharedSegments, base_offset: i64, from: &str, to: &str) -> Result<()> {
    let from = shared.path(base_offset, from);
    let renamed = shared.disk.rename(&from, &shared.path(base_offset, to));
    renamed.map_err(|error| SegmentError::io(&from, error))?;
    shared.sync_dir()
}
