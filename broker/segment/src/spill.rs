//! Spill files: one file for the small tails of many partitions.
//!
//! A checkpoint writes a small tail of a partition here, because files of its own would cost two
//! fsyncs, and stores the [`SpillExtent`] in its snapshot. Recovery reads the extents back into the
//! tails. A later checkpoint moves them into segments, and the caller removes the file when no kept
//! snapshot names it.
//!
//! ```text
//! header, 16 bytes: "RWSPILL\0", version u32, CRC-32C u32
//! extent:           partition tag [20], base offset i64, next offset i64, length u32,
//!                   then the batches
//! ```
//! Numbers are little-endian.
//!
//! Invariants:
//! - **D3.** The snapshot has the checksum of each extent, over its tag, offsets and batches,
//!   including the prefixes. An extent is used only if the checksum is right and its offsets are
//!   those of the snapshot.
//! - **R1.** The writer holds at most `BUFFER_BYTES` (1 MiB) and the extent that is being added.
//!
//! A crash before [`SpillWriter::finish`] leaves a file that no snapshot names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use ropewalk_batch::StampedBatch;
use ropewalk_disk::{Disk, File, Open};

use crate::error::{Damage, Result, SegmentError};
use crate::index::search::read;

/// Number of bytes that are collected before a write.
const BUFFER_BYTES: usize = 1 << 20;
const MAGIC: [u8; 8] = *b"RWSPILL\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const EXTENT_HEADER_BYTES: usize = TAG_BYTES + 8 + 8 + 4;

/// Size of a partition's tag: topic id and partition number.
pub const TAG_BYTES: usize = 20;

/// Location and checksum of a partition's batches in a spill file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpillExtent {
    /// Position of the extent in the file.
    pub position: u64,
    /// Size of the batches in bytes.
    pub len: u32,
    /// Offset of the first batch.
    pub base_offset: i64,
    /// Offset behind the last batch.
    pub next_offset: i64,
    /// CRC-32C of the whole extent.
    pub crc: u32,
}

/// Writes one spill file.
#[derive(Debug)]
pub struct SpillWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Number of bytes already written.
    position: u64,
    buffer: Vec<u8>,
}

impl SpillWriter {
    /// Begins a spill file. A file with the same name from before a crash is overwritten, because
    /// no snapshot names it.
    pub fn create(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self> {
        let file = disk.open(&path, Open::CreateOrTruncate);
        let file = file.map_err(|error| SegmentError::io(&path, error))?;
        let buffer = header().to_vec();
        Ok(Self { disk, path, file, position: 0, buffer })
    }

    /// Adds the batches of one partition, which must be contiguous.
    pub fn add(&mut self, tag: [u8; TAG_BYTES], batches: &[StampedBatch]) -> Result<SpillExtent> {
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return Err(SegmentError::NotNext { expected: 0, found: -1 });
        };
        let bytes: usize = batches.iter().map(StampedBatch::size_bytes).sum();
        let len = u32::try_from(bytes).expect("a tail that is spilled is small");
        let start = self.buffer.len();
        let extent = SpillExtent {
            position: self.position + start as u64,
            len,
            base_offset: first.base_offset,
            next_offset: last.next_offset(),
            crc: 0,
        };
        self.buffer.extend_from_slice(&extent.front(&tag));
        for batch in batches {
            let prefix = batch.prefix();
            self.buffer.extend_from_slice(&prefix);
            self.buffer.extend_from_slice(&batch.bytes[prefix.len()..]);
        }
        let crc = ropewalk_crc::of(&self.buffer[start..]);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(SpillExtent { crc, ..extent })
    }

    /// Makes the file and its name durable. The snapshot may name it after this.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.file.sync("spill").map_err(|error| SegmentError::sync(&self.path, error))?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let synced = self.disk.sync_dir(dir, "spill-directory");
        synced.map_err(|error| SegmentError::sync(dir, error))
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_all_at(&self.buffer, self.position);
        written.map_err(|error| SegmentError::io(&self.path, error))?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads one spill file.
#[derive(Debug)]
pub struct SpillReader {
    path: PathBuf,
    file: Arc<dyn File>,
    file_bytes: u64,
}

impl SpillReader {
    /// Opens a spill file that a snapshot names.
    pub fn open(disk: &dyn Disk, path: PathBuf) -> Result<Self> {
        let reader = Self::salvage(disk, path)?;
        reader.check_header()?;
        Ok(reader)
    }

    /// Like [`SpillReader::open`], but ignores the header. The snapshot has the checksum of each
    /// extent.
    pub fn salvage(disk: &dyn Disk, path: PathBuf) -> Result<Self> {
        let file =
            disk.open(&path, Open::Read).map_err(|error| SegmentError::open(&path, error))?;
        let file_bytes = file.len().map_err(|error| SegmentError::io(&path, error))?;
        Ok(Self { path, file, file_bytes })
    }

