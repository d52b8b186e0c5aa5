//! Appending, reading, rolling and recovering, one behaviour at a time.

use ropewalk_disk::{Fault, Operation};

use super::*;
use crate::SegmentError;

fn length(bench: &Bench, base_offset: i64, extension: &str) -> usize {
    bench.disk.content(&bench.path(base_offset, extension)).unwrap().len()
}

#[test]
fn what_was_appended_is_read_at_every_offset() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    assert_holds(&segments, &[], 0);
    let all = batches(0, &[1, 7, 3, 30, 2, 2, 60, 1, 1, 1, 9], 5);
    segments.append(&all[..4], 0, &small()).unwrap();
    segments.append(&all[4..], 0, &small()).unwrap();
    assert!(segments.infos().len() > 2, "{:?}", segments.infos());
    assert_holds(&segments, &all, 0);
}

#[test]
fn nothing_is_created_before_the_first_append() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 40);
    let end = segments.sync().unwrap();
    assert!(!bench.disk.exists(&bench.dir).unwrap());
    let mut segments = bench.open(Some(&end), 40);
    assert_eq!(segments.start_offset(), 40);
    segments.append(&batches(40, &[3], 1), 0, &small()).unwrap();
    assert_holds(&segments, &batches(40, &[3], 1), 40);
}

#[test]
fn batches_must_continue_the_log() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[3], 1), 0, &small()).unwrap();
    for wrong in [2, 4] {
        let refused = segments.append(&batches(wrong, &[1], 1), 0, &small());
        assert!(matches!(refused, Err(SegmentError::NotNext { expected: 3, .. })), "{refused:?}");
    }
    segments.advance_to(10);
    segments.append(&batches(10, &[2], 1), 0, &small()).unwrap();
    let end = segments.sync().unwrap();
    let reader = bench.open(Some(&end), 0).reader();
    assert_eq!(
        StampedBatch::read(reader.read(3, 1, true).unwrap()[0].clone()).unwrap().base_offset,
        10
    );
}

#[test]
fn offsets_that_no_index_could_reach_over_get_a_segment_of_their_own() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[3], 1), 0, &small()).unwrap();
    let far = 1 << 40;
    segments.advance_to(far);
    segments.append(&batches(far, &[3], 1), 0, &small()).unwrap();
    let end = segments.sync().unwrap();
    let segments = bench.open(Some(&end), 0);
    assert_eq!(segments.damages(), []);
    let found = segments.reader().read(3, 1, true).unwrap();
    assert_eq!(found, [stored(&batch(far, 3, 1))]);
}

#[test]
fn age_and_seal_begin_a_new_segment() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[1], 1), 0, &small()).unwrap();
    segments.append(&batches(1, &[1], 1), 999_999, &small()).unwrap();
    assert_eq!(segments.infos().len(), 1);
    segments.append(&batches(2, &[1], 1), 1_000_000, &small()).unwrap();
    assert_eq!(segments.infos().len(), 2);
    segments.seal().unwrap();
    let end = segments.sync().unwrap();
    let mut segments = bench.open(Some(&end), 0);
    assert!(segments.infos().iter().all(|info| info.is_sealed), "a seal survives");
    segments.append(&batches(3, &[1], 1), 1_000_000, &small()).unwrap();
    assert_eq!(segments.infos().len(), 3);
    assert_holds(&segments, &batches(0, &[1, 1, 1, 1], 1), 0);
}

#[test]
fn what_is_beyond_the_durable_end_goes_even_if_it_is_whole() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[5], 1), 0, &small()).unwrap();
    let end = segments.sync().unwrap();
    segments.append(&batches(5, &[5, 50, 50], 1), 0, &small()).unwrap();
    segments.sync().unwrap();
    let mut segments = bench.open(Some(&end), 0);
    assert_holds(&segments, &batches(0, &[5], 1), 0);
    assert_eq!(length(&bench, 0, "log") as u64, end.position_bytes);
    assert_eq!(length(&bench, 0, "index"), 64 + 48);
    assert_eq!(bench.disk.list(&bench.dir).unwrap().len(), 2);
    let other = batches(5, &[1, 1, 40, 60], 2);
    segments.append(&other, 0, &small()).unwrap();
    let all = [batches(0, &[5], 1), other].concat();
    assert_holds(&segments, &all, 0);
    let end = segments.sync().unwrap();
    assert_holds(&bench.open(Some(&end), 0), &all, 0);
    bench.open(None, 3);
    assert_eq!(bench.disk.list(&bench.dir).unwrap(), Vec::<String>::new());
}

