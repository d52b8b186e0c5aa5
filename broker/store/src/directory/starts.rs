//! The last starts of the broker, by which other brokers recognise a copy of its data directory.
//!
//! A copy counts on from the incarnation at which it was made. Sooner or later its incarnation is
//! higher than that of the original, and without this file it would take the original's place, with
//! votes and acknowledged records missing from its log (D4). But the starts of the original are not
//! in its file. So each process draws a number, and each start records it here; a broker that knows
//! a start of the original by its number refuses a directory that does not.
//!
//! The file `starts` is `[magic "RWSTART\0"][version u32 LE][count u32 LE][for each start, oldest
//! first: incarnation u64 LE, process u64 LE][CRC-32C u32 LE over all before]`.
//!
//! # What is not known
//!
//! Only starts that follow each other without a gap are kept, and at most [`STARTS_MAX`]. Versions
//! of the broker before this file leave a gap, and so does a crash while the incarnation is raised.
//! A damaged file counts as empty. Starts that are not kept are not compared.

use ropewalk_disk::Open;

use super::{DataDir, DirectoryError, read_whole};

const MAGIC: [u8; 8] = *b"RWSTART\0";
const VERSION: u32 = 1;
const FILE: &str = "starts";
const UNFINISHED: &str = "starts.unfinished";

/// Most starts that are kept.
pub const STARTS_MAX: usize = 16;

/// Magic, version, count and checksum.
const FRAME_BYTES: usize = 20;
const START_BYTES: usize = 16;

/// One start of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The incarnation of the start.
    pub incarnation: u64,
    /// The number that its process drew.
    pub process: u64,
}

impl DataDir {
    /// Records a start, durably, and returns those before it, oldest first. The caller holds the
    /// lock of the directory and has raised its [incarnation](Self::next_incarnation) to that of
    /// the start.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn record_start(&self, start: Start) -> Result<Vec<Start>, DirectoryError> {
        let (path, unfinished) = (self.root.join(FILE), self.root.join(UNFINISHED));
        let mut starts = self.starts()?;
        if starts
            .last()
            .is_none_or(|last| last.incarnation.checked_add(1) != Some(start.incarnation))
        {
            starts.clear();
        }
        let earlier = starts.clone();
        starts.push(start);
        let kept = starts.len().min(STARTS_MAX);
        let bytes = encode(&starts[starts.len() - kept..]);
        let file = self.disk.open(&unfinished, Open::CreateOrTruncate);
        let file = file.map_err(DirectoryError::io(&unfinished))?;
        file.write_all_at(&bytes, 0).map_err(DirectoryError::io(&unfinished))?;
        file.sync("starts").map_err(DirectoryError::sync(&unfinished))?;
        self.disk.rename(&unfinished, &path).map_err(DirectoryError::io(&path))?;
        let synced = self.disk.sync_dir(&self.root, "starts-directory");
        synced.map_err(DirectoryError::sync(&self.root))?;
        Ok(earlier)
    }

    /// The starts in the file; none if there is no file, or it is damaged or of another version.
    fn starts(&self) -> Result<Vec<Start>, DirectoryError> {
        let path = self.root.join(FILE);
        if !self.disk.exists(&path).map_err(DirectoryError::io(&path))? {
            return Ok(Vec::new());
        }
        let bytes_max = FRAME_BYTES + STARTS_MAX * START_BYTES;
        let read = read_whole(&*self.disk, &path, bytes_max as u64);
        let starts = read.ok().and_then(|bytes| decode(&bytes));
        if starts.is_none() {
            tracing::error!(path = %path.display(), "file of the last starts is damaged, it begins again");
        }
        Ok(starts.unwrap_or_default())
    }
}

fn encode(starts: &[Start]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(u32::try_from(starts.len()).expect("it is bounded").to_le_bytes());
    for start in starts {
        out.extend(start.incarnation.to_le_bytes());
        out.extend(start.process.to_le_bytes());
    }
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<Start>> {
    let (checked, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(checked).to_le_bytes() != *crc {
        return None;
    }
    let rest = checked.strip_prefix(&MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?;
    let (count, starts) = rest.split_first_chunk::<4>()?;
    let (starts, rest) = starts.as_chunks::<8>();
    let is_whole =
        rest.is_empty() && starts.len() as u64 == 2 * u64::from(u32::from_le_bytes(*count));
    let numbers = starts.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect::<Vec<_>>();
    let (pairs, _) = numbers.as_chunks::<2>();
    let start =
        |[incarnation, process]: &[u64; 2]| Start { incarnation: *incarnation, process: *process };
    is_whole.then(|| pairs.iter().map(start).collect())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use ropewalk_disk::{Disk, SimDisk};

    use super::*;

    const PATH: &str = "/data/starts";

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new("/data")).expect("a directory");
        disk
    }

    fn start(incarnation: u64) -> Start {
        Start { incarnation, process: incarnation * 7 }
    }

    fn record(disk: &SimDisk, incarnation: u64) -> Result<Vec<Start>, DirectoryError> {
        let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
        data.record_start(start(incarnation))
    }

    #[test]
    fn the_last_starts_are_kept_in_order() {
        let disk = disk();
        for incarnation in 1..=40 {
            let earlier = record(&disk, incarnation).expect("written");
            let first = incarnation.saturating_sub(STARTS_MAX as u64).max(1);
            assert_eq!(earlier, (first..incarnation).map(start).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_gap_hides_what_was_before_it() {
        let disk = disk();
        record(&disk, 1).expect("written");
        record(&disk, 2).expect("written");
        assert_eq!(record(&disk, 4).expect("written"), []);
        assert_eq!(record(&disk, 5).expect("written"), [start(4)]);
        assert_eq!(record(&disk, 5).expect("written"), [], "it did not rise");
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let disk = disk();
        record(&disk, 1).expect("written");
        record(&disk, 2).expect("written");
        let good = disk.content(Path::new(PATH)).expect("it is there");
        for at in 0..good.len() {
            disk.put(Path::new(PATH), good.clone());
            disk.corrupt(Path::new(PATH), at as u64, 1);
            assert_eq!(record(&disk, 3).expect("written"), [], "byte {at}");
        }
        for bytes in [Vec::new(), good[..10].to_vec(), vec![7; 1000]] {
            disk.put(Path::new(PATH), bytes);
            assert_eq!(record(&disk, 3).expect("written"), []);
        }
        disk.put(Path::new(PATH), good);
        assert_eq!(record(&disk, 3).expect("written"), [start(1), start(2)]);
    }

    #[test]
    fn a_start_that_was_recorded_is_there_whenever_power_goes() {
        let mut at = 1;
        loop {
            let mut crashed = false;
            for seed in 0..8 {
                let disk = disk();
                record(&disk, 1).expect("written");
                disk.crash_at(disk.operations() + at);
                let is_recorded = record(&disk, 2).is_ok();
                crashed |= disk.crashed();
                disk.power_cycle(seed);
                let found = record(&disk, 3).expect("nothing fails");
                let expected = [start(1), start(2)];
                assert!(found == expected || (!is_recorded && found.is_empty()), "{found:?}");
            }
            if !crashed {
                break;
            }
            at += 1;
        }
        assert!(at > 5, "only {at} operations");
    }
}