    /// Checks the header of the file.
    pub fn check_header(&self) -> Result<()> {
        let mut found = [0; HEADER_BYTES];
        read(&*self.file, &self.path, &mut found, 0)?;
        if found == header() {
            return Ok(());
        }
        Err(Damage::new(&self.path, 0, "this is not a spill file of this version").into())
    }

    /// Writes the header again, durably. It is the same in every file of a version, so no
    /// information is lost with it.
    pub fn mend_header(disk: &dyn Disk, path: &Path) -> Result<()> {
        let write = || {
            let file = disk.open(path, Open::ReadWrite)?;
            file.write_all_at(&header(), 0)?;
            Ok(file)
        };
        let file: Arc<dyn File> = write().map_err(|error| SegmentError::io(path, error))?;
        file.sync("spill").map_err(|error| SegmentError::sync(path, error))
    }

    /// Reads and verifies the batches of an extent.
    pub fn read(&self, extent: &SpillExtent) -> Result<Vec<StampedBatch>> {
        let damage = |what: String| Damage::new(&self.path, extent.position, what);
        let size = EXTENT_HEADER_BYTES as u64 + u64::from(extent.len);
        if extent.position.checked_add(size).is_none_or(|end| end > self.file_bytes) {
            return Err(damage("the file ends before the extent does".to_owned()).into());
        }
        let mut bytes = vec![0; size as usize];
        read(&*self.file, &self.path, &mut bytes, extent.position)?;
        let tag = *bytes.first_chunk().expect("an extent begins with its tag");
        if ropewalk_crc::of(&bytes) != extent.crc || !bytes.starts_with(&extent.front(&tag)) {
            return Err(damage("the checksum of the extent is wrong".to_owned()).into());
        }
        let mut rest = Bytes::from(bytes);
        rest.advance(EXTENT_HEADER_BYTES);
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let header = ropewalk_batch::Header::parse(&rest);
            let header = header.map_err(|error| damage(error.to_string()))?;
            let whole = rest.split_to(header.size_bytes().min(rest.len()));
            batches.push(StampedBatch::read(whole).map_err(|error| damage(error.to_string()))?);
        }
        Ok(batches)
    }
}

/// An extent that was identified by its own bytes.
#[derive(Debug)]
pub struct SalvagedExtent {
    /// Tag of its partition.
    pub tag: [u8; TAG_BYTES],
    /// Its location, with the checksum of its bytes.
    pub extent: SpillExtent,
    /// Its batches, which are verified.
    pub batches: Vec<StampedBatch>,
}

impl SpillReader {
    /// The extents of a file without a snapshot, up to the first that cannot be identified. Every
    /// batch has a valid checksum, and the batches have the offsets that their extent states.
    #[must_use]
    pub fn salvage_all(&self) -> Vec<SalvagedExtent> {
        let mut found = Vec::new();
        let mut position = HEADER_BYTES as u64;
        while let Some(salvaged) = self.salvage_at(position) {
            position += EXTENT_HEADER_BYTES as u64 + u64::from(salvaged.extent.len);
            found.push(salvaged);
        }
        found
    }

