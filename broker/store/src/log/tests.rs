//! The log compared with a model that holds all batches in one list.

use std::path::PathBuf;

use proptest::prelude::*;
use ropewalk_batch::Builder;
use ropewalk_disk::SimDisk;
use ropewalk_segment::{FileCache, SegmentConfig, Stretch, spill::SpillWriter};

use ropewalk_shard::{ShardId, TopicId};

use bytes::Bytes;

use super::*;
use crate::budget::TailBudget;
use crate::directory::DataDir;
use crate::partition_logs::PartitionLogs;
use crate::remote::RemoteRange;
use crate::snapshot::PartitionFiles;
use crate::store::Store;

mod bucket;

const EPOCH: i32 = 3;

/// The logs of a shard on a disk in memory.
pub(crate) fn partition_logs(disk: &SimDisk) -> Arc<PartitionLogs> {
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
    data.create_dir(&data.spill(ShardId(1))).unwrap();
    data.create_dir(&data.partitions()).unwrap();
    let files = Arc::new(FileCache::new(8));
    PartitionLogs::new(Store::new(data, files, TailBudget::new(1 << 30), 1), ShardId(1))
}

fn partition() -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(1)), index: 0 }
}

/// A batch of `records` records whose values are their offsets.
fn batch(base_offset: i64, records: i64) -> StampedBatch {
    let mut builder = Builder::new();
    for at in 0..records {
        let value = (base_offset + at).to_string();
        builder = builder.record(timestamp(base_offset + at), None, Some(value.as_bytes()));
    }
    StampedBatch::new(builder.build(), base_offset, EPOCH).unwrap()
}

/// Timestamps go up and down.
fn timestamp(offset: i64) -> i64 {
    1_000 + (offset * 7919) % 97
}

/// The bytes that a reader gets for some batches.
fn whole(batches: &[StampedBatch]) -> Vec<u8> {
    batches.iter().flat_map(|b| [b.prefix().to_vec(), b.body().to_vec()].concat()).collect()
}

fn joined(chunk: &Chunk) -> Vec<u8> {
    chunk.bytes.concat()
}

/// The offsets at which a chunk's batches begin.
fn shape(chunk: &Chunk) -> Vec<i64> {
    let mut rest = Bytes::from(joined(chunk));
    let mut offsets = Vec::new();
    while let Ok(header) = ropewalk_batch::Header::parse(&rest) {
        offsets.push(header.base_offset);
        rest = rest.slice(header.size_bytes()..);
    }
    offsets
}

/// Adds the bytes of a stretch, read a block at a time.
fn in_pieces(stretch: &Stretch, sent: &mut Vec<u8>) {
    let mut piece = None;
    while let Some(next) = stretch.piece_after(piece.as_ref(), 1) {
        let mut buffer = vec![0; stretch.buffer_bytes(&next)];
        let range = stretch.read(&next, &mut buffer).unwrap();
        sent.extend_from_slice(&buffer[range]);
        piece = Some(next);
    }
}

/// The log and its expected content.
struct Fixture {
    disk: SimDisk,
    partition_logs: Arc<PartitionLogs>,
    log: Arc<PartitionLog>,
    model: Vec<StampedBatch>,
    log_start: i64,
    /// Records below it are in the bucket only.
    local_start: i64,
    next_spill: u64,
    checkpoint: PartitionFiles,
    /// The log start at the checkpoint.
    checkpoint_start: i64,
}

#[derive(Debug, Clone)]
enum Act {
    Append(i64),
    Flush,
    Spill,
    SpillBesideFlush,
    Checkpoint,
    LogStart(u8),
    LocalStart(u8),
    Reopen,
}

impl Fixture {
    fn new() -> Self {
        let disk = SimDisk::new(1);
        let partition_logs = partition_logs(&disk);
        let log = partition_logs.open(partition());
        let checkpoint = log.capture(0).unwrap().files;
        Self {
            disk,
            partition_logs,
            log,
            model: Vec::new(),
            log_start: 0,
            local_start: 0,
            next_spill: 1,
            checkpoint,
            checkpoint_start: 0,
        }
    }

    fn end(&self) -> i64 {
        self.model.last().map_or(0, StampedBatch::next_offset)
    }

    fn append(&mut self, records: i64) {
        let batch = batch(self.end(), records);
        self.log.append(batch.clone(), self.end());
        self.model.push(batch);
    }

    fn flush(&mut self) {
        let config = SegmentConfig { segment_bytes: 400, ..SegmentConfig::default() };
        self.log.flush(i64::MAX, 0, &config).unwrap();
    }

