//! Recovery: reads the log files in a directory after a start.
//!
//! It makes two passes, so that it keeps locations in memory and no payloads. The first pass reads
//! file headers and verifies every round, to find the missing ones. The second pass replays the
//! records in the order of writing.
//!
//! # Torn tail and damage
//!
//! Round n + 1 is written after round n is durable, and a file is begun after the last round of the
//! previous file is durable. So only the round after the last valid one of the newest file may be
//! incomplete without damage. A round that is missing before a valid one, before the first round of
//! a newer file, or up to the sealed round in the label of the newest file, was durable before:
//! that is damage.
//!
//! # Files
//!
//! A file has begun, is reserved, or is damaged: see [`FileStart`]. A reserved file is not read
//! further, whatever a former use left in it.
//!
//! [`crate::log::Wal::open`] copies the last rounds to a new file, and this module replays the
//! copies. It never replays the last round from the old file, which may be only in the page cache.

mod window;
mod scan;
mod salvage;
mod replay;

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Disk, File, Open};

use crate::active::Active;
use crate::aside::{self, ASIDE_SEQUENCE_MIN, Aside, Asides, SetAside};
use crate::files::{self, FoundSpare, SealedFile};
use crate::header::{self, FileHeader, FileStart};
use crate::label::VERSION;
use crate::record::{Record, ReplicaKey};
use crate::recovered::{OpenError, RecoveredLog};
use crate::replicas::Replicas;
use crate::usage::Usage;

use replay::{Replay, read_records};
use scan::{End, Event, FileId, Frame, RoundStart, Scan, ScannedFile};
use window::Window;

/// All rounds of the newest file are copied to the new file if they take at most this many bytes,
/// and at most this share of the file that is kept for a start.
const COPY_BYTES_MAX: u64 = 1 << 20;
const COPY_SHARE: u64 = 4;

/// A file of the log from before this start.
#[derive(Debug)]
pub(crate) struct OldFile {
    pub(crate) sequence: u64,
    /// The number in its name.
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) file: Arc<dyn File>,
    /// The header and the position of the first round.
    header: Option<(FileHeader, u64)>,
    /// All rounds up to this one were durable.
    sealed_round: u64,
    scan: Scan,
}

impl OldFile {
    /// The file as one that takes no more rounds.
    pub(crate) fn sealed_file(&self) -> SealedFile {
        let Self { sequence, number, bytes, .. } = *self;
        let reservation = self.header.as_ref().map(|(header, _)| header.reservation);
        SealedFile { sequence, number, bytes, reservation }
    }

    /// Whether the file has anything besides its table that is still needed.
    pub(crate) fn contributes(&self) -> bool {
        self.header.is_none() || !self.scan.events.is_empty()
    }
}

/// The result of a recovery.
#[derive(Debug)]
pub(crate) struct RecoveryOutcome {
    pub(crate) recovered: RecoveredLog,
    pub(crate) replicas: Replicas,
    pub(crate) usage: Usage,
    pub(crate) asides: Asides,
    pub(crate) old_files: Vec<OldFile>,
    /// Whether all tables of the log were readable.
    pub(crate) tables_complete: bool,
}

/// A recovery in progress.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// The files of the log, oldest first.
    pub(crate) files: Vec<OldFile>,
    /// The reserved files.
    pub(crate) spares: Vec<FoundSpare>,
    /// Sequence of the new file.
    pub(crate) sequence_next: u64,
    /// Sequence of the first round of the new file: the first copied round, or the next round.
    pub(crate) first_round: u64,
    replay: Replay,
    asides: Asides,
    /// The rounds to copy, oldest first, removed from the scan of the newest file: the last round,
    /// or all if the file has few.
    copied: Vec<Frame>,
    rounds: u64,
    notes: Vec<String>,
}

