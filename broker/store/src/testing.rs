//! One shard of a store without Raft, for the tests of the background work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_batch::{Builder, StampedBatch};
use ropewalk_disk::SimDisk;
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::state::Partition;
use ropewalk_shard::{BrokerId, PartitionId, ReplicaId, ShardId, State, TopicId};

use crate::bootstrap;
use crate::checkpoint::{Capture, Checkpointer, Journal, Options, Source};
use crate::clean::Cleaner;
use crate::directory::{DataDir, DataDirContents, Identity};
use crate::flush::Flusher;
use crate::log::{Logs, PartitionLog};
use crate::partition_logs::PartitionLogs;
use crate::policy::{CompactionPolicy, Policy};
use crate::recovery;
use crate::work::{Next, WorkError};

/// Number of different keys that [`OneShard::append`] uses.
pub(crate) const KEYS: i64 = 7;

#[derive(Debug)]
struct CompactingPolicy {
    lag_ms_max: i64,
}

impl Policy for CompactingPolicy {
    fn segments(&self, _: PartitionId) -> SegmentConfig {
        SegmentConfig { segment_bytes: 4 << 10, ..SegmentConfig::default() }
    }

    fn compaction(&self, partition: PartitionId) -> Option<CompactionPolicy> {
        (partition.index == 0).then_some(CompactionPolicy {
            dirty_ratio_min: 0.5,
            delete_retention_ms: 1_000,
            lag_ms_min: 0,
            lag_ms_max: self.lag_ms_max,
        })
    }
}

/// The calls that the write-ahead log received.
#[derive(Debug, Default)]
pub(crate) struct JournalCalls {
    count: usize,
    refuses: bool,
    releases: usize,
    pinned: Option<(ropewalk_wal::ReplicaKey, u64)>,
    noted: BTreeMap<ropewalk_wal::ReplicaKey, u64>,
    released_too_much: bool,
}

impl JournalCalls {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn releases(&self) -> usize {
        self.releases
    }

    /// Whether an entry was released that no `Truncated` record covers (D6).
    pub(crate) fn released_too_much(&self) -> bool {
        self.released_too_much
    }

    pub(crate) fn refuse_next(&mut self) {
        self.refuses = true;
    }

    /// Whether an entry keeps the oldest file of a log that has no room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.pinned.is_some()
    }
}

/// A write-ahead log that only counts.
#[derive(Debug)]
struct CountingJournal(Arc<Mutex<JournalCalls>>);

impl Journal for CountingJournal {
    fn truncate(
        &self,
        covered: &[(ropewalk_wal::ReplicaKey, ropewalk_shard::engine::EntryId)],
    ) -> Result<(), WorkError> {
        let mut notes = self.0.lock();
        if std::mem::take(&mut notes.refuses) {
            return Err(WorkError::Later("refused".to_owned()));
        }
        notes.count += 1;
        notes.noted.extend(covered.iter().map(|(key, covered)| (*key, covered.index)));
        notes.pinned.take_if(|(pins, last)| {
            covered.iter().any(|(key, covered)| *pins == *key && *last <= covered.index)
        });
        Ok(())
    }
    fn release(&self, needed: &BTreeMap<ropewalk_wal::ReplicaKey, u64>) {
        let mut notes = self.0.lock();
        notes.releases += 1;
        // A shard is created with a snapshot of its first entry.
        let covered = |key| notes.noted.get(key).map_or(1, |index| *index);
        notes.released_too_much |= needed.iter().any(|(key, from)| *from > covered(key) + 1);
    }
    fn used_bytes(&self) -> u64 {
        0
    }
    fn is_full(&self) -> bool {
        self.0.lock().is_full()
    }
    fn pinned_by_oldest(&self) -> Vec<(ropewalk_wal::ReplicaKey, u64)> {
        self.0.lock().pinned.into_iter().collect()
    }
}

/// The capture of the checkpoint thread; a test may lock it.
#[derive(Debug, Clone)]
pub(crate) struct SharedCapture(pub(crate) Arc<Mutex<Capture>>);

impl Source for SharedCapture {
    fn capture(&self) -> Option<Capture> {
        Some(self.0.lock().clone())
    }
}

pub(crate) fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(3)), index }
}

