//! A compacted partition next to one that is not, on a disk that loses power.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use ropewalk_batch::{Builder, Stamped};
use ropewalk_disk::SimDisk;
use ropewalk_segment::SegmentConfig;

use super::*;
use crate::birth;
use crate::checkpoint::{Journal, Keeper, Options, Source};
use crate::directory::Identity;
use crate::driver::Logs;
use crate::handle::Capture;
use crate::id::{BrokerId, TopicId};
use crate::recovery;
use crate::state::{Partition, State};

const KEYS: i64 = 7;

#[derive(Debug)]
struct Compacting;

impl Policy for Compacting {
    fn segments(&self, _: PartitionId) -> SegmentConfig {
        SegmentConfig { segment_bytes: 4 << 10, ..SegmentConfig::default() }
    }

    fn compaction(&self, partition: PartitionId) -> Option<CompactionPolicy> {
        (partition.index == 0).then_some(CompactionPolicy {
            dirty_ratio_min: 0.5,
            delete_retention_ms: 1_000,
            lag_ms_min: 0,
            lag_ms_max: i64::MAX,
        })
    }
}

#[derive(Debug)]
struct NoLog;

impl Journal for NoLog {
    fn truncate(&self, _: ropewalk_wal::ReplicaKey, _: u64, _: u64) -> Result<(), KeeperError> {
        Ok(())
    }
    fn release(&self, _: &BTreeMap<ropewalk_wal::ReplicaKey, u64>) {}
    fn used_bytes(&self) -> u64 {
        0
    }
    fn is_full(&self) -> bool {
        false
    }
    fn pinned_by_oldest(&self) -> Vec<(ropewalk_wal::ReplicaKey, u64)> {
        Vec::new()
    }
}

#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Capture>>);

impl Source for Shared {
    fn capture(&self) -> Option<Capture> {
        Some(self.0.lock().clone())
    }
}

fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(3)), index }
}

/// A shard without Raft: what is appended is applied, what is checkpointed is durable.
struct Shard {
    disk: SimDisk,
    wal: Mutex<ropewalk_wal::Wal>,
    key: ropewalk_wal::ReplicaKey,
    keeper: Keeper,
    cleaner: Cleaner,
    captured: Shared,
}

impl Shard {
    fn open(disk: &SimDisk) -> Result<Self, recovery::OpenError> {
        let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"));
        let options = recovery::Options {
            wal: ropewalk_wal::Options {
                file_bytes: 64 << 10,
                first_file_bytes: 64 << 10,
                ..ropewalk_wal::Options::default()
            },
            ..recovery::Options::default()
        };
        if !matches!(data.look()?, crate::directory::Found::Formatted(_)) {
            let cluster_id = "c".to_owned();
            let identity = Identity { cluster_id, broker_id: BrokerId(1), shards: 1 };
            birth::format(&data, &identity, &options)?;
        }
        let opened = recovery::open(data.clone(), &options)?;
        let policy: Arc<dyn Policy> = Arc::new(Compacting);
        let at_once = Options { checkpoint_age_ms: 0, ..Options::default() };
        let mut keeper = Keeper::new(opened.store, Box::new(NoLog), Arc::clone(&policy), at_once);
        let mut cleaner = Cleaner::new(data, policy);
        let found = opened.replicas.into_iter().nth(1).expect("shard 1");
        let mut logs = found.logs;
        let mut state: State = found.state;
        for index in 0..2 {
            let id = partition(index);
            state.partitions.entry(id).or_insert_with(|| Partition::new(0));
            logs.entry(id).or_insert_with(|| found.shelf.open(id));
        }
        let captured = Shared(Arc::new(Mutex::new(Capture {
            replica: crate::id::ReplicaId(found.start.replica),
            index: found.start.snapshot.0,
            term: 1,
            members: found.start.members,
            state,
            logs: logs.into_iter().collect(),
        })));
        let key = found.files.key();
        keeper.add(found.files, Box::new(captured.clone()));
        let logged = captured.clone();
        cleaner.add(ShardId(1), Box::new(move || logged.0.lock().logs.clone()));
        let wal = Mutex::new(opened.wal);
        Ok(Self { disk: disk.clone(), wal, key, keeper, cleaner, captured })
    }

    fn log(&self, index: i32) -> Arc<PartitionLog> {
        let capture = self.captured.0.lock();
        let found = capture.logs.iter().find(|(id, _)| *id == partition(index));
        Arc::clone(&found.expect("it is open").1)
    }

