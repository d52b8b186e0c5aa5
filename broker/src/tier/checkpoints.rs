//! Checkpoints of the shards in the bucket, for a restore of a lost cluster.
//!
//! The leader of the catalog writes one soon after a change, the leader of another shard at
//! intervals, and both only if the contents changed. A broker that stops writes last ones. The
//! newest two of each shard are kept; the writer deletes older ones.
//!
//! # Invariants
//!
//! - **T2** a checkpoint has everything that was committed when it was written, because it is
//!   captured after a read barrier.
//! - **R1** checkpoints are written one after the other, and each takes of the memory for uploads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::ShardHandle;
use ropewalk_shard::ShardId;
use ropewalk_store::checkpoint::Capture;
use ropewalk_tier::{
    Checkpoint, CheckpointName, CheckpointOf, CheckpointOrigin, EncodedCheckpoint, list_checkpoints,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::capture;
use super::led::StepError;
use super::parts::Parts;
use crate::clock;
use crate::limits;

/// Writes the checkpoints of the shards that this broker leads.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    parts: Arc<Parts>,
    /// Between two checkpoints of a shard, without the catalog.
    interval: Duration,
    memos: HashMap<ShardId, Memo>,
}

/// What is remembered of a shard while this broker leads it.
#[derive(Debug, Clone)]
struct Memo {
    term: u64,
    /// Index of the last entry that a checkpoint includes, or would not change.
    covered: u64,
    /// When that was found, or when the leadership was first seen.
    covered_at: Instant,
    /// No earlier than this.
    due: Instant,
    /// Digest of the contents of the last one that this broker wrote in this term.
    contents_digest: Option<u64>,
    size_bytes: u64,
    /// The checkpoints in the bucket, newest first; `None` before they are listed.
    kept: Option<Vec<CheckpointName>>,
}

/// Which checkpoints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that are due.
    Due,
    /// All whose contents changed, because the broker stops.
    Changed,
}

impl Checkpoints {
    pub(crate) fn new(parts: Arc<Parts>, interval: Duration) -> Self {
        Self { parts, interval, memos: HashMap::new() }
    }

    /// Checks all shards once, and writes checkpoints of them.
    pub(crate) async fn pass(&mut self, which: Which) {
        let begun = Instant::now();
        let shards: Vec<_> = self.parts.node.shards().cloned().collect();
        self.memos.retain(|id, _| shards.iter().any(|s| s.id() == *id && s.leading().is_some()));
        for shard in shards {
            let now = Instant::now();
            let Some(term) = shard.leading() else { continue };
            let memo = self.memos.remove(&shard.id()).filter(|memo| memo.term == term);
            let mut memo = memo.unwrap_or_else(|| Memo::new(term, now));
            if shard.applied_index() == memo.covered {
                memo.covered_at = now;
            } else if (which == Which::Changed || memo.due <= now)
                && !self.parts.health.is_paused(now)
            {
                self.step(&shard, &mut memo).await;
            }
            self.memos.insert(shard.id(), memo);
        }
        // 0 while all changes are in a checkpoint.
        let age = |memo: &Memo| begun.saturating_duration_since(memo.covered_at);
        let ages = self.memos.values().map(age);
        self.parts.metrics.set_checkpoint_age(ages.max().unwrap_or_default().as_secs_f64());
    }

    async fn step(&self, shard: &Arc<ShardHandle>, memo: &mut Memo) {
        let pause = match self.write(shard, memo).await {
            Ok(()) => self.pause_after(shard.id(), memo.size_bytes),
            Err(error) if error.is_of_leadership() => {
                debug!(shard = %shard.id(), %error, "checkpoint abandoned");
                limits::TIER_CHECKPOINT_PAUSE
            }
            Err(error) => {
                self.parts.metrics.failed(error.kind());
                let pause = self.parts.pause_after(&error);
                warn!(shard = %shard.id(), %error, ?pause, "no checkpoint in the bucket, will retry");
                pause
            }
        };
        memo.due = Instant::now() + pause;
    }

    /// The pause after a checkpoint. It is longer after a large one.
    fn pause_after(&self, shard: ShardId, size_bytes: u64) -> Duration {
        let moved = Duration::from_secs(size_bytes / limits::TIER_CHECKPOINT_BYTES_PER_SECOND);
        let least = limits::TIER_CHECKPOINT_PAUSE + moved;
        if shard == ShardId::CATALOG { least } else { least.max(self.interval) }
    }

