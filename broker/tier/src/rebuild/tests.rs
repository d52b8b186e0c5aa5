//! Partitions that are rebuilt from a bucket: from a manifest and what follows it, without a
//! manifest, and with losses.

use ropewalk_batch::{Builder, StampedBatch};
use uuid::Uuid;

use super::*;
use crate::content::Content;
use crate::folders::list_folders;
use crate::identity::Origin;
use crate::names::ClusterId;
use crate::object::{EncodedObject, Encoder, Push};

const ORIGIN: Origin = Origin { history: 7, term: 3 };

fn key() -> PartitionKey {
    let cluster = ClusterId::new("rebuild-tests").unwrap();
    PartitionKey { cluster, topic: Uuid::from_u128(5), index: 2 }
}

/// An object with records `[base, end)`, each a batch of producer 9 with its offset as sequence.
fn object(base: i64, end: i64, epoch: i32, term: u64) -> EncodedObject {
    let mut encoder = Encoder::new(key(), Origin { term, ..ORIGIN }, base);
    for offset in base..end {
        let builder = Builder::new().producer(9, 0, offset as i32);
        let bytes = builder.record(1_000 + offset, None, Some(b"some value")).build();
        let batch = StampedBatch::new(bytes, offset, epoch).unwrap();
        assert_eq!(encoder.push(&batch).unwrap(), Push::Added);
    }
    encoder.finish(end).unwrap()
}

struct Fixture {
    bucket: Bucket,
    objects: Vec<EncodedObject>,
}

impl Fixture {
    /// Objects of ten records each, with leader epochs 1, 2, 3 …
    async fn new(count: i64) -> Self {
        let mut fixture = Self { bucket: Bucket::memory(), objects: Vec::new() };
        for at in 0..count {
            let object = object(10 * at, 10 * at + 10, 1 + at as i32, 3);
            fixture.put(&object).await;
            fixture.objects.push(object);
        }
        fixture
    }

    async fn put(&self, object: &EncodedObject) {
        self.bucket.put_if_absent(&object.name.to_string(), &object.content).await.unwrap();
    }

    async fn delete(&self, at: usize) {
        self.bucket.delete(&self.objects[at].name.to_string()).await.unwrap();
    }

    fn references(&self) -> Vec<ObjectRef> {
        self.objects.iter().map(|object| object.reference).collect()
    }

    /// A manifest with the first objects, as many of them in a page.
    async fn known(&self, named: usize, paged: usize, log_start: i64) -> KnownPartition {
        let references = self.references();
        let (in_page, rest) = references[..named].split_at(paged);
        let mut pages = Vec::new();
        if paged > 0 {
            let page = Page::new(key(), ORIGIN, Entries::Objects(in_page.to_vec())).unwrap();
            let page = page.encode();
            self.bucket.put_if_absent(&page.name.to_string(), &page.content).await.unwrap();
            pages.push(page.reference);
        }
        let end = 10 * named as i64;
        let manifest = Manifest { log_start, end, pages, objects: rest.to_vec() };
        let epoch = |at: usize| EpochStart { epoch: at as i32 + 1, start_offset: 10 * at as i64 };
        let epochs = (0..named).map(epoch).collect();
        KnownPartition { log_start, epochs, manifest: Some(manifest) }
    }

    async fn rebuild(&self, known: Option<&KnownPartition>) -> Rebuilt {
        let folders = list_folders(&self.bucket, &key().cluster).await.unwrap();
        let folder = folders.partitions.get(&key()).cloned().unwrap_or_default();
        rebuild(&self.bucket, &key(), &folder, known).await.unwrap()
    }
}

#[tokio::test]
async fn t2_a_manifest_and_what_follows_it_are_taken() {
    let fixture = Fixture::new(5).await;
    let known = fixture.known(3, 2, 4).await;
    let rebuilt = fixture.rebuild(Some(&known)).await;
    assert_eq!((rebuilt.log_start, rebuilt.end), (4, 50));
    assert_eq!(rebuilt.pages, known.manifest.clone().unwrap().pages);
    assert_eq!(rebuilt.objects, fixture.references()[2..]);
    let epochs: Vec<(i32, i64)> =
        rebuilt.epochs.iter().map(|e| (e.epoch, e.start_offset)).collect();
    assert_eq!(epochs, [(1, 4), (2, 10), (3, 20), (4, 30), (5, 40)]);
    assert_eq!(rebuilt.highest_epoch, Some(5));
    assert_eq!((rebuilt.losses.len(), rebuilt.ignored.len()), (0, 0));
    let sum: u64 = fixture.references().iter().map(|object| object.size_bytes).sum();
    assert_eq!(rebuilt.objects_bytes, sum);
    // D5: the last five batches.
    let [producer] = &rebuilt.producers[..] else { panic!("{:?}", rebuilt.producers) };
    let sequences: Vec<i32> = producer.batches.iter().map(|batch| batch.first_sequence).collect();
    assert_eq!((producer.id, sequences), (9, vec![45, 46, 47, 48, 49]));
}

#[tokio::test]
async fn t2_without_a_manifest_the_folder_says_the_same() {
    let fixture = Fixture::new(4).await;
    let rebuilt = fixture.rebuild(None).await;
    assert_eq!((rebuilt.log_start, rebuilt.end), (0, 40));
    assert_eq!(rebuilt.objects, fixture.references());
    assert_eq!(rebuilt.epochs.len(), 4);
    assert_eq!(fixture.rebuild(Some(&KnownPartition::default())).await, rebuilt);
}

