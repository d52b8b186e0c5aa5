//! The log: appends rounds, begins files and releases them.
//!
//! The log has one owner and no lock. Work that takes longer than a round is returned as a
//! [`Chore`] (see [`crate::files`]); without a [`crate::writer`] the log does it itself.
//!
//! # Space
//!
//! When a file is full, the next one is a spare file. The last spare file is the reserve: only
//! rounds that may use the reserve begin it, so that deletes and retention are possible on a full
//! disk. The end of that file is kept for rounds that allow files of the log to be released, so
//! that the log can be emptied even if the reserve is used up. A recovery, which begins a file, has
//! a reserved file of its own. A round without space is refused before a byte is written.

mod open;
mod set_aside;
mod space;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_disk::{Aligned, Disk};

use crate::active::Active;
use crate::aside::Asides;
use crate::files::{Chore, ChoreResult, Location, SealedFile, Spares};
use crate::header::{self, FileHeader};
use crate::label::{Label, Purpose};
use crate::layout::align_up;
use crate::plan::{Plan, Refusal};
use crate::reader::Reader;
use crate::record::{Record, ReplicaKey};
use crate::replicas::{Change, Replicas};
use crate::usage::Usage;

pub use set_aside::SetAsideError;

/// Number of spare files that are kept ready: the next file and the reserve.
const SPARES_WANTED: usize = 2;
/// Without a spare file, this many bytes of the file are kept for rounds that may use the reserve.
pub const RESERVE_BYTES: u64 = 1 << 20;
/// Without a spare file, this many bytes of the file are kept for rounds that allow files to be
/// released, so that the log can be emptied even if the reserve is used up.
pub const RELEASE_BYTES: u64 = 256 << 10;
const _: () = assert!(RELEASE_BYTES < RESERVE_BYTES);
/// Capacity in bytes that the buffer keeps when the log is idle.
const BUFFER_IDLE_BYTES: usize = 64 << 10;

/// Default of [`Options::file_bytes`].
pub const FILE_BYTES: u64 = 64 << 20;

/// The largest sum of the encoded sizes of the records that fit one round of a file of `file_bytes`
/// bytes, for any table of replicas at the start of the file (at most a quarter of it) and any
/// number of replicas with records in the round.
#[must_use]
pub const fn round_records_bytes_max(file_bytes: u64) -> u64 {
    /// Bytes for the frame's header, its directory and the padding to whole blocks.
    const FRAME_BYTES_MAX: u64 = 1 << 20;
    (file_bytes - file_bytes / 4).saturating_sub(FRAME_BYTES_MAX)
}

/// Sizes and limits of the log.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Size of a file in bytes. It bounds a round, and the table of all replicas to a quarter of
    /// it.
    pub file_bytes: u64,
    /// Size in bytes of a file that is created during a start, which waits for it.
    pub first_file_bytes: u64,
    /// Limit of the size of all files together in bytes.
    pub files_bytes_max: u64,
    /// Largest number of files that an idle log keeps for reuse. A log that is written keeps all
    /// that it had in use while the disk has much room, because to create a file again takes as
    /// much of the disk as to write it, and to remove one can stop the device for 60 ms.
    pub spares_max: usize,
    /// Number of spare files that are created while the log is idle and the disk has much room, so
    /// that a burst finds them. With less than two there are two, which are created at any time.
    pub prefilled: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            file_bytes: FILE_BYTES,
            first_file_bytes: 8 << 20,
            files_bytes_max: 2 << 30,
            spares_max: 8,
            prefilled: 4,
        }
    }
}

impl Options {
    /// Size of the files that are kept for the next starts.
    fn start_bytes(&self) -> u64 {
        self.first_file_bytes.min(self.file_bytes)
    }
}