impl Recovery {
    /// Reads everything except the rounds of the newest file that are copied.
    pub(crate) fn read(
        disk: &dyn Disk,
        dir: &Path,
        start_bytes: u64,
        names: &[String],
        failed: &dyn Fn(io::Error) -> OpenError,
    ) -> Result<Self, OpenError> {
        let mut recovery = Self {
            files: Vec::new(),
            spares: Vec::new(),
            sequence_next: 1,
            first_round: 1,
            replay: Replay::default(),
            asides: Asides::new(),
            copied: Vec::new(),
            rounds: 0,
            notes: Vec::new(),
        };
        for key in names.iter().filter_map(|name| aside::parse_name(name)) {
            recovery.read_aside(disk, dir, key, failed)?;
        }
        let mut unknown = Vec::new();
        for number in names.iter().filter_map(|name| files::parse_file_name(name)) {
            unknown.extend(recovery.open_file(disk, dir, number, failed)?);
        }
        unknown.extend(recovery.take_duplicates());
        recovery.put_in_order(unknown);
        recovery.scan(COPY_BYTES_MAX.min(start_bytes / COPY_SHARE)).map_err(failed)?;
        recovery.replay_files().map_err(failed)?;
        Ok(recovery)
    }

    /// Reads a file with entries that were set aside, up to the first damaged one. They are older
    /// than the log's files, which may still have some of them.
    fn read_aside(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        key: ReplicaKey,
        failed: &dyn Fn(io::Error) -> OpenError,
    ) -> Result<(), OpenError> {
        let path = aside::path_of(dir, key);
        let file = disk.open(&path, Open::Read).map_err(failed)?;
        let (header, rounds_at) = match header::read(&*file, None).map_err(failed)? {
            FileStart::Version(found) => {
                return Err(OpenError::Version { path, found, supported: VERSION });
            }
            FileStart::Begun { header, rounds_at, .. } if header.sequence >= ASIDE_SEQUENCE_MIN => {
                (header, rounds_at)
            }
            FileStart::Begun { .. } | FileStart::Reserved { .. } | FileStart::Unreadable { .. } => {
                return self.note_unreadable(key, path, file).map_err(failed);
            }
        };
        let mut read = || -> io::Result<()> {
            let mut window = Window::new(&*file)?;
            let file_id = FileId::of(&header);
            let start = RoundStart { position: rounds_at, round: 1 };
            let scanned = ScannedFile { id: file_id, file_bytes: header.file_bytes, start };
            let scan = scan::scan(&mut window, scanned, End::Open { sealed_round: 0 })?;
            for event in &scan.events {
                match event {
                    Event::Frame(frame) => self.replay.set_aside(&mut window, file_id, frame)?,
                    Event::Gap(gap) => {
                        self.notes.push(format!("{}: {gap}", path.display()));
                        break;
                    }
                }
            }
            Ok(())
        };
        read().map_err(failed)?;
        let Some(range) = self.replay.range_of(key) else {
            return self.note_unreadable(key, path, file).map_err(failed);
        };
        let (first, last) = range.into_inner();
        let what = SetAside { path, bytes: header.file_bytes, first, last };
        self.asides.insert(key, Aside { sequence: header.sequence, file, what });
        Ok(())
    }

    /// Keeps a file of set-aside entries without a readable one until its replica is repaired.
    fn note_unreadable(
        &mut self,
        key: ReplicaKey,
        path: PathBuf,
        file: Arc<dyn File>,
    ) -> io::Result<()> {
        self.notes.push(format!(
            "{}: no entry of replica {} of shard {} that was set aside can be read; the file is removed at the start \
             after a repair of the shard",
            path.display(),
            key.replica,
            key.shard,
        ));
        let what = SetAside { path, bytes: file.len()?, first: 0, last: 0 };
        self.asides.insert(key, Aside { sequence: ASIDE_SEQUENCE_MIN, file, what });
        Ok(())
    }

