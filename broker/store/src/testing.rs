//! One shard of a store without Raft, for the tests of what runs in the background.

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
use crate::log::{Logs, PartitionLog};
use crate::policy::{CompactionPolicy, Policy};
use crate::recovery;
use crate::work::{Next, WorkError};

/// Keys of the records that [`OneShard::append`] makes.
pub(crate) const KEYS: i64 = 7;

#[derive(Debug)]
struct Compacting {
    lag_ms_max: i64,
}

impl Policy for Compacting {
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

/// What the write-ahead log was told to be covered.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    count: usize,
    refuses: bool,
    releases: usize,
    pinned: Option<(ropewalk_wal::ReplicaKey, u64)>,
}

impl Notes {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn releases(&self) -> usize {
        self.releases
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
struct Counting(Arc<Mutex<Notes>>);

impl Journal for Counting {
    fn truncate(&self, key: ropewalk_wal::ReplicaKey, index: u64, _: u64) -> Result<(), WorkError> {
        let mut notes = self.0.lock();
        if std::mem::take(&mut notes.refuses) {
            return Err(WorkError::Later("refused".to_owned()));
        }
        notes.count += 1;
        notes.pinned.take_if(|(pins, last)| *pins == key && *last <= index);
        Ok(())
    }
    fn release(&self, _: &BTreeMap<ropewalk_wal::ReplicaKey, u64>) {
        self.0.lock().releases += 1;
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

/// What the checkpoint thread captures; a test may hold it back.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Capture>>);

impl Source for Shared {
    fn capture(&self) -> Option<Capture> {
        Some(self.0.lock().clone())
    }
}

pub(crate) fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(3)), index }
}

/// How a [`OneShard`] works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) checkpoints: Options,
    /// Of partition 0.
    pub(crate) lag_ms_max: i64,
    pub(crate) tail_bytes_max: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let tail_bytes_max = recovery::Options::default().tail_bytes_max;
        Self { checkpoints: Options::default(), lag_ms_max: i64::MAX, tail_bytes_max }
    }
}

/// A shard without Raft: what is appended is applied, what is checkpointed is durable. Partition 0 is
/// compacted, partition 1 is not.
pub(crate) struct OneShard {
    pub(crate) disk: SimDisk,
    wal: Mutex<ropewalk_wal::Wal>,
    key: ropewalk_wal::ReplicaKey,
    catalog: Option<recovery::OpenedReplica>,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) cleaner: Cleaner,
    pub(crate) captured: Shared,
    pub(crate) notes: Arc<Mutex<Notes>>,
}

impl OneShard {
    /// Checkpoints whatever changed at once, and compacts for size only.
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
        if !matches!(data.look()?, DataDirContents::Formatted(_)) {
            let cluster_id = "c".to_owned();
            let identity = Identity { cluster_id, broker_id: BrokerId(1), shards: 1 };
            bootstrap::format(&data, &identity, &options)?;
        }
        let opened = recovery::open(data.clone(), &options)?;
        let policy: Arc<dyn Policy> = Arc::new(Compacting { lag_ms_max });
        let notes = Arc::new(Mutex::new(Notes::default()));
        let journal = Box::new(Counting(Arc::clone(&notes)));
        let mut checkpointer =
            Checkpointer::new(opened.store, journal, Arc::clone(&policy), checkpoints);
        let mut cleaner = Cleaner::new(data, policy);
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
        let captured = Shared(Arc::new(Mutex::new(Capture {
            replica: ReplicaId(found.start.replica),
            index: found.start.snapshot.index,
            term: 1,
            members: found.start.members,
            state,
            logs: logs.into_iter().collect(),
        })));
        let key = found.files.key();
        checkpointer.add(found.files, Box::new(captured.clone()));
        let logged = captured.clone();
        cleaner.add(ShardId(1), Box::new(move || logged.0.lock().logs.clone()));
        let wal = Mutex::new(opened.wal);
        Ok(Self { disk: disk.clone(), wal, key, catalog, checkpointer, cleaner, captured, notes })
    }

    pub(crate) fn log(&self, index: i32) -> Arc<PartitionLog> {
        let capture = self.captured.0.lock();
        let found = capture.logs.iter().find(|(id, _)| *id == partition(index));
        Arc::clone(&found.expect("it is open").1)
    }

    /// The same records to both partitions.
    pub(crate) fn append(&self, count: i64) {
        let value = |offset: i64| Some([&offset.to_le_bytes()[..], &[7; 400]].concat());
        self.append_some((0..count).map(|_| (None, value)), 0);
    }

    /// The same records to both partitions. The key of a record without one follows from its offset.
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

    /// Looks after the shard of the catalog as well, in which an entry has been applied.
    pub(crate) fn keep_catalog(&mut self) {
        let found = self.catalog.take().expect("it is kept once");
        let captured = Shared(Arc::new(Mutex::new(Capture {
            replica: ReplicaId(found.start.replica),
            index: found.start.snapshot.index + 1,
            term: 1,
            members: found.start.members,
            state: found.state,
            logs: Vec::new(),
        })));
        self.checkpointer.add(found.files, Box::new(captured));
    }

    /// The log is full, and what keeps its oldest file is an entry that touches no partition.
    pub(crate) fn fill_log(&self) {
        let mut capture = self.captured.0.lock();
        capture.index += 1;
        self.notes.lock().pinned = Some((self.key, capture.index));
    }

    pub(crate) fn checkpoint(&mut self) -> Result<(), WorkError> {
        self.checkpointer.checkpoint_all(0)
    }

    /// What both threads do in a second.
    pub(crate) fn work(&mut self, now_ms: i64) -> Result<(), WorkError> {
        self.clean(now_ms)?;
        while self.checkpointer.step(now_ms)? == Next::Now {}
        self.clean(now_ms)
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
