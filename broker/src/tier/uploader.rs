//! Looks for partitions with records to upload, and uploads them: those first that have waited
//! longest. After each object, local retention removes what is in the bucket.
//!
//! # Invariants
//!
//! - **R1** at most [`limits::TIER_STEPS_AT_ONCE`] objects at a time, which together take
//!   [`limits::TIER_UPLOAD_BYTES_MAX`] of memory and what one batch is larger.
//! - A partition without new records uploads what it has when that is old.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use ropewalk_node::ShardHandle;
use ropewalk_shard::PartitionId;
use ropewalk_shard::command::TierChange;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::health::Lag;
use super::led::{Led, StepError};
use super::parts::Parts;
use super::plan::{self, Switch, Waiting};
use super::upload::{Attempt, upload};
use super::{local, pages};
use crate::catalog::TopicView;
use crate::clock;
use crate::limits;
use crate::settings::topic::TierPolicy;

/// Uploads the records of the partitions that this broker leads.
#[derive(Debug)]
pub(crate) struct Uploader {
    parts: Arc<Parts>,
    memos: HashMap<PartitionId, Memo>,
}

/// What is remembered of a partition from one look to the next.
#[derive(Debug, Clone, Copy)]
struct Memo {
    waiting: Waiting,
    attempt: Option<Attempt>,
    /// After a failure that concerns only this partition.
    retry_at: Option<Instant>,
}

/// A partition that has something to do.
#[derive(Debug)]
struct Job {
    id: PartitionId,
    shard: Arc<ShardHandle>,
    topic: Arc<TopicView>,
    memo: Memo,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enable,
    Upload { bytes: u64, waited: Duration },
}

impl Uploader {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        Self { parts, memos: HashMap::new() }
    }

    /// Checks all partitions again and again.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(limits::TIER_INTERVAL).await;
            self.pass().await;
        }
    }

    /// Checks all partitions once, and uploads what is due.
    pub(crate) async fn pass(&mut self) {
        let jobs = self.jobs();
        let parts = Arc::clone(&self.parts);
        let done = stream::iter(jobs).map(|job| job.run(&parts));
        let done = done.buffer_unordered(limits::TIER_STEPS_AT_ONCE).collect::<Vec<_>>();
        let mut done = pin!(done);
        let done = loop {
            match timeout(limits::TIER_INTERVAL, &mut done).await {
                Ok(done) => break done,
                // What waits grows while a slow bucket keeps the jobs from their end.
                Err(_) => drop(self.jobs()),
            }
        };
        self.memos.extend(done);
    }

    /// What is due now. Reports what waits, and remembers all partitions.
    fn jobs(&mut self) -> Vec<Job> {
        let now = Instant::now();
        let (mut jobs, mut lag) = (Vec::new(), Lag::default());
        let mut known = std::mem::take(&mut self.memos);
        let parts = Arc::clone(&self.parts);
        for topic in parts.view.all_with(|config| config.tier.policy() == TierPolicy::Upload) {
            for (id, shard) in parts.led(&topic) {
                let memo = known.remove(&id);
                let Some((memo, step)) = self.look(shard, id, (memo, now), &mut lag) else {
                    continue;
                };
                self.memos.insert(id, memo);
                if let Some(step) = step.filter(|_| memo.retry_at.is_none_or(|at| at <= now)) {
                    let (shard, topic) = (Arc::clone(shard), Arc::clone(&topic));
                    jobs.push(Job { id, shard, topic, memo, step });
                }
            }
        }
        self.parts.metrics.set_lag(lag.bytes, lag.waited.as_secs_f64());
        self.parts.health.set_lag(lag);
        jobs.sort_by_key(|job| Reverse(job.step.waited()));
        jobs
    }

    /// What a partition has to do, and what is remembered of it.
    fn look(
        &self,
        shard: &ShardHandle,
        id: PartitionId,
        (memo, now): (Option<Memo>, Instant),
        lag: &mut Lag,
    ) -> Option<(Memo, Option<Step>)> {
        let log = shard.log(&id)?;
        let (switch, end, next_offset) = {
            let state = shard.state();
            let partition = state.partitions.get(&id)?;
            let tier = partition.tier.as_deref();
            let switch = plan::switch(TierPolicy::Upload, partition.log_start, tier);
            (switch, partition.tier_end(), partition.next_offset)
        };
        let age_max = self.parts.rules.upload.age_max;
        let segments = if end < next_offset { log.segment_infos() } else { Vec::new() };
        let mut memo = memo.unwrap_or_else(|| {
            let age = plan::age_found(&segments, end, clock::now_ms(), age_max);
            let waiting = Waiting::found(end, next_offset, now, age);
            Memo { waiting, attempt: None, retry_at: None }
        });
        let waited = memo.waiting.observe(end, next_offset, now);
        let bytes = plan::bytes_from(&segments, end);
        if end < next_offset {
            lag.partitions += 1;
            lag.bytes += bytes;
            lag.waited = lag.waited.max(waited);
        }
        let is_due = self.parts.rules.upload.is_due(bytes, waited) || memo.attempt.is_some();
        let step = match switch {
            Some(Switch::Enable) => Some(Step::Enable),
            Some(Switch::Disable | Switch::Discard { .. }) => None,
            None => is_due.then_some(Step::Upload { bytes, waited }),
        };
        Some((memo, step))
    }
}

impl Step {
    fn waited(self) -> Duration {
        match self {
            Self::Enable => Duration::MAX,
            Self::Upload { waited, .. } => waited,
        }
    }
}

impl Job {
    async fn run(mut self, parts: &Parts) -> (PartitionId, Memo) {
        self.memo.retry_at = None;
        match self.steps(parts).await {
            Ok(()) => {}
            Err(error) if error.is_of_leadership() => {
                debug!(partition = %self.id, %error, "upload abandoned");
            }
            Err(error) => {
                parts.metrics.failed(error.kind());
                let pause = parts.pause_after(&error);
                warn!(partition = %self.id, %error, ?pause, "records are not uploaded, will retry");
                self.memo.retry_at = Some(Instant::now() + pause);
            }
        }
        (self.id, self.memo)
    }

    async fn steps(&mut self, parts: &Parts) -> Result<(), StepError> {
        let Step::Upload { mut bytes, .. } = self.step else {
            let led = Led::begin(&self.shard, self.id).await?;
            return led.change(TierChange::Enable).await;
        };
        for _ in 0..limits::TIER_OBJECTS_PER_PASS {
            if parts.health.is_paused(Instant::now()) {
                return Ok(());
            }
            let led = Led::begin(&self.shard, self.id).await?;
            while pages::fold(parts, &led).await? {}
            // Compression and prefixes make the estimate inexact.
            let expected = bytes.saturating_add(1 << 20);
            let Some(uploaded) = upload(parts, &led, &mut self.memo.attempt, expected).await?
            else {
                return Ok(());
            };
            parts.health.succeeded();
            local::retain(&led, &self.topic.config).await?;
            bytes = bytes.saturating_sub(uploaded);
            if bytes < parts.rules.upload.object_bytes {
                return Ok(());
            }
        }
        Ok(())
    }
}
