//! Puts compacted segments in the place of the old ones.
//!
//! Place in the walk: the last step of a compaction, under the writer's lock of the partition.
//!
//! # Order, and what a crash leaves
//!
//! 1. `.log.cleaned` and `.index.cleaned` are durable: a crash removes them.
//! 2. `.index.cleaned` becomes `.index.swap`, and the directory is synced. **This is the commit**: from
//!    here on recovery carries the rest through.
//! 3. Readers are switched to the new files by their open handles, so the names may now disagree.
//! 4. `.log.cleaned` becomes `.log`, synced; `.index.swap` becomes `.index`, synced. In this order a crash
//!    never leaves a new index beside an old log without the `.index.swap` that tells of it.
//! 5. The other segments that were merged are removed. Where a crash leaves them, recovery sees that the
//!    new one covers them.
//!
//! Invariants: a segment that changed since the job began is not replaced. Reads planned before keep their
//! files. Once committed, a replacement is carried through before another one is begun: until then its log is
//! only found under the name that the next one would be written to.

use std::io;

use crate::error::{Result, SegmentError};
use crate::files::{CLEANED_INDEX, CLEANED_LOG, INDEX, LOG, SWAP_INDEX};
use crate::view::{Segment, SegmentInfo, SharedSegments, UnfinishedReplacement};

/// Finished files that can take the place of one or several segments.
#[derive(Debug)]
pub struct Replacement {
    pub(crate) segment: Segment,
    pub(crate) replaced: Vec<SegmentInfo>,
}

impl Replacement {
    /// How many bytes less there are once it is installed.
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        let before: u64 = self.replaced.iter().map(|info| info.size_bytes).sum();
        before.saturating_sub(u64::from(self.segment.running.position))
    }
}

/// Installs a replacement; whether it was still wanted.
pub(crate) fn install(shared: &SharedSegments, replacement: Replacement) -> Result<bool> {
    let Replacement { segment, replaced } = replacement;
    let base_offset = segment.base_offset;
    if position(shared, &replaced).is_none() {
        for extension in [CLEANED_LOG, CLEANED_INDEX] {
            // What stays behind is removed by the next recovery, or overwritten.
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

/// Carries a committed replacement through, if one is left: an earlier attempt may have failed. May be called again
/// after an error.
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
            rename(shared, *base_offset, CLEANED_LOG, LOG).or_else(if_done)?;
            rename(shared, *base_offset, SWAP_INDEX, INDEX).or_else(if_done)?;
        } else {
            // Retention took it meanwhile.
            remove(shared, *base_offset, SWAP_INDEX)?;
            remove(shared, *base_offset, CLEANED_LOG)?;
        }
        for info in replaced {
            for extension in [LOG, INDEX] {
                shared.files.forget(&shared.path(info.base_offset, extension));
                if info.base_offset != *base_offset {
                    remove(shared, info.base_offset, extension)?;
                }
            }
        }
        Ok(())
    }
}

/// What is not there was done by an earlier attempt.
fn if_done(error: SegmentError) -> Result<()> {
    let is_gone = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
    let is_done = matches!(&error, SegmentError::Io { source, .. } if is_gone(source));
    if is_done { Ok(()) } else { Err(error) }
}

fn remove(shared: &SharedSegments, base_offset: i64, extension: &str) -> Result<()> {
    let path = shared.path(base_offset, extension);
    let removed = shared.disk.remove(&path);
    removed.map_err(|error| SegmentError::io(&path, error)).or_else(if_done)
}

/// Where in the view the segments to be replaced lie, if they are all still as they were.
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
