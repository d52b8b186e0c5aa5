//! Reads everything that was received again, before it is installed.

use std::path::Path;

use ropewalk_disk::{Disk, Open};
use ropewalk_segment::{SegmentError, copy};

use super::check::{LogCheck, Verdict};
use super::incoming::{IncomingFiles, ReceiveError};
use super::manifest::{Manifest, Received, SegmentOf, SetFile};
use crate::directory::DirectoryError;

/// A verification of all files of a manifest, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Verification {
    number: usize,
    /// The log that is being read.
    log: Option<LogCheck>,
    damaged: u64,
}

impl Verification {
    /// Verifies the next piece, and corrects the manifest where the disk has something else.
    /// Returns whether there is more.
    pub(super) fn step(
        &mut self,
        files: &IncomingFiles,
        manifest: &mut Manifest,
        piece_bytes_max: u32,
    ) -> Result<bool, ReceiveError> {
        let Some(file) = manifest.list.files.get(self.number).copied() else { return Ok(false) };
        let found = match file {
            SetFile::Snapshot { .. } | SetFile::Spill { .. } => {
                let path = files.content(manifest, &file);
                drop_cache(&**files.data().disk(), &path);
                let is_good = is_whole(&**files.data().disk(), &path, &file)?;
                let bytes = if is_good { file.content_bytes() } else { 0 };
                Some(Received { has_index: false, bytes })
            }
            SetFile::Segment(of) => self.segment(files, manifest, &of, piece_bytes_max)?,
        };
        if let Some(found) = found {
            let received = &mut manifest.received[self.number];
            let is_good = found.bytes == file.content_bytes()
                && (found.has_index || !matches!(file, SetFile::Segment(_)));
            if !is_good {
                let path = files.content(manifest, &file);
                tracing::error!(path = %path.display(), "a received file is damaged");
                self.damaged += 1;
                manifest.received[self.number] = found;
            } else {
                received.bytes = found.bytes;
            }
            self.number += 1;
            self.log = None;
        }
        Ok(true)
    }

    /// Number of files that were damaged.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Verifies the next piece of a segment. Returns what is there of it, at its end.
    fn segment(
        &mut self,
        files: &IncomingFiles,
        manifest: &Manifest,
        of: &SegmentOf,
        piece_bytes_max: u32,
    ) -> Result<Option<Received>, ReceiveError> {
        let disk = files.data().disk();
        let path = files.content(manifest, &SetFile::Segment(*of));
        if self.log.is_none() {
            let (index, _) = files.index(manifest, of);
            drop_cache(&**disk, &index);
            drop_cache(&**disk, &path);
            let sum = or_damaged(copy::sum(&**disk, &index, of.index_bytes))?;
            if sum != Some(of.index_sum) {
                return Ok(Some(Received { has_index: false, bytes: 0 }));
            }
            let dir = files.partition(manifest, of);
            let Some(check) = or_damaged(LogCheck::open(&**disk, &dir, of, 0))? else {
                return Ok(Some(Received { has_index: false, bytes: 0 }));
            };
            match len(&**disk, &path)? {
                Some(bytes) if bytes == of.log_bytes => {}
                Some(_) if of.log_bytes > 0 => {
                    return Ok(Some(Received { has_index: true, bytes: 0 }));
                }
                // With its index, the empty log of a compacted segment is created again.
                Some(_) | None => return Ok(Some(Received { has_index: false, bytes: 0 })),
            }
            self.log = Some(check);
        }
        let Some(check) = &mut self.log else { return Ok(None) };
        let left = of.log_bytes - check.position_bytes();
        let length = left.min(u64::from(piece_bytes_max));
        let mut piece = vec![0; usize::try_from(length).expect("a piece is bounded")];
        let file = disk.open(&path, Open::Read).map_err(DirectoryError::io(&path))?;
        file.read_exact_at(&mut piece, check.position_bytes())
            .map_err(DirectoryError::io(&path))?;
        let verdict = check.feed(&piece)?;
        let bytes = check.verified_bytes();
        let is_over = verdict == Verdict::Bad || check.position_bytes() == of.log_bytes;
        Ok(is_over.then_some(Received { has_index: true, bytes }))
    }
}

/// Lets the next read come from the disk itself, as far as the system allows it.
fn drop_cache(disk: &dyn Disk, path: &Path) {
    if let Ok(file) = disk.open(path, Open::Read)
        && let Ok(bytes) = file.len()
    {
        file.advise_dropped(0, bytes);
    }
}

/// Length of a file; `None` if it is missing.
fn len(disk: &dyn Disk, path: &Path) -> Result<Option<u64>, ReceiveError> {
    match disk.open(path, Open::Read).and_then(|file| file.len()) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DirectoryError::io(path)(error).into()),
    }
}

/// `None` for damage.
pub(super) fn or_damaged<T>(result: Result<T, SegmentError>) -> Result<Option<T>, ReceiveError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SegmentError::Damaged(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file that is not a segment is the one of the list.
pub(super) fn is_whole(disk: &dyn Disk, path: &Path, file: &SetFile) -> Result<bool, ReceiveError> {
    let (SetFile::Snapshot { bytes, sum } | SetFile::Spill { bytes, sum, .. }) = file else {
        return Ok(false);
    };
    if len(disk, path)? != Some(*bytes) {
        return Ok(false);
    }
    Ok(or_damaged(copy::sum(disk, path, *bytes))? == Some(*sum))
}
