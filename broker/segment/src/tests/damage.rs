//! D3: damaged bytes are found and reported, and affect nothing else.

use proptest::prelude::*;

use super::*;
use crate::index::{ENTRY_BYTES, HEADER_BYTES};
use crate::{Result, SegmentError};

/// Three segments and a bit, all durable.
fn written(bench: &Bench) -> (Vec<StampedBatch>, DurableEnd) {
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[9, 3, 30, 20, 30, 4, 30, 8, 2], 3);
    for pair in all.chunks(2) {
        segments.append(pair, 0, &small()).unwrap();
    }
    let end = segments.sync().unwrap();
    assert!(segments.infos().len() >= 3);
    (all, end)
}

/// Whether the byte at `at` of a log is one of a batch's leader epoch.
fn is_epoch(log: &[u8], at: u64) -> bool {
    let mut start = 0;
    while start < log.len() {
        let size = ropewalk_batch::Header::parse(&log[start..]).unwrap().size_bytes();
        if (start + 12..start + 16).contains(&(at as usize)) {
            return true;
        }
        start += size;
    }
    false
}

/// Reads from every offset: each read gives what was written, or the error of damage.
fn assert_right_or_damaged(segments: &Segments, all: &[StampedBatch]) -> usize {
    let mut damaged = 0;
    let reader = segments.reader();
    for from in 0..segments.next_offset() {
        let wanted = all.iter().find(|batch| batch.last_offset() >= from).map(stored);
        let found: Result<Vec<Bytes>> = reader.read(from, 1, true);
        match found {
            Ok(found) => assert_eq!(found.first().cloned(), wanted, "from {from}"),
            Err(SegmentError::Damaged(_)) => damaged += 1,
            Err(other) => panic!("{other}"),
        }
    }
    damaged
}

#[test]
fn d3_an_index_is_made_again_when_it_is_gone_or_damaged() {
    let bench = Bench::new();
    let (all, end) = written(&bench);
    let bases: Vec<i64> = bench.open(Some(&end), 0).infos().iter().map(|i| i.base_offset).collect();
    for base in bases {
        let path = bench.path(base, "index");
        let original = bench.disk.content(&path).unwrap();
        bench.disk.remove(&path).unwrap();
        assert_holds(&bench.open(Some(&end), 0), &all, 0);
        bench.disk.corrupt(&path, 20, 1);
        assert_holds(&bench.open(Some(&end), 0), &all, 0);
        bench.disk.corrupt(&path, original.len() as u64 - 1, 1);
        assert_holds(&bench.open(Some(&end), 0), &all, 0);
        bench.disk.truncate(&path, original.len() as u64 - 1);
        assert_holds(&bench.open(Some(&end), 0), &all, 0);
    }
}

#[test]
fn d3_a_rebuilt_index_equals_the_original() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let config = SegmentConfig { segment_bytes: 300_000, ..SegmentConfig::default() };
    let sizes: Vec<usize> = (0..400).map(|n| 1 + n * 7 % 90).collect();
    segments.append(&batches(0, &sizes, 1), 0, &config).unwrap();
    let end = segments.sync().unwrap();
    assert!(segments.infos().len() >= 2);
    for info in segments.infos() {
        let path = bench.path(info.base_offset, "index");
        let original = bench.disk.content(&path).unwrap();
        assert!(original.len() > 64 + 2 * 48);
        bench.disk.remove(&path).unwrap();
        bench.open(Some(&end), 0);
        assert_eq!(bench.disk.content(&path).unwrap(), original);
    }
}

#[test]
fn d3_a_missing_log_is_damage_for_its_offsets_only() {
    let bench = Bench::new();
    let (all, end) = written(&bench);
    let infos = bench.open(Some(&end), 0).infos();
    for info in infos {
        for also_index in [false, true] {
            let lost = Bench::new();
            written(&lost);
            lost.disk.remove(&lost.path(info.base_offset, "log")).unwrap();
            if also_index {
                lost.disk.remove(&lost.path(info.base_offset, "index")).unwrap();
            }
            let mut segments = lost.open(Some(&end), 0);
            assert_eq!(segments.damages().len(), 1, "{:?}", segments.damages());
            let damaged = assert_right_or_damaged(&segments, &all);
            assert_eq!(damaged as i64, info.next_offset - info.base_offset);
            let next = segments.next_offset();
            segments.append(&batches(next, &[3], 4), 0, &small()).unwrap();
            let again = segments.sync().unwrap();
            let segments = lost.open(Some(&again), 0);
            assert_eq!(
                segments.reader().read(next, 1, true).unwrap(),
                [stored(&batch(next, 3, 4))]
            );
            assert_eq!(segments.damages().len(), 1, "{:?}", segments.damages());
        }
    }
}

