//! The files of the log: names, reads, and spare files.
//!
//! A spare file is preallocated. When the active file is full, a spare file becomes the next one,
//! which costs a header and a rename, so that no round waits for 64 MiB of zeroes. Two smaller
//! files are kept for the next starts, which begin a file too and may find a full disk. Slow work
//! is a [`Chore`]: the log decides what is to do, any thread may do it, and the log then takes the
//! result.
//!
//! # After a crash
//!
//! A file called `creating-…` is incomplete and is removed. One called `spare-…` or `start-…` is
//! complete. Files are retired oldest first, and each new name is made durable before the next file
//! is retired, so that the remaining log has no gap.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use ropewalk_disk::{Disk, File, Open};

const WHY_RETIRE: &str = "wal-retire";
/// Number of files that are kept for starts. A start releases the file that the previous start
/// began, and needs another one meanwhile.
const STARTS_WANTED: usize = 2;
/// Free bytes that are left on the disk when a file is created.
const FREE_BYTES_MARGIN: u64 = 1 << 20;

pub(crate) fn file_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.wal"))
}

/// The sequence in the name of a file of the log; `None` for any other name.
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

/// Reads entries from the log's files while the log is being written. Clones share one set of
/// files.
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

    /// Reads the payload of an entry and verifies its checksum. [`io::ErrorKind::NotFound`] if its
    /// file was recycled, [`io::ErrorKind::InvalidData`] if the checksum is wrong.
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

/// Purpose of a file that is not part of the log yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It becomes the next file of the log.
    Spare,
    /// It becomes the first file of a start, which then works on a full disk.
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

/// A file to create.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpareSpec {
    pub(crate) purpose: Purpose,
    /// The number in its name.
    pub(crate) number: u64,
    pub(crate) bytes: u64,
}

/// Sizes of the files of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpareSizes {
    /// Exact size of a spare file.
    pub(crate) file_bytes: u64,
    /// Smallest size of a file that is kept for a start.
    pub(crate) start_bytes: u64,
}

/// A preallocated file that is not part of the log.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
}

impl Spare {
    /// Creates a preallocated file. After an error for lack of space, descriptors or memory, no
    /// file remains.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, spec: SpareSpec) -> io::Result<Self> {
        let SpareSpec { purpose, number, bytes } = spec;
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

/// A file that the log no longer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetiredFile {
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    /// Its new purpose and its number; `None` to remove it.
    pub(crate) becomes: Option<(Purpose, u64)>,
}

/// Slow work on files that are not part of the log.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Create a preallocated file.
    Create(SpareSpec),
    /// Remove files from the log, oldest first.
    Retire(Vec<RetiredFile>),
}

/// The result of a [`Chore`].
#[derive(Debug)]
pub(crate) struct ChoreResult {
    files: Vec<(Purpose, Spare)>,
    was_create: bool,
    result: io::Result<()>,
}

impl Chore {
    /// Does the work. Blocks for as long as the disk needs.
    pub(crate) fn run(self, disk: &dyn Disk, dir: &Path) -> ChoreResult {
        let mut files = Vec::new();
        match self {
            Self::Create(spec) => {
                let made = Spare::create(disk, dir, spec);
                let result = made.map(|spare| files.push((spec.purpose, spare)));
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
        // The file is not needed: another one is created when there are descriptors again.
        Err(error) if may_pass(&error) => remove(disk, &spare)?,
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The spare files, and the chores that create them.
#[derive(Debug, Default)]
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
    /// Whether a failed creation may be tried again now.
    pub(crate) retry: bool,
}

impl Spares {
    /// Takes over complete files of the right size from an earlier run, and removes the others.
    pub(crate) fn adopt(
        disk: &dyn Disk,
        dir: &Path,
        names: &[String],
        sizes: SpareSizes,
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
                    Purpose::Spare if len == sizes.file_bytes => spares.ready.push(spare),
                    Purpose::Start
                        if len >= sizes.start_bytes && spares.starts.len() < STARTS_WANTED =>
                    {
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
        let ready: u64 = self.ready.iter().chain(&self.starts).map(|spare| spare.bytes).sum();
        ready + leaving + self.creating.map_or(0, |spec| spec.bytes)
    }

    pub(crate) fn retire(&mut self, file: RetiredFile) {
        self.to_retire.push(file);
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
    pub(crate) fn creation(&mut self, purpose: Purpose, bytes: u64) -> Option<Chore> {
        if self.creating.is_some() {
            return None;
        }
        self.retry = false;
        let spec = SpareSpec { purpose, number: self.next_number(), bytes };
        self.creating = Some(spec);
        Some(Chore::Create(spec))
    }

    /// Takes the result of a chore. A file that could not be created for lack of space, descriptors
    /// or memory is no failure of the log; any other error is.
    ///
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
        match self.creating.take().map(|spec| spec.purpose) {
            Some(Purpose::Spare) => self.full = failed,
            Some(Purpose::Start) => self.start_failed = failed,
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
