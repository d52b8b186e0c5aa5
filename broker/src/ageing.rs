//! What grows old: records past their retention, producers that fell silent, figures of what is gone.
//!
//! The leader of a shard decides, by its clock and the topics' configuration, and proposes what
//! goes by name (a new log start, a producer id); every replica carries it out alike. Group offsets
//! age with their coordinator.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ropewalk_segment::retention;
use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::node::Node;
use ropewalk_shard::state::State;
use ropewalk_shard::{PartitionId, Shard};
use tracing::{debug, warn};

use crate::catalog::{TopicView, View};
use crate::clock;
use crate::figures::Figures;
use crate::settings::Settings;

mod removals;

use removals::Removals;

/// How many partitions or producers one entry names.
const BATCH: usize = 1000;

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
        let mut producers_due = tokio::time::Instant::now() + PRODUCERS_INTERVAL;
        let mut removals = Removals::default();
        loop {
            tokio::time::sleep(self.settings.retention_check_interval()).await;
            self.expire_records(&mut removals).await;
            if tokio::time::Instant::now() >= producers_due {
                producers_due = tokio::time::Instant::now() + PRODUCERS_INTERVAL;
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
        let silent = self.settings.producer_expiration().as_millis();
        let silent_ms = i64::try_from(silent).unwrap_or(i64::MAX);
        for shard in self.node.shards().filter(|shard| shard.leading().is_some()) {
            let silent = silent_producers(&shard.state(), clock::now_ms() - silent_ms);
            for silent in silent.chunks(BATCH) {
                propose(shard, ShardCommand::ExpireProducers(silent.to_vec())).await;
            }
        }
    }
}

/// Producers that were last seen before `before_ms`.
fn silent_producers(state: &State, before_ms: i64) -> Vec<(PartitionId, i64)> {
    let partitions = state.partitions.iter();
    let producers = partitions.flat_map(|(id, partition)| {
        partition.producers.iter().flat_map(|map| map.iter()).map(|(p, seen)| (*id, *p, seen))
    });
    producers.filter(|(.., seen)| seen.seen_ms < before_ms).map(|(id, p, _)| (id, p)).collect()
}

/// What fails now is found again at the next look.
async fn propose(shard: &Arc<Shard>, command: ShardCommand) {
    if let Err(error) = shard.propose(Command::Shard(command)).await {
        warn!(shard = %shard.id(), %error, "could not let old things go; trying again later");
    }
}
