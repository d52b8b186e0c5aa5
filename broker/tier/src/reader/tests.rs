//! Reads of random objects compared with the batches, caching, read-ahead and damage.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use ropewalk_batch::{Builder, StampedBatch};
use uuid::Uuid;

use super::*;
use crate::bucket::PutOutcome;
use crate::faulty::{Fault, FaultyStore};
use crate::identity::Origin;
use crate::names::ClusterId;
use crate::object::{EncodedObject, Encoder, Push};
use crate::page::Entries;

const ORIGIN: Origin = Origin { history: 1, term: 2 };

fn partition() -> PartitionKey {
    let cluster = ClusterId::new("reader-tests").expect("a valid id");
    PartitionKey { cluster, topic: Uuid::from_u128(1), index: 0 }
}

/// Batches of two records each, with values of these sizes. Timestamps are the offsets.
fn batches_of(sizes: &[u32], start: i64) -> Vec<StampedBatch> {
    let mut next = start;
    let make = |size: &u32| {
        let value = vec![7; *size as usize / 2];
        let builder = Builder::new().record(next, None, Some(&value));
        let bytes = builder.record(next + 1, None, Some(&value)).build();
        let batch = StampedBatch::new(bytes, next, 3).expect("a valid batch");
        next = batch.next_offset();
        batch
    };
    sizes.iter().map(make).collect()
}

fn object_of(batches: &[StampedBatch]) -> EncodedObject {
    let base = batches[0].base_offset;
    let mut encoder = Encoder::new(partition(), ORIGIN, base);
    for batch in batches {
        assert_eq!(encoder.push(batch), Ok(Push::Added));
    }
    let end = encoder.next_offset();
    encoder.finish(end).expect("an object")
}

async fn put(bucket: &Bucket, object: &EncodedObject) {
    let outcome = bucket.put_if_absent(&object.name.to_string(), &object.content).await;
    assert_eq!(outcome.expect("the bucket works"), PutOutcome::Created);
}

/// An object in a bucket in memory, and a reader of it.
async fn reader_of(sizes: &[u32], limits: ReaderLimits) -> (TierReader, ObjectRef) {
    let object = object_of(&batches_of(sizes, 0));
    let bucket = Bucket::memory();
    put(&bucket, &object).await;
    (TierReader::new(bucket, limits), object.reference)
}

fn stored(batches: &[StampedBatch]) -> Vec<u8> {
    batches.iter().flat_map(|b| [&b.prefix()[..], &b.body()].concat()).collect()
}

const NO_AHEAD: ReaderLimits = ReaderLimits {
    chunk_bytes_max: 8 << 20,
    footer_bytes_max: 1 << 20,
    page_bytes_max: 1 << 20,
    fetch_bytes_max: 4 << 20,
    ahead_chunks: 0,
};

