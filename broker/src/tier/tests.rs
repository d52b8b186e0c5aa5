//! A whole broker with a bucket: records are uploaded, leave the disk, and are deleted, also when
//! the bucket fails in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use ropewalk_batch::Builder;
use ropewalk_node::ShardHandle;
use ropewalk_shard::PartitionId;
use ropewalk_shard::command::Append;
use ropewalk_shard::proposal::SendOrder;
use ropewalk_shard::state::Tier as TierState;
use ropewalk_tier::faulty::{Fault, FaultyStore};
use ropewalk_tier::{Entries, Level};
use tempfile::TempDir;

use super::led::{Led, StepError};
use super::orphans::Orphans;
use super::retention::TierRetention;
use super::upload::upload;
use super::uploader::Uploader;
use super::*;
use crate::boot::{self, Start};
use crate::catalog::NewTopic;
use crate::clock;

mod checkpoints;
mod claim;
mod orphans;

/// A broker with a bucket of its own in a directory, which by default it does not use: tests upload
/// to another one, step by step.
struct Running {
    broker: boot::Broker,
    dir: TempDir,
}

const ENABLED: (&str, &str) = ("remote.storage.enable", "true");

impl Running {
    async fn start(pairs: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let url = format!("file://{}", dir.path().join("bucket").display());
        let own = [
            ("listeners", "PLAINTEXT://127.0.0.1:0"),
            ("ropewalk.admin.listener", "127.0.0.1:0"),
            ("ropewalk.tier.url", &url),
        ];
        let pairs = own.iter().chain(pairs).map(|(key, value)| ((*key).into(), (*value).into()));
        let start = Start {
            settings: Settings::new(pairs).expect("valid"),
            dir: dir.path().join("data"),
            format: Some("cluster".to_owned()),
            on_fatal: Arc::new(|reason| panic!("{reason}")),
        };
        Self { broker: boot::Broker::start(start).await.expect("it starts"), dir }
    }

    /// Creates a topic of one partition.
    async fn make(&self, configs: &[(&str, &str)]) -> Topic {
        let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let topic = NewTopic {
            name: "t".to_owned(),
            partitions: Some(1),
            configs: configs.collect(),
            owner: None,
        };
        let context = self.broker.context();
        let made = context.topics.create(vec![topic], false).await;
        assert!(made[0].is_ok(), "{made:?}");
        let view = context.view.by_name("t").expect("it was created");
        let (id, home) = view.partition(0).expect("it has one");
        Topic { shard: Arc::clone(context.node.shard(home.shard).expect("it serves")), id }
    }

    /// The parts of a tier over this bucket.
    fn parts(&self, bucket: &Bucket, object_bytes: u64) -> Arc<Parts> {
        self.parts_with_grace(bucket, object_bytes, 0)
    }

    fn parts_with_grace(&self, bucket: &Bucket, object_bytes: u64, grace_ms: i64) -> Arc<Parts> {
        let context = self.broker.context();
        let (node, view) = (Arc::clone(&context.node), Arc::clone(&context.view));
        let upload = UploadRules { object_bytes, age_max: Duration::ZERO };
        let cluster = ClusterId::new("cluster").expect("valid");
        Arc::new(Parts::new(
            (bucket.clone(), cluster),
            Broker { node, view, cluster: Arc::clone(&context.cluster) },
            Rules { upload, grace_ms, orphan_check_interval: Duration::from_secs(86_400) },
            (Metrics::default(), Arc::default()),
        ))
    }
}

struct Topic {
    shard: Arc<ShardHandle>,
    id: PartitionId,
}

impl Topic {
    /// Appends batches of one record each, a minute old.
    async fn write(&self, count: usize, value: &[u8]) {
        for _ in 0..count {
            let old_ms = clock::now_ms() - 60_000;
            let batch = Builder::new().record(old_ms, None, Some(value)).build();
            let items = vec![Append { partition: self.id, batch }];
            let answer = self.shard.append(items, SendOrder::default()).await;
            let answer = answer.expect("the driver runs").expect("taken");
            assert!(answer.iter().all(Result::is_ok), "{answer:?}");
        }
    }

    /// Puts the claim into the bucket, as before the first upload of a leader.
    async fn claim(&self, parts: &Parts) {
        let term = self.shard.leading().expect("it leads");
        parts.fence.permit_upload(&self.shard, term).await.expect("it is the only cluster");
    }