/// Settings of a [`OneShard`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) checkpoints: Options,
    /// `max.compaction.lag.ms` of partition 0.
    pub(crate) lag_ms_max: i64,
    pub(crate) tail_bytes_max: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let tail_bytes_max = recovery::Options::default().tail_bytes_max;
        Self { checkpoints: Options::default(), lag_ms_max: i64::MAX, tail_bytes_max }
    }
}

/// A shard without Raft: appended records count as applied. Partition 0 is compacted, partition 1
/// is not.
pub(crate) struct OneShard {
    pub(crate) disk: SimDisk,
    wal: Mutex<ropewalk_wal::Wal>,
    key: ropewalk_wal::ReplicaKey,
    catalog: Option<recovery::OpenedReplica>,
    logs: Arc<PartitionLogs>,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) flushers: Vec<Flusher>,
    pub(crate) cleaner: Cleaner,
    pub(crate) captured: SharedCapture,
    pub(crate) notes: Arc<Mutex<JournalCalls>>,
}

impl OneShard {
    /// Checkpoints every change at once, and compacts by dirty ratio only.
    pub(crate) fn open(disk: &SimDisk) -> Result<Self, recovery::OpenError> {
        let checkpoints = Options { checkpoint_age_ms: 0, ..Options::default() };
        Self::open_with(disk, Setup { checkpoints, ..Setup::default() })
    }

    pub(crate) fn open_with(disk: &SimDisk, setup: Setup) -> Result<Self, recovery::OpenError> {
        let Setup { checkpoints, lag_ms_max, tail_bytes_max } = setup;
        let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
        let options = recovery::Options {
            wal: ropewalk_wal::Options {
                file_bytes: 64 << 10,
                first_file_bytes: 64 << 10,
                ..ropewalk_wal::Options::default()
            },
            tail_bytes_max,
            ..recovery::Options::default()
        };
        if !matches!(data.contents()?, DataDirContents::Formatted(_)) {
            let cluster_id = "c".to_owned();
            let identity = Identity::first(cluster_id, BrokerId(1), 1);
            bootstrap::format(&data, &identity, &options)?;
        }
        let opened = recovery::open(data, &options)?;
        let policy: Arc<dyn Policy> = Arc::new(CompactingPolicy { lag_ms_max });
        let notes = Arc::new(Mutex::new(JournalCalls::default()));
        let journal = Box::new(CountingJournal(Arc::clone(&notes)));
        let mut cleaner = Cleaner::new(Arc::clone(&opened.store), Arc::clone(&policy));
        let mut checkpointer = Checkpointer::new(opened.store, journal, policy, checkpoints);
        let mut replicas = opened.replicas.into_iter();
        let catalog = replicas.next();
        let found = replicas.next().expect("shard 1");
        let mut logs = found.logs;
        let mut state: State = found.state;
        for index in 0..2 {
            let id = partition(index);
            state.partitions.entry(id).or_insert_with(|| Partition::new(0).into());
            logs.entry(id).or_insert_with(|| found.partition_logs.open(id));
        }
        let captured = SharedCapture(Arc::new(Mutex::new(Capture {
            replica: ReplicaId(found.start.replica),
            index: found.start.snapshot.index,
            term: 1,
            members: found.start.members,
            state,
            logs: logs.into_iter().collect(),
        })));
        let (key, logs) = (found.files.key(), found.partition_logs);
        checkpointer.add(found.files, Box::new(captured.clone()));
        let logged = captured.clone();
        cleaner.add(ShardId(1), Box::new(move || logged.0.lock().logs.clone()));
        let wal = Mutex::new(opened.wal);
        let flushers = checkpointer.flushers();
        let disk = disk.clone();
        Ok(Self { disk, wal, key, catalog, logs, checkpointer, flushers, cleaner, captured, notes })
    }

    pub(crate) fn log(&self, index: i32) -> Arc<PartitionLog> {
        let capture = self.captured.0.lock();
        let found = capture.logs.iter().find(|(id, _)| *id == partition(index));
        Arc::clone(&found.expect("it is open").1)
    }

    /// Appends the same records to both partitions.
    pub(crate) fn append(&self, count: i64) {
        let value = |offset: i64| Some([&offset.to_le_bytes()[..], &[7; 400]].concat());
        self.append_some((0..count).map(|_| (None, value)), 0);
    }

