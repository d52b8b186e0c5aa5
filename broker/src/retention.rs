//! Retention and expiry: records past their retention, silent producers, and metrics of removed
//! groups.
//!
//! The leader of a shard decides by its clock and the topics' configuration, and proposes the
//! result explicitly (a new log start, a producer id), so that every replica applies the same
//! removal. The group coordinator expires group offsets.
//!
//! # Limits
//!
//! A scan of a shard's state is split into pieces, because apply waits for it: one piece visits at
//! most [`limits::STATE_VISITS_MAX`] producers. A shard keeps
//! [`ropewalk_shard::limits::SHARD_PRODUCERS_MAX`] producers; beyond that the producers that have
//! been silent longest expire early.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::Node;
use ropewalk_node::ShardHandle;
use ropewalk_segment::retention;
use ropewalk_shard::PartitionId;
use ropewalk_shard::command::{Command, ShardCommand, SilentProducer};
use ropewalk_shard::limits::{FREEING_COMMAND_BYTES_MAX, SHARD_PRODUCERS_MAX};
use ropewalk_shard::state::State;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::catalog::{TopicView, View};
use crate::clock;
use crate::limits;
use crate::queue_metrics::QueueMetrics;
use crate::settings::Settings;

mod removals;

use removals::{LogStartMove, Removals};

/// Most partitions or producers that one log entry names.
const BATCH: usize = 1000;

/// Most bytes of a partition and its log start in a command.
const LOG_START_BYTES_MAX: usize = 40;

const _: () = assert!(BATCH * LOG_START_BYTES_MAX <= FREEING_COMMAND_BYTES_MAX);

/// Longest interval between retention checks while the disk is full, because retention is one way
/// to free space. A shorter configured interval still applies.
const FULL_DISK_INTERVAL: Duration = Duration::from_secs(10);

/// Interval between two scans for silent producers.
const PRODUCERS_INTERVAL: Duration = Duration::from_secs(60);

/// The background task of retention and expiry.
#[derive(Debug)]
pub struct RetentionTask {
    node: Arc<Node>,
    view: Arc<View>,
    settings: Arc<Settings>,
    queue_metrics: Arc<QueueMetrics>,
}

impl RetentionTask {
    /// Creates the task for the shards of `node`.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        view: Arc<View>,
        settings: Arc<Settings>,
        queue_metrics: Arc<QueueMetrics>,
    ) -> Self {
        Self { node, view, settings, queue_metrics }
    }

    /// Runs the checks until the task is dropped.
    pub async fn run(self) {
        let mut producers_due = Instant::now() + PRODUCERS_INTERVAL;
        let mut removals = Removals::default();
        let mut checked = Instant::now();
        loop {
            let interval = self.settings.retention_check_interval();
            tokio::time::sleep(interval.min(FULL_DISK_INTERVAL)).await;
            if is_check_due(checked.elapsed(), interval, self.node.is_disk_full()) {
                checked = Instant::now();
                self.expire_records(&mut removals).await;
            }
            if Instant::now() >= producers_due {
                producers_due = Instant::now() + PRODUCERS_INTERVAL;
                self.expire_producers().await;
                self.discard_stale_metrics();
            }
        }
    }

    /// Discards the metrics of a removed group a few minutes after its removal (R1).
    fn discard_stale_metrics(&self) {
        let mut groups = HashSet::new();
        for shard in self.node.shards() {
            groups.extend(shard.state().groups.keys().cloned());
        }
        let topic_exists = |topic| self.view.by_id(topic).is_some();
        self.queue_metrics.retain(|group| groups.contains(group), topic_exists);
    }

    async fn expire_records(&self, removals: &mut Removals) {
        let mut starts: HashMap<_, Vec<(PartitionId, i64)>> = HashMap::new();
        for topic in self.view.all() {
            if topic.config.deletes() {
                self.expired_of(&topic, &mut starts, removals);
            }
        }
        for (shard, starts) in starts {
            let Some(shard) = self.node.shard(shard) else { continue };
            for starts in starts.chunks(BATCH) {
                debug!(shard = %shard.id(), partitions = starts.len(), "retention moves log starts");
                propose(shard, ShardCommand::AdvanceLogStart(starts.to_vec())).await;
            }
        }
    }

    fn expired_of(
        &self,
        topic: &TopicView,
        starts: &mut HashMap<ropewalk_shard::ShardId, Vec<(PartitionId, i64)>>,
        removals: &mut Removals,
    ) {
        let now_ms = clock::now_ms();
        for (index, home) in (0_i32..).zip(&topic.partitions) {
            let id = PartitionId { topic: topic.id, index };
            let Some(shard) = self.node.shard(home.shard) else { continue };
            let Some(log) = shard.log(&id).filter(|_| shard.leading().is_some()) else { continue };
            let end = log.high_watermark();
            let retention = topic.config.retention();
            let segments = log.segment_infos();
            let start = retention::expired(&segments, now_ms, &retention, end);
            if let Some(start) = start.filter(|start| *start > log.log_start()) {
                let log_start = LogStartMove { index, segments: &segments, start };
                removals.note(topic, log_start, now_ms);
                starts.entry(home.shard).or_default().push((id, start));
            }
        }
    }

    async fn expire_producers(&self) {
        let expiration_ms = self.settings.producer_expiration().as_millis();
        let silent_ms = i64::try_from(expiration_ms).unwrap_or(i64::MAX);
        for shard in self.node.shards().filter(|shard| shard.leading().is_some()) {
            let known = producers(shard).await;
            let (count, shard_id) = (known.len(), shard.id());
            let silent = silent(known, clock::now_ms() - silent_ms, SHARD_PRODUCERS_MAX);
            let kept = count - silent.len();
            if kept == SHARD_PRODUCERS_MAX && count > kept {
                warn!(
                    shard = %shard_id, producers = count, producers_max = SHARD_PRODUCERS_MAX,
                    "too many idempotent producers: those silent for longest expire early"
                );
            }
            for silent in silent.chunks(BATCH) {
                propose(shard, ShardCommand::ExpireSilentProducers(silent.to_vec())).await;
            }
        }
    }
}

