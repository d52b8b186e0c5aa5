//! Retention of partitions with a tier: what leaves the disks, what leaves the log, and what is
//! deleted from the bucket.
//!
//! What leaves the disks needs no bucket: it depends on the manifest alone. While the bucket fails,
//! nothing is deleted there, and the rest continues.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use ropewalk_node::ShardHandle;
use ropewalk_segment::retention::Retention;
use ropewalk_shard::PartitionId;
use ropewalk_shard::command::TierChange;
use ropewalk_shard::state::Tier;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::expire::{self, Unit};
use super::led::{Led, StepError};
use super::parts::{Parts, has_tier};
use super::plan::{self, Switch};
use super::{convert, delete, local, pages};
use crate::catalog::TopicView;
use crate::clock;
use crate::limits;

/// Carries out the retention of the partitions with a tier that this broker leads.
#[derive(Debug)]
pub(crate) struct TierRetention {
    parts: Arc<Parts>,
    memos: HashMap<PartitionId, Memo>,
}

/// What is remembered of a partition from one check to the next.
#[derive(Debug, Default)]
struct Memo {
    oldest: Option<Known>,
    /// When each replaced page was first seen; for its grace period.
    replaced: HashMap<u64, Instant>,
}

/// What is known of the page with the oldest objects, so that it is not read again at each check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// The digest of the page in the state.
    page: u64,
    log_start: i64,
    before_bytes: u64,
    first: Option<Unit>,
}

/// A partition with a tier.
#[derive(Debug)]
struct Job {
    id: PartitionId,
    shard: Arc<ShardHandle>,
    topic: Arc<TopicView>,
    memo: Memo,
}

impl TierRetention {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        Self { parts, memos: HashMap::new() }
    }

    /// Checks all partitions at this interval; more often while the disk is full.
    pub(crate) async fn run(mut self, interval: impl Fn() -> Duration) {
        let mut checked = Instant::now();
        loop {
            let full = interval().min(limits::TIER_FULL_DISK_INTERVAL);
            tokio::time::sleep(full).await;
            let due = if self.parts.node.is_disk_full() { full } else { interval() };
            if checked.elapsed() >= due {
                checked = Instant::now();
                self.pass().await;
            }
        }
    }

    /// Checks all partitions once.
    pub(crate) async fn pass(&mut self) {
        let jobs = self.jobs();
        let parts = &self.parts;
        let done = stream::iter(jobs).map(|job| job.run(parts));
        let done = done.buffer_unordered(limits::TIER_STEPS_AT_ONCE).collect::<Vec<_>>().await;
        self.memos = done.into_iter().collect();
    }

    fn jobs(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for topic in self.parts.view.all() {
            for (id, shard) in self.parts.led(&topic).filter(|(id, shard)| has_tier(shard, id)) {
                let memo = self.memos.remove(&id).unwrap_or_default();
                let (shard, topic) = (Arc::clone(shard), Arc::clone(&topic));
                jobs.push(Job { id, shard, topic, memo });
            }
        }
        jobs
    }
}

impl Job {
    async fn run(mut self, parts: &Parts) -> (PartitionId, Memo) {
        match self.steps(parts).await {
            Ok(()) => {}
            Err(error) if error.is_of_leadership() => {
                debug!(partition = %self.id, %error, "retention of the tier abandoned");
            }
            Err(error) => {
                parts.metrics.failed(error.kind());
                parts.pause_after(&error);
                warn!(partition = %self.id, %error, "retention of the tier failed, will retry");
            }
        }
        (self.id, self.memo)
    }

    async fn steps(&mut self, parts: &Parts) -> Result<(), StepError> {
        let led = Led::begin(&self.shard, self.id).await?;
        let Some((tier, log_start)) = tier_of(&led)? else { return Ok(()) };
        match plan::switch(self.topic.config.tier.policy(), log_start, Some(&*tier)) {
            Some(Switch::Disable) => led.change(TierChange::Disable).await?,
            Some(Switch::Discard { log_start }) => led.advance_log_start(log_start).await?,
            Some(Switch::Enable) | None => {}
        }
        if !parts.health.is_fenced() {
            local::retain(&led, &self.topic.config).await?;
        }
        self.total(parts, &led).await?;
        let Some((tier, log_start)) = tier_of(&led)? else { return Ok(()) };
        if let Some(through) = expire::droppable(&tier, log_start) {
            led.change(TierChange::DropObjects { through }).await?;
        }
        if parts.health.is_paused(Instant::now()) {
            return Ok(());
        }
        self.delete(parts, &led).await
    }