    /// Appends the same records to both partitions. The key of a record without one is derived from
    /// its offset.
    pub(crate) fn append_some(
        &self,
        records: impl Iterator<Item = (Option<i64>, impl Fn(i64) -> Option<Vec<u8>>)> + Clone,
        now_ms: i64,
    ) {
        for index in 0..2 {
            let log = self.log(index);
            for (key, value) in records.clone() {
                let offset = log.high_watermark();
                let key = key.unwrap_or(offset % KEYS).to_le_bytes();
                let value = value(offset);
                let time_ms = now_ms.max(offset);
                let bytes = Builder::new().record(time_ms, Some(&key), value.as_deref()).build();
                log.append(StampedBatch::new(bytes, offset, 1).expect("a batch"), now_ms);
            }
            let mut capture = self.captured.0.lock();
            capture.index += 1;
            let entry = ropewalk_wal::Record::Entry {
                key: self.key,
                index: capture.index,
                term: 1,
                kind: 0,
                data: bytes::Bytes::new().into(),
            };
            self.wal.lock().write_round(&[entry]).expect("durable");
            let state = capture.state.partitions.get_mut(&partition(index));
            state.expect("it is open").next_offset = log.high_watermark();
        }
    }

    /// Asks for a checkpoint, as a driver does.
    pub(crate) fn ask_for_checkpoint(&self) {
        self.logs.checkpoint();
    }

    /// Appends records and checkpoints them.
    pub(crate) fn append_and_checkpoint(&mut self, count: i64) -> Result<(), WorkError> {
        self.append(count);
        self.checkpoint()
    }

    /// Adds the catalog's shard, in which one entry has been applied.
    pub(crate) fn keep_catalog(&mut self) {
        let found = self.catalog.take().expect("it is kept once");
        let captured = SharedCapture(Arc::new(Mutex::new(Capture {
            replica: ReplicaId(found.start.replica),
            index: found.start.snapshot.index + 1,
            term: 1,
            members: found.start.members,
            state: found.state,
            logs: Vec::new(),
        })));
        self.checkpointer.add(found.files, Box::new(captured));
    }

    /// Fills the log, with an entry that changes no partition in its oldest file.
    pub(crate) fn fill_log(&self) {
        let mut capture = self.captured.0.lock();
        capture.index += 1;
        self.notes.lock().pinned = Some((self.key, capture.index));
    }

    pub(crate) fn checkpoint(&mut self) -> Result<(), WorkError> {
        self.checkpointer.checkpoint_all(0)
    }

    /// Runs all threads until they have no work.
    pub(crate) fn work(&mut self, now_ms: i64) -> Result<(), WorkError> {
        self.clean(now_ms)?;
        while self.step(now_ms)? == Next::Now {}
        self.clean(now_ms)
    }

    /// One step of the flushers, then one of the checkpointer. Returns the first error.
    pub(crate) fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        let flushed = self.flush(now_ms);
        let next = self.checkpointer.step(now_ms)?;
        Ok(if flushed? == Next::Now { Next::Now } else { next })
    }

    /// One step of each flusher. Returns the first error.
    pub(crate) fn flush(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        let steps: Vec<_> = self.flushers.iter_mut().map(|flusher| flusher.step(now_ms)).collect();
        let done: Vec<Next> = steps.into_iter().collect::<Result<_, _>>()?;
        Ok(if done.contains(&Next::Now) { Next::Now } else { Next::Wait })
    }

    pub(crate) fn clean(&mut self, now_ms: i64) -> Result<(), WorkError> {
        while self.cleaner.step(now_ms)? == Next::Now {}
        Ok(())
    }
}

/// Offset and key of every record.
pub(crate) fn records(log: &PartitionLog) -> Vec<(i64, i64)> {
    let mut found = Vec::new();
    let mut at = log.log_start();
    while at < log.high_watermark() {
        let chunk = log.read(at, 1 << 20, true).expect("readable");
        assert!(chunk.next_offset > at, "O4: a read at {at} gives nothing");
        at = chunk.next_offset;
        let mut rest = bytes::Bytes::from(chunk.bytes.concat());
        while !rest.is_empty() {
            let header = ropewalk_batch::Header::parse(&rest).expect("a batch");
            let batch = rest.split_to(header.size_bytes());
            for record in ropewalk_batch::records(&header, batch, 1 << 20).expect("records") {
                let record = record.expect("a record");
                let key = record.key.expect("a key");
                let key = i64::from_le_bytes(key[..].try_into().expect("8 bytes"));
                found.push((header.base_offset + i64::from(record.offset_delta), key));
            }
        }
    }
    found
}
