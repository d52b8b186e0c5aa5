//! Fetches and lookups of partitions whose older records are in a bucket.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, Ordering};

use ropewalk_codec::fetch_request::*;
use ropewalk_codec::fetch_response::{FetchResponse, PartitionData};
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::{ChangeTier, Command, FORMAT_MAX, ShardCommand, TierChange};
use ropewalk_shard::{Outcome, PartitionId};
use ropewalk_store::PartitionLog;
use ropewalk_store::remote::{RemoteError, RemoteFuture, RemoteLog, RemoteRange, RemoteRecords};
use ropewalk_tier::faulty::{Fault, FaultyStore};
use ropewalk_tier::{
    Bucket, ClusterId, Encoder, Origin, PartitionKey, Push, ReaderLimits, TierReader,
};
use tokio::sync::watch;

use super::records::{FETCH, batch, fetch, from, produce};
use super::versions::Client;
use super::*;
use crate::tier::convert::object_of;
use crate::tier::remote::{RemoteParts, RemoteReader, ShardManifests};

/// Size of each batch without its header, bytes.
const VALUE_BYTES: usize = 60_000;

/// What the bucket does with the next reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serves,
    Fails,
    Hangs,
}

/// A reader of the bucket that fails or waits as a test wants it to.
#[derive(Debug)]
struct Gate {
    reader: RemoteReader,
    mode: watch::Sender<Mode>,
    reads: AtomicU8,
}

impl Gate {
    /// Waits until the bucket does not hang.
    async fn pass(&self) -> Result<(), RemoteError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut mode = self.mode.subscribe();
        let mode = *mode.wait_for(|mode| *mode != Mode::Hangs).await.expect("the gate exists");
        match mode {
            Mode::Fails => Err(RemoteError::Unavailable("503 SlowDown".to_owned())),
            Mode::Serves | Mode::Hangs => Ok(()),
        }
    }
}

impl RemoteLog for Gate {
    fn read(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        bytes_max: usize,
    ) -> RemoteFuture<'_, RemoteRecords> {
        Box::pin(async move {
            self.pass().await?;
            self.reader.read(partition, range, bytes_max).await
        })
    }

    fn offset_for_timestamp(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        timestamp_ms: i64,
    ) -> RemoteFuture<'_, Option<(i64, i64)>> {
        Box::pin(async move {
            self.pass().await?;
            self.reader.offset_for_timestamp(partition, range, timestamp_ms).await
        })
    }

    fn max_timestamp(
        &self,
        partition: PartitionId,
        range: RemoteRange,
    ) -> RemoteFuture<'_, Option<(i64, i64)>> {
        Box::pin(async move {
            self.pass().await?;
            self.reader.max_timestamp(partition, range).await
        })
    }
}

/// A broker with topic `t` of two partitions, the first of which has a tier.
struct Fixture {
    client: Client,
    shard: Arc<ShardHandle>,
    log: Arc<PartitionLog>,
    store: Arc<FaultyStore>,
    bucket: Bucket,
    gate: Arc<Gate>,
    dir: TempDir,
}

/// A reader of the bucket for a broker.
pub(super) fn reader(context: &Context, bucket: &Bucket) -> RemoteReader {
    RemoteReader::new(RemoteParts {
        reader: TierReader::new(bucket.clone(), ReaderLimits::default()),
        manifests: ShardManifests::new(Arc::clone(&context.node), Arc::clone(&context.view)),
        cluster: ClusterId::new("cluster").expect("valid"),
        runtime: tokio::runtime::Handle::current(),
    })
}

/// Changes the tier of a partition.
pub(super) async fn change_tier(shard: &ShardHandle, partition: PartitionId, change: TierChange) {
    // Every broker of the cluster reports which commands it reads.
    eventually(|| shard.level() == FORMAT_MAX).await;
    let command = ShardCommand::ChangeTier(ChangeTier { change, partition });
    let outcome = shard.propose(Command::Shard(command)).await.expect("it is applied");
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
}

