//! The files of the log: names and reserved files.
//!
//! A file gets its name when it is created and keeps it until it is removed. In between it is
//! *reserved*, begins as the next file of the log, is released, and is reserved again; its
//! [`label`](crate::label) says which. So no name changes while rounds are written.
//!
//! A spare file is preallocated and reserved. When the active file is full, a spare file becomes
//! the next one, which costs a header, so that no round waits for 64 MiB of zeroes. Two smaller
//! files are kept for the next starts, which begin a file too and may find a full disk. Slow work
//! is a [`Chore`]: the log decides what is to do, any thread may do it, and the log then takes the
//! result.
//!
//! # After a crash
//!
//! A file called `creating-…` is incomplete and is removed. Any other one has a durable label.
//! Files are retired oldest first, and each is durably reserved again or removed before the next
//! file is retired, so that the remaining log has no gap.
//!
//! A start reserves every reserved file again with a new salt. So nothing counts that an earlier
//! start wrote to such a file before it ended, and no label counts that is only in the page cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_disk::{Disk, File, Open};

use crate::label::{Label, Purpose, Reservation};
use crate::layout::SEQUENCE_MAX;

const WHY_NAME: &str = "wal-name";
const WHY_RETIRE: &str = "wal-retire";
/// Number of files that are kept for starts. A start releases the file that the previous start
/// began, and needs another one meanwhile.
const STARTS_WANTED: usize = 2;
/// Free bytes that are left on the disk when a file is created.
const FREE_BYTES_MARGIN: u64 = 1 << 20;
/// A file is created in advance only if this many times its size is free.
const FREE_TIMES_IN_ADVANCE: u64 = 8;

pub(crate) fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.wal"))
}

/// The number in the name of a file of the log; `None` for any other name.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Location of the payload of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub(crate) file_sequence: u64,
    pub(crate) position: u64,
    pub(crate) len_bytes: u32,
    pub(crate) crc: u32,
}

/// A file to create.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpareSpec {
    pub(crate) purpose: Purpose,
    /// The number in its name.
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    /// The file is created before it is needed, and only if the disk has much room.
    pub(crate) in_advance: bool,
}

/// Sizes of the files of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpareSizes {
    /// Exact size of a spare file.
    pub(crate) file_bytes: u64,
    /// Smallest size of a file that is kept for a start.
    pub(crate) start_bytes: u64,
}

/// A reserved file that was found at a start.
#[derive(Debug)]
pub(crate) struct FoundSpare {
    pub(crate) label: Label,
    /// The second copy of the label is not valid.
    pub(crate) second_bad: bool,
}

/// A preallocated file that is not part of the log.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) label: Label,
}

impl Spare {
    pub(crate) fn bytes(&self) -> u64 {
        self.label.file_bytes
    }

    /// Creates a preallocated file with its name in the pool, durably. After an error for lack of
    /// space, descriptors or memory, no file remains. `pause` is called while zeroes are written.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        spec: SpareSpec,
        pause: &mut dyn FnMut(u64),
    ) -> io::Result<Self> {
        let unnamed = Self::create_unnamed(disk, dir, spec, pause)?;
        let path = file_path(dir, spec.number);
        disk.rename(&unnamed.path, &path)?;
        disk.sync_dir(dir, WHY_NAME)?;
        Ok(Self { path, ..unnamed })
    }

    /// Like [`Spare::create`], but the file has a name with which the next start removes it.
    pub(crate) fn create_unnamed(
        disk: &dyn Disk,
        dir: &Path,
        spec: SpareSpec,
        pause: &mut dyn FnMut(u64),
    ) -> io::Result<Self> {
        let SpareSpec { purpose, number, bytes, in_advance } = spec;
        let margin = if in_advance {
            bytes.saturating_mul(FREE_TIMES_IN_ADVANCE)
        } else {
            FREE_BYTES_MARGIN.min(bytes)
        };
        if disk.free_bytes(dir)? < bytes.saturating_add(margin) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let reservation = Reservation { reservation: 1, file_bytes: bytes, number, purpose };
        let label = Label::reserve(disk, reservation);
        let path = dir.join(format!("creating-{number:016x}"));
        let made = disk.open(&path, Open::CreateOrTruncate).and_then(|_| {
            let file = disk.open(&path, Open::Durable)?;
            file.preallocate(bytes, pause)?;
            label.write_first(&*file)?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok(Self { path, file, label }),
            Err(error) => {
                if may_pass(&error) {
                    remove(disk, &path)?;
                }
                Err(error)
            }
        }
    }
}

/// Whether the error is temporary and does not affect the log.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    ropewalk_disk::is_full(error) || ropewalk_disk::is_scarce(error)
}

/// Removes a file, if it exists.
fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A file of the log that takes no more rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SealedFile {
    pub(crate) sequence: u64,
    /// The number in its name.
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    /// Its reservation; `None` if it is not readable, and so is not used again.
    pub(crate) reservation: Option<u64>,
}

