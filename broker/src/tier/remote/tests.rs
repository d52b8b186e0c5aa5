//! Reads over a bucket in memory with objects that the encoder wrote.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use ropewalk_batch::{Builder, Header, StampedBatch};
use ropewalk_shard::TopicId;
use ropewalk_tier::faulty::{Fault, FaultyStore};
use ropewalk_tier::{Bucket, Encoder, Entries, Origin, Page, PageRef, Push, ReaderLimits};
use uuid::Uuid;

use super::*;

const ORIGIN: Origin = Origin { history: 7, term: 3 };

fn partition() -> PartitionId {
    PartitionId { topic: TopicId(Uuid::from_u128(5)), index: 2 }
}

fn key() -> PartitionKey {
    let cluster = ClusterId::new("remote-tests").unwrap();
    PartitionKey { cluster, topic: Uuid::from_u128(5), index: 2 }
}

/// A manifest that a test writes.
#[derive(Debug, Default)]
struct Written(Mutex<Vec<Entry>>);

impl Manifests for Written {
    fn entry_at(&self, _: PartitionId, offset: i64) -> Option<Entry> {
        self.entries(partition(), RemoteRange { from: offset, until: offset + 1 }).pop()
    }

    fn entries(&self, _: PartitionId, range: RemoteRange) -> Vec<Entry> {
        self.0.lock().iter().copied().filter(|entry| entry.overlaps(range)).collect()
    }
}

/// A batch of one record for each timestamp, the first of which has this offset.
fn batch(base_offset: i64, timestamps: &[i64]) -> StampedBatch {
    let mut builder = Builder::new();
    for ms in timestamps {
        builder = builder.record(*ms, None, Some(&[7; 50]));
    }
    StampedBatch::new(builder.build(), base_offset, 1).unwrap()
}

struct Fixture {
    reader: RemoteReader,
    store: Arc<FaultyStore>,
    bucket: Bucket,
    manifest: Arc<Written>,
    /// Offset and timestamp of every record.
    records: Vec<(i64, i64)>,
    end: i64,
}

impl Fixture {
    fn new() -> Self {
        let store = Arc::new(FaultyStore::default());
        let bucket = Bucket::over(Arc::clone(&store) as _);
        let manifest = Arc::new(Written::default());
        let reader = RemoteReader::new(RemoteParts {
            reader: TierReader::new(bucket.clone(), ReaderLimits::default()),
            manifests: Arc::clone(&manifest) as _,
            cluster: key().cluster,
            runtime: Handle::current(),
        });
        Self { reader, store, bucket, manifest, records: Vec::new(), end: 0 }
    }

    /// Puts an object with these batches, given by the timestamps of their records. `skipped` is
    /// the number of records of the first batch that are below the base of the object.
    async fn put(&mut self, batches: &[Vec<i64>], skipped: i64) -> ObjectRef {
        let mut encoder = Encoder::new(key(), ORIGIN, self.end + skipped);
        for timestamps in batches {
            for (offset, ms) in (self.end..).zip(timestamps) {
                self.records.push((offset, *ms));
            }
            assert_eq!(encoder.push(&batch(self.end, timestamps)).unwrap(), Push::Added);
            self.end = encoder.next_offset();
        }
        let object = encoder.finish(self.end).unwrap();
        self.bucket.put_if_absent(&object.name.to_string(), &object.content).await.unwrap();
        object.reference
    }

    async fn put_page(&self, entries: Entries) -> PageRef {
        let page = Page::new(key(), ORIGIN, entries).unwrap().encode();
        self.bucket.put_if_absent(&page.name.to_string(), &page.content).await.unwrap();
        page.reference
    }

    /// Two pages of pages below one another, and two objects: seven objects with three batches
    /// each.
    async fn filled(timestamps: impl Fn(i64) -> i64) -> Self {
        let mut fixture = Self::new();
        let mut objects = Vec::new();
        for _ in 0..7 {
            let mut at = fixture.end;
            let mut one = |records: i64| {
                at += records;
                (at - records..at).map(&timestamps).collect::<Vec<_>>()
            };
            let batches = [one(3), one(1), one(4)];
            objects.push(fixture.put(&batches, 0).await);
        }
        let first = fixture.put_page(Entries::Objects(objects[..2].to_vec())).await;
        let second = fixture.put_page(Entries::Objects(objects[2..4].to_vec())).await;
        let above = fixture.put_page(Entries::Pages(vec![first])).await;
        let entries = [Entry::Page(above), Entry::Page(second)];
        *fixture.manifest.0.lock() =
            entries.into_iter().chain(objects[4..].iter().copied().map(Entry::Object)).collect();
        fixture
    }

    fn range(&self, from: i64) -> RemoteRange {
        RemoteRange { from, until: self.end }
    }
}

/// The offsets of the batches' first and last records.
fn offsets(pieces: &[Bytes]) -> Vec<(i64, i64)> {
    let mut found = Vec::new();
    for piece in pieces {
        let mut rest = piece.clone();
        while !rest.is_empty() {
            let size_bytes = Header::parse(&rest).unwrap().size_bytes();
            let header = Header::verify(&rest.split_to(size_bytes)).unwrap();
            found.push((header.base_offset, header.last_offset()));
        }
    }
    found
}

