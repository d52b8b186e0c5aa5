//! Compares compaction with a list of records: which ones are kept and which removed, at every
//! crash.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use ropewalk_batch::records;
use ropewalk_disk::{Fault, Operation};

use super::*;
use crate::compaction::{AbortedTransaction, Compaction, dirty_ratio};

const DAY_MS: i64 = 86_400_000;

pub(super) fn request(end: i64) -> Compaction {
    Compaction {
        end,
        now_ms: 1_000,
        delete_retention_ms: DAY_MS,
        segment_bytes: 2_000,
        keys_bytes_max: 1 << 20,
        records_bytes_max: 1 << 20,
        aborted: vec![],
        producers: HashMap::new(),
    }
}

/// A record as a consumer sees it: offset, key, value.
type Seen = (i64, Vec<u8>, Option<Vec<u8>>);

/// All records of data from the start to the end.
fn seen(segments: &Segments) -> Vec<Seen> {
    let mut all = Vec::new();
    for bytes in read_on(&segments.reader(), segments.start_offset(), 700).unwrap() {
        let batch = StampedBatch::read(bytes.clone()).unwrap();
        let header = ropewalk_batch::Header::verify(&bytes).unwrap();
        if header.is_control() {
            continue;
        }
        for record in records(&header, bytes, 1 << 20).unwrap() {
            let record = record.unwrap();
            let offset = batch.base_offset + i64::from(record.offset_delta);
            let value = record.value.map(|value| value.to_vec());
            all.push((offset, record.key.unwrap().to_vec(), value));
        }
    }
    all
}

/// The last record of each key.
fn state(seen: &[Seen]) -> BTreeMap<Vec<u8>, Seen> {
    seen.iter().map(|it| (it.1.clone(), it.clone())).collect()
}

/// A batch of (key, value) pairs; no value is a tombstone.
fn pairs(base_offset: i64, pairs: &[(u16, Option<u8>)]) -> StampedBatch {
    let mut builder = Builder::new();
    for (key, value) in pairs {
        let value = value.map(|value| vec![value; 30]);
        builder = builder.record(5, Some(&key.to_be_bytes()), value.as_deref());
    }
    StampedBatch::new(builder.build(), base_offset, 1).unwrap()
}

fn run(segments: &mut Segments, request: &Compaction) -> usize {
    let mut installed = 0;
    let Some(mut job) = segments.plan_compaction(request.clone()) else { return 0 };
    while let Some(replacement) = job.next().unwrap() {
        installed += usize::from(segments.install(replacement).unwrap());
    }
    installed
}

/// Runs jobs until nothing is left to do, as the broker does.
pub(super) fn run_all(segments: &mut Segments, request: &Compaction) {
    for _ in 0..100 {
        run(segments, request);
        if dirty_ratio(&segments.infos(), request.end) == 0.0 {
            return;
        }
    }
    panic!("never done: {:?}", segments.infos());
}

fn filled(bench: &Bench, given: &[Vec<(u16, Option<u8>)>]) -> (Segments, DurableEnd) {
    let mut segments = bench.open(None, 0);
    let mut offset = 0;
    for some in given {
        segments.append(&[pairs(offset, some)], 0, &small()).unwrap();
        offset += some.len() as i64;
    }
    segments.seal().unwrap();
    let end = segments.sync().unwrap();
    (segments, end)
}

/// Compares a compacted log with what it was made from.
fn assert_compacted(segments: &Segments, before: &[Seen], end: i64) {
    let after = seen(segments);
    assert_eq!(state(&after), state(before));
    let wanted: Vec<&Seen> = before
        .iter()
        .filter(|(offset, key, _)| {
            let later = |(o, k, _): &&Seen| k == key && o > offset && *o < end;
            *offset >= end || !before.iter().any(|it| later(&it))
        })
        .collect();
    assert_eq!(after.iter().collect::<Vec<_>>(), wanted);
    let reader = segments.reader();
    for from in 0..segments.next_offset() {
        let first = reader.read(from, 1, true).unwrap();
        let first = first.first().map(|bytes| StampedBatch::read(bytes.clone()).unwrap());
        let next = after.iter().find(|(offset, ..)| *offset >= from);
        if let Some((offset, ..)) = next {
            let first = first.unwrap();
            assert!(first.last_offset() >= from && first.base_offset <= *offset, "from {from}");
        }
    }
    let counted = reader.visible_count(0..segments.next_offset()).unwrap();
    assert_eq!(counted, after.len() as u64);
    for to in 0..=segments.next_offset() {
        let wanted = after.iter().filter(|(offset, ..)| *offset < to).count() as u64;
        assert_eq!(reader.visible_count(0..to).unwrap(), wanted, "up to {to}");
    }
}