impl From<&Label> for SealedFile {
    fn from(label: &Label) -> Self {
        let Label { sequence, number, file_bytes: bytes, reservation, .. } = *label;
        Self { sequence, number, bytes, reservation: Some(reservation) }
    }
}

/// A file that the log no longer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetiredFile {
    /// The number in its name.
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    /// Its new reservation; `None` to remove it.
    pub(crate) becomes: Option<(Purpose, u64)>,
    /// It is removed as well if the disk has little room.
    pub(crate) is_surplus: bool,
}

/// Slow work on files, apart from the rounds.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Create a preallocated file.
    Create(SpareSpec),
    /// Remove files from the log, oldest first.
    Retire(Vec<RetiredFile>),
    /// Write into the label of a file that it has begun, and which rounds were durable.
    Mark(Arc<dyn File>, Label),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChoreKind {
    Create,
    Retire,
    Mark,
}

/// The result of a [`Chore`].
#[derive(Debug)]
pub(crate) struct ChoreResult {
    files: Vec<Spare>,
    kind: ChoreKind,
    result: io::Result<()>,
}

impl ChoreResult {
    pub(crate) fn is_mark(&self) -> bool {
        self.kind == ChoreKind::Mark
    }
}

impl Chore {
    /// Does the work. Blocks for as long as the disk needs. `pause` is called with the number of
    /// bytes after each piece of zeroes.
    pub(crate) fn run(
        self,
        disk: &dyn Disk,
        dir: &Path,
        pause: &mut dyn FnMut(u64),
    ) -> ChoreResult {
        let mut files = Vec::new();
        match self {
            Self::Create(spec) => {
                let made = Spare::create(disk, dir, spec, pause);
                let result = made.map(|spare| files.push(spare));
                ChoreResult { files, kind: ChoreKind::Create, result }
            }
            Self::Retire(retired) => {
                let mut retire =
                    |file| retire(disk, dir, file).map(|spare: Option<Spare>| files.extend(spare));
                let result = retired.into_iter().try_for_each(&mut retire);
                ChoreResult { files, kind: ChoreKind::Retire, result }
            }
            Self::Mark(file, label) => {
                let result = label.mark(&*file);
                ChoreResult { files, kind: ChoreKind::Mark, result }
            }
        }
    }
}

/// Takes a file out of the log, durably.
fn retire(disk: &dyn Disk, dir: &Path, retired: RetiredFile) -> io::Result<Option<Spare>> {
    let RetiredFile { number, bytes, becomes, is_surplus } = retired;
    let path = file_path(dir, number);
    let much = bytes.saturating_mul(FREE_TIMES_IN_ADVANCE);
    let is_kept = !is_surplus || disk.free_bytes(dir)? >= much;
    if let Some((purpose, reservation)) = becomes.filter(|_| is_kept) {
        match disk.open(&path, Open::Durable) {
            Ok(file) => {
                let spec = Reservation { reservation, file_bytes: bytes, number, purpose };
                let label = Label::reserve(disk, spec);
                label.replace(&*file)?;
                return Ok(Some(Spare { path, file, label }));
            }
            // The file is not needed: another one is created when there are descriptors again.
            Err(error) if may_pass(&error) => {}
            Err(error) => return Err(error),
        }
    }
    disk.remove(&path)?;
    disk.sync_dir(dir, WHY_RETIRE)?;
    Ok(None)
}

/// The reserved files, and the chores that create them.
#[derive(Debug)]
pub(crate) struct Spares {
    pub(crate) ready: Vec<Spare>,
    /// The files for the next two starts.
    pub(crate) starts: Vec<Spare>,
    number_next: u64,
    creating: Option<SpareSpec>,
    retiring: Vec<RetiredFile>,
    to_retire: Vec<RetiredFile>,
    /// The last creation of a spare file failed.
    pub(crate) full: bool,
    /// The last creation of a file for a start failed. This does not affect spare files.
    pub(crate) start_failed: bool,
    /// The last creation of a file in advance failed. This does not affect other files.
    pub(crate) advance_failed: bool,
    /// Whether a failed creation may be tried again now.
    pub(crate) retry: bool,
}

