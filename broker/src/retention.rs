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
use crate::tier;

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

/// Longest interval between two scans for silent producers, because a scan also holds the number of
/// producers of a shard within its bound. A shorter configured interval applies.
const PRODUCERS_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// The background task of retention and expiry.
#[derive(Debug)]
pub struct RetentionTask {
    node: Arc<Node>,
    view: Arc<View>,
    settings: Arc<Settings>,
    queue_metrics: Arc<QueueMetrics>,
    /// Whether the tier carries out the retention of partitions with records in the bucket.
    has_bucket: bool,
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
        let has_bucket = settings.tier().is_ok_and(|tier| tier.is_some());
        Self { node, view, settings, queue_metrics, has_bucket }
    }

    /// Runs the checks until the task is dropped.
    pub async fn run(self) {
        let producers_interval = self.producers_interval();
        let mut producers_due = Instant::now() + producers_interval;
        let mut removals = Removals::default();
        let mut checked = Instant::now();
        loop {
            let interval = self.settings.retention_check_interval();
            tokio::time::sleep(interval.min(FULL_DISK_INTERVAL).min(producers_interval)).await;
            if is_check_due(checked.elapsed(), interval, self.node.is_disk_full()) {
                checked = Instant::now();
                self.expire_records(&mut removals).await;
            }
            if Instant::now() >= producers_due {
                producers_due = Instant::now() + producers_interval;
                self.expire_producers().await;
                self.discard_stale_metrics();
            }
        }
    }

    fn producers_interval(&self) -> Duration {
        self.settings.producer_expiration_check_interval().min(PRODUCERS_INTERVAL_MAX)
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
            let retention = topic.config.retention();
            let segments = log.segment_infos();
            let start = if tier::has_tier(shard, &id) {
                if self.has_bucket {
                    continue;
                }
                tier::expired_without_bucket(shard, &id, &segments, (now_ms, &retention))
            } else {
                retention::expired(&segments, now_ms, &retention, log.high_watermark())
            };
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
mod tests;