/// Puts the records of a range into the bucket and into the manifest.
pub(super) async fn upload(
    shard: &ShardHandle,
    log: &PartitionLog,
    bucket: &Bucket,
    range: Range<i64>,
) {
    let PartitionId { topic, index } = log.partition();
    let cluster = ClusterId::new("cluster").expect("valid");
    let key = PartitionKey { cluster, topic: topic.0, index };
    let term = shard.leading().expect("it leads");
    let mut encoder = Encoder::new(key, Origin { history: 5, term }, range.start);
    let chunk = log.read(range.start, 1 << 30, true).expect("it is here");
    for batch in ropewalk_tier::batches(chunk.bytes.concat().into()) {
        let batch = batch.expect("valid");
        if batch.base_offset >= range.end {
            break;
        }
        assert_eq!(encoder.push(&batch), Ok(Push::Added));
    }
    let object = encoder.finish(range.end).expect("the range has batches");
    let name = object.name.to_string();
    bucket.put_if_absent(&name, &object.content).await.expect("put");
    let object = object_of(&object.reference);
    change_tier(shard, log.partition(), TierChange::AddObject(object)).await;
}

fn value(number: i64) -> String {
    format!("{number:08}{}", "x".repeat(VALUE_BYTES - 8))
}

impl Fixture {
    /// With so many batches, each of one record.
    async fn new(batches: i64) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
        client.make("t", 2).await;
        for number in 0..batches {
            client.store("t", &[&value(number)]).await;
        }
        let context = Arc::clone(client.broker.context());
        let view = context.view.by_name("t").expect("it was made");
        let held = context.partition(&view, 0).expect("it is led here");
        let store = Arc::new(FaultyStore::default());
        let bucket = Bucket::over(Arc::clone(&store) as _);
        let reader = reader(&context, &bucket);
        let (mode, _) = watch::channel(Mode::Serves);
        let gate = Arc::new(Gate { reader, mode, reads: AtomicU8::new(0) });
        let remote: Arc<dyn RemoteLog> = Arc::clone(&gate) as _;
        context.remote.set(remote).expect("it is set once");
        let fixture = Self { client, shard: held.shard, log: held.log, store, bucket, gate, dir };
        fixture.change(TierChange::Enable).await;
        fixture
    }

    /// With six batches in the bucket only, four on the disk, and one in the other partition.
    async fn beside_another_partition() -> Self {
        let mut fixture = Self::new(10).await;
        fixture.upload(0, 6).await;
        fixture.change(TierChange::SetLocalStart(6)).await;
        eventually(|| fixture.log.local_start() == 6).await;
        let answer = fixture.client.ask(9, &produce("t", -1, vec![(1, batch(&["v"]))])).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
        fixture
    }

    async fn change(&self, change: TierChange) {
        change_tier(&self.shard, self.log.partition(), change).await;
    }

    /// Puts the records of a range into the bucket and into the manifest.
    async fn upload(&self, base: i64, end: i64) {
        upload(&self.shard, &self.log, &self.bucket, base..end).await;
    }

    fn context(&self) -> &Arc<Context> {
        self.client.broker.context()
    }

    /// Bytes of the budget for records of the bucket that are in use.
    fn cold_bytes(&self) -> usize {
        limits::COLD_BYTES_MAX - self.context().cold.free_bytes()
    }

    fn set(&self, mode: Mode) {
        self.gate.mode.send_replace(mode);
    }

    async fn part(&mut self, request: &FetchRequest) -> PartitionData {
        self.client.ask(FETCH, request).await.responses.remove(0).partitions.remove(0)
    }

    /// The first partition from an offset on, and the second one.
    async fn both(&mut self, offset: i64, max_wait_ms: i32) -> FetchResponse {
        let second = FetchPartition { partition: 1, ..from(0) };
        let partitions = vec![from(offset), second];
        let topic = FetchTopic { topic: "t".into(), partitions, ..Default::default() };
        let request = FetchRequest { max_wait_ms, topics: vec![topic], ..fetch("t", from(0)) };
        self.client.ask(FETCH, &request).await
    }
}

/// Checks that the records are the batches from `first` on, and returns the number of batches.
fn check(part: &PartitionData, first: i64) -> i64 {
    assert_eq!(part.error_code, 0);
    let mut bytes = part.records.to_bytes().expect("not null");
    let mut number = first;
    while !bytes.is_empty() {
        let size_bytes = ropewalk_batch::Header::parse(&bytes).expect("a header").size_bytes();
        let batch = bytes.split_to(size_bytes);
        let header = ropewalk_batch::Header::verify(&batch).expect("a whole batch");
        assert_eq!(header.base_offset, number);
        number += 1;
    }
    number - first
}

async fn eventually(mut is: impl FnMut() -> bool) {
    let due = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < due, "it never came to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn patient(asked: FetchPartition) -> FetchRequest {
    FetchRequest { max_wait_ms: 10_000, ..fetch("t", asked) }
}

