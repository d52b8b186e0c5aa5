//! Retention and expiry in whole brokers, and the pure decisions.

use ropewalk_batch::Builder;
use ropewalk_shard::command::{Append, ChangeTier, TierChange};
use ropewalk_shard::manifest::ObjectRef;
use ropewalk_shard::proposal::SendOrder;
use ropewalk_shard::state::Partition;
use ropewalk_shard::state::partition::Producer;
use ropewalk_shard::{Effect, Outcome, TopicId};
use tempfile::TempDir;

use super::*;
use crate::boot::{Broker, Start};
use crate::catalog::NewTopic;

/// A whole broker in a temporary directory.
struct Running {
    broker: Broker,
    _dir: TempDir,
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let own =
        [("listeners", "PLAINTEXT://127.0.0.1:0"), ("ropewalk.admin.listener", "127.0.0.1:0")];
    let pairs = own.iter().chain(pairs).map(|(key, value)| ((*key).into(), (*value).into()));
    Settings::new(pairs).expect("valid")
}

impl Running {
    async fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let start = Start {
            settings: settings(&[]),
            dir: dir.path().to_owned(),
            format: Some("cluster".to_owned()),
            on_fatal: Arc::new(|reason| panic!("{reason}")),
        };
        Self { broker: Broker::start(start).await.expect("it starts"), _dir: dir }
    }

    /// The task under test. It scans only when a test calls it.
    fn task(&self, pairs: &[(&str, &str)]) -> RetentionTask {
        let context = self.broker.context();
        let (node, view) = (Arc::clone(&context.node), Arc::clone(&context.view));
        RetentionTask::new(node, view, Arc::new(settings(pairs)), Arc::default())
    }

    /// Creates a topic of one partition with this configuration and returns its shard.
    async fn make(&self, name: &str, configs: &[(&str, &str)]) -> (Arc<ShardHandle>, PartitionId) {
        let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(1),
            configs: configs.collect(),
            owner: None,
        };
        let context = self.broker.context();
        let made = context.topics.create(vec![topic], false).await;
        assert!(made[0].is_ok(), "{made:?}");
        let view = context.view.by_name(name).expect("it was created");
        let (id, home) = view.partition(0).expect("it has one");
        (Arc::clone(context.node.shard(home.shard).expect("it serves")), id)
    }
}