    fn salvage_at(&self, position: u64) -> Option<SalvagedExtent> {
        let mut front = [0; EXTENT_HEADER_BYTES];
        read(&*self.file, &self.path, &mut front, position).ok()?;
        let mut rest = &front[TAG_BYTES..];
        let (base_offset, next_offset, len) =
            (rest.get_i64_le(), rest.get_i64_le(), rest.get_u32_le());
        let size = EXTENT_HEADER_BYTES as u64 + u64::from(len);
        if position + size > self.file_bytes {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        read(&*self.file, &self.path, &mut bytes, position).ok()?;
        let crc = ropewalk_crc::of(&bytes);
        let extent = SpillExtent { position, len, base_offset, next_offset, crc };
        let batches = self.read(&extent).ok()?;
        let mut expected = base_offset;
        for batch in &batches {
            let is_whole = ropewalk_batch::Header::verify(&batch.bytes).is_ok();
            if !is_whole || batch.base_offset != expected {
                return None;
            }
            expected = batch.next_offset();
        }
        let tag = *front.first_chunk().expect("an extent begins with its tag");
        (expected == next_offset).then_some(SalvagedExtent { tag, extent, batches })
    }
}

impl SpillExtent {
    /// The header of the extent, in front of its batches.
    fn front(&self, tag: &[u8; TAG_BYTES]) -> [u8; EXTENT_HEADER_BYTES] {
        let mut out = [0; EXTENT_HEADER_BYTES];
        out[..TAG_BYTES].copy_from_slice(tag);
        out[20..28].copy_from_slice(&self.base_offset.to_le_bytes());
        out[28..36].copy_from_slice(&self.next_offset.to_le_bytes());
        out[36..].copy_from_slice(&self.len.to_le_bytes());
        out
    }
}

fn header() -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = ropewalk_crc::of(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ropewalk_batch::Builder;
    use ropewalk_disk::SimDisk;

    use super::*;

    fn tail(base_offset: i64, value_bytes: usize) -> Vec<StampedBatch> {
        let batch = |at: i64| {
            let value = vec![at as u8; value_bytes];
            let bytes = Builder::new().record(at, None, Some(&value)).build();
            StampedBatch::new(bytes, base_offset + at, 4).unwrap()
        };
        vec![batch(0), batch(1), batch(2)]
    }

    fn spilled(disk: &SimDisk, partitions: u8, value_bytes: usize) -> (PathBuf, Vec<SpillExtent>) {
        disk.create_dir_all(Path::new("/spill")).unwrap();
        let path = PathBuf::from("/spill/1");
        let mut writer = SpillWriter::create(Arc::new(disk.clone()), path.clone()).unwrap();
        let add = |n| writer.add([n; TAG_BYTES], &tail(i64::from(n), value_bytes)).unwrap();
        let extents = (0..partitions).map(add).collect();
        writer.finish().unwrap();
        (path, extents)
    }

    fn shape(batches: &[StampedBatch]) -> Vec<(i64, i32, Bytes)> {
        batches.iter().map(|b| (b.base_offset, b.leader_epoch, b.body())).collect()
    }

    #[test]
    fn what_was_spilled_survives_a_power_loss() {
        let disk = SimDisk::new(1);
        let (path, extents) = spilled(&disk, 200, 3_000);
        disk.power_cycle(2);
        let reader = SpillReader::open(&disk, path).unwrap();
        for (n, extent) in (0..).zip(&extents) {
            assert_eq!(shape(&reader.read(extent).unwrap()), shape(&tail(n, 3_000)));
            assert_eq!((extent.base_offset, extent.next_offset), (n, n + 3));
        }
    }

    #[test]
    fn an_empty_tail_is_not_spilled() {
        let disk = SimDisk::new(1);
        let mut writer = SpillWriter::create(Arc::new(disk), PathBuf::from("s")).unwrap();
        assert!(writer.add([0; TAG_BYTES], &[]).is_err());
    }

    #[test]
    fn what_was_spilled_can_be_told_without_a_snapshot() {
        let disk = SimDisk::new(1);
        let (path, extents) = spilled(&disk, 20, 300);
        let reader = SpillReader::salvage(&disk, path.clone()).unwrap();
        let found = reader.salvage_all();
        assert_eq!(found.iter().map(|found| found.extent).collect::<Vec<_>>(), extents);
        for (n, found) in (0..).zip(&found) {
            assert_eq!(shape(&found.batches), shape(&tail(n, 300)));
        }
        disk.corrupt(&path, extents[7].position + 60, 1);
        let found = SpillReader::salvage(&disk, path).unwrap().salvage_all();
        assert_eq!(found.len(), 7, "up to the first that cannot be identified");
    }

    proptest! {
        #[test]
        fn d3_a_flip_costs_the_extent_it_touches(place in 0.0..1.0_f64, mask in 1..=255_u8) {
            let disk = SimDisk::new(1);
            let (path, extents) = spilled(&disk, 5, 50);
            let bytes = disk.content(&path).unwrap().len() as f64;
            let at = (place * bytes) as u64;
            disk.corrupt(&path, at, mask);
            let reader = SpillReader::open(&disk, path);
            prop_assert_eq!(reader.is_err(), at < HEADER_BYTES as u64);
            let Ok(reader) = reader else { return Ok(()) };
            for (n, extent) in (0..).zip(&extents) {
                let size = EXTENT_HEADER_BYTES as u64 + u64::from(extent.len);
                let touched = (extent.position..extent.position + size).contains(&at);
                match reader.read(extent) {
                    Ok(batches) => {
                        prop_assert!(!touched);
                        prop_assert_eq!(shape(&batches), shape(&tail(n, 50)));
                    }
                    Err(error) => {
                        prop_assert!(touched);
                        prop_assert!(matches!(error, SegmentError::Damaged(_)));
                    }
                }
            }
        }

        #[test]
        fn d3_an_extent_that_is_not_there_is_damage(position in any::<u64>(), len in any::<u32>()) {
            let disk = SimDisk::new(1);
            let (path, extents) = spilled(&disk, 2, 50);
            let reader = SpillReader::open(&disk, path).unwrap();
            let wrong = SpillExtent { position, len, ..extents[0] };
            prop_assert!(matches!(reader.read(&wrong), Err(SegmentError::Damaged(_))));
            let other_offsets = SpillExtent { next_offset: 9, ..extents[0] };
            prop_assert!(reader.read(&other_offsets).is_err());
        }
    }
}