    /// Spills the tail. If `beside`, the log is flushed before the run takes effect.
    fn spill(&mut self, beside: bool) {
        let mut captured = self.log.capture(self.end()).unwrap();
        let Some(spillable) = self.log.spillable(&mut captured, |_| false).unwrap() else { return };
        let data = self.partition_logs.store().data();
        let file = self.next_spill;
        self.next_spill += 1;
        let path = data.spill_file(ShardId(1), file);
        let mut writer = SpillWriter::create(Arc::clone(data.disk()), path).unwrap();
        let run = crate::checkpoint::add(&mut writer, file, &self.log, &spillable).unwrap();
        writer.finish().unwrap();
        if beside {
            self.flush();
        }
        self.log.spilled(run);
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Append(records) => self.append(*records),
            Act::Flush => self.flush(),
            Act::Spill => self.spill(false),
            Act::SpillBesideFlush => self.spill(true),
            Act::Checkpoint => {
                self.spill(false);
                let captured = self.log.capture(self.end()).unwrap();
                if let Some(sync) = captured.sync {
                    self.log
                        .synced(&sync, sync.sync_files().and_then(|()| sync.sync_parent()))
                        .unwrap();
                }
                self.checkpoint = captured.files;
                self.checkpoint_start = self.log_start;
            }
            Act::LogStart(part) => {
                let start = self.end() * i64::from(*part) / 255;
                self.log_start = self.log_start.max(start);
                self.local_start = self.local_start.max(start);
                self.log.set_log_start(start);
                drop(self.log.trim());
            }
            Act::LocalStart(part) => {
                let start = self.end() * i64::from(*part) / 255;
                self.local_start = self.local_start.max(start);
                self.log.set_local_start(start);
                drop(self.log.trim());
            }
            Act::Reopen => self.reopen(),
        }
    }

    /// Simulates a power loss: the log is restored from the checkpoint, and the rest appended
    /// again.
    fn reopen(&mut self) {
        self.disk.power_cycle(3);
        self.partition_logs = partition_logs(&self.disk);
        let log_start = self.checkpoint_start;
        self.log = self.partition_logs.recover(&self.checkpoint, log_start).unwrap();
        let from = self.checkpoint.next_offset;
        assert_eq!(self.log.high_watermark(), from);
        for batch in self.model.iter().filter(|batch| batch.base_offset >= from) {
            self.log.append(batch.clone(), 0);
        }
        self.log.set_log_start(self.log_start);
        self.log.set_local_start(self.local_start);
    }

    /// Every read, of any size, returns the model's batches from the one that holds the offset.
    fn check(&self) {
        let starts = (self.log.log_start(), self.log.local_start());
        assert_eq!(starts, (self.log_start, self.local_start));
        assert_eq!(self.log.high_watermark(), self.end());
        for from in self.log_start..=self.end() {
            let expected: Vec<StampedBatch> =
                self.model.iter().filter(|b| b.last_offset() >= from).cloned().collect();
            assert!(self.with_bucket(from) == whole(&expected), "from {from}");
        }
        for from in self.local_start..=self.end() {
            let expected: Vec<StampedBatch> =
                self.model.iter().filter(|b| b.last_offset() >= from).cloned().collect();
            let chunk = self.log.read(from, usize::MAX, true).unwrap();
            assert!(joined(&chunk) == whole(&expected), "from {from}: {:?}", shape(&chunk));
            assert_eq!(chunk.next_offset, self.end());
            assert_eq!(chunk.size_bytes, whole(&expected).len());
            self.check_pieces(from, &chunk);

            let chunk = self.log.read(from, 150, true).unwrap();
            let first = expected.first().map_or(0, StampedBatch::size_bytes);
            assert!(chunk.size_bytes <= first.max(150));
            assert!(chunk.size_bytes >= first.min(1), "at least one");
            assert!(whole(&expected).starts_with(&joined(&chunk)));
        }
        for outside in [self.log_start - 1, self.end() + 1] {
            let error = self.log.read(outside, 1, true).unwrap_err();
            assert!(matches!(error, ReadError::OutOfRange { .. }), "{error}");
        }
        self.check_lookups();
    }

    /// What is sent in pieces is the unpieced answer, over all layers.
    fn check_pieces(&self, from: i64, chunk: &Chunk) {
        for stretches in [1, usize::MAX] {
            let limits = Limits { bytes: usize::MAX, at_least_one: true, stretches };
            let planned = self.log.plan(from, limits).unwrap();
            assert!(planned.stretches <= stretches);
            let mut sent = Vec::new();
            for part in &planned.parts {
                match part {
                    Part::Memory(bytes) => sent.extend_from_slice(bytes),
                    Part::Segment(stretch) => in_pieces(stretch, &mut sent),
                }
            }
            assert_eq!(planned.size_bytes, sent.len());
            assert!(joined(chunk).starts_with(&sent), "from {from}");
            assert!(stretches == 1 || sent.len() == chunk.size_bytes, "from {from}");
            assert!(planned.next_offset > from || from == self.end());
        }
    }

    fn check_lookups(&self) {
        for from in (self.log_start..self.end()).step_by(3) {
            for to in (from..=self.end()).step_by(4) {
                let counted = self.log.visible_count(from, to).unwrap();
                assert_eq!(counted, (to - from) as u64, "{from}..{to}");
            }
        }
        let offsets = self.local_start..self.end();
        let remote =
            (self.log_start < self.local_start).then_some(ReadError::Remote(RemoteRange {
                from: self.log_start,
                until: self.local_start,
            }));
        for ms in [0, 1_001, 1_040, 1_096, 2_000] {
            let expected =
                offsets.clone().find(|at| timestamp(*at) >= ms).map(|at| (at, timestamp(at)));
            assert_eq!(self.log.local_offset_for_timestamp(ms).unwrap(), expected, "{ms}");
            let whole = remote.clone().map_or(Ok(expected), Err);
            assert_eq!(self.log.offset_for_timestamp(ms), whole, "{ms}");
        }
        let youngest = offsets.clone().map(timestamp).max();
        let expected =
            youngest.map(|ms| (offsets.clone().find(|at| timestamp(*at) == ms).unwrap(), ms));
        assert_eq!(self.log.local_max_timestamp().unwrap(), expected);
        assert_eq!(self.log.max_timestamp(), remote.map_or(Ok(expected), Err));
        let kept: Vec<StampedBatch> =
            self.model.iter().filter(|b| b.last_offset() >= self.local_start).cloned().collect();
        assert!(self.log.size_bytes() >= whole(&kept).len() as u64);
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (1..4_i64).prop_map(Act::Append),
        2 => Just(Act::Flush),
        2 => Just(Act::Spill),
        1 => Just(Act::SpillBesideFlush),
        2 => Just(Act::Checkpoint),
        1 => any::<u8>().prop_map(Act::LogStart),
        1 => any::<u8>().prop_map(Act::LocalStart),
        1 => Just(Act::Reopen),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #[test]
    fn o4_reads_have_no_gap_and_no_repeat_over_all_layers(acts in acts()) {
        let mut fixture = Fixture::new();
        for act in &acts {
            fixture.act(act);
        }
        fixture.check();
    }
}