fn given() -> impl Strategy<Value = Vec<Vec<(u16, Option<u8>)>>> {
    let pair = (0..60_u16, prop::option::weighted(0.9, any::<u8>()));
    prop::collection::vec(prop::collection::vec(pair, 1..20), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(8)))]

    #[test]
    fn compaction_keeps_the_last_record_of_each_key(
        given in given(),
        more in given(),
        upto in 0.0..1.5_f64,
        keys in prop_oneof![Just(1_usize << 20), 1_000..9_000_usize],
        segment_bytes in prop_oneof![Just(2_000_u64), Just(100_000)],
    ) {
        let bench = Bench::new();
        let (mut segments, _) = filled(&bench, &given);
        let before = seen(&segments);
        let next = segments.next_offset();
        let asked = (upto * next as f64) as i64;
        let request = Compaction { keys_bytes_max: keys, segment_bytes, ..request(asked) };
        let end = segments.infos().iter().map(|i| i.next_offset).filter(|o| *o <= asked).max();
        let end = end.unwrap_or(0);
        run_all(&mut segments, &request);
        assert_compacted(&segments, &before, end);

        // A second time, with more on top and all of it.
        let mut offset = next;
        for some in &more {
            segments.append(&[pairs(offset, some)], 0, &small()).unwrap();
            offset += some.len() as i64;
        }
        segments.seal().unwrap();
        let durable = segments.sync().unwrap();
        let before = seen(&segments);
        run_all(&mut segments, &Compaction { end: offset, ..request.clone() });
        assert_compacted(&segments, &before, offset);
        prop_assert_eq!(run(&mut segments, &Compaction { end: offset, ..request }), 0);
        let segments = bench.open(Some(&durable), 0);
        prop_assert_eq!(segments.damages(), &[]);
        assert_compacted(&segments, &before, offset);
    }

    #[test]
    fn compaction_survives_a_crash_at_any_operation(
        given in given(),
        seed in any::<u64>(),
        at in 0.0..1.0_f64,
        power in any::<bool>(),
        segment_bytes in prop_oneof![Just(2_000_u64), Just(100_000)],
    ) {
        let operations = {
            let bench = Bench::new();
            let (mut segments, _) = filled(&bench, &given);
            let before = bench.disk.operations();
            let request = Compaction { segment_bytes, ..request(i64::MAX) };
            run(&mut segments, &request);
            bench.disk.operations() - before
        };
        let mut bench = Bench::new();
        let (mut segments, end) = filled(&bench, &given);
        let before = seen(&segments);
        let request = Compaction { segment_bytes, ..request(i64::MAX) };
        bench.disk.crash_at(bench.disk.operations() + 1 + (at * operations as f64) as u64);
        let mut job = segments.plan_compaction(request.clone()).unwrap();
        while let Ok(Some(replacement)) = job.next() {
            if segments.install(replacement).is_err() {
                break;
            }
        }
        if power {
            bench.power_cycle(seed);
        } else {
            bench.disk.restart();
            bench.files = Arc::new(FileCache::new(4));
        }
        let mut segments = bench.open(Some(&end), 0);
        prop_assert_eq!(segments.damages(), &[]);
        prop_assert_eq!(state(&seen(&segments)), state(&before));
        run_all(&mut segments, &request);
        assert_compacted(&segments, &before, i64::MAX);
        let names = bench.disk.list(&bench.dir).unwrap();
        let kept = 2 * segments.infos().len();
        prop_assert_eq!(names.len(), kept, "{:?}", names);
    }
}

/// Six small segments with a few keys, for tests that try every crash.
fn few() -> Vec<Vec<(u16, Option<u8>)>> {
    (0..24).map(|n| vec![(n % 3, Some(n as u8)); 9]).collect()
}

