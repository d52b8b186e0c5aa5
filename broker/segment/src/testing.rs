//! Gives arbitrary bytes valid checksums, for tests.
//!
//! Property tests and fuzz targets use it to reach the code behind the checksums with impossible
//! offsets, lengths and counts. Not part of release builds.
//!
//! Invariants: only checksums, magic and version are changed.

use std::path::PathBuf;
use std::sync::Arc;

use ropewalk_batch::{Builder, HEADER_LEN, Header, StampedBatch};
use ropewalk_disk::{Disk, SimDisk};

use crate::files::{INDEX, LOG};
use crate::index::{ENTRY_BYTES, HEADER_BYTES, reseal_entry, reseal_header};
use crate::{DurableEnd, FileCache, SegmentConfig, Segments};

/// Position of a batch's checksum, and the position from which it counts.
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

/// Sets the checksum of each batch in a log, following their lengths.
pub fn seal_log(log: &mut [u8]) {
    let mut at = 0;
    while log.len() - at >= HEADER_LEN {
        log[at + 16] = 2;
        let Ok(header) = Header::parse(&log[at..]) else { return };
        let Some(batch) = log.get_mut(at..at + header.size_bytes()) else { return };
        let crc = ropewalk_crc::of(&batch[CRC_FROM..]);
        batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        at += batch.len();
    }
}

/// Sets the checksums of an index over this log: of its header, its entries and their blocks.
pub fn seal_index(index: &mut [u8], log: &[u8], base_offset: i64) {
    let Some((header, entries)) = index.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    reseal_header(header, base_offset);
    let (entries, _) = entries.as_chunks_mut::<ENTRY_BYTES>();
    for (number, entry) in (0..).zip(entries) {
        reseal_entry(entry, log, base_offset, number);
    }
}

/// A valid log and its index: eight batches, a block each, the second epoch from the sixth on.
#[must_use]
pub fn sample() -> (Vec<u8>, Vec<u8>) {
    let sim = SimDisk::new(1);
    let (disk, dir): (Arc<dyn Disk>, _) = (Arc::new(sim.clone()), PathBuf::from("/p"));
    let files = Arc::new(FileCache::new(8));
    let mut segments = Segments::open(disk, files, dir.clone(), None, 0)
        .expect("there is nothing to find damaged");
    let config = SegmentConfig { index_interval_bytes: 300, ..SegmentConfig::default() };
    for n in 0..8 {
        let builder =
            Builder::new().record(n, Some(b"a"), Some(b"1")).record(9 - n, Some(b"b"), None);
        let batch =
            StampedBatch::new(builder.build(), 2 * n, 1 + i32::from(n > 4)).expect("just built");
        segments.append(&[batch], 0, &config).expect("an empty disk has room");
    }
    let content = |extension| sim.content(&crate::files::path(&dir, 0, extension));
    (content(LOG).expect("it was written"), content(INDEX).expect("it was written"))
}

/// Writes these files as two segments, opens them at `end` and calls all functions that read them.
///
/// # Panics
///
/// If a result is neither a batch nor an error, or if damage remains after it was given up.
pub fn survive(log: &[u8], index: &[u8], end: DurableEnd, log_start: i64) {
    let sim = SimDisk::new(1);
    let (disk, dir): (Arc<dyn Disk>, _) = (Arc::new(sim.clone()), PathBuf::from("/p"));
    disk.create_dir_all(&dir).expect("an empty disk has room");
    for base_offset in [0, end.segment_base.clamp(1, 1_000)] {
        let mut index = index.to_vec();
        seal_index(&mut index, log, base_offset);
        sim.put(&crate::files::path(&dir, base_offset, LOG), log.to_vec());
        sim.put(&crate::files::path(&dir, base_offset, INDEX), index);
    }
    let files = Arc::new(FileCache::new(8));
    let opened = Segments::open(disk, files, dir, Some(&end), log_start);
    let mut segments = opened.expect("damage does not keep a partition from being opened");
    ask(&segments, log_start);
    segments.accept_loss().expect("what is damaged can be given up");
    assert_eq!(segments.reader().verify().expect("no disk fails here"), []);
    ask(&segments, log_start);
}

fn ask(segments: &Segments, log_start: i64) {
    let reader = segments.reader();
    let mut from = log_start;
    while let Ok(Some(span)) = reader.plan_read(from, 4_096).and_then(crate::ReadPlan::run_span) {
        assert!(
            span.base_offset < span.next_offset && span.next_offset > from,
            "{span:?} from {from}"
        );
        assert_eq!(span.batches().map(|batch| batch.len()).sum::<usize>(), span.bytes.len());
        from = span.next_offset;
    }
    let _either = reader.offset_for_timestamp(5);
    let _either = reader.max_timestamp();
    let _either = reader.epoch_end(3);
    let _either = reader.visible_count(log_start..from);
}