impl Spares {
    /// Reserves the files from an earlier run again that have the right size, and removes the
    /// others.
    pub(crate) fn adopt(
        disk: &dyn Disk,
        dir: &Path,
        names: &[String],
        found: Vec<FoundSpare>,
        sizes: SpareSizes,
    ) -> io::Result<Self> {
        for name in names.iter().filter(|name| name.starts_with("creating-")) {
            disk.remove(&dir.join(name))?;
        }
        let numbers = names.iter().filter_map(|name| parse_file_name(name));
        let numbers = numbers.filter(|number| *number <= SEQUENCE_MAX);
        let mut spares = Self {
            ready: Vec::new(),
            starts: Vec::new(),
            number_next: numbers.max().unwrap_or(0).saturating_add(1),
            creating: None,
            retiring: Vec::new(),
            to_retire: Vec::new(),
            full: false,
            start_failed: false,
            advance_failed: false,
            retry: false,
        };
        for FoundSpare { label, second_bad } in found {
            let Label { number, purpose, file_bytes, .. } = label;
            let path = file_path(dir, number);
            let file = disk.open(&path, Open::Durable)?;
            let fits = match purpose {
                Purpose::Spare => file_bytes == sizes.file_bytes,
                Purpose::Start => {
                    file_bytes >= sizes.start_bytes && spares.starts.len() < STARTS_WANTED
                }
            };
            if !fits || file.len()? != file_bytes {
                disk.remove(&path)?;
                continue;
            }
            let reservation = label.reservation.saturating_add(1);
            let spec = Reservation { reservation, file_bytes, number, purpose };
            let label = Label::reserve(disk, spec);
            label.renew(&*file, second_bad)?;
            spares.add(Spare { path, file, label });
        }
        Ok(spares)
    }

    fn add(&mut self, spare: Spare) {
        match spare.label.purpose {
            Purpose::Spare => self.ready.push(spare),
            Purpose::Start => self.starts.push(spare),
        }
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.number_next += 1;
        self.number_next - 1
    }

    /// The purposes of files that are being created or retired.
    fn coming(&self) -> impl Iterator<Item = Purpose> {
        let created = self.creating.map(|spec| spec.purpose);
        let retired = self.retiring.iter().chain(&self.to_retire);
        created.into_iter().chain(retired.filter_map(|file| Some(file.becomes?.0)))
    }

    /// Number of spare files that are ready, being created or being retired.
    pub(crate) fn count_expected(&self) -> usize {
        self.ready.len() + self.coming().filter(|purpose| *purpose == Purpose::Spare).count()
    }

    /// Whether another file for a start is needed.
    pub(crate) fn wants_start(&self) -> bool {
        let coming = self.coming().filter(|purpose| *purpose == Purpose::Start).count();
        self.starts.len() + coming < STARTS_WANTED
    }

    pub(crate) fn bytes(&self) -> u64 {
        let leaving = self.retiring.iter().chain(&self.to_retire);
        let leaving: u64 = leaving.map(|file| file.bytes).sum();
        let ready: u64 = self.ready.iter().chain(&self.starts).map(Spare::bytes).sum();
        ready + leaving + self.creating.map_or(0, |spec| spec.bytes)
    }

    pub(crate) fn retire(&mut self, file: RetiredFile) {
        self.to_retire.push(file);
    }

    /// Retires one of the spare files if there are more than `most`.
    pub(crate) fn retire_surplus(&mut self, most: usize) {
        if self.ready.len() > most && self.retiring.is_empty() {
            let surplus = self.ready.pop();
            let retired = |spare: Spare| {
                let Label { number, file_bytes: bytes, .. } = spare.label;
                RetiredFile { number, bytes, becomes: None, is_surplus: true }
            };
            self.to_retire.extend(surplus.map(retired));
        }
    }

    /// Whether a chore is in progress.
    pub(crate) fn chore_in_flight(&self) -> bool {
        self.creating.is_some() || !self.retiring.is_empty()
    }

    /// The pending retirements as one chore. Only one at a time, because their order matters.
    pub(crate) fn retirements(&mut self) -> Option<Chore> {
        if self.to_retire.is_empty() || !self.retiring.is_empty() {
            return None;
        }
        self.retiring = std::mem::take(&mut self.to_retire);
        Some(Chore::Retire(self.retiring.clone()))
    }

    /// A chore that creates a file, unless one is in progress.
    pub(crate) fn creation(
        &mut self,
        purpose: Purpose,
        bytes: u64,
        in_advance: bool,
    ) -> Option<Chore> {
        if self.creating.is_some() {
            return None;
        }
        self.retry = false;
        let spec = SpareSpec { purpose, number: self.next_number(), bytes, in_advance };
        self.creating = Some(spec);
        Some(Chore::Create(spec))
    }

    /// Takes the result of a chore. A file that could not be created for lack of space, descriptors
    /// or memory is no failure of the log; any other error is.
    pub(crate) fn done(&mut self, done: ChoreResult) -> io::Result<()> {
        done.files.into_iter().for_each(|spare| self.add(spare));
        match done.kind {
            ChoreKind::Mark => return done.result,
            ChoreKind::Retire => {
                self.retiring.clear();
                return done.result;
            }
            ChoreKind::Create => {}
        }
        let failed = done.result.as_ref().is_err_and(may_pass);
        match self.creating.take() {
            Some(SpareSpec { in_advance: true, .. }) => self.advance_failed = failed,
            Some(SpareSpec { purpose: Purpose::Spare, .. }) => self.full = failed,
            Some(SpareSpec { purpose: Purpose::Start, .. }) => self.start_failed = failed,
            None => {}
        }
        match done.result {
            Err(error) if ropewalk_disk::is_scarce(&error) => {
                tracing::warn!(%error, "creating a log file failed, will retry");
                Ok(())
            }
            Err(error) if !failed => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