#[test]
fn o4_readers_see_no_gap_while_records_move_between_the_layers() {
    let disk = SimDisk::new(1);
    let partition_logs = partition_logs(&disk);
    let log = partition_logs.open(partition());
    let batches: Vec<StampedBatch> = (0..600).map(|at| batch(at * 2, 2)).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (number, batch) in batches.iter().enumerate() {
                log.append(batch.clone(), 0);
                if number % 7 == 0 {
                    log.flush(i64::MAX, 0, &SegmentConfig::default()).unwrap();
                }
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        for from in [0, 501] {
            let (log, done, batches) = (&log, &done, &batches);
            scope.spawn(move || {
                let mut at = 0;
                loop {
                    let done = done.load(std::sync::atomic::Ordering::Acquire);
                    let from = at.max(from.min(log.high_watermark()));
                    let chunk = log.read(from, 700, true).unwrap();
                    let seen: Vec<StampedBatch> = batches
                        .iter()
                        .filter(|b| b.last_offset() >= from && b.base_offset < chunk.next_offset)
                        .cloned()
                        .collect();
                    assert_eq!(joined(&chunk), whole(&seen));
                    at = chunk.next_offset;
                    if done && at == log.high_watermark() {
                        return;
                    }
                }
            });
        }
    });
}

/// A repair that gave up the first records leaves a log that starts before its first batch.
#[test]
fn o4_a_gap_before_the_first_segment_is_skipped() {
    let fixture = Fixture::new();
    let files = PartitionFiles { next_offset: 36, ..fixture.checkpoint.clone() };
    let log = fixture.partition_logs.recover(&files, 0).unwrap();
    let first = batch(36, 4);
    log.append(first.clone(), 0);
    assert_eq!(joined(&log.read(0, 1 << 20, true).unwrap()), whole(std::slice::from_ref(&first)));
    log.flush(i64::MAX, 0, &SegmentConfig::default()).unwrap();
    let chunk = log.read(0, 1 << 20, true).unwrap();
    assert_eq!((joined(&chunk), chunk.next_offset), (whole(&[first]), 40));
}