/// Reasons why a round was not written, split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// There is no space for another file. Nothing was written; the same round may fit later.
    #[error("no space for another log file: {bytes} bytes in use of at most {bytes_max}")]
    Full {
        /// Size of all files of the log in bytes.
        bytes: u64,
        /// The limit: [`Options::files_bytes_max`].
        bytes_max: u64,
    },
    /// The round is larger than any file. Nothing was written.
    #[error("a round of {size_bytes} bytes is over the limit of {size_bytes_max}")]
    TooLarge {
        /// Size of the round in bytes.
        size_bytes: u64,
        /// Largest round that fits a file, in bytes.
        size_bytes_max: u64,
    },
    /// The entry would leave a gap, because an earlier one was refused or never submitted. Nothing
    /// was written.
    #[error("entry {index} of {key:?} does not follow the log, which has {start}+1 to {last}")]
    NotContiguous {
        /// The replica of the log.
        key: ReplicaKey,
        /// Index of the entry.
        index: u64,
        /// The log begins after this.
        start: u64,
        /// The log ends with this.
        last: u64,
    },
    /// The disk failed. The round may or may not be on the disk. Final: the process must stop.
    #[error("the log failed: {0}")]
    Failed(Arc<io::Error>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl WalError {
    pub(crate) fn failed(error: io::Error) -> Self {
        Self::Failed(Arc::new(error))
    }

    /// Whether this process can write no more rounds.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Failed(_) | Self::Closed => true,
            Self::Full { .. } | Self::TooLarge { .. } | Self::NotContiguous { .. } => false,
        }
    }
}

impl From<Refusal> for WalError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotContiguous { key, index, span } => {
                Self::NotContiguous { key, index, start: span.start, last: span.last }
            }
            Refusal::TooLarge { size_bytes, size_bytes_max } => {
                Self::TooLarge { size_bytes, size_bytes_max }
            }
        }
    }
}

/// The space that a round may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Admission {
    Normal,
    /// Also the reserve, for records that may free space: deletes, retention.
    Reserve,
    /// All space, for records that allow files of the log to be released.
    Release,
}

/// Result of writing a round: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Sequence of the round. Sequences are dense.
    pub sequence: u64,
    /// Number of records in the round.
    pub records: usize,
    /// Size on disk in bytes.
    pub bytes: u64,
}

/// The write-ahead log of one broker.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    reader: Reader,
    active: Active,
    sealed: VecDeque<SealedFile>,
    spares: Spares,
    /// The new label of the active file, which is still to be written.
    mark: Option<Label>,
    /// A label is being written by a chore.
    marking: bool,
    /// No round was written for some time.
    idle: bool,
    usage: Usage,
    replicas: Replicas,
    /// Files beside the log with entries of damaged replicas.
    asides: Asides,
    /// Size of a header with the current table in bytes.
    header_bytes: u64,
    round_next: u64,
    plan: Plan,
    buffer: Aligned,
    failed: Option<Arc<io::Error>>,
}

impl Wal {
    /// Writes the records as one round. They are durable when this returns.
    pub fn write_round(&mut self, records: &[Record]) -> Result<Round, WalError> {
        self.write_one(records, Admission::Normal)
    }

    /// Like [`Wal::write_round`], but may use the reserve, which is kept for records that free
    /// space.
    pub fn write_round_from_reserve(&mut self, records: &[Record]) -> Result<Round, WalError> {
        self.write_one(records, Admission::Reserve)
    }

    /// Like [`Wal::write_round_from_reserve`], but may use all space. It is meant for records that
    /// allow files of the log to be released.
    pub fn write_round_to_release(&mut self, records: &[Record]) -> Result<Round, WalError> {
        self.write_one(records, Admission::Release)
    }

    fn write_one(&mut self, records: &[Record], admission: Admission) -> Result<Round, WalError> {
        self.begin();
        self.add(records)?;
        while let Some(chore) = self.next_chore() {
            let done = chore.run(&*self.disk, &self.dir, &mut |_| {});
            self.chore_done(done)?;
        }
        self.make_room(admission)?;
        self.commit(records.iter())
    }

    /// Begins to collect a round.
    pub(crate) fn begin(&mut self) {
        self.plan.clear();
    }

    /// Adds records to the round being collected, or refuses all of them.
    pub(crate) fn add(&mut self, records: &[Record]) -> Result<(), WalError> {
        self.check()?;
        let size_bytes_max = self.options.file_bytes.saturating_sub(self.header_bytes);
        self.plan.add(&self.replicas, records, size_bytes_max)?;
        Ok(())
    }