proptest! {
    #[test]
    fn d3_a_flip_or_cut_anywhere_is_never_believed(
        file in 0..8_usize,
        place in 0.0..1.0_f64,
        mask in 1..=255_u8,
        cut in any::<bool>(),
        restart in any::<bool>(),
        lose_index in any::<bool>(),
    ) {
        let bench = Bench::new();
        let (all, end) = written(&bench);
        let mut segments = bench.open(Some(&end), 0);
        let names = bench.disk.list(&bench.dir).unwrap();
        let name = &names[file % names.len()];
        let path = bench.dir.join(name);
        let content = bench.disk.content(&path).unwrap();
        let at = (place * content.len() as f64) as u64;
        // Without the index, a wrong epoch that does not decrease cannot be detected.
        prop_assume!(cut || !lose_index || !name.ends_with("log") || !is_epoch(&content, at));
        if cut {
            bench.disk.truncate(&path, at);
        } else {
            bench.disk.corrupt(&path, at, mask);
        }
        let index = path.with_extension("index");
        if lose_index {
            let _gone = bench.disk.remove(&index);
        }
        if restart || lose_index {
            segments = bench.open(Some(&end), 0);
        }
        let damaged = assert_right_or_damaged(&segments, &all);
        let is_log = name.ends_with("log");
        if is_log {
            prop_assert!(damaged > 0, "a damaged log cannot be whole");
        }
        let found = segments.reader().verify().unwrap();
        prop_assert_eq!(!found.is_empty(), damaged > 0, "{:?}", found);

        let lost = segments.accept_loss().unwrap();
        prop_assert_eq!(segments.reader().verify().unwrap(), &[]);
        let offsets: i64 = lost.iter().map(|range| range.end - range.start).sum();
        prop_assert!(offsets <= damaged as i64, "{:?}", lost);
        prop_assert!(is_log || offsets == 0, "an index is made again: {:?}", lost);
        let is_lost = |b: &&StampedBatch| lost.iter().any(|range| range.contains(&b.base_offset));
        let left: Vec<Bytes> = all.iter().filter(|batch| !is_lost(batch)).map(stored).collect();
        prop_assert_eq!(&read_on(&segments.reader(), 0, 900).unwrap(), &left);
        // The snapshot from before the repair still leads to the repaired log.
        segments = bench.open(Some(&end), 0);
        prop_assert_eq!(segments.damages(), &[]);
        prop_assert_eq!(&read_on(&segments.reader(), 0, 900).unwrap(), &left);
        let next = segments.next_offset();
        segments.append(&batches(next, &[3], 4), 0, &small()).unwrap();
        let again = segments.sync().unwrap();
        let segments = bench.open(Some(&again), 0);
        prop_assert_eq!(segments.damages(), &[]);
        prop_assert_eq!(read_on(&segments.reader(), 0, 900).unwrap().len(), left.len() + 1);
    }
}