/// A flusher may move a tail to segments while a checkpoint writes it to a spill file.
#[test]
fn o4_a_run_that_was_flushed_while_it_was_spilled_counts_once() {
    let mut fixture = Fixture::new();
    fixture.append(3);
    fixture.append(5);
    let size_bytes = whole(&fixture.model).len() as u64;
    fixture.spill(true);
    assert_eq!(fixture.log.size_bytes(), size_bytes);
    assert_eq!(fixture.log.visible_count(0, 8).unwrap(), 8);
    fixture.append(2);
    fixture.spill(false);
    assert_eq!(fixture.log.size_bytes(), whole(&fixture.model).len() as u64);
    assert_eq!(fixture.log.visible_count(0, 10).unwrap(), 10);
}

#[test]
fn r1_an_idle_partition_is_small_and_holds_nothing() {
    let mut fixture = Fixture::new();
    for _ in 0..100 {
        fixture.append(3);
    }
    fixture.flush();
    assert_eq!(fixture.partition_logs.store().budget().pinned_bytes(), 0);
    assert!(size_of::<PartitionLog>() + size_of::<Segments>() < 600);
    fixture.append(1);
    drop(fixture.log);
    assert_eq!(fixture.partition_logs.store().budget().pinned_bytes(), 0);
}

#[test]
fn waiters_are_told_once_and_never_pile_up() {
    let mut fixture = Fixture::new();
    let waiter = Arc::new(Waiter::default());
    for _ in 0..10_000 {
        fixture.log.notify_on_change(&waiter, 3);
        fixture.log.notify_on_change(&Arc::new(Waiter::default()), 4);
    }
    assert!(fixture.log.inner.lock().waiters.capacity() < 32);
    fixture.append(1);
    assert!(is_notified(&waiter) && waiter.take().iter().all(|token| *token == 3));
    fixture.append(1);
    assert!(!is_notified(&waiter) && waiter.take().is_empty(), "it is not registered again");
    fixture.log.notify_on_change(&waiter, 5);
    fixture.log.set_log_start(1);
    assert!(is_notified(&waiter), "the log start has moved");
    assert_eq!(waiter.take(), [5]);
    fixture.log.notify_on_change(&waiter, 6);
    fixture.log.close();
    assert!(is_notified(&waiter), "the partition is closed");
    fixture.log.notify_on_change(&waiter, 7);
    assert!(is_notified(&waiter), "a later waiter is notified at once");
    assert_eq!(waiter.take(), [6, 7]);
}

/// Whether a change was reported.
fn is_notified(waiter: &Waiter) -> bool {
    use std::future::Future;
    use std::task::{Context, Waker};
    let changed = std::pin::pin!(waiter.changed());
    changed.poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn t2_o4_a_restored_log_begins_at_its_end_and_survives_a_power_loss() {
    let mut fixture = Fixture::new();
    fixture.log.restore(3, 60);
    (fixture.log_start, fixture.local_start) = (3, 60);
    let range = fixture.log.remote_range(10);
    assert_eq!(range.map(|range| (range.from, range.until)), Some((10, 60)));
    assert_eq!(fixture.log.read(60, usize::MAX, true).unwrap().next_offset, 60);
    for base_offset in [60, 62] {
        let batch = batch(base_offset, 2);
        fixture.log.append(batch.clone(), 0);
        fixture.model.push(batch);
    }
    let check = |fixture: &Fixture| {
        let starts = (fixture.log.log_start(), fixture.log.local_start());
        assert_eq!((starts, fixture.log.high_watermark()), ((3, 60), 64));
        let chunk = fixture.log.read(60, usize::MAX, true).unwrap();
        assert!(joined(&chunk) == whole(&fixture.model), "{:?}", shape(&chunk));
        assert!(matches!(fixture.log.read(59, usize::MAX, true), Err(ReadError::Remote(_))));
    };
    check(&fixture);
    for act in [Act::Spill, Act::Flush] {
        fixture.act(&act);
        check(&fixture);
        fixture.act(&Act::Checkpoint);
        assert_eq!(fixture.checkpoint.local_start, 60);
        fixture.reopen();
        check(&fixture);
    }
}

/// Without any record behind it.
#[test]
fn t2_an_empty_restored_log_survives_a_power_loss() {
    let mut fixture = Fixture::new();
    fixture.log.restore(3, 60);
    fixture.checkpoint = fixture.log.capture(60).unwrap().files;
    (fixture.checkpoint_start, fixture.log_start, fixture.local_start) = (3, 3, 60);
    fixture.reopen();
    let starts = (fixture.log.log_start(), fixture.log.local_start());
    assert_eq!((starts, fixture.log.high_watermark()), ((3, 60), 60));
}