#[test]
fn the_log_start_frees_whole_segments_and_bounds_reads() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[20, 20, 20, 20, 20, 20], 1);
    segments.append(&all, 0, &small()).unwrap();
    let end = segments.sync().unwrap();
    let before = segments.infos();
    let start = before[1].base_offset + 1;
    let unneeded = segments.set_log_start(start);
    assert_eq!(unneeded, [bench.path(0, "log"), bench.path(0, "index")]);
    let kept: Vec<_> = all.iter().filter(|b| b.last_offset() >= start).cloned().collect();
    assert_holds(&segments, &kept, start);

    let mut again = bench.open(Some(&end), start);
    assert_holds(&again, &kept, start);
    assert_eq!(again.set_log_start(start), unneeded, "found again after a crash");
    for path in unneeded {
        bench.disk.remove(&path).unwrap();
    }
    assert_holds(&bench.open(Some(&end), start), &kept, start);

    let gone = again.set_log_start(120);
    assert_eq!(gone.len(), 2 * (before.len() - 1));
    assert_eq!(again.bytes(), 0);
    let end = again.sync().unwrap();
    let mut again = bench.open(Some(&end), 120);
    again.append(&batches(120, &[4], 2), 0, &small()).unwrap();
    assert_holds(&again, &batches(120, &[4], 2), 120);
}

#[test]
fn a_log_start_in_the_tail_leaves_room_for_what_comes() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[5], 1), 0, &small()).unwrap();
    assert_eq!(segments.set_log_start(12).len(), 2);
    let end = segments.sync().unwrap();
    let mut segments = bench.open(Some(&end), 12);
    segments.append(&batches(5, &[10, 3], 1), 0, &small()).unwrap();
    let end = segments.sync().unwrap();
    let segments = bench.open(Some(&end), 12);
    assert_eq!(segments.damages(), []);
    assert_holds(&segments, &batches(5, &[10, 3], 1), 12);
}

#[test]
fn a_read_plan_outlives_the_files_it_reads() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[2, 2], 1);
    segments.append(&all, 0, &small()).unwrap();
    let plan = segments.reader().plan_read(0, 1).unwrap();
    for path in segments.set_log_start(4) {
        bench.disk.remove(&path).unwrap();
    }
    assert_eq!(plan.run().unwrap(), [stored(&all[0])]);
}

#[test]
fn limits_of_a_read_are_kept() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[2, 2, 2, 2], 1);
    segments.append(&all, 0, &SegmentConfig::default()).unwrap();
    let reader = segments.reader();
    let one = all[0].size_bytes();
    assert_eq!(reader.read(0, one - 1, false).unwrap(), Vec::<Bytes>::new());
    assert_eq!(reader.read(0, 0, true).unwrap().len(), 1);
    assert_eq!(reader.read(0, 2 * one, true).unwrap().len(), 2);
    assert_eq!(reader.read(0, 3 * one - 1, true).unwrap().len(), 2);
    assert_eq!(reader.plan_read(3, 1_000_000).unwrap().until(6).run().unwrap().len(), 2);
    let span = reader.plan_read(3, 1_000_000).unwrap().run_span().unwrap().unwrap();
    assert_eq!((span.base_offset, span.next_offset), (2, 8));
    assert_eq!(span.bytes.len(), 3 * one);
}

#[test]
fn r1_open_files_are_bounded_and_an_idle_partition_has_none() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[40; 8], 1), 0, &small()).unwrap();
    assert!(segments.infos().len() >= 4);
    assert_eq!(bench.files.open_files(), 0, "only reads fill the cache");
    read_on(&segments.reader(), 0, 1).unwrap();
    assert_eq!(bench.files.open_files(), 4);
    let idle = size_of::<Segments>()
        + size_of::<crate::view::SharedSegments>()
        + 4 * size_of::<crate::view::Segment>();
    assert!(idle <= 1_024, "{idle} bytes with four segments");
}

