//! Orphans are deleted, and nothing that a manifest names or may still name.

use ropewalk_tier::{Content, Kind, Name, Origin, PartitionKey};

use super::*;

/// The name of something in the folder of a partition, and puts it there.
async fn put(bucket: &Bucket, name: &Name) -> String {
    let content = Content::from(Bytes::from(name.to_string()));
    bucket.put_if_absent(&name.to_string(), &content).await.expect("it is put");
    name.to_string()
}

fn name(partition: &PartitionKey, kind: Kind, (base, end): (i64, i64), origin: Origin) -> Name {
    let Origin { history, term } = origin;
    Name { partition: partition.clone(), kind, base, end, history, term, digest: 1 }
}

/// A partition with a hundred objects, most of them listed by pages.
async fn paged(running: &Running, parts: &Arc<Parts>) -> Topic {
    let topic = running.make(&[ENABLED]).await;
    let mut uploader = Uploader::new(Arc::clone(parts));
    for _ in 0..100 {
        topic.write(1, b"value").await;
        uploader.pass().await;
    }
    while topic.tier().end < 100 {
        uploader.pass().await;
    }
    assert!(!topic.tier().pages.is_empty());
    topic
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_what_no_manifest_names_is_deleted_and_nothing_else() {
    let running = Running::start(&[]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1);
    let topic = paged(&running, &parts).await;
    let named = names(&bucket).await;
    let led = Led::begin(&topic.shard, topic.id).await.expect("it leads");
    let (key, own) = (convert::key(&parts.cluster, topic.id), led.origin());
    let earlier = Origin { term: own.term - 1, ..own };
    let other_history = Origin { history: own.history + 1, ..own };
    let page = Kind::Page(Level::Objects);
    let mut orphans = Vec::new();
    for (kind, range, origin) in [
        (Kind::Object, (5, 6), earlier),
        (Kind::Object, (90, 100), earlier),
        (Kind::Object, (0, 3), own),
        (page, (0, 30), earlier),
        (page, (0, 30), other_history),
    ] {
        orphans.push(put(&bucket, &name(&key, kind, range, origin)).await);
    }
    let mut kept = named.clone();
    for (kind, range, origin) in [
        (Kind::Object, (100, 101), earlier),
        (Kind::Object, (100, 101), own),
        (Kind::Object, (99, 101), own),
        (page, (0, 60), own),
    ] {
        kept.insert(put(&bucket, &name(&key, kind, range, origin)).await);
    }

    let patient = running.parts_with_grace(&bucket, 1, 3_600_000);
    Orphans::new(patient).pass().await;
    let all = kept.iter().chain(&orphans).cloned().collect();
    assert_eq!(names(&bucket).await, all, "they are too young");
    let mut searching = Orphans::new(Arc::clone(&parts));
    searching.pass().await;
    assert_eq!(names(&bucket).await, kept);

    // The next search is due after a day.
    let late = put(&bucket, &name(&key, Kind::Object, (5, 7), earlier)).await;
    searching.pass().await;
    assert!(names(&bucket).await.contains(&late));
    Orphans::new(Arc::clone(&parts)).pass().await;
    assert_eq!(names(&bucket).await, kept);
    topic.write(1, b"more").await;
    assert_eq!(objects(&parts, &topic).await.len(), 100, "all are there");
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_without_the_whole_manifest_nothing_is_deleted() {
    let running = Running::start(&[]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1);
    let topic = paged(&running, &parts).await;
    let key = convert::key(&parts.cluster, topic.id);
    let page = convert::page(&topic.tier().pages[0]).name(&key).to_string();
    bucket.delete(&page).await.expect("it is lost");
    let origin = Origin { history: 0, term: 0 };
    put(&bucket, &name(&key, Kind::Object, (5, 6), origin)).await;
    let before = names(&bucket).await;
    Orphans::new(Arc::clone(&parts)).pass().await;
    assert_eq!(names(&bucket).await, before);
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_deleted_topic_is_deleted_and_that_of_an_unknown_one_stays() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1 << 20);
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    Uploader::new(Arc::clone(&parts)).pass().await;
    let uploaded = names(&bucket).await;
    assert_eq!(uploaded.len(), 1);
    let unknown =
        PartitionKey { topic: uuid::Uuid::from_u128(77), ..convert::key(&parts.cluster, topic.id) };
    let origin = Origin { history: 0, term: 1 };
    let foreign = put(&bucket, &name(&unknown, Kind::Object, (0, 3), origin)).await;
    let mut searching = Orphans::new(Arc::clone(&parts));
    searching.pass().await;
    assert_eq!(names(&bucket).await.len(), 2, "the topic exists");

    let topics = &running.broker.context().topics;
    let deleted = topics.delete(vec![topic.id.topic]).await.expect("the catalog leads");
    assert!(deleted[0].is_ok(), "{deleted:?}");
    let mut patient = Orphans::new(running.parts_with_grace(&bucket, 1, 3_600_000));
    patient.pass().await;
    assert_eq!(names(&bucket).await.len(), 2, "the grace period");
    searching.pass().await;
    assert_eq!(names(&bucket).await, BTreeSet::from([foreign.clone()]), "noticed at once");

    // As if an upload had ended after that; found by a later search.
    let late: String = uploaded.into_iter().next().expect("one");
    bucket.put_if_absent(&late, &Content::from(Bytes::from("x"))).await.expect("it is put");
    Orphans::new(Arc::clone(&parts)).pass().await;
    assert_eq!(names(&bucket).await, BTreeSet::from([foreign]));
    running.broker.stop().await;
}