    /// The same records to both partitions.
    fn append(&self, count: i64) {
        for index in 0..2 {
            let log = self.log(index);
            for _ in 0..count {
                let offset = log.high_watermark();
                let key = (offset % KEYS).to_le_bytes();
                let value = [&offset.to_le_bytes()[..], &[7; 400]].concat();
                let bytes = Builder::new().record(offset, Some(&key), Some(&value)).build();
                log.append(Stamped::new(bytes, offset, 1).expect("a batch"), 0);
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

    fn checkpoint(&mut self) -> Result<(), KeeperError> {
        self.keeper.checkpoint_all(0)
    }

    fn clean(&mut self, now_ms: i64) -> Result<(), KeeperError> {
        while self.cleaner.step(now_ms)? == Next::Now {}
        Ok(())
    }
}

/// Offset and key of every record.
fn records(log: &PartitionLog) -> Vec<(i64, i64)> {
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

/// What compaction may leave of `count` records: the last of each key at least, nothing invented.
fn check_compacted(found: &[(i64, i64)], count: i64) {
    assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "O1");
    assert!(found.iter().all(|(offset, key)| offset % KEYS == *key));
    for offset in (count - KEYS).max(0)..count {
        assert!(found.contains(&(offset, offset % KEYS)), "the last record of a key is gone");
    }
}

#[test]
fn of_each_key_only_the_last_record_stays() {
    let disk = SimDisk::new(1);
    let mut shard = Shard::open(&disk).expect("it opens");
    for _ in 0..4 {
        shard.append(150);
        shard.checkpoint().expect("durable");
    }
    shard.clean(10_000).expect("cleaned");
    let left = records(&shard.log(0));
    check_compacted(&left, 600);
    assert!(left.len() < 300, "{} of 600 are left", left.len());
    assert_eq!(shard.log(0).visible_count(0, 600).expect("counted"), left.len() as u64);
    assert_eq!(records(&shard.log(1)).len(), 600, "the other partition is not compacted");
    let before = shard.log(0).size_bytes();
    assert!(before < shard.log(1).size_bytes() / 2);

    // The log grows on, is checkpointed, and comes back as it was.
    shard.append(10);
    shard.checkpoint().expect("durable");
    let left = records(&shard.log(0));
    drop(shard);
    disk.power_cycle(1);
    let shard = Shard::open(&disk).expect("it opens");
    assert_eq!(records(&shard.log(0)), left);
    check_compacted(&left, 610);
}

#[test]
fn d1_power_may_go_at_any_moment_of_a_compaction() {
    let prepare = |seed| {
        let disk = SimDisk::new(seed);
        let mut shard = Shard::open(&disk).expect("it opens");
        for _ in 0..3 {
            shard.append(100);
            shard.checkpoint().expect("durable");
        }
        shard
    };
    let operations = {
        let mut shard = prepare(0);
        let before = shard.disk.operations();
        shard.clean(10_000).expect("cleaned");
        shard.disk.operations() - before
    };
    assert!(operations > 10, "{operations}");
    for seed in 0..60 {
        let mut shard = prepare(seed);
        let disk = shard.disk.clone();
        disk.crash_at(disk.operations() + 1 + seed * 7 % operations);
        assert!(shard.clean(10_000).is_err(), "it was to crash");
        drop(shard);
        disk.power_cycle(seed);
        // Once more from the older snapshot, which must hold just as well.
        if seed % 2 == 0 {
            let newest = PathBuf::from("/data/shards/1/snapshots/00000000000000000004.snapshot");
            assert!(disk.corrupt(&newest, 50, 1));
        }
        let shard = Shard::open(&disk).expect("it opens");
        let log = shard.log(0);
        let count = log.high_watermark();
        assert_eq!(count, if seed % 2 == 0 { 200 } else { 300 });
        check_compacted(&records(&log), count);
        assert_eq!(records(&shard.log(1)).len() as i64, count);
    }
}

#[test]
fn only_what_is_old_enough_and_worth_it_is_compacted() {
    let info = |base_offset, max_timestamp_ms, is_compacted| SegmentInfo {
        base_offset,
        next_offset: base_offset + 10,
        size_bytes: 100,
        max_timestamp_ms: Some(max_timestamp_ms),
        created_ms: 0,
        records: 10,
        is_sealed: true,
        is_compacted,
    };
    let infos = [info(0, 5, true), info(10, 50, false), info(20, 90, false)];
    assert_eq!(settled(&infos, 30, 100), 30);
    assert_eq!(settled(&infos, 30, 60), 20);
    assert_eq!(settled(&infos, 15, 60), 15);
    let policy = CompactionPolicy {
        dirty_ratio_min: 0.6,
        delete_retention_ms: 0,
        lag_ms_min: 0,
        lag_ms_max: 1_000,
    };
    assert!(pays(&infos, 30, 500, &policy));
    assert!(!pays(&infos, 20, 500, &policy), "half is new");
    assert!(pays(&infos, 20, 1_500, &policy), "but it has waited long enough");
    assert!(!pays(&infos, 10, 1_500, &policy), "nothing is new there");
}