async fn write(shard: &ShardHandle, partition: PartitionId, batches: Vec<bytes::Bytes>) {
    let items = batches.into_iter().map(|batch| Append { partition, batch }).collect();
    let answer =
        shard.append(items, SendOrder::default()).await.expect("the driver runs").expect("taken");
    assert!(answer.iter().all(Result::is_ok), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_grow_old_only_where_the_policy_is_to_delete() {
    let running = Running::start().await;
    let task = running.task(&[]);
    for (policy, start) in [("delete", 1), ("compact,delete", 1), ("compact", 0), ("", 0)] {
        let name = format!("policy-{}", policy.replace(',', "-"));
        let configs = [("cleanup.policy", policy), ("retention.ms", "1000")];
        let (shard, id) = running.make(&name, &configs).await;
        let old_ms = clock::now_ms() - 60_000;
        let batch = Builder::new().record(old_ms, Some(b"key"), Some(b"value")).build();
        write(&shard, id, vec![batch]).await;
        task.expire_records(&mut Removals::default()).await;
        let log = shard.log(&id).expect("it is open");
        assert_eq!((log.log_start(), log.high_watermark()), (start, 1), "policy '{policy}'");
    }
    running.broker.stop().await;
}

/// Its objects, which may be younger, are before the segments.
#[tokio::test(flavor = "multi_thread")]
async fn t1_a_partition_with_a_tier_has_a_retention_of_its_own() {
    let running = Running::start().await;
    let (shard, id) = running.make("t", &[("retention.ms", "1000")]).await;
    let change = ChangeTier { change: TierChange::Enable, partition: id };
    let change = Command::Shard(ShardCommand::ChangeTier(change));
    assert_eq!(shard.propose(change).await, Ok(Outcome::Done));
    let old_ms = clock::now_ms() - 60_000;
    let batch = Builder::new().record(old_ms, Some(b"key"), Some(b"value")).build();
    write(&shard, id, vec![batch]).await;
    let object = |max_timestamp_ms: i64| ObjectRef {
        base: 0,
        end: 1,
        history: shard.history(),
        term: shard.leading().expect("it leads"),
        size_bytes: 1,
        digest: 0,
        max_timestamp_ms,
        first_epoch: 0,
    };
    let young = TierChange::AddObject(object(clock::now_ms()));
    let young = ShardCommand::ChangeTier(ChangeTier { change: young, partition: id });
    assert_eq!(shard.propose(Command::Shard(young)).await, Ok(Outcome::Done));
    let with_bucket = [("ropewalk.tier.url", "file:///bucket")];
    let log = shard.log(&id).expect("it is open");
    for settings in [&with_bucket[..], &[]] {
        running.task(settings).expire_records(&mut Removals::default()).await;
        assert_eq!((log.log_start(), log.high_watermark()), (0, 1), "the object is young");
    }
    running.broker.stop().await;
}

/// The bucket was removed from the settings of the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_a_tier_has_a_retention_without_the_bucket_too() {
    let running = Running::start().await;
    let (shard, id) = running.make("t", &[("retention.ms", "1000")]).await;
    let change = ChangeTier { change: TierChange::Enable, partition: id };
    let change = Command::Shard(ShardCommand::ChangeTier(change));
    assert_eq!(shard.propose(change).await, Ok(Outcome::Done));
    let old_ms = clock::now_ms() - 60_000;
    let batch = Builder::new().record(old_ms, Some(b"key"), Some(b"value")).build();
    write(&shard, id, vec![batch]).await;
    let with_bucket = [("ropewalk.tier.url", "file:///bucket")];
    running.task(&with_bucket).expire_records(&mut Removals::default()).await;
    let log = shard.log(&id).expect("it is open");
    assert_eq!(log.log_start(), 0, "the tier does it");
    running.task(&[]).expire_records(&mut Removals::default()).await;
    assert_eq!((log.log_start(), log.high_watermark()), (1, 1));
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_are_remembered_for_their_time_and_then_all_are_forgotten() {
    /// More producers than one entry can name.
    const PRODUCERS: usize = BATCH + 7;
    let running = Running::start().await;
    let (shard, id) = running.make("t", &[]).await;
    let of = |producer| Builder::new().producer(producer, 0, 0).record(1, None, None).build();
    write(&shard, id, (0..).take(PRODUCERS).map(of).collect()).await;
    running.task(&[]).expire_producers().await;
    assert_eq!(producers(&shard).await.len(), PRODUCERS, "they wrote a moment ago");
    tokio::time::sleep(Duration::from_millis(20)).await;
    running.task(&[("producer.id.expiration.ms", "1")]).expire_producers().await;
    assert_eq!(producers(&shard).await, [], "all were silent for longer than that");
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_looks_for_silent_producers_as_often_as_the_settings_say() {
    let running = Running::start().await;
    for (setting, interval) in [("500", 500), ("60001", 60_000), ("600000", 60_000)] {
        let task = running.task(&[("producer.id.expiration.check.interval.ms", setting)]);
        assert_eq!(task.producers_interval(), Duration::from_millis(interval), "{setting}");
    }
    let (shard, id) = running.make("t", &[]).await;
    let batch = Builder::new().producer(1, 0, 0).record(1, None, None).build();
    write(&shard, id, vec![batch]).await;
    let often =
        [("producer.id.expiration.ms", "1"), ("producer.id.expiration.check.interval.ms", "1")];
    let task = tokio::spawn(running.task(&often).run());
    // Shorter than the interval without the setting.
    let expired = tokio::time::timeout(PRODUCERS_INTERVAL_MAX / 2, async {
        while !producers(&shard).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    expired.await.expect("the producer expires");
    task.abort();
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_what_was_measured_of_groups_that_are_gone_is_forgotten() {
    let running = Running::start().await;
    let (_, partition) = running.make("t", &[]).await;
    let task = running.task(&[]);
    let group = "gone".to_owned();
    task.queue_metrics.applied(
        &[Effect::Committed { group, partition, before: None, after: 3, time_ms: 1 }],
        true,
    );
    assert_eq!(task.queue_metrics.groups(), ["gone"]);
    task.discard_stale_metrics();
    assert_eq!(task.queue_metrics.groups(), [""; 0]);
    running.broker.stop().await;
}

fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(1)), index }
}

fn seen(producer_id: i64, seen_ms: i64) -> SilentProducer {
    SilentProducer { partition: partition(0), producer_id, seen_ms }
}

fn ids(found: &[SilentProducer]) -> Vec<i64> {
    let mut ids: Vec<_> = found.iter().map(|producer| producer.producer_id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn retention_is_checked_sooner_while_the_disk_is_full() {
    let seconds = Duration::from_secs;
    for (since, interval, disk_full, due) in [
        (299, 300, false, false),
        (300, 300, false, true),
        (9, 300, true, false),
        (10, 300, true, true),
        (1, 1, true, true),
    ] {
        let is_due = is_check_due(seconds(since), seconds(interval), disk_full);
        assert_eq!(is_due, due, "{since} s after the last, every {interval} s, full: {disk_full}");
    }
}

#[test]
fn only_producers_that_were_silent_since_the_bound_expire() {
    let known = vec![seen(1, 99), seen(2, 100), seen(3, 101)];
    assert_eq!(ids(&silent(known.clone(), 100, 10)), [1]);
    assert!(silent(known, 99, 10).is_empty());
}

#[test]
fn r1_beyond_the_bound_of_a_shard_those_silent_for_longest_expire() {
    let known: Vec<_> = (0..100).map(|id| seen(id, 1_000 - id)).collect();
    assert_eq!(ids(&silent(known.clone(), 0, 97)), [97, 98, 99]);
    assert_eq!(silent(known, 0, 0).len(), 100);
}

#[test]
fn a_look_visits_a_bounded_piece_of_the_state_at_once() {
    let producer = || Producer { epoch: 0, seen_ms: 5, batches: Default::default() };
    let mut state = State::new();
    for index in 0..10 {
        let mut with = Partition::new(0);
        let many = i64::try_from(limits::STATE_VISITS_MAX / 2).expect("fits");
        with.producers = Some(Box::new((0..many).map(|id| (id, producer())).collect()));
        state.partitions.insert(partition(index), with.into());
    }
    let all: Vec<_> = (0..10).map(partition).collect();
    let (mut left, mut found, mut pieces) = (all.as_slice(), Vec::new(), 0);
    while !left.is_empty() {
        let before = found.len();
        left = visit(&state, left, &mut found);
        assert!(found.len() - before <= 2 * limits::STATE_VISITS_MAX);
        pieces += 1;
    }
    assert_eq!((pieces, found.len()), (5, 5 * limits::STATE_VISITS_MAX));
}