    /// Takes a file as a part of the log or as a spare. Returns a damaged one whose sequence is
    /// unknown.
    fn open_file(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        failed: &dyn Fn(io::Error) -> OpenError,
    ) -> Result<Option<OldFile>, OpenError> {
        let path = files::file_path(dir, number);
        let file = disk.open(&path, Open::Read).map_err(failed)?;
        let bytes = file.len().map_err(failed)?;
        let scan = Scan::default();
        let mut old =
            OldFile { sequence: 0, number, bytes, file, header: None, sealed_round: 0, scan };
        match header::read(&*old.file, Some(number)).map_err(failed)? {
            FileStart::Version(found) => {
                return Err(OpenError::Version { path, found, supported: VERSION });
            }
            FileStart::Reserved { label, second_bad } => {
                self.spares.push(FoundSpare { label, second_bad });
                return Ok(None);
            }
            FileStart::Begun { header, rounds_at, sealed_round, parts_bad } => {
                if parts_bad > 0 {
                    let path = path.display();
                    self.notes.push(format!("{path}: {parts_bad} of 6 header parts are damaged"));
                }
                old.sequence = header.sequence;
                old.sealed_round = sealed_round;
                old.header = Some((header, rounds_at));
            }
            FileStart::Unreadable { sequence } => {
                self.notes.push(format!("{}: the header is unreadable", path.display()));
                let Some(sequence) = sequence else { return Ok(Some(old)) };
                old.sequence = sequence;
            }
        }
        self.files.push(old);
        Ok(None)
    }

    /// Takes all but one of the files that claim the same sequence. What they have is unknown, so
    /// they count as unreadable; the one that stays is readable if any of them is.
    fn take_duplicates(&mut self) -> Vec<OldFile> {
        self.files.sort_by_key(|old| (old.sequence, old.header.is_none()));
        let mut duplicates = Vec::new();
        for old in mem::take(&mut self.files) {
            if self.files.last().is_some_and(|last| last.sequence == old.sequence) {
                let path = files::file_path(Path::new(""), old.number);
                let sequence = old.sequence;
                self.notes.push(format!("{}: sequence {sequence} occurs twice", path.display()));
                duplicates.push(OldFile { header: None, ..old });
            } else {
                self.files.push(old);
            }
        }
        duplicates
    }

    /// Sorts the files by sequence. A file of an unknown sequence gets one that no other has:
    /// between the others if one is missing there, else behind them. So it has the same one at the
    /// next start.
    fn put_in_order(&mut self, unknown: Vec<OldFile>) {
        for mut old in unknown {
            self.files.sort_by_key(|old| old.sequence);
            let next = |pair: &[OldFile]| {
                let next = pair[0].sequence.saturating_add(1);
                (next < pair[1].sequence).then_some(next)
            };
            let behind = self.files.last().map_or(1, |last| last.sequence.saturating_add(1));
            old.sequence = self.files.windows(2).find_map(next).unwrap_or(behind);
            self.files.push(old);
        }
        self.files.sort_by_key(|old| old.sequence);
        let last = self.files.last();
        self.sequence_next = last.map_or(1, |last| last.sequence.saturating_add(1));
    }

    /// The first pass, newest file first, because a newer file determines where an older one ends.
    fn scan(&mut self, copy_bytes_max: u64) -> io::Result<()> {
        let mut limit = None;
        for old in self.files.iter_mut().rev() {
            let Some((header, rounds_at)) = &old.header else { continue };
            let mut window = Window::new(&*old.file)?;
            let start = RoundStart { position: *rounds_at, round: header.first_round };
            let id = FileId::of(header);
            let scanned = ScannedFile { id, file_bytes: header.file_bytes, start };
            let open = End::Open { sealed_round: old.sealed_round };
            old.scan = scan::scan(&mut window, scanned, limit.map_or(open, End::Before))?;
            limit = Some(limit.unwrap_or(u64::MAX).min(header.first_round));
        }
        let Some(newest) = self.files.last_mut() else { return Ok(()) };
        let Some((header, _)) = &newest.header else {
            // The rounds of an unreadable file are unknown, so continue after all known ones.
            let ends = self.files.iter().filter_map(|old| old.scan.round_end());
            self.first_round = ends.max().unwrap_or(1).max(limit.unwrap_or(1));
            return Ok(());
        };
        self.first_round = newest.scan.round_end().unwrap_or(header.first_round);
        self.copied = newest.scan.take_last(copy_bytes_max);
        if let Some(first) = self.copied.first() {
            self.first_round = first.round;
        }
        Ok(())
    }

