//! The incarnation of the broker: a number that every start raises, so that other brokers
//! distinguish a message of this process from one of an earlier process.
//!
//! The file `incarnation` is `[magic "RWINCAR\0"][version u32 LE][incarnation u64 LE][CRC-32C u32
//! LE over all before]`.
//!
//! # A damaged file
//!
//! A broker whose incarnation is lower than before is refused by the others, and no data depends on
//! the number. So a damaged file is no reason to stop: the time of the start in Unix milliseconds
//! is higher than a count of starts can be, and the count continues from there.
//!
//! # After a crash
//!
//! The file is replaced as a whole and is durable before the number is used. A number may be
//! skipped.

use std::io;

use ropewalk_disk::Open;

use super::{DataDir, DirectoryError, read_whole};

const MAGIC: [u8; 8] = *b"RWINCAR\0";
const VERSION: u32 = 1;
const BYTES: usize = 24;
const FILE: &str = "incarnation";
const UNFINISHED: &str = "incarnation.unfinished";

impl DataDir {
    /// Raises the incarnation of the broker, durably, and returns it: 1 for the first start. It is
    /// higher than every number that was returned for this directory before. `now_ms` is the wall
    /// clock, Unix milliseconds, and is used only if the file is damaged. The caller holds the
    /// lock of the directory, which is formatted.
    ///
    /// # Errors
    /// When a newer broker has written the file, or the disk fails.
    pub fn next_incarnation(&self, now_ms: i64) -> Result<u64, DirectoryError> {
        let (path, unfinished) = (self.root.join(FILE), self.root.join(UNFINISHED));
        let next = match self.incarnation()? {
            Some(last) => last.saturating_add(1),
            None => {
                let next = u64::try_from(now_ms).unwrap_or(0).max(1);
                tracing::error!(
                    path = %path.display(), incarnation = next,
                    "incarnation file is damaged, the count continues from the wall clock",
                );
                next
            }
        };
        let file = self.disk.open(&unfinished, Open::CreateOrTruncate);
        let file = file.map_err(DirectoryError::io(&unfinished))?;
        file.write_all_at(&encode(next), 0).map_err(DirectoryError::io(&unfinished))?;
        file.sync("incarnation").map_err(DirectoryError::sync(&unfinished))?;
        self.disk.rename(&unfinished, &path).map_err(DirectoryError::io(&path))?;
        let synced = self.disk.sync_dir(&self.root, "incarnation-directory");
        synced.map_err(DirectoryError::sync(&self.root))?;
        Ok(next)
    }

    /// The incarnation of the last start, 0 before the first; `None` if the file is damaged.
    fn incarnation(&self) -> Result<Option<u64>, DirectoryError> {
        let path = self.root.join(FILE);
        if !self.disk.exists(&path).map_err(DirectoryError::io(&path))? {
            return Ok(Some(0));
        }
        let bytes = match read_whole(&*self.disk, &path, BYTES as u64) {
            Ok(bytes) => bytes,
            // It is longer than it can be.
            Err(DirectoryError::Io { source, .. }) if source.kind() == io::ErrorKind::Other => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match decode(&bytes) {
            Ok(incarnation) => Ok(incarnation),
            Err(version) => Err(DirectoryError::UnknownVersion { path, version }),
        }
    }
}

fn encode(incarnation: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(incarnation.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// The incarnation; `None` if the bytes are damaged, and the version if it is another one.
fn decode(bytes: &[u8]) -> Result<Option<u64>, u32> {
    if bytes.len() != BYTES || bytes[..8] != MAGIC {
        return Ok(None);
    }
    let (checked, crc) = bytes.split_at(BYTES - 4);
    if crc32c::crc32c(checked).to_le_bytes() != crc {
        return Ok(None);
    }
    let version = u32::from_le_bytes(checked[8..12].try_into().expect("4 bytes"));
    if version != VERSION {
        return Err(version);
    }
    Ok(Some(u64::from_le_bytes(checked[12..].try_into().expect("8 bytes"))))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use ropewalk_disk::{Disk, SimDisk};

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new("/data")).expect("a directory");
        disk
    }

    fn next(disk: &SimDisk) -> Result<u64, DirectoryError> {
        let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
        data.next_incarnation(NOW_MS)
    }

    /// Some starts, of which the first may crash at an operation. Returns whether it did, and
    /// whether all incarnations differ and rise.
    fn rises_through_a_crash(disk: &SimDisk, at: u64, seed: u64) -> (bool, bool) {
        disk.crash_at(disk.operations() + at);
        let mut found = Vec::new();
        let mut crashed = false;
        for _ in 0..3 {
            match next(disk) {
                Ok(incarnation) => found.push(incarnation),
                Err(error) => assert!(disk.crashed(), "{error}"),
            }
            crashed |= disk.crashed();
            disk.power_cycle(seed);
        }
        found.extend(next(disk));
        (crashed, found.is_sorted_by(|before, after| before < after))
    }

    #[test]
    fn an_incarnation_is_never_used_again_whenever_power_goes() {
        for before in 0..2 {
            let mut at = 1;
            while (0..8).any(|seed| {
                let disk = disk();
                for start in 1..=before {
                    assert_eq!(next(&disk).expect("nothing fails"), start);
                }
                let (crashed, rises) = rises_through_a_crash(&disk, at, seed);
                assert!(rises, "a crash at operation {at}, seed {seed}");
                crashed
            }) {
                at += 1;
            }
            assert!(at > 5, "only {at} operations");
        }
    }

    #[test]
    fn no_sync_of_the_incarnation_is_superfluous() {
        for label in ["incarnation", "incarnation-directory"] {
            let is_found = (0..64).any(|seed| {
                let disk = disk();
                disk.ignore_syncs(label);
                !rises_through_a_crash(&disk, 1000, seed).1
            });
            assert!(is_found, "{label}");
        }
    }

    #[test]
    fn the_first_is_1_and_a_damaged_one_continues_from_the_clock() {
        let (disk, path) = (disk(), Path::new("/data/incarnation"));
        assert_eq!(next(&disk).expect("written"), 1);
        assert_eq!(next(&disk).expect("written"), 2);
        let good = disk.content(path).expect("it is there");
        let derived = NOW_MS as u64;
        for at in 0..good.len() {
            disk.put(path, good.clone());
            disk.corrupt(path, at as u64, 1);
            assert_eq!(next(&disk).expect("written"), derived, "byte {at}");
            assert_eq!(next(&disk).expect("written"), derived + 1);
        }
        for bytes in [Vec::new(), good[..10].to_vec(), vec![7; 100]] {
            disk.put(path, bytes);
            assert_eq!(next(&disk).expect("written"), derived);
        }
    }

    #[test]
    fn a_file_of_a_newer_broker_is_refused() {
        let disk = disk();
        let mut newer = encode(5);
        newer[8] = 2;
        let crc = crc32c::crc32c(&newer[..BYTES - 4]).to_le_bytes();
        newer[BYTES - 4..].copy_from_slice(&crc);
        disk.put(Path::new("/data/incarnation"), newer);
        let error = next(&disk).expect_err("refused");
        assert!(matches!(error, DirectoryError::UnknownVersion { version: 2, .. }), "{error}");
    }
}