    /// Removes what `retention.*` no longer keeps.
    async fn total(&mut self, parts: &Parts, led: &Led) -> Result<(), StepError> {
        let retention = self.topic.config.retention();
        if !self.topic.config.deletes() || retention == Retention::default() {
            return Ok(());
        }
        let Some((tier, log_start)) = tier_of(led)? else { return Ok(()) };
        let start = self.expired(parts, led, (&*tier, log_start), &retention).await?;
        match start.filter(|start| *start > log_start) {
            Some(start) => {
                debug!(partition = %self.id, start, "retention moves the log start");
                led.advance_log_start(start).await
            }
            None => Ok(()),
        }
    }

    /// The new log start. Of pages only the first is read, and only when its first object is not
    /// known or is expired.
    async fn expired(
        &mut self,
        parts: &Parts,
        led: &Led,
        (tier, log_start): (&Tier, i64),
        retention: &Retention,
    ) -> Result<Option<i64>, StepError> {
        let now_ms = clock::now_ms();
        let newest = expire::newest_units(tier, &led.log.segment_infos(), log_start);
        let newest_bytes: u64 = newest.iter().map(|unit| unit.bytes).sum();
        let Some(first) = pages::first_page(tier, log_start) else {
            return Ok(expire::expired(newest, newest_bytes, now_ms, retention));
        };
        let later = tier.pages.iter().filter(|page| page.base >= first.end);
        let later: Vec<Unit> =
            later.map(|p| Unit::new(p.end, p.objects_bytes, p.max_timestamp_ms)).collect();
        let later_bytes: u64 = later.iter().map(|unit| unit.bytes).sum();
        let all_bytes = first.objects_bytes + later_bytes + newest_bytes;
        let known = self.memo.oldest.filter(|k| (k.page, k.log_start) == (first.digest, log_start));
        if let Some(known) = known {
            let total = all_bytes.saturating_sub(known.before_bytes);
            if expire::expired(known.first, total, now_ms, retention).is_none() {
                return Ok(None);
            }
        }
        let key = convert::key(&parts.cluster, led.id);
        let pages::Oldest { before_bytes, objects } =
            pages::oldest(parts, &key, first, log_start).await?;
        let objects = objects.iter().map(|o| Unit::new(o.end, o.size_bytes, o.max_timestamp_ms));
        let objects: Vec<Unit> = objects.collect();
        let page = first.digest;
        let oldest = objects.first().copied();
        self.memo.oldest = Some(Known { page, log_start, before_bytes, first: oldest });
        let total = all_bytes.saturating_sub(before_bytes);
        // Of a page of pages this is one page only; the next check continues with the next one.
        let behind: Vec<Unit> =
            if first.level == 0 { later.into_iter().chain(newest).collect() } else { Vec::new() };
        Ok(expire::expired(objects.into_iter().chain(behind), total, now_ms, retention))
    }

    /// Deletes from the bucket what was dropped, and pages that were replaced, after the grace
    /// period.
    async fn delete(&mut self, parts: &Parts, led: &Led) -> Result<(), StepError> {
        let Some((tier, _)) = tier_of(led)? else { return Ok(()) };
        let now = Instant::now();
        let grace = Duration::from_millis(u64::try_from(parts.rules.grace_ms).unwrap_or(0));
        self.memo.replaced.retain(|digest, _| tier.replaced.iter().any(|p| p.digest == *digest));
        let mut old = Vec::new();
        for page in &tier.replaced {
            let seen = *self.memo.replaced.entry(page.digest).or_insert(now);
            if now.saturating_duration_since(seen) >= grace {
                old.push(*page);
            }
        }
        if !old.is_empty() {
            delete::replaced(parts, led, &old).await?;
        }
        if expire::is_deletable(&tier, clock::now_ms(), parts.rules.grace_ms) {
            delete::dropped(parts, led).await?;
            parts.health.succeeded();
        }
        Ok(())
    }
}

/// The tier and the log start of the partition; `None` when its tier has ended.
fn tier_of(led: &Led) -> Result<Option<(Box<Tier>, i64)>, StepError> {
    led.look(|partition| partition.tier.clone().map(|tier| (tier, partition.log_start)))
}