/// Whether retention is due, `since` after the start of the last check.
fn is_check_due(since: Duration, interval: Duration, disk_full: bool) -> bool {
    since >= if disk_full { interval.min(FULL_DISK_INTERVAL) } else { interval }
}

/// Every producer that a shard keeps. The state is locked for one piece at a time, so a producer
/// may write between the scan and its expiry; the command therefore names the last write that was
/// seen.
async fn producers(shard: &ShardHandle) -> Vec<SilentProducer> {
    let mut found = Vec::new();
    let partitions = shard.partitions();
    let mut left = partitions.as_slice();
    while !left.is_empty() {
        left = visit(&shard.state(), left, &mut found);
        // Lets apply and the other tasks of this thread run first.
        tokio::task::yield_now().await;
    }
    found
}

/// Collects the producers of the first of `partitions`, up to the visit limit. Returns the
/// partitions that remain.
fn visit<'a>(
    state: &State,
    partitions: &'a [PartitionId],
    found: &mut Vec<SilentProducer>,
) -> &'a [PartitionId] {
    let mut visited = 0;
    for (at, id) in partitions.iter().enumerate() {
        if visited >= limits::STATE_VISITS_MAX {
            return &partitions[at..];
        }
        visited += 1;
        let Some(known) = state.partitions.get(id).and_then(|p| p.producers.as_ref()) else {
            continue;
        };
        visited += known.len();
        found.extend(known.iter().map(|(producer_id, seen)| SilentProducer {
            partition: *id,
            producer_id: *producer_id,
            seen_ms: seen.seen_ms,
        }));
    }
    &[]
}

/// The producers whose last write is older than `before_ms`, and the longest-silent ones beyond
/// `kept_max`.
fn silent(mut known: Vec<SilentProducer>, before_ms: i64, kept_max: usize) -> Vec<SilentProducer> {
    let over = known.len().saturating_sub(kept_max);
    if over > 0 && over < known.len() {
        known.select_nth_unstable_by_key(over, |producer| producer.seen_ms);
    }
    let mut at = 0;
    known.retain(|producer| {
        at += 1;
        at <= over || producer.seen_ms < before_ms
    });
    known
}

/// Proposes one command. The next check repeats whatever fails here.
async fn propose(shard: &Arc<ShardHandle>, command: ShardCommand) {
    if let Err(error) = shard.propose(Command::Shard(command)).await {
        warn!(shard = %shard.id(), %error, "retention or producer expiry failed, will retry");
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_batch::Builder;
    use ropewalk_shard::command::Append;
    use ropewalk_shard::proposal::SendOrder;
    use ropewalk_shard::state::Partition;
    use ropewalk_shard::state::partition::Producer;
    use ropewalk_shard::{Effect, TopicId};
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
        async fn make(
            &self,
            name: &str,
            configs: &[(&str, &str)],
        ) -> (Arc<ShardHandle>, PartitionId) {
            let configs =
                configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
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
        let answer = shard
            .append(items, SendOrder::default())
            .await
            .expect("the driver runs")
            .expect("taken");
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
            assert_eq!(
                is_due, due,
                "{since} s after the last, every {interval} s, full: {disk_full}"
            );
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
}