#[tokio::test(flavor = "multi_thread")]
async fn o4_each_batch_is_fetched_once_across_bucket_disk_and_memory_while_records_move() {
    let mut fixture = Fixture::new(60).await;
    let mut ends = [(0, 7), (7, 20), (20, 33), (33, 45)].into_iter();
    let mut starts = [1, 7, 12, 30, 44].into_iter();
    for limit in [VALUE_BYTES * 2, 1 << 20, 1, i32::MAX as usize] {
        let (mut next, mut fetches) = (0, 0);
        while next < 60 {
            fetches += 1;
            if fetches % 3 == 1 {
                if let Some((base, end)) = ends.next() {
                    fixture.upload(base, end).await;
                } else if let Some(start) = starts.next() {
                    fixture.change(TierChange::SetLocalStart(start)).await;
                    eventually(|| fixture.log.local_start() == start).await;
                }
            }
            let partition_max_bytes = i32::try_from(limit).expect("small");
            let request = patient(FetchPartition { partition_max_bytes, ..from(next) });
            let part = fixture.part(&request).await;
            assert!(part.records.len() <= limit.max(VALUE_BYTES + 100));
            assert_eq!((part.high_watermark, part.log_start_offset), (60, 0));
            let read = check(&part, next);
            assert!(read > 0, "at least one, from {next}");
            next += read;
        }
        assert_eq!(next, 60);
    }
    assert_eq!(fixture.log.local_start(), 44);
    assert!(fixture.gate.reads.load(Ordering::Relaxed) > 1, "the bucket was read");
    eventually(|| fixture.cold_bytes() == 0).await;
    fixture.client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn list_offsets_names_the_borders_of_the_tier() {
    const EARLIEST: i64 = -2;
    const EARLIEST_LOCAL: i64 = -4;
    const LATEST_TIERED: i64 = -5;
    let mut fixture = Fixture::new(10).await;
    assert_eq!(fixture.client.list("t", LATEST_TIERED).await.1, -1, "nothing is in the bucket");
    fixture.upload(0, 6).await;
    assert_eq!(fixture.client.list("t", LATEST_TIERED).await.1, 5);
    assert_eq!(fixture.client.list("t", EARLIEST_LOCAL).await.1, 0);
    fixture.change(TierChange::SetLocalStart(4)).await;
    eventually(|| fixture.log.local_start() == 4).await;
    for (timestamp, offset) in [(EARLIEST, 0), (EARLIEST_LOCAL, 4), (LATEST_TIERED, 5), (-1, 10)] {
        let (code, found, epoch) = fixture.client.list("t", timestamp).await;
        assert_eq!((code, found), (0, offset), "{timestamp}");
        assert!(epoch >= 0, "the epoch of each offset is known");
    }
    // Deletion may pass the local start and the end of the tier.
    for (start, local, tiered) in [(2, 4, 5), (5, 5, 5), (8, 8, -1)] {
        assert_eq!(fixture.client.delete("t", start).await, (0, start));
        for (timestamp, offset) in
            [(EARLIEST, start), (EARLIEST_LOCAL, local), (LATEST_TIERED, tiered)]
        {
            assert_eq!(fixture.client.list("t", timestamp).await.1, offset, "{timestamp}");
        }
    }
    let below = fixture.part(&fetch("t", from(7))).await;
    assert_eq!(below.error_code, ErrorCode::OffsetOutOfRange.code());
    fixture.client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_by_time_go_from_the_bucket_on_to_the_disk() {
    let mut fixture = Fixture::new(0).await;
    for ms in [1_000, 3_000, 2_000, 5_000, 4_000, 5_000] {
        let batch = ropewalk_batch::Builder::new().record(ms, None, Some(b"v")).build();
        let answer = fixture.client.ask(9, &produce("t", -1, vec![(0, batch)])).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }
    const MAX_TIMESTAMP: i64 = -3;
    let expected = [(500, 0), (1_500, 1), (3_001, 3), (5_000, 3), (MAX_TIMESTAMP, 3), (5_001, -1)];
    fixture.upload(0, 2).await;
    fixture.upload(2, 5).await;
    for local_start in [0, 2, 3, 4, 5] {
        fixture.change(TierChange::SetLocalStart(local_start)).await;
        eventually(|| fixture.log.local_start() == local_start).await;
        for (timestamp, offset) in expected {
            let (code, found, _) = fixture.client.list("t", timestamp).await;
            assert_eq!((code, found), (0, offset), "{timestamp}, local start {local_start}");
        }
    }
    fixture.set(Mode::Fails);
    let failed = fixture.client.list("t", 500).await;
    assert_eq!(failed.0, ErrorCode::KafkaStorageError.code());
    fixture.client.broker.stop().await;
}

/// Neither delays the other partition of the fetch nor fails it, and holds no memory afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn r1_a_bucket_that_fails_or_hangs_costs_the_partition_that_needs_it() {
    let mut fixture = Fixture::beside_another_partition().await;

    fixture.set(Mode::Fails);
    let parts = fixture.both(0, 10_000).await.responses.remove(0).partitions;
    assert_eq!(parts[0].error_code, ErrorCode::KafkaStorageError.code());
    assert_eq!((parts[1].error_code, parts[1].records.is_empty()), (0, false));
    assert_eq!(fixture.part(&patient(from(6))).await.error_code, 0, "what is here is served");

    fixture.set(Mode::Hangs);
    let parts = fixture.both(0, 10_000).await.responses.remove(0).partitions;
    assert_eq!((parts[0].error_code, parts[0].records.is_empty()), (0, true));
    assert_eq!(parts[0].high_watermark, 10, "the client learns that there is more");
    assert_eq!((parts[1].error_code, parts[1].records.is_empty()), (0, false));
    eventually(|| fixture.cold_bytes() == 0).await;

    // With nothing else to return the fetch waits as long as it may, and returns nothing.
    let brief = FetchRequest { max_wait_ms: 100, ..fetch("t", from(0)) };
    let part = fixture.part(&brief).await;
    assert_eq!((part.error_code, part.records.is_empty()), (0, true));

    // A fetch that waits is woken by its records.
    let mut other = Client::beside(&fixture.client.broker).await;
    let waiting = tokio::spawn(async move { other.ask(FETCH, &patient(from(0))).await });
    eventually(|| fixture.cold_bytes() > 0).await;
    fixture.set(Mode::Serves);
    let answer = timeout(SOON / 2, waiting).await.expect("it is woken").expect("answered");
    assert!(check(&answer.responses[0].partitions[0], 0) > 0);
    eventually(|| fixture.cold_bytes() == 0).await;
    fixture.client.broker.stop().await;
}

/// A consumer whose fetches are always answered at once, because of its other partitions, gets the
/// records of the bucket all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_in_the_bucket_is_not_starved_by_the_others() {
    let mut fixture = Fixture::beside_another_partition().await;
    // It is asked again after a pause, which is longer than a fetch.
    fixture.store.next_gets([Fault::Fails, Fault::Fails]);
    let due = Instant::now() + SOON;
    let mut next = 0;
    while next < 10 {
        assert!(Instant::now() < due, "starved at {next}");
        let parts = fixture.both(next, 10_000).await.responses.remove(0).partitions;
        assert!(!parts[1].records.is_empty(), "the other one always has some");
        next += check(&parts[0], next);
    }
    fixture.client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_records_that_are_damaged_on_the_disk_are_read_from_the_bucket() {
    let mut fixture = Fixture::new(40).await;
    eventually(|| !fixture.log.is_in_memory(15)).await;
    fixture.upload(0, 10).await;
    damage(fixture.dir.path(), 2);
    damage(fixture.dir.path(), 12);
    for first in [0, 2] {
        let part = fixture.part(&patient(from(first))).await;
        assert!(check(&part, first) > 0, "from {first}");
    }
    let mut next = 0;
    while next < 10 {
        let request = patient(FetchPartition { partition_max_bytes: 100_000, ..from(next) });
        next += check(&fixture.part(&request).await, next);
    }
    let part = fixture.part(&patient(from(12))).await;
    assert_eq!(part.error_code, ErrorCode::KafkaStorageError.code(), "the bucket lacks it");
    eventually(|| fixture.cold_bytes() == 0).await;
    fixture.client.broker.stop().await;
}

/// Flips a bit of a batch in the only large segment.
fn damage(dir: &Path, number: u64) {
    let mut left = vec![dir.to_owned()];
    let mut logs = Vec::new();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let entry = entry.expect("readable");
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log")
                && entry.metadata().expect("readable").len() > VALUE_BYTES as u64
            {
                logs.push(path);
            }
        }
    }
    let [path] = &logs[..] else { panic!("one segment: {logs:?}") };
    let file = fs::File::options().read(true).write(true).open(path).expect("it is there");
    let mut header = [0; ropewalk_batch::HEADER_LEN];
    file.read_exact_at(&mut header, 0).expect("readable");
    let size_bytes = ropewalk_batch::Header::parse(&header).expect("a batch").size_bytes();
    let at = number * size_bytes as u64 + 1_000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("readable");
    file.write_all_at(&[byte[0] ^ 1], at).expect("writable");
}
