//! The list of a partition's files for a copy, and the checks of a copy.

use std::path::Path;
use std::sync::Arc;

use ropewalk_batch::{Builder, StampedBatch};
use ropewalk_disk::{Disk, SimDisk};

use crate::copy::{CopiedIndex, list, paths, sum, sum_of};
use crate::{DurableEnd, FileCache, SegmentConfig, SegmentError, Segments};

const DIR: &str = "/p";

/// Appends batches of one record to segments of about five blocks, one block for each batch.
fn append(segments: &mut Segments, count: i64, value: u8) -> DurableEnd {
    let config = SegmentConfig { segment_bytes: 1_000, ..SegmentConfig::default() };
    for _ in 0..count {
        let offset = segments.next_offset();
        let key = offset.to_le_bytes();
        let bytes = Builder::new().record(offset, Some(&key), Some(&[value; 100])).build();
        let batch = StampedBatch::new(bytes, offset, 1).expect("a batch");
        segments.append(&[batch], 0, &config).expect("there is room");
    }
    segments.sync().expect("durable")
}

fn opened(disk: &SimDisk) -> Segments {
    let (disk, files) = (Arc::new(disk.clone()), Arc::new(FileCache::new(8)));
    Segments::open(disk, files, DIR.into(), None, 0).expect("an empty directory")
}

#[test]
fn o4_the_listed_segments_are_those_of_the_durable_end() {
    let disk = SimDisk::new(1);
    let mut segments = opened(&disk);
    let end = append(&mut segments, 17, 1);
    append(&mut segments, 12, 2);
    let dir = Path::new(DIR);
    let found = list(&disk, dir, &end, 0).expect("intact");
    assert!(found.len() > 2);
    assert!(found.windows(2).all(|pair| pair[0].next_offset == pair[1].base_offset));
    assert_eq!((found[0].base_offset, found[found.len() - 1].next_offset), (0, 17));
    assert_eq!(found[found.len() - 1].log_bytes, end.position_bytes);
    let later = list(&disk, dir, &end, found[1].base_offset + 1).expect("intact");
    assert_eq!(later, found[1..], "from the segment that holds the log start");
    assert_eq!(list(&disk, dir, &end, 17).expect("intact"), [], "nothing is left");
    disk.remove(&paths(dir, found[1].base_offset)[1]).expect("it is there");
    assert!(matches!(list(&disk, dir, &end, 0), Err(SegmentError::Damaged(_))));
}

#[test]
fn d3_a_damaged_index_is_not_listed() {
    let disk = SimDisk::new(1);
    let end = append(&mut opened(&disk), 17, 1);
    let [log, index] = paths(Path::new(DIR), 0);
    let listed = |disk: &SimDisk| list(disk, Path::new(DIR), &end, 0);
    assert!(disk.corrupt(&index, 100, 1));
    assert!(matches!(listed(&disk), Err(SegmentError::Damaged(_))));
    assert!(disk.corrupt(&index, 100, 1));
    assert!(listed(&disk).is_ok());
    assert!(disk.truncate(&log, 50));
    assert!(matches!(listed(&disk), Err(SegmentError::Damaged(_))));
}

/// Two logs are equal up to the first block that their indexes describe differently.
#[test]
fn what_two_copies_have_in_common_ends_at_the_first_block_that_differs() {
    let (one, other) = (SimDisk::new(1), SimDisk::new(2));
    let open = |disk: &SimDisk| {
        CopiedIndex::open(disk, Path::new(DIR), 0, None).expect("its header is intact")
    };
    let (mut first, mut second) = (opened(&one), opened(&other));
    append(&mut first, 4, 1);
    append(&mut second, 2, 1);
    append(&mut second, 2, 9);
    let (first, second) = (open(&one), open(&other));
    let blocks = first.read(0).expect("intact");
    assert_eq!((blocks.len(), first.blocks()), (4, 4));
    assert_eq!(first.common_bytes(&second).expect("intact"), blocks[1].end_bytes());
    assert_eq!(first.common_bytes(&first).expect("intact"), blocks[3].end_bytes());
    assert_eq!(first.block_at(blocks[2].position_bytes).expect("intact"), 2);
    assert_eq!(first.block_at(blocks[3].end_bytes()).expect("intact"), 4);
}

/// CRC-32C is the same for any two indexes of equal length, because each part of them ends with its
/// own CRC-32C.
#[test]
fn d3_a_sum_tells_files_apart_that_contain_their_own_checksums() {
    let sums = [1, 2].map(|value| {
        let disk = SimDisk::new(1);
        append(&mut opened(&disk), 4, value);
        let [_, path] = paths(Path::new(DIR), 0);
        let bytes = disk.content(&path).expect("it was written");
        assert_eq!(sum(&disk, &path, bytes.len() as u64).expect("readable"), sum_of(&bytes));
        (ropewalk_crc::of(&bytes), sum_of(&bytes))
    });
    assert_eq!(sums[0].0, sums[1].0, "of no use");
    assert_ne!(sums[0].1, sums[1].1);
}
