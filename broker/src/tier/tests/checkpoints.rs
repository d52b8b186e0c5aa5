//! Checkpoints in the bucket, as a restore finds them.

use ropewalk_shard::ShardId;
use ropewalk_shard::command::{Command, CommitOffsets, OffsetCommit, ShardCommand};
use ropewalk_tier::{
    CatalogCheckpoint, CheckpointName, CheckpointOf, Contents, ShardCheckpoint, list_checkpoints,
    read_checkpoint,
};

use super::*;

async fn listed(bucket: &Bucket, of: CheckpointOf) -> Vec<CheckpointName> {
    let cluster = ClusterId::new("cluster").expect("valid");
    let listed = list_checkpoints(bucket, &of.folder(&cluster)).await.expect("it lists");
    listed.into_iter().map(|listed| listed.name).collect()
}

/// The newest checkpoint of the catalog.
async fn catalog(bucket: &Bucket) -> CatalogCheckpoint {
    let newest = &listed(bucket, CheckpointOf::Catalog).await[0];
    match read_checkpoint(bucket, newest).await.expect("it is sound").contents {
        Contents::Catalog(catalog) => catalog,
        Contents::Shard(..) => panic!("{newest} is of the catalog"),
    }
}

/// The newest checkpoint of a shard.
async fn shard(bucket: &Bucket, id: ShardId) -> ShardCheckpoint {
    let newest = &listed(bucket, CheckpointOf::Shard(id.0)).await[0];
    match read_checkpoint(bucket, newest).await.expect("it is sound").contents {
        Contents::Shard(number, shard) if number == id.0 => shard,
        Contents::Shard(..) | Contents::Catalog(_) => panic!("{newest} is of {id}"),
    }
}

/// Commits an offset of a group in the shard that the group hashes to.
async fn commit(running: &Running, group: &str, topic: &Topic, offset: i64) -> ShardId {
    let node = &running.broker.context().node;
    let home = node.catalog().state().catalog.as_ref().expect("it has one").shard_of(group);
    let metadata = "m".to_owned();
    let commit = OffsetCommit { offset, leader_epoch: -1, metadata, expires_ms: None };
    let offsets = vec![(topic.id, commit)];
    let commit = CommitOffsets { group: group.to_owned(), member: None, offsets };
    let command = Command::Shard(ShardCommand::CommitOffsets(commit));
    node.shard(home).expect("it serves").propose(command).await.expect("committed");
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_topics_offsets_and_manifests_are_in_the_newest_checkpoints() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED, ("retention.ms", "3600000")]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1 << 20);
    let mut checkpoints = Checkpoints::new(Arc::clone(&parts), Duration::ZERO);
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    Uploader::new(Arc::clone(&parts)).pass().await;
    topic.write(2, b"local").await;
    let home = commit(&running, "billing", &topic, 2).await;
    checkpoints.pass(Which::Changed).await;

    let known = catalog(&bucket).await;
    assert_eq!((known.shards, known.topics.len()), (24, 1));
    let stored = &known.topics[0];
    assert_eq!((stored.id, stored.name.as_str()), (topic.id.topic.0, "t"));
    assert!(stored.configs.contains(&("remote.storage.enable".into(), "true".into())));
    assert_eq!(stored.partitions[0].shard, topic.shard.id().0);
    let of_group = shard(&bucket, home).await.groups;
    let [group] = &of_group[..] else { panic!("{of_group:?}") };
    assert_eq!((group.group.as_str(), group.offsets[0].offset), ("billing", 2));
    let partitions = shard(&bucket, topic.shard.id()).await.partitions;
    let partition = &partitions[0];
    assert_eq!((partition.topic, partition.index), (topic.id.topic.0, 0));
    assert_eq!((partition.log_start, partition.next_offset), (0, 5));
    assert!(partition.max_timestamp_ms > 0);
    let tier = partition.tier.as_ref().expect("it has one");
    assert_eq!((tier.end, tier.objects.len()), (3, 1));
    let key = convert::key(&parts.cluster, topic.id);
    assert!(names(&bucket).await.contains(&tier.objects[0].name(&key).to_string()));
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_the_newest_two_are_kept_and_nothing_is_written_without_a_change() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1 << 20);
    let mut checkpoints = Checkpoints::new(Arc::clone(&parts), Duration::ZERO);
    let of = CheckpointOf::Shard(topic.shard.id().0);
    let mut before = Vec::new();
    for written in 1..=4 {
        topic.write(1, b"value").await;
        checkpoints.pass(Which::Changed).await;
        let kept = listed(&bucket, of).await;
        assert_eq!(kept.len(), written.min(2), "{kept:?}");
        assert_eq!(kept.get(1), before.first(), "the one before");
        assert_eq!(
            shard(&bucket, topic.shard.id()).await.partitions[0].next_offset,
            written as i64
        );
        before = kept;
    }
    let puts = bucket.counts().puts;
    checkpoints.pass(Which::Changed).await;
    assert_eq!((listed(&bucket, of).await, bucket.counts().puts), (before.clone(), puts));
    let others = list_checkpoints(&bucket, "cluster/shards").await.expect("it lists");
    assert_eq!(others.len(), 2, "shards without partitions and groups have none: {others:?}");

    // The next leader continues with what it finds, and removes what an earlier one left.
    topic.write(1, b"value").await;
    Checkpoints::new(Arc::clone(&parts), Duration::ZERO).pass(Which::Changed).await;
    let kept = listed(&bucket, of).await;
    assert_eq!((kept.len(), kept.get(1)), (2, before.first()));
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_fails_the_checkpoint_grows_old_and_is_written_afterwards() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[]).await;
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(Arc::clone(&store) as _);
    let parts = running.parts(&bucket, 1 << 20);
    parts.fence.confirm(Duration::ZERO).await.expect("it is claimed");
    let mut checkpoints = Checkpoints::new(Arc::clone(&parts), Duration::ZERO);
    store.next_puts([Fault::Fails; 4]);
    checkpoints.pass(Which::Changed).await;
    assert!(parts.health.failure().expect("it fails").contains("503 SlowDown"));
    assert_eq!(listed(&bucket, CheckpointOf::Catalog).await, []);
    while listed(&bucket, CheckpointOf::Shard(topic.shard.id().0)).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        checkpoints.pass(Which::Changed).await;
    }
    assert_eq!(parts.health.failure(), None);
    assert_eq!(catalog(&bucket).await.topics.len(), 1);
    running.broker.stop().await;
}

/// The tasks of the broker itself, over a directory.
#[tokio::test(flavor = "multi_thread")]
async fn t2_a_broker_that_stops_writes_what_changed_since_the_last_checkpoint() {
    let settings = [("ropewalk.tier.checkpoint.interval.ms", "3600000")];
    let running = Running::start(&settings).await;
    let bucket = Bucket::open(&bucket_settings(&running)).expect("it opens");
    let topic = running.make(&[]).await;
    while listed(&bucket, CheckpointOf::Catalog).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    topic.write(7, b"value").await;
    let home = commit(&running, "billing", &topic, 5).await;
    let id = topic.shard.id();
    let Running { broker, dir: _dir } = running;
    broker.stop().await;
    assert_eq!(shard(&bucket, id).await.partitions[0].next_offset, 7);
    assert_eq!(shard(&bucket, home).await.groups[0].offsets[0].offset, 5);
    assert_eq!(catalog(&bucket).await.topics.len(), 1);
}