    fn tier(&self) -> TierState {
        let state = self.shard.state();
        *state.partitions[&self.id].tier.clone().expect("it has a tier")
    }

    fn log_start(&self) -> i64 {
        self.shard.state().partitions[&self.id].log_start
    }

    fn bytes(&self) -> Vec<u8> {
        let log = self.shard.log(&self.id).expect("it is open");
        log.read(log.local_start(), usize::MAX, true).expect("it reads").bytes.concat()
    }
}

/// The names of the objects and pages in a bucket.
async fn names(bucket: &Bucket) -> BTreeSet<String> {
    let listed: Vec<_> = bucket.list("").try_collect().await.expect("it lists");
    let names = listed.into_iter().map(|listed| listed.name);
    names.filter(|name| name.ends_with(".rwo") || name.contains(".rwp")).collect()
}

/// All objects of a tier, those of pages included.
async fn objects(parts: &Parts, topic: &Topic) -> Vec<ropewalk_tier::ObjectRef> {
    let (tier, key) = (topic.tier(), convert::key(&parts.cluster, topic.id));
    let mut objects = Vec::new();
    for page in &tier.pages {
        let page = pages::read(parts, &key, &convert::page(page)).await.expect("it is there");
        assert_eq!(page.entries().level(), Level::Objects, "too few for pages of pages");
        if let Entries::Objects(listed) = page.entries() {
            objects.extend(listed.iter().copied());
        }
    }
    objects.extend(tier.objects.iter().map(convert::object));
    objects
}

/// The records of all objects, after every byte was verified; they follow one another (O4).
async fn uploaded(parts: &Parts, topic: &Topic) -> Vec<u8> {
    let key = convert::key(&parts.cluster, topic.id);
    let mut all = Vec::new();
    let mut next = None;
    for object in objects(parts, topic).await {
        assert!(next.is_none_or(|next| next == object.base), "no gap and no overlap");
        next = Some(object.end);
        let name = object.name(&key);
        let bytes = parts.bucket.get(&name.to_string(), object.size_bytes).await.expect("there");
        let footer = ropewalk_tier::verify(&bytes, &name).expect("it is sound");
        let body = footer.positions(0..footer.blocks.len());
        all.extend_from_slice(&bytes[body.start as usize..body.end as usize]);
    }
    all
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.expect(what);
}

/// The tasks of the broker itself, over a directory.
#[tokio::test(flavor = "multi_thread")]
async fn t1_old_records_move_to_the_bucket_and_leave_the_disk() {
    let settings =
        [("ropewalk.tier.upload.max.age.ms", "1"), ("log.retention.check.interval.ms", "50")];
    let running = Running::start(&settings).await;
    let topic = running.make(&[ENABLED, ("segment.bytes", "1048576")]).await;
    topic.write(40, &[7; 100_000]).await;
    let written = topic.bytes();
    alter(&running, &topic, "local.retention.ms", "1000").await;
    let local_start = || topic.shard.state().partitions[&topic.id].local_start();
    until("all records are local no more", || local_start() == 40).await;
    let log = topic.shard.log(&topic.id).expect("it is open");
    until("the replica follows", || log.local_start() == 40).await;
    until("its segments are removed", || log.segment_infos().is_empty()).await;
    assert_eq!((topic.log_start(), log.log_start()), (0, 0), "they all exist");
    let bucket = Bucket::open(&bucket_settings(&running)).expect("it opens");
    let parts = running.parts(&bucket, 1);
    assert!(uploaded(&parts, &topic).await == written, "the bucket has the same batches");
    assert_eq!(running.broker.conditions(), []);
    running.broker.stop().await;
}

