//! The files of the log: their names, reading from them, and the spare ones.
//!
//! A spare file is preallocated and waits to become the next one, so that beginning a file
//! costs a header and a name and no round waits for 64 MiB of zeroes. Two small ones wait for the next
//! starts, which begin a file too and may find the disk full. What takes long is a
//! [`Chore`]: the log says what is to be done, any thread may do it, and the log takes note
//! of the outcome.
//!
//! # After a crash
//!
//! A file called `creating-…` was not finished and is removed. One called `spare-…` or `start-…` is whole.
//! Files are retired oldest first, each name durable before the next one is touched, so
//! that what is left of the log never has a hole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use ropewalk_disk::{Disk, File, Open};

const WHY_RETIRE: &str = "wal-retire";
/// Files that are kept for starts: the file that one start began is let go by the next one, which needs another.
const STARTS_WANTED: usize = 2;
/// Left to others when a file is created.
const FREE_BYTES_MARGIN: u64 = 1 << 20;

pub(crate) fn file_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.wal"))
}

/// The sequence in the name of a file of the log; `None` for another name.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Where the payload of an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub(crate) file_sequence: u64,
    pub(crate) position: u64,
    pub(crate) len_bytes: u32,
    pub(crate) crc: u32,
}

/// Reads entries from the log's files while the log is being written.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    files: Arc<RwLock<BTreeMap<u64, Arc<dyn File>>>>,
}

impl Reader {
    pub(crate) fn insert(&self, sequence: u64, file: Arc<dyn File>) {
        self.files.write().insert(sequence, file);
    }

    pub(crate) fn remove(&self, sequence: u64) {
        self.files.write().remove(&sequence);
    }

    /// The payload of an entry, its checksum verified. [`io::ErrorKind::NotFound`] if its file
    /// has been recycled, [`io::ErrorKind::InvalidData`] if the checksum is wrong.
    pub fn read(&self, location: &Location) -> io::Result<Bytes> {
        if location.len_bytes == 0 {
            return Ok(Bytes::new());
        }
        let file = self.files.read().get(&location.file_sequence).cloned();
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let mut payload = vec![0; location.len_bytes as usize];
        file.read_exact_at(&mut payload, location.position)?;
        if crc32c::crc32c(&payload) != location.crc {
            let message = format!("checksum of a log entry is wrong: {location:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(payload.into())
    }
}

/// What a file that is not part of the log yet waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To become the next file.
    Spare,
    /// To become the first file of a start, so that it needs no room on a full disk.
    Start,
}

impl Purpose {
    fn prefix(self) -> &'static str {
        match self {
            Self::Spare => "spare-",
            Self::Start => "start-",
        }
    }

    fn path(self, dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{}{number:016x}", self.prefix()))
    }
}

/// A preallocated file that is not part of the log.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
}

impl Spare {
    /// Makes a preallocated file. A want of space, descriptors or memory leaves nothing behind.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        purpose: Purpose,
        (number, bytes): (u64, u64),
    ) -> io::Result<Self> {
        if disk.free_bytes(dir)? < bytes.saturating_add(FREE_BYTES_MARGIN.min(bytes)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let unfinished = dir.join(format!("creating-{number:016x}"));
        let made = disk.open(&unfinished, Open::CreateOrTruncate).and_then(|_| {
            let file = disk.open(&unfinished, Open::Durable)?;
            file.preallocate(bytes)?;
            Ok(file)
        });
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                if may_pass(&error) {
                    remove(disk, &unfinished)?;
                }
                return Err(error);
            }
        };
        let path = purpose.path(dir, number);
        disk.rename(&unfinished, &path)?;
        Ok(Self { path, file, bytes })
    }
}

/// Whether making a file may succeed later, and its failure says nothing of the log.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    ropewalk_disk::is_full(error) || ropewalk_disk::is_scarce(error)
}

/// Removes a file, if it is there.
fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A file that the log no longer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetiredFile {
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    /// What it is kept for, and its number as that; `None` to unlink it.
    pub(crate) becomes: Option<(Purpose, u64)>,
}

/// Slow work on files that are not part of the log.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Make a file.
    Create { purpose: Purpose, number: u64, bytes: u64 },
    /// Take files out of the log, oldest first.
    Retire(Vec<RetiredFile>),
}

/// What came of a [`Chore`].
#[derive(Debug)]
pub(crate) struct ChoreResult {
    files: Vec<(Purpose, Spare)>,
    was_create: bool,
    result: io::Result<()>,
}

impl Chore {
    /// Does the work. Blocks for as long as the disk takes.
    pub(crate) fn run(self, disk: &dyn Disk, dir: &Path) -> ChoreResult {
        let mut files = Vec::new();
        match self {
            Self::Create { purpose, number, bytes } => {
                let made = Spare::create(disk, dir, purpose, (number, bytes));
                let result = made.map(|spare| files.push((purpose, spare)));
                ChoreResult { files, was_create: true, result }
            }
            Self::Retire(retired) => {
                let retire = |file| retire(disk, dir, file, &mut files);
                let result = retired.into_iter().try_for_each(retire);
                ChoreResult { files, was_create: false, result }
            }
        }
    }
}