#[tokio::test]
async fn o4_every_batch_is_read_once_across_pages_and_objects() {
    let fixture = Fixture::filled(|offset| offset).await;
    for bytes_max in [1, 400, 1 << 20] {
        for from in 0..fixture.end {
            let (mut next, mut seen) = (from, Vec::new());
            while next < fixture.end {
                let read = fixture.reader.read(partition(), fixture.range(next), bytes_max);
                let records = read.await.unwrap();
                let found = offsets(&records.pieces);
                let size: usize = records.pieces.iter().map(Bytes::len).sum();
                assert_eq!(records.size_bytes, size);
                assert!(size <= bytes_max || found.len() == 1);
                assert!(records.pinned_bytes >= size);
                assert!(records.next_offset > next, "it moves on from {next}");
                next = records.next_offset;
                seen.extend(found);
            }
            assert!((seen[0].0..=seen[0].1).contains(&from), "the batch with the offset is first");
            assert!(seen.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{seen:?}");
            assert_eq!(seen.last().unwrap().1 + 1, fixture.end);
        }
    }
}

#[tokio::test]
async fn what_no_object_has_and_what_the_bucket_lacks_are_different_errors() {
    let mut fixture = Fixture::new();
    let object = fixture.put(&[vec![1, 2]], 0).await;
    let read = |from| fixture.reader.read(partition(), fixture.range(from), 1 << 20);
    assert_eq!(read(0).await.unwrap_err(), RemoteError::NoObject(0));
    fixture.manifest.0.lock().push(Entry::Object(object));
    assert_eq!(offsets(&read(0).await.unwrap().pieces), [(0, 1)]);
    let absent = ObjectRef { base: 2, end: 4, digest: 1, ..object };
    fixture.manifest.0.lock().push(Entry::Object(absent));
    let range = RemoteRange { from: 2, until: 4 };
    let missing = fixture.reader.read(partition(), range, 1 << 20).await.unwrap_err();
    assert!(matches!(missing, RemoteError::Damaged(_)), "{missing}");
}

/// The result of a search through all records.
fn expected(fixture: &Fixture, from: i64, timestamp_ms: i64) -> Option<(i64, i64)> {
    let mut records = fixture.records.iter().filter(|(offset, _)| *offset >= from);
    records.find(|(_, ms)| *ms >= timestamp_ms).copied()
}

fn check_lookups(seed: Vec<i64>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all();
    let runtime = runtime.build().unwrap();
    runtime.block_on(async {
        let at = |offset: i64| seed[offset as usize % seed.len()];
        let fixture = Fixture::filled(at).await;
        for from in [0, 1, 3, 9, 20, 33, fixture.end - 1] {
            let range = fixture.range(from);
            let youngest = fixture.records[from as usize..].iter().map(|(_, ms)| *ms).max();
            let found = fixture.reader.max_timestamp(partition(), range).await.unwrap();
            assert_eq!(found, expected(&fixture, from, youngest.unwrap()), "from {from}");
            for ms in [0, 1, 5, 10, 19, 20, 1000] {
                let found = fixture.reader.offset_for_timestamp(partition(), range, ms).await;
                assert_eq!(found.unwrap(), expected(&fixture, from, ms), "{ms} from {from}");
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]
    #[test]
    fn lookups_by_time_agree_with_a_search_through_all_records(
        seed in prop::collection::vec(0..20_i64, 1..60),
    ) {
        check_lookups(seed);
    }
}

/// A log start may be inside of a batch: what is before it does not exist.
#[tokio::test]
async fn an_object_that_begins_inside_of_a_batch_has_no_older_timestamps() {
    let mut fixture = Fixture::new();
    let object = fixture.put(&[vec![9, 8, 3, 4], vec![2, 1]], 2).await;
    fixture.manifest.0.lock().push(Entry::Object(object));
    let range = fixture.range(2);
    let (reader, partition) = (&fixture.reader, partition());
    assert_eq!(reader.max_timestamp(partition, range).await.unwrap(), Some((3, 4)));
    let found = reader.offset_for_timestamp(partition, range, 3).await.unwrap();
    assert_eq!(found, Some((2, 3)));
    assert_eq!(reader.offset_for_timestamp(partition, range, 5).await.unwrap(), None);
    assert_eq!(offsets(&reader.read(partition, range, 1).await.unwrap().pieces), [(0, 3)]);
}

/// Reads of the bucket end whether or not anyone waits for them.
#[tokio::test]
async fn a_caller_that_gives_up_finds_the_records_in_the_cache() {
    let fixture = Fixture::filled(|offset| offset).await;
    let read = || fixture.reader.read(partition(), fixture.range(0), 1 << 20);
    // The bucket is asked again after a pause.
    fixture.store.next_gets([Fault::Fails]);
    assert!(read().now_or_never().is_none(), "nothing is cached yet");
    for _ in 0..2_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Some(records) = read().now_or_never() {
            assert_eq!(offsets(&records.unwrap().pieces)[0].0, 0);
            return;
        }
    }
    panic!("the read was given up");
}