/// Compacts, loses power at `operation` and opens again; what it then holds, or how it is harmed.
fn crashed_at(operation: u64, seed: u64, ignored: Option<&'static str>) -> Result<(), String> {
    let mut bench = Bench::new();
    let (mut segments, end) = filled(&bench, &few());
    let before = state(&seen(&segments));
    if let Some(why) = ignored {
        bench.disk.ignore_syncs(why);
    }
    bench.disk.crash_at(bench.disk.operations() + operation);
    let mut job = segments.plan_compaction(request(i64::MAX)).unwrap();
    while let Ok(Some(replacement)) = job.next() {
        if segments.install(replacement).is_err() {
            break;
        }
    }
    bench.power_cycle(seed);
    bench.disk.heed_all_syncs();
    let segments = bench.recover(Some(&end), 0, seed);
    if !segments.damages().is_empty() || !segments.reader().verify().unwrap().is_empty() {
        return Err(format!("{:?}", segments.damages()));
    }
    (state(&seen(&segments)) == before).then_some(()).ok_or("another log".to_owned())
}

#[test]
fn compaction_survives_a_crash_at_every_operation() {
    for operation in 1..40 {
        for seed in 0..12 {
            crashed_at(operation, seed, None)
                .unwrap_or_else(|harm| panic!("operation {operation}, seed {seed}: {harm}"));
        }
    }
}

#[test]
fn every_sync_of_a_compaction_is_needed() {
    for why in ["compaction", "segment-directory"] {
        let harms = |operation, seed| crashed_at(operation, seed, Some(why)).is_err();
        let harmed = (1..40).any(|operation| (0..12).any(|seed| harms(operation, seed)));
        assert!(harmed, "{why} could be left out");
    }
}

#[test]
fn tombstones_go_after_their_time() {
    let bench = Bench::new();
    let (mut segments, _) = filled(&bench, &[vec![(1, Some(1)), (2, Some(2)), (1, None)]]);
    let mut request = request(i64::MAX);
    run(&mut segments, &request);
    assert_eq!(seen(&segments).len(), 2, "the tombstone stays for {}", DAY_MS);
    segments.append(&[pairs(3, &[(3, Some(3))])], 0, &small()).unwrap();
    segments.seal().unwrap();
    segments.sync().unwrap();
    request.now_ms += DAY_MS;
    run(&mut segments, &request);
    let keys: Vec<_> = seen(&segments).into_iter().map(|(offset, ..)| offset).collect();
    assert_eq!(keys, [1, 3]);
}

#[test]
fn the_last_batch_of_a_producer_stays_as_a_header() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let of_producer = |base, id, sequence| {
        let builder = Builder::new().producer(id, 0, sequence);
        let bytes = builder.record(1, Some(b"k"), Some(b"v")).record(1, Some(b"k"), Some(b"v"));
        StampedBatch::new(bytes.build(), base, 1).unwrap()
    };
    let all =
        [of_producer(0, 7, 0), of_producer(2, 7, 2), of_producer(4, 8, 0), of_producer(6, 9, 0)];
    segments.append(&all, 0, &small()).unwrap();
    segments.seal().unwrap();
    segments.sync().unwrap();
    let producers = HashMap::from([(7, 3), (9, 7)]);
    run(&mut segments, &Compaction { producers, ..request(i64::MAX) });
    let left: Vec<_> = read_on(&segments.reader(), 0, 1 << 20)
        .unwrap()
        .into_iter()
        .map(|bytes| StampedBatch::read(bytes).unwrap())
        .map(|batch| (batch.base_offset, batch.count, batch.header().last_sequence()))
        .collect();
    assert_eq!(left, [(2, 0, 3), (6, 1, 1)]);
    let youngest = segments.reader().max_timestamp().unwrap();
    assert_eq!(youngest.map(|at| (at.offset, at.timestamp_ms)), Some((7, 1)));
}