    /// Size in bytes of the round being collected.
    pub(crate) fn collected_bytes(&self) -> u64 {
        self.plan.frame_bytes()
    }

    fn check(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(error) => Err(WalError::Failed(Arc::clone(error))),
            None => Ok(()),
        }
    }

    /// Begins the next file, unless the active one has room for the round that was collected.
    pub(crate) fn make_room(&mut self, admission: Admission) -> Result<(), WalError> {
        self.check()?;
        if self.plan.is_empty() || self.has_room(admission) {
            return Ok(());
        }
        self.begin_next_file(admission)
    }

    /// Writes the round that was collected, for which [`Wal::make_room`] has made room. `records`
    /// are those that were added, in order.
    pub(crate) fn commit<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record> + Clone,
    ) -> Result<Round, WalError> {
        self.check()?;
        if self.plan.is_empty() {
            return Ok(Round { sequence: self.round_next - 1, records: 0, bytes: 0 });
        }
        let removed = self.remove_ended_asides(records.clone()).map_err(WalError::failed);
        removed.inspect_err(|error| self.note_failure(error))?;
        let (sequence, count) = (self.round_next, self.plan.records());
        let (position, directory) = (self.active.position, self.plan.directory());
        let keys = directory.len();
        let written =
            self.active.write_round(sequence, directory, records.clone(), &mut self.buffer);
        let written = written.map_err(WalError::failed);
        let bytes = written.inspect_err(|error| self.note_failure(error))?;
        self.round_next += 1;
        let frame = (&self.buffer[..], keys);
        let located = self.reader.located();
        located.note_round(self.active.sequence(), position, frame, records.clone());
        self.apply_round(records);
        self.plan.clear();
        Ok(Round { sequence, records: count, bytes })
    }

    /// Applies a durable round to the table and to the usage of files.
    fn apply_round<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        let rows = self.replicas.rows.len();
        let mut resized = false;
        for record in records {
            let (key, change) = (record.key(), Change::from(record));
            resized |= change.resizes_row();
            self.usage.apply(key, &change, self.replicas.span(key).last);
            self.replicas.apply(key, change);
        }
        if resized || rows != self.replicas.rows.len() {
            self.header_bytes = header::header_bytes(&self.replicas);
        }
    }

    fn note_failure(&mut self, error: &WalError) {
        if let WalError::Failed(error) = error {
            self.failed = Some(Arc::clone(error));
        }
    }

    /// Whether the collected round fits the active file.
    pub(crate) fn has_room(&self, admission: Admission) -> bool {
        let kept = match admission {
            Admission::Normal | Admission::Reserve if !self.spares.ready.is_empty() => 0,
            Admission::Normal => RESERVE_BYTES.min(self.active.bytes() / 4),
            Admission::Reserve => RELEASE_BYTES.min(self.active.bytes() / 8),
            Admission::Release => 0,
        };
        let end = self.active.position + align_up(self.plan.frame_bytes());
        end + kept <= self.active.bytes()
    }

    /// Whether the collected round can be written without waiting for a chore.
    pub(crate) fn is_ready(&self, admission: Admission) -> bool {
        self.has_room(admission) || self.spares.ready.len() >= spares_needed(admission)
    }

    fn begin_next_file(&mut self, admission: Admission) -> Result<(), WalError> {
        // A failed creation is tried again at most once per round.
        self.spares.retry = true;
        while !self.is_ready(admission) {
            let chore = self.next_chore().ok_or_else(|| self.full())?;
            let done = chore.run(&*self.disk, &self.dir, &mut |_| {});
            self.chore_done(done)?;
        }
        let begun = self.begin_file().map_err(WalError::failed);
        begun.inspect_err(|error| self.note_failure(error))
    }

    /// Makes a spare file the active one. Only its header is written here.
    fn begin_file(&mut self) -> io::Result<()> {
        let spare = self.spares.ready.remove(0);
        let sequence = self.active.sequence() + 1;
        let table = self.replicas.clone();
        let header = FileHeader::new(&spare.label, sequence, self.round_next, table);
        let active = Active::prepare(&spare, &header)?;
        active.write_header(&header, &mut self.buffer)?;
        self.reader.insert(sequence, Arc::clone(&active.file));
        self.usage.begin_file(sequence);
        self.mark = Some(active.label);
        let former = std::mem::replace(&mut self.active, active);
        self.sealed.push_back(SealedFile::from(&former.label));
        Ok(())
    }

    /// Writes durably that all rounds so far were durable, so that a start notices if the last ones
    /// are missing. Does nothing if nothing was written since.
    pub fn seal(&mut self) -> Result<(), WalError> {
        self.check()?;
        self.seal_later();
        let Some(label) = self.mark.take() else { return Ok(()) };
        let marked = label.mark(&*self.active.file).map_err(WalError::failed);
        marked.inspect_err(|error| self.note_failure(error))
    }

    /// Like [`Wal::seal`], as a chore.
    pub(crate) fn seal_later(&mut self) {
        let last_round = self.round_next - 1;
        if self.active.label.sealed_round < last_round {
            self.active.label.sealed_round = last_round;
            self.mark = Some(self.active.label);
        }
    }

    /// Called when no round was written for some time, and when there is one again.
    pub(crate) fn set_idle(&mut self, idle: bool) {
        self.idle = idle;
        if idle && self.failed.is_none() {
            self.seal_later();
        }
    }

    fn full(&self) -> WalError {
        WalError::Full { bytes: self.bytes(), bytes_max: self.options.files_bytes_max }
    }

    /// Slow work to do now, if any.
    pub(crate) fn next_chore(&mut self) -> Option<Chore> {
        if let Some(label) = self.mark.take() {
            self.marking = true;
            return Some(Chore::Mark(Arc::clone(&self.active.file), label));
        }
        if self.idle {
            self.spares.retire_surplus(self.options.spares_max.max(self.options.prefilled));
        }
        if let Some(chore) = self.spares.retirements() {
            return Some(chore);
        }
        if self.spares.full && !self.spares.retry {
            return None;
        }
        let room = self.options.files_bytes_max.saturating_sub(self.bytes());
        let (more, start) = (self.options.file_bytes, self.options.start_bytes());
        if self.spares.count_expected() < SPARES_WANTED && more <= room {
            return self.spares.creation(Purpose::Spare, more, false);
        }
        let may_start = !self.spares.start_failed || self.spares.retry;
        if self.spares.wants_start() && may_start && start <= room {
            return self.spares.creation(Purpose::Start, start, false);
        }
        let in_advance = self.idle && self.spares.count_expected() < self.options.prefilled;
        let may_advance = !self.spares.advance_failed || self.spares.retry;
        if in_advance && may_advance && more <= room {
            return self.spares.creation(Purpose::Spare, more, true);
        }
        None
    }

    pub(crate) fn chore_done(&mut self, done: ChoreResult) -> Result<(), WalError> {
        self.marking &= !done.is_mark();
        let noted = self.spares.done(done).map_err(WalError::failed);
        noted.inspect_err(|error| self.note_failure(error))
    }

    /// Whether a chore writes a label.
    pub(crate) fn is_marking(&self) -> bool {
        self.marking
    }

    pub(crate) fn chore_in_flight(&self) -> bool {
        self.spares.chore_in_flight()
    }

    /// The disk and the directory of the log, for the thread that does the chores.
    pub(crate) fn disk_and_dir(&self) -> (Arc<dyn Disk>, PathBuf) {
        (Arc::clone(&self.disk), self.dir.clone())
    }

    /// Allows a failed creation of a file to be tried again.
    pub(crate) fn retry_creation(&mut self) {
        self.spares.retry = true;
    }

    /// Releases the memory of large rounds.
    pub(crate) fn shrink(&mut self) {
        self.buffer.shrink_to(BUFFER_IDLE_BYTES);
    }

    /// Reads an entry and verifies its checksum.
    pub fn read(&self, location: &Location) -> io::Result<Bytes> {
        self.reader.read(location)
    }

    /// A handle that reads entries while the writer thread owns the log.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }
}

/// Spare files that must be ready. A normal round leaves one as the reserve.
fn spares_needed(admission: Admission) -> usize {
    match admission {
        Admission::Normal => 2,
        Admission::Reserve | Admission::Release => 1,
    }
}
