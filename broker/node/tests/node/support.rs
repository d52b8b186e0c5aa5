//! What the tests of a whole node share: its options, and a partition to append to and to read.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ropewalk_batch::Builder;
use ropewalk_disk::Disk;
use ropewalk_node::{NodeOptions, Observer, Peers, ShardHandle};
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::command::{Append, Command, OpenPartition, ShardCommand};
use ropewalk_shard::proposal::{ProposeError, SendOrder};
use ropewalk_shard::{Effect, PartitionId, ShardId, TopicId};
use ropewalk_store::policy::Policy;
use ropewalk_store::{Identity, checkpoint, recovery, transfer};

/// Observes nothing, and gives every partition segments of this size.
#[derive(Debug)]
struct Plain {
    segment_bytes: u64,
}

impl Observer for Plain {
    fn applied(&self, _: ShardId, _: &[Effect]) {}
    fn leads(&self, _: ShardId, _: Option<u64>) {}
    fn installed(&self, _: &ShardHandle) {}
}

impl Policy for Plain {
    fn segments(&self, _: PartitionId) -> SegmentConfig {
        SegmentConfig { segment_bytes: self.segment_bytes, ..SegmentConfig::default() }
    }
}

/// Checkpoints that are due by the length of the write-ahead log.
pub(crate) const CHECKPOINTS: checkpoint::Options = checkpoint::Options {
    wal_used_bytes_soft_max: 2 << 20,
    checkpoint_age_ms: 60_000,
    syncs_per_second: 200,
    disk_free_bytes_min: 0,
    unsynced_logs_max: 100,
};

fn clock_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_millis()).expect("fits")
}

/// Small bounds, so that a test reaches them. An error that ends the process is a panic.
pub(crate) fn options(
    disk: Arc<dyn Disk>,
    dir: &Path,
    identity: Identity,
    peers: Arc<dyn Peers>,
) -> NodeOptions {
    let wal = ropewalk_wal::Options {
        file_bytes: 1 << 20,
        first_file_bytes: 1 << 20,
        files_bytes_max: 64 << 20,
        spares_max: 2,
        prefilled: 0,
    };
    let plain = Arc::new(Plain { segment_bytes: 1 << 20 });
    NodeOptions {
        disk,
        dir: dir.to_owned(),
        format: Some(identity),
        observer: Arc::clone(&plain) as _,
        peers,
        policy: plain,
        on_fatal: Arc::new(|error| panic!("{error}")),
        on_round: Arc::new(|_| ()),
        clock_ms,
        recovery: recovery::Options { wal, tail_bytes_max: 4 << 20, open_files_max: 16 },
        checkpoint: CHECKPOINTS,
        transfer: transfer::Options { disk_free_bytes_min: 0, ..Default::default() },
    }
}

pub(crate) fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(5)), index }
}

pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Waits until `is_reached`. The test times out if that never is.
pub(crate) async fn until(is_reached: impl Fn() -> bool) {
    while !is_reached() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn leads(shard: &ShardHandle) {
    until(|| shard.leading().is_some()).await;
}

pub(crate) async fn open_partition(shard: &ShardHandle, index: i32) {
    let open = OpenPartition { partition: partition(index), epoch_base: 0 };
    let command = Command::Shard(ShardCommand::OpenPartitions(vec![open]));
    shard.propose(command).await.expect("it opens");
}

/// Appends a value, and returns its offset.
pub(crate) async fn append(shard: &ShardHandle, index: i32, value: &[u8]) -> i64 {
    try_append(shard, index, value).await.expect("appended")
}

/// Appends a value, and returns its offset.
pub(crate) async fn try_append(
    shard: &ShardHandle,
    index: i32,
    value: &[u8],
) -> Result<i64, ProposeError> {
    let batch = Builder::new().record(1, None, Some(value)).build();
    let items = vec![Append { partition: partition(index), batch }];
    let answer = shard.append(items, SendOrder::default()).await;
    let results = answer.unwrap_or(Err(ProposeError::Unknown))?;
    Ok(results[0].expect("taken").base_offset)
}

/// The values in the log of a replica: one in each batch.
pub(crate) fn values(shard: &ShardHandle, index: i32) -> Vec<Vec<u8>> {
    let log = shard.log(&partition(index)).expect("it is open");
    let (mut bytes, mut at) = (Vec::new(), log.log_start());
    while at < log.high_watermark() {
        let chunk = log.read(at, 1 << 20, true).expect("readable");
        at = chunk.next_offset;
        bytes.extend(chunk.bytes.concat());
    }
    let (mut rest, mut values) = (bytes::Bytes::from(bytes), Vec::new());
    while !rest.is_empty() {
        let header = ropewalk_batch::Header::parse(&rest).expect("a batch");
        let batch = rest.split_to(header.size_bytes());
        assert_eq!(header.base_offset, values.len() as i64);
        for record in ropewalk_batch::records(&header, batch, 1 << 20).expect("records") {
            values.push(record.expect("a record").value.expect("a value").to_vec());
        }
    }
    values
}