/// Every checksum holds here, of batches, blocks and index; only the offsets are others.
#[test]
fn d3_batches_at_other_offsets_than_their_index_says_are_damage() {
    let all = batches(0, &[2, 2, 2], 1);
    let place = |number: usize| all[..number].iter().map(|batch| stored(batch).len()).sum();
    let forge = |change: &dyn Fn(&mut [u8], &mut [u8])| {
        let bench = Bench::new();
        let mut segments = bench.open(None, 0);
        segments.append(&all, 0, &SegmentConfig::default()).unwrap();
        segments.seal().unwrap();
        let end = segments.sync().unwrap();
        let [log_path, index_path] = ["log", "index"].map(|extension| bench.path(0, extension));
        let mut log = bench.disk.content(&log_path).unwrap();
        let mut index = bench.disk.content(&index_path).unwrap();
        assert_eq!(index.len(), HEADER_BYTES + ENTRY_BYTES, "all in one block");
        change(&mut log, &mut index);
        crate::testing::seal_index(&mut index, &log, 0);
        bench.disk.put(&log_path, log);
        bench.disk.put(&index_path, index);
        bench.open(Some(&end), 0)
    };
    assert_holds(&forge(&|_, _| ()), &all, 0);

    // The first one later, the second one earlier and later, each within what the block holds.
    let moved = [(0, 1_i64), (1, 1), (1, 3)].map(|(number, base_offset)| {
        let at: usize = place(number);
        forge(&|log, _| log[at..at + 8].copy_from_slice(&base_offset.to_be_bytes()))
    });
    let later = forge(&|_, index| index[HEADER_BYTES..][..4].copy_from_slice(&1_u32.to_le_bytes()));
    for (number, segments) in moved.iter().chain([&later]).enumerate() {
        let reader = segments.reader();
        let found = reader.read(1, 10_000, true);
        assert!(matches!(found, Err(SegmentError::Damaged(_))), "{number}: {found:?}");
        assert_eq!(reader.verify().unwrap().len(), 1, "{number}");
    }
}

/// A compacted log, whose offsets have gaps.
#[test]
fn d3_a_compacted_index_is_made_again_with_its_gaps() {
    let bench = Bench::new();
    let (_, end) = written(&bench);
    let mut segments = bench.open(Some(&end), 0);
    segments.seal().unwrap();
    let end = segments.sync().unwrap();
    super::compaction::run_all(&mut segments, &super::compaction::request(i64::MAX));
    let expected = read_on(&segments.reader(), 0, 1_000).unwrap();
    let base = segments.infos()[0].base_offset;
    let path = bench.path(base, "index");
    let bytes = bench.disk.content(&path).unwrap().len() as u64;
    bench.disk.truncate(&path, bytes - 7);
    let segments = bench.open(Some(&end), 0);
    assert_eq!(segments.damages(), []);
    assert_eq!(read_on(&segments.reader(), 0, 1_000).unwrap(), expected);
    assert!(segments.infos()[0].is_compacted);
    // Without its header a gap cannot be distinguished from a loss.
    bench.disk.corrupt(&path, 17, 1);
    let segments = bench.open(Some(&end), 0);
    assert_eq!(segments.damages().len(), 1);
}

/// Bytes that are nearly right: a valid file with some of its bytes changed.
fn nearly(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    changes.prop_map(move |changes| {
        let mut bytes = valid.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    /// Opening and reading any files ends in batches or an error, never in a panic.
    #[test]
    fn d3_files_of_nonsense_are_survived(
        log in prop_oneof![nearly(crate::testing::sample().0), prop::collection::vec(any::<u8>(), 0..400)],
        index in prop_oneof![nearly(crate::testing::sample().1), prop::collection::vec(any::<u8>(), 0..300)],
        seal in any::<bool>(),
        end in (0..3_i64, 0..1_500_u64, 0..5_u32, 0..1_000_i64),
        start in 0..50_i64,
    ) {
        let (segment_base, position_bytes, blocks, next_offset) = end;
        let end = DurableEnd { segment_base, position_bytes, blocks, next_offset };
        let mut log = log;
        if seal {
            crate::testing::seal_log(&mut log);
        }
        crate::testing::survive(&log, &index, end, start);
    }
}

#[test]
fn d3_a_batch_that_changes_in_memory_before_it_is_written_is_not_served() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let mut all = batches(0, &[9, 9, 9], 3);
    let mut changed = all[1].bytes.to_vec();
    changed[ropewalk_batch::HEADER_LEN + 5] ^= 1;
    all[1].bytes = changed.into();
    let one_each = SegmentConfig { index_interval_bytes: 1, ..small() };
    segments.append(&all, 0, &one_each).unwrap();
    let reader = segments.reader();
    for from in 9..18 {
        let found = reader.read(from, 1, true);
        assert!(matches!(found, Err(SegmentError::Damaged(_))), "{found:?} from {from}");
    }
    for batch in [&all[0], &all[2]] {
        assert_eq!(reader.read(batch.base_offset, 1, true).unwrap(), [stored(batch)]);
    }
}