    /// Writes a checkpoint, unless its contents are those of the last one.
    async fn write(&self, shard: &Arc<ShardHandle>, memo: &mut Memo) -> Result<(), StepError> {
        let parts = &self.parts;
        let epoch = parts.fence.permit_upload(shard, memo.term).await?;
        let kept = match memo.kept.take() {
            Some(kept) => kept,
            None => listed(parts, shard.id()).await?,
        };
        let _memory = parts.reserve(memo.size_bytes.max(limits::TIER_CHECKPOINT_BYTES)).await;
        shard.read_barrier().await?;
        let made = Made::of(parts, shard, (memo.term, epoch)).await?;
        let Made { index, is_empty, encoded } = made;
        let EncodedCheckpoint { name, content, contents_digest } = encoded;
        let is_known = memo.contents_digest == Some(contents_digest);
        let has_nothing = is_empty && kept.is_empty();
        let is_needed = !is_known && !has_nothing;
        let mut names = kept;
        if is_needed {
            if shard.leading() != Some(memo.term) {
                return Err(StepError::NotLeader);
            }
            parts.bucket.put_if_absent(&name.to_string(), &content).await?;
            parts.health.succeeded();
            parts.metrics.checkpoint_written(shard.id());
            debug!(%name, size_bytes = content.size_bytes(), "checkpoint written");
            memo.size_bytes = content.size_bytes();
            names.push(name);
        }
        memo.contents_digest = Some(contents_digest);
        (memo.covered, memo.covered_at) = (index, Instant::now());
        memo.kept = Some(self.delete_old(names).await?);
        Ok(())
    }

    /// Deletes all but the newest ones. Returns those.
    async fn delete_old(
        &self,
        mut names: Vec<CheckpointName>,
    ) -> Result<Vec<CheckpointName>, StepError> {
        names.sort_unstable_by(|one, other| other.cmp(one));
        names.dedup();
        if names.len() > limits::TIER_CHECKPOINTS_KEPT {
            self.parts.fence.permit_deletion().await?;
            for name in names.split_off(limits::TIER_CHECKPOINTS_KEPT) {
                self.parts.bucket.delete(&name.to_string()).await?;
            }
        }
        Ok(names)
    }
}

impl Memo {
    fn new(term: u64, now: Instant) -> Self {
        Self {
            term,
            covered: 0,
            covered_at: now,
            due: now,
            contents_digest: None,
            size_bytes: 0,
            kept: None,
        }
    }
}

/// The checkpoints of a shard in the bucket.
async fn listed(parts: &Parts, shard: ShardId) -> Result<Vec<CheckpointName>, StepError> {
    let folder = of(shard).folder(&parts.cluster);
    let listed = list_checkpoints(&parts.bucket, &folder).await?;
    Ok(listed.into_iter().map(|listed| listed.name).collect())
}

fn of(shard: ShardId) -> CheckpointOf {
    if shard == ShardId::CATALOG { CheckpointOf::Catalog } else { CheckpointOf::Shard(shard.0) }
}

/// A checkpoint of the state as it is now.
struct Made {
    /// Index of the last entry that it includes.
    index: u64,
    is_empty: bool,
    encoded: EncodedCheckpoint,
}

impl Made {
    async fn of(
        parts: &Parts,
        shard: &Arc<ShardHandle>,
        (term, epoch): (u64, u32),
    ) -> Result<Self, StepError> {
        let (shard, cluster) = (Arc::clone(shard), parts.cluster.clone());
        // To capture waits for the driver, and to encode may take a while.
        let made = tokio::task::spawn_blocking(move || -> Result<Self, StepError> {
            let Capture { index, state, logs, .. } = shard.capture()?;
            let logs: HashMap<_, _> = logs.into_iter().collect();
            let youngest_ms = |id| {
                let infos = logs.get(&id).map(|log| log.segment_infos()).unwrap_or_default();
                infos.iter().filter_map(|info| info.max_timestamp_ms).max()
            };
            let contents = capture::contents(shard.id(), term, &state, youngest_ms);
            let is_empty = capture::is_empty(&contents);
            let history = shard.history().0;
            let origin = CheckpointOrigin { cluster, epoch, history, term, index };
            let checkpoint = Checkpoint { origin, written_ms: clock::now_ms(), contents };
            Ok(Self { index, is_empty, encoded: checkpoint.encode()? })
        });
        made.await.map_err(|error| StepError::Local(error.to_string()))?
    }
}