fn bucket_settings(running: &Running) -> ropewalk_tier::BucketSettings {
    let url = ropewalk_tier::BucketUrl::Directory(running.dir.path().join("bucket"));
    ropewalk_tier::BucketSettings::new(url)
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_lost_answer_of_a_put_leaves_one_object() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED]).await;
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(Arc::clone(&store) as _);
    let parts = running.parts(&bucket, 1 << 20);
    let mut uploader = Uploader::new(Arc::clone(&parts));
    topic.write(3, b"first").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    topic.claim(&parts).await;
    // The first attempt puts the object, and no attempt is answered.
    store.next_puts([Fault::LosesAnswer, Fault::Fails, Fault::Fails, Fault::Fails]);
    uploader.pass().await;
    assert_eq!((topic.tier().end, names(&bucket).await.len()), (0, 1), "it is there, not added");
    assert!(parts.health.failure().expect("it fails").contains("503 SlowDown"));
    // More records arrive; the same range is put again.
    topic.write(2, b"later").await;
    while topic.tier().end < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        uploader.pass().await;
    }
    assert_eq!((topic.tier().end, names(&bucket).await.len()), (3, 1), "no second object");
    assert_eq!(parts.health.failure(), None);
    uploader.pass().await;
    assert_eq!((topic.tier().end, names(&bucket).await.len()), (5, 2));
    assert!(uploaded(&parts, &topic).await == topic.bytes());
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_an_uploader_that_ends_between_put_and_command_is_continued_without_a_gap() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED]).await;
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(Arc::clone(&store) as _);
    let parts = running.parts(&bucket, 1 << 20);
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    topic.claim(&parts).await;
    // The put succeeds; it cannot be verified, so the command is not proposed.
    store.next_gets([Fault::Fails; 4]);
    Uploader::new(Arc::clone(&parts)).pass().await;
    assert_eq!((topic.tier().end, names(&bucket).await.len()), (0, 1));
    // Another uploader knows nothing of it.
    let parts = running.parts(&bucket, 1 << 20);
    Uploader::new(Arc::clone(&parts)).pass().await;
    assert_eq!((topic.tier().end, names(&bucket).await.len()), (3, 1), "the same object");
    assert!(uploaded(&parts, &topic).await == topic.bytes());
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_leader_of_an_earlier_term_adds_nothing() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1 << 20);
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    let led = Led::begin(&topic.shard, topic.id).await.expect("it leads");
    let deposed = led.clone().deposed();
    let refused = upload(&parts, &deposed, &mut None, 1).await.expect_err("it does not lead");
    assert!(matches!(refused, StepError::NotLeader), "{refused}");
    assert_eq!(names(&bucket).await.len(), 0);
    upload(&parts, &led, &mut None, 1).await.expect("it leads").expect("there are records");
    assert_eq!((topic.tier().end, names(&bucket).await.len()), (3, 1));
    running.broker.stop().await;
}

/// More objects than the state references: pages list the older ones. Retention then removes them
/// from the log, and from the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_objects_also_those_of_pages_and_deletes_them() {
    const OBJECTS: i64 = 100;
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED, ("retention.ms", "3600000")]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1);
    let mut uploader = Uploader::new(Arc::clone(&parts));
    let mut kept = TierRetention::new(Arc::clone(&parts));
    for _ in 0..OBJECTS {
        topic.write(1, b"value").await;
        uploader.pass().await;
    }
    while topic.tier().end < OBJECTS {
        uploader.pass().await;
    }
    let written = topic.bytes();
    alter(&running, &topic, "local.retention.ms", "1000").await;
    kept.pass().await;
    let tier = topic.tier();
    assert_eq!((tier.local_start, tier.pages.is_empty(), topic.log_start()), (OBJECTS, false, 0));
    assert!(uploaded(&parts, &topic).await == written);
    let before = names(&bucket).await.len();
    assert!(before > OBJECTS as usize - 1, "{before}");

    // A client deletes the first records: inside the first page.
    let first = objects(&parts, &topic).await;
    let led = Led::begin(&topic.shard, topic.id).await.expect("it leads");
    led.advance_log_start(10).await.expect("it moves");
    kept.pass().await;
    let names_left = names(&bucket).await;
    let key = convert::key(&parts.cluster, topic.id);
    for (at, object) in first.iter().enumerate() {
        let is_left = names_left.contains(&object.name(&key).to_string());
        assert_eq!(is_left, at >= 10, "object {at} of the first page");
    }
    assert_eq!((topic.tier().dropped, topic.tier().deleted), (10, 10));

    // All records are older than the retention now.
    alter(&running, &topic, "retention.ms", "1000").await;
    for _ in 0..3 {
        kept.pass().await;
    }
    assert_eq!((topic.log_start(), topic.tier().end), (OBJECTS, OBJECTS));
    assert_eq!(names(&bucket).await, BTreeSet::new(), "objects and pages are deleted");
    let tier = topic.tier();
    assert!(tier.objects.is_empty() && tier.pages.is_empty() && tier.replaced.is_empty());

    // New records continue where the old ones ended.
    topic.write(1, b"new").await;
    uploader.pass().await;
    assert_eq!(topic.tier().end, OBJECTS + 1);
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_is_disabled_is_removed_with_its_objects() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED, ("local.retention.ms", "1000")]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1 << 20);
    let mut uploader = Uploader::new(Arc::clone(&parts));
    let mut kept = TierRetention::new(Arc::clone(&parts));
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    uploader.pass().await;
    kept.pass().await;
    topic.write(2, b"local").await;
    assert_eq!((topic.tier().local_start, topic.log_start()), (3, 0));
    alter(&running, &topic, "remote.log.delete.on.disable", "true").await;
    alter(&running, &topic, "remote.storage.enable", "false").await;
    for _ in 0..3 {
        kept.pass().await;
    }
    assert_eq!((topic.log_start(), names(&bucket).await.len()), (3, 0));
    assert!(topic.shard.state().partitions[&topic.id].tier.is_none());
    assert_eq!(topic.shard.log(&topic.id).expect("it is open").high_watermark(), 5);
    running.broker.stop().await;
}