#[tokio::test]
async fn t2_the_object_of_a_deposed_leader_continues_the_partition_as_well() {
    let fixture = Fixture::new(3).await;
    let known = fixture.known(2, 0, 0).await;
    // Both continue the manifest, and the longer one is taken.
    let orphan = object(20, 34, 2, 2);
    fixture.put(&orphan).await;
    let rebuilt = fixture.rebuild(Some(&known)).await;
    assert_eq!((rebuilt.end, rebuilt.objects.last()), (34, Some(&orphan.reference)));
    let [(name, why)] = &rebuilt.ignored[..] else { panic!("{:?}", rebuilt.ignored) };
    assert_eq!((name, why.as_str()), (&fixture.objects[2].name, "another is used"));
}

#[tokio::test]
async fn t2_a_damaged_object_behind_the_manifest_is_replaced_or_ends_it() {
    let fixture = Fixture::new(4).await;
    let known = fixture.known(2, 0, 0).await;
    fixture.delete(2).await;
    let bytes = bytes::Bytes::from_static(b"no object");
    let name = fixture.objects[2].name.to_string();
    fixture.bucket.put_if_absent(&name, &Content::from(bytes)).await.unwrap();
    let rebuilt = fixture.rebuild(Some(&known)).await;
    assert_eq!((rebuilt.end, rebuilt.losses.len()), (20, 0));
    let why: Vec<&str> = rebuilt.ignored.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(why.len(), 2, "{why:?}");
    assert_eq!(why[1], "it is behind a gap");
    let other = object(20, 30, 3, 9);
    fixture.put(&other).await;
    assert_eq!(fixture.rebuild(Some(&known)).await.end, 40);
}

#[tokio::test]
async fn t2_a_missing_object_of_the_manifest_is_a_loss_of_all_before_it() {
    for (missing, paged) in [(1, 0), (1, 2), (0, 2)] {
        let fixture = Fixture::new(4).await;
        let known = fixture.known(3, paged, 4).await;
        fixture.delete(missing).await;
        let rebuilt = fixture.rebuild(Some(&known)).await;
        assert_eq!((rebuilt.log_start, rebuilt.end), (10 * missing as i64 + 10, 40));
        let [loss] = &rebuilt.losses[..] else { panic!("{:?}", rebuilt.losses) };
        assert!(loss.contains(&fixture.objects[missing].name.to_string()), "{loss}");
        assert_eq!(rebuilt.epochs[0].start_offset, rebuilt.log_start);
        let first = rebuilt.pages.first().map(|page| page.base);
        let first = first.or(rebuilt.objects.first().map(|object| object.base));
        assert!(first.is_some_and(|first| first <= rebuilt.log_start));
    }
}

#[tokio::test]
async fn t2_a_missing_page_is_a_loss_of_what_it_listed() {
    let fixture = Fixture::new(4).await;
    let known = fixture.known(3, 2, 0).await;
    let page = known.manifest.as_ref().unwrap().pages[0].name(&key()).to_string();
    fixture.bucket.delete(&page).await.unwrap();
    let rebuilt = fixture.rebuild(Some(&known)).await;
    assert_eq!((rebuilt.log_start, rebuilt.end), (20, 40));
    assert_eq!((rebuilt.pages.len(), rebuilt.losses.len()), (0, 1));
}

#[tokio::test]
async fn t2_what_was_deleted_before_the_log_start_is_no_loss() {
    let fixture = Fixture::new(3).await;
    let known = fixture.known(3, 0, 15).await;
    fixture.delete(0).await;
    let rebuilt = fixture.rebuild(Some(&known)).await;
    assert_eq!((rebuilt.log_start, rebuilt.end), (15, 30));
    assert_eq!((rebuilt.losses.len(), rebuilt.objects.len()), (0, 2));
}

#[tokio::test]
async fn t2_a_partition_without_objects_keeps_its_offsets() {
    let fixture = Fixture::new(0).await;
    let known = KnownPartition {
        log_start: 60,
        manifest: Some(Manifest { log_start: 60, end: 60, ..Manifest::default() }),
        ..KnownPartition::default()
    };
    let rebuilt = fixture.rebuild(Some(&known)).await;
    assert_eq!((rebuilt.log_start, rebuilt.end, rebuilt.is_empty()), (60, 60, false));
    assert!(fixture.rebuild(None).await.is_empty());
}

#[test]
fn r1_many_objects_are_folded_into_pages() {
    let reference = |at: i64| ObjectRef {
        base: at,
        end: at + 1,
        history: 1,
        term: 1,
        size_bytes: 10,
        digest: 1,
        max_timestamp_ms: 1,
        first_epoch: 1,
    };
    let objects: Vec<ObjectRef> = (0..10_000).map(reference).collect();
    let (pages, kept) = fold(&key(), ORIGIN, &objects, 32);
    assert_eq!(kept, objects[9_968..]);
    let ranges: Vec<(i64, i64)> =
        pages.iter().map(|page| (page.reference.base, page.reference.end)).collect();
    assert_eq!(ranges, [(0, 4096), (4096, 8192), (8192, 9968)]);
    let (none, all) = fold(&key(), ORIGIN, &objects[..5], 32);
    assert_eq!((none.len(), all.len()), (0, 5));
}