    /// The second pass: replays the records of all files.
    fn replay_files(&mut self) -> io::Result<()> {
        for old in &self.files {
            self.replay.usage.begin_file(old.sequence);
            let Some((header, _)) = &old.header else {
                self.replay.lose_everything("the header of a file is unreadable");
                continue;
            };
            self.replay.begin_file(&header.table);
            let file_id = FileId::of(header);
            let mut window = Window::new(&*old.file)?;
            for event in &old.scan.events {
                match event {
                    Event::Frame(frame) => {
                        self.rounds += 1;
                        self.replay.frame(&mut window, file_id, frame)?;
                    }
                    Event::Gap(gap) => {
                        let path = files::file_path(Path::new(""), old.number);
                        self.notes.push(format!("{}: {gap}", path.display()));
                        let salvaged = salvage::salvage(&mut window, file_id, gap)?;
                        self.replay.salvaged(&mut window, file_id, salvaged)?;
                    }
                }
            }
        }
        let kept: Vec<u64> =
            self.files.iter().filter(|old| old.contributes()).map(|old| old.sequence).collect();
        self.replay.usage.files.retain(|file| kept.contains(&file.sequence));
        Ok(())
    }

    /// The table of the new file: the state before its first round.
    pub(crate) fn table(&self) -> &Replicas {
        &self.replay.replicas
    }

    /// The records of each round to copy. They are not replayed yet, because the disk may not have
    /// them.
    pub(crate) fn rounds_to_copy(&self) -> io::Result<Vec<Vec<Record>>> {
        let Some(newest) = self.files.last() else { return Ok(Vec::new()) };
        let Some((header, _)) = &newest.header else { return Ok(Vec::new()) };
        let mut window = Window::new(&*newest.file)?;
        let file_id = FileId::of(header);
        self.copied.iter().map(|frame| read_records(&mut window, file_id, frame)).collect()
    }

    /// Replays the copied rounds from the new file, in which they are durable.
    pub(crate) fn replay_fresh(&mut self, fresh: &Active, rounds_at: u64) -> io::Result<()> {
        self.replay.usage.begin_file(fresh.sequence());
        let file_id = FileId { file_sequence: fresh.sequence(), salt: fresh.label.salt };
        let mut window = Window::new(&*fresh.file)?;
        let mut at = rounds_at;
        for copied in &self.copied {
            let frame = scan::frame_at(&mut window, file_id, at)?;
            let Some(frame) = frame.filter(|frame| frame.round == copied.round) else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the disk does not give back a round that was just synced",
                ));
            };
            self.rounds += 1;
            self.replay.frame(&mut window, file_id, &frame)?;
            at = frame.end();
        }
        Ok(())
    }

    /// The number of the next round to write.
    pub(crate) fn round_next(&self) -> u64 {
        self.first_round + self.copied.len() as u64
    }

    /// Ends the recovery. Missing entries are determined only here, because the last round may have
    /// truncated or replaced them.
    pub(crate) fn finish(mut self) -> RecoveryOutcome {
        self.replay.settle();
        let newest = self.files.last();
        let torn_tail_bytes = newest.map_or(0, |newest| newest.scan.torn_tail_bytes);
        let tables_complete = self.replay.tables_complete();
        let Replay { replicas, usage, entries, .. } = self.replay;
        let recovered = RecoveredLog {
            replicas: replay::recovered(&replicas, entries),
            torn_tail_bytes,
            rounds: self.rounds,
            notes: self.notes,
        };
        let (asides, old_files) = (self.asides, self.files);
        RecoveryOutcome { recovered, replicas, usage, asides, old_files, tables_complete }
    }
}
