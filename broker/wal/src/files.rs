//! The files of the log: their names, reading from them, and the spare ones.
//!
//! A spare file is preallocated and waits to become the next one, so that beginning a file
//! costs a header and a name and no round waits for 64 MiB of zeroes. What takes long is a
//! [`Chore`]: the log says what is to be done, any thread may do it, and the log takes note
//! of the outcome.
//!
//! # After a crash
//!
//! A file called `creating-…` was not finished and is removed. One called `spare-…` is whole.
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

/// A preallocated file that is not part of the log.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
}

impl Spare {
    /// Makes a preallocated file. Running out of space is an error of its own kind and leaves
    /// nothing behind.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
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
                if ropewalk_disk::is_full(&error) {
                    disk.remove(&unfinished)?;
                }
                return Err(error);
            }
        };
        let path = spare_path(dir, number);
        disk.rename(&unfinished, &path)?;
        Ok(Self { path, file, bytes })
    }
}

fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("spare-{number:016x}"))
}

/// A file that the log no longer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    /// The number of the spare file it becomes; `None` to unlink it.
    pub(crate) spare_number: Option<u64>,
}

/// Slow work on files that are not part of the log.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Make a spare file.
    Create { number: u64, bytes: u64 },
    /// Take files out of the log, oldest first.
    Retire(Vec<Retired>),
}

/// What came of a [`Chore`].
#[derive(Debug)]
pub(crate) struct ChoreDone {
    pub(crate) spares: Vec<Spare>,
    pub(crate) was_create: bool,
    pub(crate) result: io::Result<()>,
}

impl Chore {
    /// Does the work. Blocks for as long as the disk takes.
    pub(crate) fn run(self, disk: &dyn Disk, dir: &Path) -> ChoreDone {
        match self {
            Self::Create { number, bytes } => {
                let (spares, result) = match Spare::create(disk, dir, (number, bytes)) {
                    Ok(spare) => (vec![spare], Ok(())),
                    Err(error) => (Vec::new(), Err(error)),
                };
                ChoreDone { spares, was_create: true, result }
            }
            Self::Retire(files) => {
                let mut spares = Vec::new();
                let retire = |file| retire(disk, dir, file, &mut spares);
                let result = files.into_iter().try_for_each(retire);
                ChoreDone { spares, was_create: false, result }
            }
        }
    }
}

fn retire(
    disk: &dyn Disk,
    dir: &Path,
    retired: Retired,
    spares: &mut Vec<Spare>,
) -> io::Result<()> {
    let path = file_path(dir, retired.sequence);
    let Some(number) = retired.spare_number else {
        disk.remove(&path)?;
        return disk.sync_dir(dir, WHY_RETIRE);
    };
    let spare = spare_path(dir, number);
    disk.rename(&path, &spare)?;
    disk.sync_dir(dir, WHY_RETIRE)?;
    let file = disk.open(&spare, Open::Durable)?;
    spares.push(Spare { path: spare, file, bytes: retired.bytes });
    Ok(())
}

/// The spare files, and those on their way to be one.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    pub(crate) ready: Vec<Spare>,
    number_next: u64,
    creating_bytes: u64,
    retiring: usize,
    retiring_bytes: u64,
    to_retire: Vec<Retired>,
    /// The last attempt to create one found the disk full.
    pub(crate) full: bool,
    /// It is time for another attempt; until it is made, the disk counts as full.
    pub(crate) retry: bool,
}

impl Spares {
    /// Takes over the spare files of a former run that are whole and of this size, and removes
    /// the others.
    pub(crate) fn adopt(
        disk: &dyn Disk,
        dir: &Path,
        names: &[String],
        bytes: u64,
    ) -> io::Result<Self> {
        let mut spares = Self::default();
        for name in names {
            let path = dir.join(name);
            if name.starts_with("creating-") {
                disk.remove(&path)?;
            } else if let Some(digits) = name.strip_prefix("spare-") {
                let file = disk.open(&path, Open::Durable)?;
                if file.len()? == bytes {
                    spares.ready.push(Spare { path, file, bytes });
                } else {
                    disk.remove(&path)?;
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

    /// Ready, being created, or about to become spare.
    pub(crate) fn count_expected(&self) -> usize {
        let becoming = self.to_retire.iter().filter(|file| file.spare_number.is_some()).count();
        self.ready.len() + usize::from(self.creating_bytes > 0) + self.retiring + becoming
    }

    pub(crate) fn bytes(&self) -> u64 {
        let waiting: u64 = self.to_retire.iter().map(|file| file.bytes).sum();
        let ready: u64 = self.ready.iter().map(|spare| spare.bytes).sum();
        ready + waiting + self.creating_bytes + self.retiring_bytes
    }

    pub(crate) fn retire(&mut self, file: Retired) {
        self.to_retire.push(file);
    }

    /// Whether a chore was handed out and is not done.
    pub(crate) fn chore_in_flight(&self) -> bool {
        self.creating_bytes > 0 || self.retiring_bytes > 0
    }

    /// The retirements that wait, as one chore. One at a time: they depend on their order.
    pub(crate) fn retirements(&mut self) -> Option<Chore> {
        if self.to_retire.is_empty() || self.retiring_bytes > 0 {
            return None;
        }
        let files = std::mem::take(&mut self.to_retire);
        self.retiring = files.iter().filter(|file| file.spare_number.is_some()).count();
        self.retiring_bytes = files.iter().map(|file| file.bytes).sum();
        Some(Chore::Retire(files))
    }

    /// A new spare file, unless one is on its way.
    pub(crate) fn creation(&mut self, bytes: u64) -> Option<Chore> {
        if self.creating_bytes > 0 {
            return None;
        }
        self.creating_bytes = bytes;
        self.retry = false;
        let number = self.next_number();
        Some(Chore::Create { number, bytes })
    }

    /// Takes note of a chore. A full disk is no failure; everything else is.
    pub(crate) fn done(&mut self, done: ChoreDone) -> io::Result<()> {
        self.ready.extend(done.spares);
        if done.was_create {
            self.creating_bytes = 0;
            self.full = done.result.as_ref().is_err_and(ropewalk_disk::is_full);
        } else {
            self.retiring = 0;
            self.retiring_bytes = 0;
        }
        match done.result {
            Err(error) if !self.full || !done.was_create => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
