//! Lists and manifests survive their encoding, and a new set continues an older one.

use proptest::prelude::*;
use ropewalk_shard::TopicId;

use super::*;

fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(3)), index }
}

fn set(number: u64) -> SetId {
    SetId { replica: 1, number }
}

fn segment(index: i32, base_offset: i64, log_bytes: u64, index_sum: u32) -> SetFile {
    let (next_offset, index_bytes) = (base_offset + 10, 112);
    let partition = partition(index);
    SetFile::Segment(SegmentOf {
        partition,
        base_offset,
        next_offset,
        log_bytes,
        index_bytes,
        index_sum,
    })
}

fn list(number: u64, files: Vec<SetFile>) -> List {
    let snapshot = SetFile::Snapshot { bytes: 50, sum: number as u32 };
    let files = [snapshot].into_iter().chain(files).collect();
    List { set: set(number), shard: ShardId(1), index: 7, term: 2, files }
}

fn manifest(list: List, older: Option<&Manifest>) -> Manifest {
    let mut next = older.map_or(0, |old| old.incarnations.len() as u64);
    Manifest::new(9, list, older, || {
        next += 1;
        next
    })
}

/// Marks everything as received.
fn complete(mut manifest: Manifest) -> Manifest {
    for (file, received) in manifest.list.files.iter().zip(&mut manifest.received) {
        *received = Received { has_index: true, bytes: file.content_bytes() };
    }
    manifest
}

fn files() -> impl Strategy<Value = Vec<SetFile>> {
    let keys = proptest::collection::btree_set((0..4_i32, 0..6_i64), 0..12);
    (keys, any::<u32>(), 0..5_u64).prop_map(|(keys, sum, spills)| {
        let segments = keys.into_iter().map(|(index, base)| segment(index, base * 10, 700, sum));
        let spills = (0..spills).map(|number| SetFile::Spill { number, bytes: 40, sum });
        segments.chain(spills).collect()
    })
}

proptest! {
    #[test]
    fn they_survive_their_encoding(
        files in files(),
        number in any::<u64>(),
        received in 0..40_u64,
    ) {
        let list = list(number, files);
        prop_assert_eq!(List::decode(&list.encode()), Ok(list.clone()));
        let mut manifest = manifest(list, None);
        manifest.received[0].bytes = received;
        prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn d3_every_flipped_bit_is_seen(files in files(), place in 0.0..1.0_f64, bit in 0..8_u8) {
        let manifest = manifest(list(1, files), None);
        for mut bytes in [manifest.encode(), manifest.list.encode()] {
            let at = (place * bytes.len() as f64) as usize;
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(matches!(Manifest::decode(&bytes), Err(FormatError::Damaged(_))));
            prop_assert!(matches!(List::decode(&bytes), Err(FormatError::Damaged(_))));
        }
    }

    /// A new set needs only what the older one did not have, and never less.
    #[test]
    fn a_new_set_needs_the_difference(old in files(), new in files()) {
        let older = complete(manifest(list(1, old.clone()), None));
        prop_assert_eq!(older.missing(), None);
        let newer = manifest(list(1, new.clone()), Some(&older));
        for (number, file) in newer.list.files.iter().enumerate() {
            prop_assert_eq!(newer.has(number), older.list.files.contains(file), "{:?}", file);
        }
        let lacks = new.iter().filter(|file| !old.contains(file)).map(SetFile::bytes);
        prop_assert_eq!(newer.missing_bytes(), lacks.sum::<u64>());
        for (partition, incarnation) in &older.incarnations {
            prop_assert_eq!(newer.incarnations.get(partition), Some(incarnation));
        }
    }
}

#[test]
fn a_segment_that_grew_keeps_its_log_until_its_new_index_is_there() {
    let older = complete(manifest(list(1, vec![segment(0, 0, 500, 1)]), None));
    let newer = manifest(list(2, vec![segment(0, 0, 700, 2)]), Some(&older));
    assert_eq!(newer.received[1], Received { has_index: false, bytes: 500 });
    assert!(!newer.has(1));
    // The index of the third set is that of the first, but which index is on the disk is unknown.
    let newest = manifest(list(3, vec![segment(0, 0, 500, 1)]), Some(&newer));
    assert!(!newest.received[1].has_index);
}

#[test]
fn a_snapshot_of_another_entry_is_not_the_one_that_is_there() {
    let older = complete(manifest(list(1, Vec::new()), None));
    let mut same = older.list.clone();
    same.set = set(2);
    assert!(manifest(same.clone(), Some(&older)).has(0));
    same.index += 1;
    assert!(!manifest(same, Some(&older)).has(0));
}

#[test]
fn d3_a_list_that_contradicts_itself_is_refused() {
    let damaged = |files| {
        let list = List { set: set(1), shard: ShardId(1), index: 7, term: 2, files };
        matches!(List::decode(&list.encode()), Err(FormatError::Damaged(_)))
    };
    let snapshot = SetFile::Snapshot { bytes: 1, sum: 1 };
    assert!(damaged(Vec::new()));
    assert!(damaged(vec![segment(0, 0, 1, 1)]));
    assert!(damaged(vec![snapshot, snapshot]));
    assert!(damaged(vec![snapshot, segment(0, 0, 1, 1), segment(0, 0, 2, 2)]));
    assert!(damaged(vec![snapshot, segment(0, 0, 5 << 30, 1)]));
    assert!(damaged(vec![snapshot, segment(0, -20, 1, 1)]));
    assert!(!damaged(vec![snapshot, segment(0, 0, 1, 1)]));
}

#[test]
fn another_version_is_named() {
    let mut bytes = list(1, Vec::new()).encode();
    bytes[8] = 2;
    let end = bytes.len() - CRC_BYTES;
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(List::decode(&bytes), Err(FormatError::Version(2)));
}