fn retire(
    disk: &dyn Disk,
    dir: &Path,
    retired: RetiredFile,
    files: &mut Vec<(Purpose, Spare)>,
) -> io::Result<()> {
    let path = file_path(dir, retired.sequence);
    let Some((purpose, number)) = retired.becomes else {
        disk.remove(&path)?;
        return disk.sync_dir(dir, WHY_RETIRE);
    };
    let spare = purpose.path(dir, number);
    disk.rename(&path, &spare)?;
    disk.sync_dir(dir, WHY_RETIRE)?;
    match disk.open(&spare, Open::Durable) {
        Ok(file) => files.push((purpose, Spare { path: spare, file, bytes: retired.bytes })),
        // It is not needed: another one is made when there are descriptors again.
        Err(error) if may_pass(&error) => remove(disk, &spare)?,
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The spare files, and those on their way to be one.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    pub(crate) ready: Vec<Spare>,
    /// For the next start, and the one after it.
    pub(crate) starts: Vec<Spare>,
    number_next: u64,
    creating: Option<(Purpose, u64)>,
    retiring: Vec<RetiredFile>,
    to_retire: Vec<RetiredFile>,
    /// The last attempt to create a spare one failed.
    pub(crate) full: bool,
    /// The last attempt to create one for a start failed, which says nothing of the spare ones.
    pub(crate) start_failed: bool,
    /// It is time for another attempt.
    pub(crate) retry: bool,
}

impl Spares {
    /// Takes over the files of a former run that are whole and of the right size, and removes the others.
    pub(crate) fn adopt(
        disk: &dyn Disk,
        dir: &Path,
        names: &[String],
        (bytes, start_bytes): (u64, u64),
    ) -> io::Result<Self> {
        let mut spares = Self::default();
        for name in names {
            let path = dir.join(name);
            let purposes = [Purpose::Spare, Purpose::Start].into_iter();
            let mut named = purposes
                .filter_map(|purpose| Some((purpose, name.strip_prefix(purpose.prefix())?)));
            if name.starts_with("creating-") {
                disk.remove(&path)?;
            } else if let Some((purpose, digits)) = named.next() {
                let file = disk.open(&path, Open::Durable)?;
                let len = file.len()?;
                let spare = Spare { path, file, bytes: len };
                match purpose {
                    Purpose::Spare if len == bytes => spares.ready.push(spare),
                    Purpose::Start if len >= start_bytes && spares.starts.len() < STARTS_WANTED => {
                        spares.starts.push(spare);
                    }
                    Purpose::Spare | Purpose::Start => disk.remove(&spare.path)?,
                }
                let number = u64::from_str_radix(digits, 16).unwrap_or(0);
                spares.number_next = spares.number_next.max(number.saturating_add(1));
            }
        }
        Ok(spares)
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.number_next += 1;
        self.number_next - 1
    }

    /// Those that are being created, or about to be kept for something.
    fn coming(&self) -> impl Iterator<Item = Purpose> {
        let created = self.creating.map(|(purpose, _)| purpose);
        let retired = self.retiring.iter().chain(&self.to_retire);
        created.into_iter().chain(retired.filter_map(|file| Some(file.becomes?.0)))
    }

    /// Spare ones that are ready or coming.
    pub(crate) fn count_expected(&self) -> usize {
        self.ready.len() + self.coming().filter(|purpose| *purpose == Purpose::Spare).count()
    }

    /// Whether another file for a start is wanted.
    pub(crate) fn wants_start(&self) -> bool {
        let coming = self.coming().filter(|purpose| *purpose == Purpose::Start).count();
        self.starts.len() + coming < STARTS_WANTED
    }

    pub(crate) fn bytes(&self) -> u64 {
        let leaving = self.retiring.iter().chain(&self.to_retire);
        let leaving: u64 = leaving.map(|file| file.bytes).sum();
        let ready: u64 = self.ready.iter().chain(&self.starts).map(|spare| spare.bytes).sum();
        ready + leaving + self.creating.map_or(0, |(_, bytes)| bytes)
    }

    pub(crate) fn retire(&mut self, file: RetiredFile) {
        self.to_retire.push(file);
    }

    /// Whether a chore was handed out and is not done.
    pub(crate) fn chore_in_flight(&self) -> bool {
        self.creating.is_some() || !self.retiring.is_empty()
    }

    /// The retirements that wait, as one chore. One at a time: they depend on their order.
    pub(crate) fn retirements(&mut self) -> Option<Chore> {
        if self.to_retire.is_empty() || !self.retiring.is_empty() {
            return None;
        }
        self.retiring = std::mem::take(&mut self.to_retire);
        Some(Chore::Retire(self.retiring.clone()))
    }

    /// A new file, unless one is on its way.
    pub(crate) fn creation(&mut self, purpose: Purpose, bytes: u64) -> Option<Chore> {
        if self.creating.is_some() {
            return None;
        }
        self.creating = Some((purpose, bytes));
        self.retry = false;
        let number = self.next_number();
        Some(Chore::Create { purpose, number, bytes })
    }

    /// Takes note of a chore. A file that could not be made for want of space, descriptors or memory is no
    /// failure of the log; everything else is.
    pub(crate) fn done(&mut self, done: ChoreResult) -> io::Result<()> {
        for (purpose, spare) in done.files {
            match purpose {
                Purpose::Spare => self.ready.push(spare),
                Purpose::Start => self.starts.push(spare),
            }
        }
        if !done.was_create {
            self.retiring.clear();
            return done.result;
        }
        let failed = done.result.as_ref().is_err_and(may_pass);
        match self.creating.take() {
            Some((Purpose::Spare, _)) => self.full = failed,
            Some((Purpose::Start, _)) => self.start_failed = failed,
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
