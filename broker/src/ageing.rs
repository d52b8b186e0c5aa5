//! What grows old: records past their retention, producers that fell silent, figures of what is gone.
//!
//! The leader of a shard decides, by its clock and the topics' configuration, and proposes what
//! goes by name (a new log start, a producer id); every replica carries it out alike. Group offsets
//! age with their coordinator.
//!
//! # Limits
//!
//! A look goes through a shard in pieces: apply waits for [`limits::STATE_VISITS_MAX`] producers at
//! most. A shard remembers [`ropewalk_shard::limits::SHARD_PRODUCERS_MAX`] producers; beyond it
//! those that have been silent for longest expire early.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ropewalk_segment::retention;
use ropewalk_shard::command::{Command, ShardCommand, SilentProducer};
use ropewalk_shard::limits::SHARD_PRODUCERS_MAX;
use ropewalk_shard::node::Node;
use ropewalk_shard::state::State;
use ropewalk_shard::{PartitionId, Shard};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::catalog::{TopicView, View};
use crate::clock;
use crate::figures::Figures;
use crate::limits;
use crate::settings::Settings;

mod removals;

use removals::Removals;

/// How many partitions or producers one entry names.
const BATCH: usize = 1000;

/// How often retention is checked while the disk is full, at least: a shorter retention is one way
/// to make room.
const FULL_DISK_INTERVAL: Duration = Duration::from_secs(10);

/// Between two looks for silent producers.
const PRODUCERS_INTERVAL: Duration = Duration::from_secs(60);

/// The loop.
#[derive(Debug)]
pub struct Ageing {
    node: Arc<Node>,
    view: Arc<View>,
    settings: Arc<Settings>,
    figures: Arc<Figures>,
}

impl Ageing {
    /// Watches over `node`.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        view: Arc<View>,
        settings: Arc<Settings>,
        figures: Arc<Figures>,
    ) -> Self {
        Self { node, view, settings, figures }
    }

    /// Looks again and again.
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
                self.forget_figures();
            }
        }
    }

    /// What is measured of a group outlives it by a few minutes, not for ever (R1).
    fn forget_figures(&self) {
        let mut groups = HashSet::new();
        for shard in self.node.shards() {
            groups.extend(shard.state().groups.keys().cloned());
        }
        let topic_exists = |topic| self.view.by_id(topic).is_some();
        self.figures.retain(|group| groups.contains(group), topic_exists);
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
                removals.note(topic, index, (segments.as_slice(), start), now_ms);
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
                    "too many idempotent producers: those silent for longest are forgotten early"
                );
            }
            for silent in silent.chunks(BATCH) {
                propose(shard, ShardCommand::ExpireSilentProducers(silent.to_vec())).await;
            }
        }
    }
}

/// Whether retention is checked now, `since` after the last check began.
fn is_check_due(since: Duration, interval: Duration, disk_full: bool) -> bool {
    since >= if disk_full { interval.min(FULL_DISK_INTERVAL) } else { interval }
}

/// Every producer that a shard remembers. The state is locked for a piece of it at a time, so some may
/// have written meanwhile: an expiry says what it saw.
async fn producers(shard: &Shard) -> Vec<SilentProducer> {
    let mut found = Vec::new();
    let partitions = shard.partitions();
    let mut left = partitions.as_slice();
    while !left.is_empty() {
        left = visit(&shard.state(), left, &mut found);
        // Other tasks of this thread, and apply, go first.
        tokio::task::yield_now().await;
    }
    found
}

/// Adds the producers of the first of `partitions`, as many as may be visited at once; the rest.
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

/// Those that were last seen before `before_ms`, and those silent for longest beyond `kept_max`.
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

/// What fails now is found again at the next look.
async fn propose(shard: &Arc<Shard>, command: ShardCommand) {
    if let Err(error) = shard.propose(Command::Shard(command)).await {
        warn!(shard = %shard.id(), %error, "could not let old things go; trying again later");
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::TopicId;
    use ropewalk_shard::state::Partition;
    use ropewalk_shard::state::partition::Producer;

    use super::*;

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