#[test]
fn aborted_records_never_hide_committed_ones_and_markers_outlive_them() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let data = |base, id, value: &[u8]| {
        let builder = Builder::new().producer(id, 0, 0).transactional();
        StampedBatch::new(builder.record(1, Some(b"k"), Some(value)).build(), base, 1).unwrap()
    };
    let marker = |base, id, kind: u8| {
        let builder = Builder::new().producer(id, 0, -1).transactional().control();
        let builder = builder.record(1, Some(&[0, 0, 0, kind]), Some(&[0, 0, 0, 0, 0, 0]));
        StampedBatch::new(builder.build(), base, 1).unwrap()
    };
    let all = [
        data(0, 1, b"old"),
        marker(1, 1, 1), // commit
        data(2, 1, b"kept"),
        marker(3, 1, 1),
        data(4, 1, b"aborted"),
        marker(5, 1, 0), // abort
    ];
    segments.append(&all, 0, &small()).unwrap();
    segments.seal().unwrap();
    segments.sync().unwrap();
    let aborted = vec![AbortedTransaction { producer_id: 1, first_offset: 4, last_offset: 5 }];
    let mut request = Compaction { aborted, ..request(i64::MAX) };
    let bases = |segments: &Segments| -> Vec<i64> {
        let left = read_on(&segments.reader(), 0, 1 << 20).unwrap();
        left.into_iter().map(|bytes| StampedBatch::read(bytes).unwrap().base_offset).collect()
    };
    run(&mut segments, &request);
    assert_eq!(bases(&segments), [1, 2, 3, 5], "young markers stay");

    segments.append(&[pairs(6, &[(9, Some(1))])], 0, &small()).unwrap();
    segments.seal().unwrap();
    segments.sync().unwrap();
    request.now_ms = 2 * DAY_MS;
    run(&mut segments, &request);
    assert_eq!(bases(&segments), [2, 3, 5, 6], "the markers that fetch responses list are kept");
}

#[test]
fn retention_may_take_segments_from_under_a_job() {
    let bench = Bench::new();
    let given: Vec<_> = (0..40).map(|n| vec![(n % 3, Some(n as u8)); 9]).collect();
    let (mut segments, _) = filled(&bench, &given);
    let mut job = segments.plan_compaction(request(i64::MAX)).unwrap();
    let replacement = job.next().unwrap().unwrap();
    let start = segments.infos()[1].next_offset;
    for path in segments.set_log_start(start) {
        bench.disk.remove(&path).unwrap();
    }
    assert!(!segments.install(replacement).unwrap());
    while let Some(replacement) = job.next().unwrap() {
        segments.install(replacement).unwrap();
    }
    run_all(&mut segments, &request(i64::MAX));
    assert_eq!(seen(&segments).len(), 3);
}

#[test]
fn only_what_is_sealed_durable_and_below_the_end_is_touched() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    assert!(segments.plan_compaction(request(i64::MAX)).is_none());
    segments.append(&[pairs(0, &[(1, Some(1)), (1, Some(2))])], 0, &small()).unwrap();
    assert!(segments.plan_compaction(request(i64::MAX)).is_none(), "not sealed");
    segments.seal().unwrap();
    assert!(segments.plan_compaction(request(i64::MAX)).is_none(), "not durable");
    segments.sync().unwrap();
    assert!(segments.plan_compaction(request(1)).is_none(), "not below the end");
    assert!(segments.plan_compaction(request(2)).is_some());
}

/// After an error in the middle of a replacement readers see the old segments, and the next
/// compaction continues from there.
#[test]
fn d3_an_error_at_any_operation_of_a_compaction_costs_nothing() {
    let mut failed = BTreeMap::new();
    for operation in [Operation::Rename, Operation::Remove, Operation::Create, Operation::Write] {
        for skip in 0..40 {
            let mut bench = Bench::new();
            let (mut segments, end) = filled(&bench, &few());
            let before = seen(&segments);
            let request = request(segments.next_offset());
            bench.disk.inject(Fault { skip, ..Fault::next(operation) });
            let tried = try_run(&mut segments, &request);
            bench.disk.clear_faults();
            if tried.is_ok() {
                break;
            }
            *failed.entry(format!("{operation:?}")).or_insert(0) += 1;
            let context = format!("{operation:?} {skip}");
            assert_eq!(state(&seen(&segments)), state(&before), "{context}: after the error");
            run_all(&mut segments, &request);
            assert_eq!(state(&seen(&segments)), state(&before), "{context}: compacted again");
            assert_compacted(&segments, &before, request.end);
            drop(segments);
            bench.power_cycle(1);
            let segments = bench.open(Some(&end), 0);
            assert_eq!(state(&seen(&segments)), state(&before), "{context}: opened again");
            assert_eq!(segments.damages(), [], "{context}");
        }
    }
    assert!(failed.len() == 4 && failed["Rename"] >= 3, "{failed:?}");
}

fn try_run(segments: &mut Segments, request: &Compaction) -> crate::Result<()> {
    let Some(mut job) = segments.plan_compaction(request.clone()) else { return Ok(()) };
    while let Some(replacement) = job.next()? {
        segments.install(replacement)?;
    }
    Ok(())
}