#[test]
fn a_full_disk_can_be_retried_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[5, 5, 5, 5], 1);
    segments.append(&all[..1], 0, &small()).unwrap();
    let kind = std::io::ErrorKind::StorageFull;
    let path_contains = ".index".to_owned();
    bench.disk.inject(Fault { kind, path_contains, ..Fault::next(Operation::Write) });
    let full = segments.append(&all[1..3], 0, &small());
    assert!(matches!(full, Err(SegmentError::Full { .. })), "{full:?}");
    assert_holds(&segments, &all[..1], 0);
    assert!(length(&bench, 0, "log") > all[0].size_bytes());
    segments.seal().unwrap();
    assert_eq!(length(&bench, 0, "log"), all[0].size_bytes());
    assert_eq!(length(&bench, 0, "index"), 64 + 48);
    segments.append(&all[1..], 0, &small()).unwrap();
    let end = segments.sync().unwrap();
    assert_holds(&segments, &all, 0);
    assert_holds(&bench.open(Some(&end), 0), &all, 0);
}

#[test]
fn a_segment_whose_first_write_failed_is_no_obstacle() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let path_contains = ".log".to_owned();
    bench.disk.inject(Fault { path_contains, ..Fault::next(Operation::Write) });
    let all = batches(0, &[5, 5], 1);
    assert!(segments.append(&all, 0, &small()).is_err());
    let reader = segments.reader();
    assert_eq!(reader.verify().unwrap(), []);
    assert_eq!(reader.max_timestamp().unwrap(), None);
    assert_eq!(reader.epoch_end(9).unwrap(), None);
    let end = segments.sync().unwrap();
    segments.append(&all, 0, &small()).unwrap();
    assert_holds(&segments, &all, 0);
    assert_holds(&bench.open(Some(&end), 0), &[], 0);
}

#[test]
fn d2_a_failed_fsync_is_final() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[5], 1), 0, &small()).unwrap();
    bench.disk.inject(Fault::next(Operation::Sync));
    assert!(matches!(segments.sync(), Err(SegmentError::SyncFailed { .. })));
    assert!(matches!(segments.sync(), Err(SegmentError::SyncFailed { .. })));
    let refused = segments.append(&batches(5, &[5], 1), 0, &small());
    assert!(matches!(refused, Err(SegmentError::SyncFailed { .. })));
}

#[test]
fn a_deleted_partition_leaves_no_file() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[40; 8], 1);
    segments.append(&all, 0, &small()).unwrap();
    let plan = segments.reader().plan_read(0, 1).unwrap();
    segments.remove_all().unwrap();
    assert_eq!(bench.disk.list(&bench.dir).unwrap(), Vec::<String>::new());
    assert_eq!(plan.run().unwrap(), [stored(&all[0])]);
}

/// On the real disk: readers never see a part of a batch, however they race with the writer.
#[test]
fn o4_readers_see_whole_batches_while_appending() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> =
        Arc::new(ropewalk_disk::RealDisk::new(ropewalk_disk::Options::default()));
    let files = Arc::new(FileCache::new(3));
    let mut segments = Segments::open(disk, files, dir.path().join("p"), None, 0).unwrap();
    let sizes: Vec<usize> = (0..600).map(|n| 1 + n * 7 % 23).collect();
    let all = batches(0, &sizes, 1);
    let expected: Vec<Bytes> = all.iter().map(stored).collect();
    let end = all.last().unwrap().next_offset();
    std::thread::scope(|scope| {
        for bytes_max in [1, 3_000] {
            let (reader, expected) = (segments.reader(), &expected);
            scope.spawn(move || {
                let mut seen = Vec::new();
                while reader.next_offset() < end || seen.len() < expected.len() {
                    let from = seen.last().map_or(0, |last: &Bytes| {
                        StampedBatch::read(last.clone()).unwrap().next_offset()
                    });
                    seen.extend(reader.read(from, bytes_max, true).unwrap());
                }
                assert_eq!(&seen, expected);
            });
        }
        for some in all.chunks(4) {
            segments.append(some, 0, &small()).unwrap();
            if some[0].base_offset % 3 == 0 {
                segments.sync().unwrap();
            }
        }
    });
}