async fn alter(running: &Running, topic: &Topic, key: &str, value: &str) {
    let resource = ropewalk_shard::command::ConfigResource::Topic(topic.id.topic);
    let changes = vec![(key.to_owned(), Some(value.to_owned()))];
    running.broker.context().topics.alter_configs(resource, changes).await.expect("altered");
}

#[tokio::test]
async fn a_bucket_of_another_cluster_is_refused_at_the_start() {
    let dir = TempDir::new().expect("a directory");
    let url = format!("file://{}", dir.path().display());
    let settings = Settings::new([("ropewalk.tier.url".to_owned(), url)]).expect("valid");
    let settings = settings.tier().expect("valid").expect("it has a bucket");
    let open = |cluster| Tier::open(settings.clone(), cluster).expect("it opens");
    open("one").prepare().await.expect("it belongs to no cluster");
    let cluster = ClusterId::new("one").expect("valid");
    let claim = ropewalk_tier::Claim { cluster, epoch: 1, holder: 5 };
    let bucket = Bucket::open(&settings.bucket).expect("it opens");
    ropewalk_tier::hold_claim(&bucket, &claim).await.expect("it is claimed");
    open("one").prepare().await.expect("it is its own");
    let refused = open("two").prepare().await.expect_err("it belongs to the other one");
    assert!(refused.to_string().contains("belongs to cluster one"), "{refused}");
}

/// A record that cannot be uploaded does not leave the disk.
#[tokio::test(flavor = "multi_thread")]
async fn t1_while_the_bucket_fails_nothing_leaves_the_disk() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED, ("local.retention.ms", "1000")]).await;
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(Arc::clone(&store) as _);
    let parts = running.parts(&bucket, 1 << 20);
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    topic.claim(&parts).await;
    store.next_puts([Fault::Denies; 8]);
    Uploader::new(Arc::clone(&parts)).pass().await;
    TierRetention::new(Arc::clone(&parts)).pass().await;
    assert_eq!((topic.tier().end, topic.tier().local_start), (0, 0));
    let read: Bytes = topic.bytes().into();
    assert_eq!(ropewalk_tier::batches(read).filter(Result::is_ok).count(), 3);
    assert!(parts.health.failure().expect("it fails").contains("Check the credentials"));
    running.broker.stop().await;
}

/// A bucket without an answer keeps an upload for minutes, and meanwhile the data-loss window
/// grows.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_reported_while_the_bucket_hangs() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED]).await;
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(Arc::clone(&store) as _);
    let parts = running.parts(&bucket, 1 << 20);
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    topic.write(1, b"value").await;
    store.next_puts([Fault::Hangs]);
    let mut uploader = Uploader::new(Arc::clone(&parts));
    let pass = tokio::spawn(async move { uploader.pass().await });
    until("the upload began", || bucket.counts().puts == 1).await;
    let before = parts.health.lag();
    topic.write(3, b"value").await;
    until("more waits, and longer", || {
        let now = parts.health.lag();
        now.bytes > before.bytes && now.waited > before.waited
    })
    .await;
    assert_eq!(topic.tier().end, 0, "it hangs");
    pass.abort();
    running.broker.stop().await;
}
