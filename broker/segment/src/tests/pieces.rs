//! What is sent in pieces is what a read of the whole gives.

use proptest::prelude::*;

use super::*;
use crate::{SegmentError, Stretch};

/// The bytes of a stretch, read in pieces of this size into one buffer that is used again.
fn in_pieces(stretch: &Stretch, piece_bytes: usize) -> crate::Result<Vec<u8>> {
    let (mut all, mut buffer, mut piece) = (Vec::new(), Vec::new(), None);
    while let Some(next) = stretch.piece_after(piece.as_ref(), piece_bytes) {
        buffer.resize(buffer.len().max(stretch.buffer_bytes(&next)), 0xff);
        let range = stretch.read(&next, &mut buffer)?;
        all.extend_from_slice(&buffer[range]);
        piece = Some(next);
    }
    Ok(all)
}

fn resolved(reader: &Reader, from: i64, bytes_max: usize) -> crate::Result<Option<Stretch>> {
    reader.plan_read(from, bytes_max)?.resolve()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(4)))]

    /// For any layout, offset, limit and size of pieces.
    #[test]
    fn o4_pieces_are_the_unpieced_answer(
        appends in prop::collection::vec(prop::collection::vec(1..30_usize, 1..6), 1..12),
        block_bytes in 1..900_u32,
        segment_bytes in 300..6_000_u64,
        piece_bytes in 1..1_500_usize,
        bytes_max in 0..4_000_usize,
    ) {
        let bench = Bench::new();
        let mut segments = bench.open(None, 0);
        let config = SegmentConfig { segment_bytes, index_interval_bytes: block_bytes, ..small() };
        let mut all = Vec::new();
        for sizes in &appends {
            let more = batches(segments.next_offset(), sizes, 1);
            segments.append(&more, 0, &config).unwrap();
            all.extend(more);
        }
        let reader = segments.reader();
        for from in 0..segments.next_offset() {
            let (mut next, mut sent, mut is_cut) = (from, Vec::new(), false);
            // A plan ends with its window of the index, so one answer may need several.
            while !is_cut && next < segments.next_offset() {
                let plan = || {
                    let plan = reader.plan_read(next, bytes_max - sent.len().min(bytes_max));
                    plan.unwrap().at_least_one(sent.is_empty()).spare(bytes_max / 4)
                };
                let Some(stretch) = plan().resolve().unwrap() else { break };
                let pieces = in_pieces(&stretch, piece_bytes).unwrap();
                prop_assert_eq!(stretch.size_bytes(), pieces.len());
                let whole = plan().run_span().unwrap().unwrap();
                prop_assert_eq!(&whole.bytes, &pieces);
                prop_assert_eq!(whole.batches().collect::<Vec<_>>().concat(), pieces);
                prop_assert_eq!(whole.base_offset, stretch.base_offset());
                sent.extend(in_pieces(&stretch, piece_bytes).unwrap());
                (next, is_cut) = (stretch.next_offset(), stretch.is_cut());
            }
            let answered = |batch: &&StampedBatch| {
                batch.last_offset() >= from && batch.base_offset < next
            };
            let expected: Vec<Bytes> = all.iter().filter(answered).map(stored).collect();
            prop_assert_eq!(&sent, &expected.concat());

            // As much as fits, but for a quarter of the limit; or one batch.
            let first = all.iter().find(|batch| batch.last_offset() >= from).unwrap();
            prop_assert!(sent.len() <= bytes_max.max(first.size_bytes()));
            if let Some(next) = all.iter().find(|batch| batch.base_offset == next) {
                let unused = bytes_max.saturating_sub(sent.len());
                prop_assert!(unused <= bytes_max / 4 || unused < next.size_bytes());
            }
        }
    }
}

/// Four blocks of one batch each, in one segment.
fn four_blocks(bench: &Bench) -> (Segments, Vec<StampedBatch>) {
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[10, 10, 10, 10], 1);
    let config = SegmentConfig { index_interval_bytes: 1, ..SegmentConfig::default() };
    segments.append(&all, 0, &config).unwrap();
    (segments, all)
}

