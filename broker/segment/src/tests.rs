//! Compares the segments of a partition with a model: a list of batches and the durable end.
//!
//! The tests use public functions, on a disk that loses power. They check O4 (no gap, no overlap)
//! at every offset, D3 (damage is an error or is repaired from the log, never wrong data), and that
//! the durable end survives a crash at any operation.

mod compaction;
mod disk;
mod lookup;
mod damage;
mod model;
mod sync;
mod pieces;
mod copy;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::{Builder, StampedBatch};
use ropewalk_disk::{Disk, SimDisk};

use crate::{DurableEnd, FileCache, Reader, SegmentConfig, Segments};

/// A partition on a simulated disk.
struct Bench {
    disk: SimDisk,
    files: Arc<FileCache>,
    dir: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            disk: SimDisk::new(7),
            files: Arc::new(FileCache::new(4)),
            dir: PathBuf::from("/data/partition"),
        };
        bench.disk.create_dir_all(&PathBuf::from("/data")).unwrap();
        bench
    }

    fn open(&self, at: Option<&DurableEnd>, log_start: i64) -> Segments {
        self.try_open(at, log_start).unwrap()
    }

    fn try_open(&self, at: Option<&DurableEnd>, log_start: i64) -> crate::Result<Segments> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Segments::open(disk, self.files.clone(), self.dir.clone(), at, log_start)
    }

    /// Opens after a power loss. Recovery itself loses power again, at two operations that `seed`
    /// picks.
    fn recover(&mut self, at: Option<&DurableEnd>, log_start: i64, seed: u64) -> Segments {
        for again in [seed % 5, seed / 5 % 7] {
            self.disk.crash_at(self.disk.operations() + 1 + again);
            let _half_way = self.try_open(at, log_start);
            self.power_cycle(seed + again);
        }
        self.open(at, log_start)
    }

    /// The machine loses power and comes back.
    fn power_cycle(&mut self, seed: u64) {
        self.disk.power_cycle(seed);
        self.files = Arc::new(FileCache::new(4));
    }

    fn path(&self, base_offset: i64, extension: &str) -> PathBuf {
        crate::files::path(&self.dir, base_offset, extension)
    }
}

/// Small segments and small blocks, so that little data crosses many borders.
fn small() -> SegmentConfig {
    SegmentConfig { segment_bytes: 2_000, segment_ms: 1_000_000, index_interval_bytes: 300 }
}

/// A batch of `records` records at `base_offset`, each with its offset as timestamp.
fn batch(base_offset: i64, records: usize, epoch: i32) -> StampedBatch {
    let mut builder = Builder::new();
    for n in 0..records {
        let value = vec![n as u8; 20];
        builder = builder.record(base_offset + n as i64, Some(b"key"), Some(&value));
    }
    StampedBatch::new(builder.build(), base_offset, epoch).unwrap()
}

/// Batches of these sizes that continue `base_offset`.
fn batches(mut base_offset: i64, sizes: &[usize], epoch: i32) -> Vec<StampedBatch> {
    let mut made = Vec::new();
    for size in sizes {
        made.push(batch(base_offset, *size, epoch));
        base_offset += *size as i64;
    }
    made
}

/// The bytes that a reader should see of a batch.
fn stored(batch: &StampedBatch) -> Bytes {
    let mut bytes = batch.prefix().to_vec();
    bytes.extend_from_slice(&batch.body());
    bytes.into()
}

/// Reads from `from` to the end, `bytes_max` at a time, as a consumer does.
fn read_on(reader: &Reader, from: i64, bytes_max: usize) -> crate::Result<Vec<Bytes>> {
    let mut seen = Vec::new();
    let mut next = from;
    loop {
        let found = reader.read(next, bytes_max, true)?;
        let Some(last) = found.last() else { return Ok(seen) };
        next = StampedBatch::read(last.clone()).unwrap().next_offset();
        seen.extend(found);
    }
}

/// Reads at every offset of `expected` and beyond, and compares byte by byte.
fn assert_holds(segments: &Segments, expected: &[StampedBatch], log_start: i64) {
    let reader = segments.reader();
    let next_offset = expected.last().map_or(log_start, StampedBatch::next_offset);
    assert_eq!(segments.next_offset(), next_offset);
    assert_eq!(reader.next_offset(), next_offset);
    assert!(reader.read(next_offset + 1, 1_000, true).is_err());
    assert!(log_start == 0 || reader.read(log_start - 1, 1_000, true).is_err());
    for from in log_start..=next_offset {
        let wanted: Vec<Bytes> =
            expected.iter().filter(|batch| batch.last_offset() >= from).map(stored).collect();
        let bytes_max = [1, 500, 100_000][(from % 3) as usize];
        assert_eq!(read_on(&reader, from, bytes_max).unwrap(), wanted, "from {from}");
    }
}