/// Waits until the background fetches have ended.
async fn settle(reader: &TierReader) {
    let all = limits::AHEAD_FETCHES_MAX as u32;
    drop(reader.shared.ahead.acquire_many(all).await.expect("never closed"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]

    #[test]
    fn o4_reads_from_any_offset_join_without_gap_and_repeat(
        sizes in vec(0..200_000_u32, 1..30),
        start in 0..60_i64,
        bytes_max in 1..1_000_000_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (reader, object) = reader_of(&sizes, ReaderLimits::default()).await;
            let batches = batches_of(&sizes, 0);
            let (mut offset, mut read) = (start, Vec::new());
            while offset < object.end {
                let stretch = reader.read(&partition(), &object, offset, bytes_max).await.unwrap();
                let first = batches.iter().find(|b| b.next_offset() > offset).unwrap();
                let size = stretch.size_bytes();
                prop_assert!(size <= bytes_max || size == first.size_bytes() as u64);
                prop_assert!(size <= stretch.pinned_bytes());
                prop_assert!(stretch.next_offset > offset);
                offset = stretch.next_offset;
                read.extend(stretch.pieces.concat());
            }
            let kept: Vec<_> = batches.into_iter().filter(|b| b.next_offset() > start).collect();
            prop_assert_eq!(read, stored(&kept));
            let behind = reader.read(&partition(), &object, object.end, bytes_max).await.unwrap();
            prop_assert_eq!(behind, Stretch::empty(object.end));
            Ok(())
        })?;
    }

    #[test]
    fn a_timestamp_is_found_at_its_first_record(
        sizes in vec(0..60_000_u32, 1..20),
        offset in 0..50_i64,
        timestamp_ms in -1..50_i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (reader, object) = reader_of(&sizes, NO_AHEAD).await;
            // Timestamps are the offsets.
            let expected = Some(offset.max(timestamp_ms)).filter(|at| *at < object.end);
            let partition = partition();
            let found = reader.offset_at(&partition, &object, offset, timestamp_ms).await.unwrap();
            let expected = expected.map(|at| OffsetAndTimestamp { offset: at, timestamp_ms: at });
            prop_assert_eq!(found, expected);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn what_was_read_is_in_the_cache() {
    let (reader, object) = reader_of(&[50_000; 60], NO_AHEAD).await;
    let read = async |offset| {
        reader.read(&partition(), &object, offset, 100_000).await.unwrap().pieces.concat()
    };
    let first = read(0).await;
    let gets = reader.bucket().counts().gets;
    assert_eq!(gets, 2, "the footer and one chunk");
    assert_eq!(read(0).await, first);
    read(2).await;
    assert_eq!(reader.bucket().counts().gets, gets);
    read(100).await;
    assert_eq!(reader.bucket().counts().gets, gets + 1);
}

#[tokio::test]
async fn readers_of_one_chunk_at_the_same_time_cause_one_request() {
    let (reader, object) = reader_of(&[50_000; 10], NO_AHEAD).await;
    let partition = partition();
    let reads = (0..20).map(|_| reader.read(&partition, &object, 0, 50_000));
    let read = try_join_all(reads).await.unwrap();
    assert!(read.iter().all(|stretch| *stretch == read[0]));
    assert_eq!(reader.bucket().counts().gets, 2);
}

#[tokio::test]
async fn the_next_chunks_are_fetched_ahead_of_a_sequential_reader_only() {
    let limits = ReaderLimits { ahead_chunks: 2, ..NO_AHEAD };
    let (reader, object) = reader_of(&[100_000; 60], limits).await;
    let chunks = reader.chunked(&partition(), &object).await.unwrap().chunks();
    assert!(chunks >= 6);
    let gets = async |offset| {
        let before = reader.bucket().counts().gets;
        reader.read(&partition(), &object, offset, 1).await.unwrap();
        settle(&reader).await;
        reader.bucket().counts().gets - before
    };
    assert_eq!(gets(60).await, 1, "a lookup in the middle");
    assert_eq!(gets(0).await, 3, "from the beginning");
    assert_eq!(gets(2).await, 0, "in the same chunk");
    assert_eq!(gets(44).await, 1, "in the third chunk: of the next two one is cached");
}

#[tokio::test]
async fn warming_fetches_the_first_chunk_of_the_next_object() {
    let (reader, object) = reader_of(&[100_000; 60], NO_AHEAD).await;
    reader.warm(&partition(), &object);
    settle(&reader).await;
    let gets = reader.bucket().counts().gets;
    assert_eq!(gets, 2);
    reader.read(&partition(), &object, 0, 1).await.unwrap();
    assert_eq!(reader.bucket().counts().gets, gets);
}

#[tokio::test]
async fn r1_the_cache_keeps_its_bound() {
    let limits = ReaderLimits { chunk_bytes_max: 3 << 20, ..NO_AHEAD };
    let (reader, object) = reader_of(&[100_000; 100], limits).await;
    let mut offset = 0;
    while offset < object.end {
        let stretch = reader.read(&partition(), &object, offset, 500_000).await.unwrap();
        offset = stretch.next_offset;
        assert!(reader.shared.chunks.weight() <= limits.chunk_bytes_max);
    }
    assert!(reader.shared.chunks.weight() > limits.chunk_bytes_max / 2);
}

/// A batch may be larger than all that may be fetched at one time.
#[tokio::test]
async fn r1_a_chunk_over_the_bound_of_fetches_is_fetched_alone() {
    let limits = ReaderLimits { fetch_bytes_max: 2 << 20, ..NO_AHEAD };
    let (reader, object) = reader_of(&[3 << 20, 10, 3 << 20], limits).await;
    for offset in [0, 2, 4] {
        let stretch = reader.read(&partition(), &object, offset, 1).await.unwrap();
        assert_eq!(stretch.next_offset, offset + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn d3_a_damaged_answer_is_read_again_and_a_damaged_object_is_named() {
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(store.clone());
    let batches = batches_of(&[1_000; 3], 0);
    let object = object_of(&batches);
    put(&bucket, &object).await;
    let reader = TierReader::new(bucket, NO_AHEAD);
    reader.footer(&partition(), &object.reference).await.unwrap();
    store.next_gets([Fault::Damages; 2]);
    let damaged = reader.read(&partition(), &object.reference, 0, 9_000).await.unwrap_err();
    let text = damaged.to_string();
    assert!(text.contains(&object.name.to_string()), "{text}");
    assert!(text.ends_with("the checksum of block 0 is wrong, offsets 0 to 6"), "{text}");
    store.next_gets([Fault::Damages]);
    let read = reader.read(&partition(), &object.reference, 0, 9_000).await.unwrap();
    assert_eq!(read.pieces.concat(), stored(&batches));
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_in_no_cache() {
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(store.clone());
    let object = object_of(&batches_of(&[1_000; 3], 0));
    put(&bucket, &object).await;
    let reader = TierReader::new(bucket, NO_AHEAD);
    store.next_gets([Fault::Fails; limits::ATTEMPTS_MAX as usize]);
    let failed = reader.read(&partition(), &object.reference, 0, 9).await.unwrap_err();
    assert!(matches!(failed, TierError::Unavailable { .. }), "{failed}");
    assert!(reader.read(&partition(), &object.reference, 0, 9).await.is_ok());
}

#[tokio::test]
async fn an_object_that_is_shorter_than_the_manifest_says_is_damaged() {
    let bucket = Bucket::memory();
    let object = object_of(&batches_of(&[1_000; 3], 0));
    let bytes = object.content.to_bytes();
    let short = bytes.slice(..bytes.len() - 1).into();
    bucket.put_if_absent(&object.name.to_string(), &short).await.unwrap();
    let reader = TierReader::new(bucket, NO_AHEAD);
    let failed = reader.read(&partition(), &object.reference, 0, 9).await.unwrap_err();
    assert!(matches!(failed, TierError::Damaged { .. }), "{failed}");
}

#[tokio::test]
async fn a_large_footer_takes_a_second_request() {
    let bucket = Bucket::memory();
    let mut encoder = Encoder::new(partition(), ORIGIN, 0);
    for id in 0..5_000 {
        let bytes = Builder::new().producer(id, 0, 0).record(1, None, None).build();
        let batch = StampedBatch::new(bytes, id, 1).unwrap();
        assert_eq!(encoder.push(&batch), Ok(Push::Added));
    }
    let object = encoder.finish(5_000).unwrap();
    put(&bucket, &object).await;
    let size = object.reference.size_bytes;
    let footer = fetch_footer(&bucket, &object.name, size).await.unwrap();
    assert_eq!(footer.producers.len(), 5_000);
    assert_eq!(bucket.counts().gets, 2);
    let reader = TierReader::new(bucket, NO_AHEAD);
    let cached = reader.footer(&partition(), &object.reference).await.unwrap();
    assert_eq!(cached.producers, [], "only a restore needs them");
}

#[tokio::test]
async fn an_object_is_found_through_two_levels_of_pages() {
    let bucket = Bucket::memory();
    let objects: Vec<_> =
        (0..6).map(|number| object_of(&batches_of(&[10], number * 2)).reference).collect();
    let mut pages = Vec::new();
    for pair in objects.chunks(2) {
        let page = Page::new(partition(), ORIGIN, Entries::Objects(pair.to_vec())).unwrap();
        let page = page.encode();
        bucket.put_if_absent(&page.name.to_string(), &page.content).await.unwrap();
        pages.push(page.reference);
    }
    let top = Page::new(partition(), ORIGIN, Entries::Pages(pages.clone())).unwrap().encode();
    bucket.put_if_absent(&top.name.to_string(), &top.content).await.unwrap();
    let reader = TierReader::new(bucket, NO_AHEAD);
    for offset in 0..14 {
        let expected = objects.iter().find(|o| (o.base..o.end).contains(&offset)).copied();
        let found = reader.object_at(&partition(), &top.reference, offset).await.unwrap();
        assert_eq!(found, expected);
        let found = reader.object_at(&partition(), &pages[1], offset).await.unwrap();
        assert_eq!(found, expected.filter(|object| (4..8).contains(&object.base)));
    }
    assert_eq!(reader.bucket().counts().gets, 4, "each page once");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_gives_up_does_not_block_others() {
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(store.clone());
    let object = object_of(&batches_of(&[1_000; 3], 0));
    put(&bucket, &object).await;
    let reader = TierReader::new(bucket, NO_AHEAD);
    store.next_gets([Fault::Hangs]);
    let partition = partition();
    let impatient = reader.read(&partition, &object.reference, 0, 9);
    assert!(tokio::time::timeout(Duration::from_secs(1), impatient).await.is_err());
    assert!(reader.read(&partition, &object.reference, 0, 9).await.is_ok());
}