#[test]
fn d3_damage_behind_the_first_piece_is_seen_before_the_next_promise() {
    let bench = Bench::new();
    let (segments, all) = four_blocks(&bench);
    let (reader, path) = (segments.reader(), bench.path(0, "log"));
    let third = (all[0].size_bytes() * 2 + 70) as u64;
    bench.disk.corrupt(&path, third, 1);
    let stretch = resolved(&reader, 0, 100_000).unwrap().unwrap();
    let first = stretch.piece_after(None, all[0].size_bytes() * 2).unwrap();
    let mut buffer = vec![0; stretch.buffer_bytes(&first)];
    assert_eq!(stretch.read(&first, &mut buffer).unwrap(), 0..buffer.len());
    let sound = [stored(&all[0]), stored(&all[1])].concat();
    assert!(buffer == sound);
    let second = stretch.piece_after(Some(&first), 1).unwrap();
    assert!(matches!(stretch.read(&second, &mut buffer), Err(SegmentError::Damaged(_))));

    for from in [0, 15, 20, 29] {
        let refused = resolved(&reader, from, 100_000);
        assert!(matches!(refused, Err(SegmentError::Damaged(_))), "{from}: {refused:?}");
    }
    // What is not damaged can be read on both sides.
    let before = resolved(&reader, 0, all[0].size_bytes() * 2).unwrap().unwrap();
    assert!(in_pieces(&before, 1).unwrap() == sound);
    assert_eq!(resolved(&reader, 30, 100_000).unwrap().unwrap().next_offset(), 40);

    // The disk returns the right bytes again.
    bench.disk.corrupt(&path, third, 1);
    let stretch = resolved(&reader, 0, 100_000).unwrap().unwrap();
    assert_eq!(in_pieces(&stretch, 1).unwrap().len(), 4 * all[0].size_bytes());
}

#[test]
fn a_stretch_outlives_retention_compaction_and_the_partition() {
    let bench = Bench::new();
    let (mut segments, all) = four_blocks(&bench);
    let expected: Vec<u8> = all.iter().flat_map(stored).collect();
    let reader = segments.reader();
    let plan = || resolved(&reader, 0, 100_000).unwrap().unwrap();
    let before = plan();
    segments.seal().unwrap();
    segments.sync().unwrap();
    super::compaction::run_all(&mut segments, &super::compaction::request(i64::MAX));
    assert!(plan().size_bytes() < before.size_bytes(), "there is one key");
    let compacted = plan();
    let kept = in_pieces(&compacted, 1).unwrap();
    for path in segments.set_log_start(40) {
        bench.disk.remove(&path).unwrap();
    }
    segments.remove_all().unwrap();
    assert_eq!(bench.disk.list(&bench.dir).unwrap(), Vec::<String>::new());
    assert_eq!(in_pieces(&before, 300).unwrap(), expected);
    assert_eq!(in_pieces(&compacted, 300).unwrap(), kept);
}

#[test]
fn r1_a_segment_that_nobody_reads_is_closed() {
    let bench = Bench::new();
    let (segments, all) = four_blocks(&bench);
    let reader = segments.reader();
    reader.read(0, 1, true).unwrap();
    assert_eq!((bench.files.open_files(), bench.disk.open_files()), (2, 4), "two are the writer's");
    bench.files.close_idle();
    assert_eq!(bench.files.open_files(), 2, "it was read since");
    bench.files.close_idle();
    assert_eq!((bench.files.open_files(), bench.disk.open_files()), (0, 2));
    assert_eq!(reader.read(10, 1, true).unwrap(), [stored(&all[1])]);
}

#[test]
fn a_consumer_that_reads_on_finds_the_index_in_memory() {
    let bench = Bench::new();
    let (mut segments, all) = four_blocks(&bench);
    let reader = segments.reader();
    assert_eq!(resolved(&reader, 0, 1).unwrap().unwrap().next_offset(), 10);
    // The index is not read again: it is damaged, and no reader sees it.
    bench.disk.corrupt(&bench.path(0, "index"), 64 + 48 + 3, 1);
    assert_eq!(read_on(&reader, 0, 1).unwrap().len(), 4);
    bench.disk.corrupt(&bench.path(0, "index"), 64 + 48 + 3, 1);
    // The window grows with the segment.
    segments.append(&batches(40, &[10], 1), 0, &SegmentConfig::default()).unwrap();
    assert_eq!(read_on(&reader, 0, 1).unwrap().len(), all.len() + 1);
}
