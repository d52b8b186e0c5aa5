//! Moves applied records and state from memory and the write-ahead log to files, in the background.
//!
//! One thread does this for all shards of a broker. Only producers that find the memory of the
//! tails used up wait for it. [`Checkpointer::step`] does one piece of work and never sleeps, so
//! that a test can call it and simulate a crash in between; the checkpoint thread calls it while
//! the broker runs.
//!
//! # Work
//!
//! - *Resume*, once: write `Truncated` records to the write-ahead log for what existing snapshots
//!   cover.
//! - *Flush*: write a tail of 1 MiB to segments, without a sync; shorter tails when memory is
//!   short.
//! - *Checkpoint* a shard at the applied index S (`pass`): make everything through S durable,
//!   then write a snapshot that names it, then release the write-ahead log below the *older* kept
//!   snapshot (D6). A checkpoint is due when the write-ahead log is long (for the shards that pin
//!   its oldest file), when memory is short and flushing did not help, some time after a shard
//!   changed, and again soon after one that left files to be removed. On a full disk it is due at
//!   once.
//! - *Remove* files that neither kept snapshot names.
//!
//! # Invariants
//!
//! - Segments never hold anything above S during a checkpoint at S: the same thread flushes and
//!   checkpoints, and does not flush a shard whose checkpoint waits for the sync budget.
//! - A shard without changes causes no work.
//! - Syncs keep to their budget per second, unless producers would wait for them.
//! - **D2** a failed sync is final: the thread reports it and ends, and the process ends.
//!
//! # After a crash
//!
//! Recovery cuts off flushed data that no durable snapshot names, and the replay of the write-ahead
//! log restores it. Recovery also removes files that no snapshot names.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use ropewalk_shard::ShardId;

use crate::limits;
use crate::log::PartitionLog;
use crate::policy::Policy;
use crate::store::Store;
use crate::work::{Next, WorkError};

mod capture;
pub(crate) mod files;
mod journal;
mod backlog;
mod pass;
mod syncs;
mod unsynced;

pub use capture::{Capture, Source};
pub use files::ShardFiles;
pub use journal::Journal;

use backlog::{CheckpointWork, ShardBacklog};
#[cfg(test)]
pub(crate) use pass::add;
use pass::{Pass, PassInput};
use syncs::SyncBudget;
use unsynced::UnsyncedLogs;

/// Limits of the background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Size of the write-ahead log above which the shards that pin its oldest file are
    /// checkpointed.
    pub wal_used_bytes_soft_max: u64,
    /// A shard is checkpointed this long after it changed, however little.
    pub checkpoint_age_ms: i64,
    /// Most syncs per second, unless producers would wait for them.
    pub syncs_per_second: u32,
    /// With less free space on the disk, producers are refused. The rest is for the records in
    /// memory, and for the checkpoint that the deletion of records needs to free space.
    pub disk_free_bytes_min: u64,
    /// Most logs that are flushed and not synced; each keeps two files open.
    pub unsynced_logs_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wal_used_bytes_soft_max: 256 << 20,
            checkpoint_age_ms: 60_000,
            syncs_per_second: 200,
            disk_free_bytes_min: 192 << 20,
            unsynced_logs_max: limits::UNSYNCED_LOGS_MAX,
        }
    }
}

/// The background work of a broker's store.
#[derive(Debug)]
pub struct Checkpointer {
    store: Arc<Store>,
    journal: Box<dyn Journal>,
    policy: Arc<dyn Policy>,
    options: Options,
    shards: BTreeMap<ShardId, ShardBacklog>,
    pass: Option<RunningCheckpoint>,
    syncs: SyncBudget,
    unsynced: UnsyncedLogs,
    disk_checked_ms: Option<i64>,
    /// Whether the write-ahead log is released through the snapshots that existed at start.
    resumed: bool,
}

/// The running checkpoint.
#[derive(Debug)]
struct RunningCheckpoint {
    shard: ShardId,
    pass: Pass,
    work: CheckpointWork,
}

/// The first error of several independent pieces of work.
#[derive(Debug, Default)]
struct FirstError(Option<WorkError>);

impl FirstError {
    /// The result of a piece of work; `None` if it failed and has to be retried. A final error is
    /// returned at once.
    fn note<T>(&mut self, done: Result<T, WorkError>) -> Result<Option<T>, WorkError> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_final() => Err(error),
            Err(error) => {
                self.0.get_or_insert(error);
                Ok(None)
            }
        }
    }

    fn first(self) -> Result<(), WorkError> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Files that a checkpoint no longer names can only be removed after another checkpoint, which is
/// due this long after it, even without a change.
const UNLINK_AGE_MS: i64 = 10_000;
/// Interval of the check of the free disk space.
const DISK_CHECK_MS: u64 = 100;
/// Pause before a shard that pins the write-ahead log, and had nothing to checkpoint, is tried
/// again.
const IN_VAIN_PAUSE_MS: i64 = 1000;

impl Checkpointer {
    /// A checkpointer without shards.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        journal: Box<dyn Journal>,
        policy: Arc<dyn Policy>,
        options: Options,
    ) -> Self {
        let syncs = SyncBudget::new(options.syncs_per_second);
        let unsynced = UnsyncedLogs::new(store.data().clone(), options.unsynced_logs_max);
        let (shards, pass, disk_checked_ms, resumed) = (BTreeMap::new(), None, None, false);
        Self {
            store,
            journal,
            policy,
            options,
            shards,
            pass,
            syncs,
            unsynced,
            disk_checked_ms,
            resumed,
        }
    }

    /// The store that all shards share.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Adds a shard, whose state `source` captures.
    pub fn add(&mut self, files: ShardFiles, source: Box<dyn Source>) {
        self.shards.insert(files.shard(), ShardBacklog::new(files, source));
    }

    /// Does one piece of work of each kind that is due. A failure does not prevent the others: a
    /// checkpoint may free the space that a flush needs.
    ///
    /// # Errors
    /// See [`WorkError`]. After one that is not final, `step` may be called again and retries.
    pub fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        self.syncs.refill(now_ms);
        self.check_disk_space(now_ms);
        let mut errors = FirstError::default();
        self.resume(&mut errors)?;
        for shard in self.shards.values_mut() {
            shard.take_changes(now_ms);
        }
        let is_more = self.flush_some(now_ms, &mut errors)?;
        let checkpointed = self.checkpoint_some(now_ms);
        let next = errors.note(checkpointed)?;
        let done = errors.first();
        let budget = self.store.budget();
        budget.set_stuck(done.is_err() && budget.is_short());
        done?;
        Ok(if is_more { Next::Now } else { next.unwrap_or(Next::Wait) })
    }

    /// Advances the running checkpoint, or begins one that is due.
    fn checkpoint_some(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        if self.pass.is_none() {
            let Some(due) = self.due(now_ms) else { return Ok(Next::Wait) };
            self.begin(due, now_ms)?;
        }
        self.advance(now_ms)
    }

    /// Checkpoints every shard with new entries, so that the next start has nothing to replay.
    ///
    /// # Errors
    /// See [`WorkError`].
    pub fn checkpoint_all(&mut self, now_ms: i64) -> Result<(), WorkError> {
        self.syncs.suspend();
        while self.pass.is_some() {
            self.advance(now_ms)?;
        }
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            self.begin(shard, now_ms)?;
            let moved = |pass: &Pass| pass.index() > self.shards[&shard].files.newest().index;
            if self.pass.as_ref().is_some_and(|running| !moved(&running.pass)) {
                self.pass = None;
            }
            while self.pass.is_some() {
                self.advance(now_ms)?;
            }
        }
        Ok(())
    }

    /// Releases what the snapshots at start cover. An earlier process may have ended after it wrote
    /// a snapshot and before it wrote the `Truncated` record or removed the files.
    fn resume(&mut self, errors: &mut FirstError) -> Result<(), WorkError> {
        if self.resumed {
            return Ok(());
        }
        let mut is_whole = true;
        for shard in self.shards.keys().copied().collect::<Vec<_>>() {
            let noted = self.truncate(shard);
            is_whole &= errors.note(noted)?.is_some();
        }
        // Releasing now may free the space that the remaining records need.
        self.release();
        self.resumed = is_whole;
        Ok(())
    }

    /// Refuses producers while the disk has too little free space.
    fn check_disk_space(&mut self, now_ms: i64) {
        if self.disk_checked_ms.is_some_and(|at| now_ms.abs_diff(at) < DISK_CHECK_MS) {
            return;
        }
        self.disk_checked_ms = Some(now_ms);
        let data = self.store.data();
        // If the free space is unknown, a failing write will show that the disk is full.
        let Ok(free_bytes) = data.disk().free_bytes(data.root()) else { return };
        let least = self.options.disk_free_bytes_min;
        let budget = self.store.budget();
        let full = free_bytes
            < if budget.is_disk_full() { least.saturating_add(least / 8) } else { least };
        match (budget.set_disk_full(full), full) {
            (false, true) => tracing::error!(
                free_bytes,
                free_bytes_min = least,
                dir = %data.root().display(),
                "disk is full, records are refused: delete records, shorten the retention or add \
                 disk space",
            ),
            (true, false) => {
                tracing::info!(free_bytes, "disk has space again, records are accepted")
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Writes long tails to segments, and shorter ones when memory is short. Returns whether some
    /// are long again.
    fn flush_some(&mut self, now_ms: i64, errors: &mut FirstError) -> Result<bool, WorkError> {
        let busy = self.pass.as_ref().map(|running| running.shard);
        let mut is_more = false;
        for (_, backlog) in self.shards.iter_mut().filter(|(shard, _)| Some(**shard) != busy) {
            for log in mem::take(&mut backlog.full) {
                if !log.is_full() {
                    continue;
                }
                let flushed = self.unsynced.flush(&log, i64::MAX, now_ms, &*self.policy);
                // Producers may have filled the tail again, and a full tail is reported only once.
                let again = match errors.note(flushed)? {
                    Some(moved) => moved && log.is_full(),
                    None => true,
                };
                is_more |= again;
                backlog.full.extend(again.then_some(log));
            }
        }
        if self.store.budget().is_short() {
            self.relieve(now_ms, errors)?;
        }
        Ok(is_more)
    }

    /// Writes the longest tails when memory is short, down to [`limits::SPILL_BYTES_MAX`].
    fn relieve(&mut self, now_ms: i64, errors: &mut FirstError) -> Result<(), WorkError> {
        let busy = self.pass.as_ref().map(|running| running.shard);
        let idle = self.shards.iter().filter(|(shard, _)| Some(**shard) != busy);
        let dirty = idle.flat_map(|(_, backlog)| &backlog.dirty);
        let mut longest: Vec<(usize, &Arc<PartitionLog>)> =
            dirty.map(|log| (log.tail_bytes(), log)).collect();
        longest.sort_unstable_by_key(|(bytes, log)| (Reverse(*bytes), log.partition()));
        for (bytes, log) in longest {
            if bytes < limits::SPILL_BYTES_MAX || self.store.budget().is_ample() {
                break;
            }
            let flushed = self.unsynced.flush(log, i64::MAX, now_ms, &*self.policy);
            errors.note(flushed)?;
        }
        Ok(())
    }

    /// The shard whose checkpoint is due next.
    fn due(&self, now_ms: i64) -> Option<ShardId> {
        if self.store.budget().is_short() {
            let most = self.shards.iter().max_by_key(|(_, backlog)| backlog.tail_bytes());
            if let Some((shard, _)) = most.filter(|(_, backlog)| backlog.tail_bytes() > 0) {
                return Some(*shard);
            }
        }
        let is_long = self.journal.used_bytes() > self.options.wal_used_bytes_soft_max;
        // A full log has to be released, however short it is.
        if (is_long || self.journal.is_full())
            && let Some(shard) = self.pinning(now_ms)
        {
            return Some(shard);
        }
        let in_need = self.store.budget().is_disk_full();
        if !in_need && !self.syncs.is_left() {
            return None;
        }
        let due_ms = |backlog: &ShardBacklog| {
            let dirty = backlog.dirty_since_ms.map(|at| at + self.options.checkpoint_age_ms);
            let removals = backlog.removals_since_ms.map(|at| at + UNLINK_AGE_MS);
            dirty.into_iter().chain(removals).min()
        };
        let waiting =
            self.shards.iter().filter_map(|(shard, backlog)| Some((due_ms(backlog)?, *shard)));
        if let Some((_, shard)) = waiting.min().filter(|(at, _)| in_need || *at <= now_ms) {
            return Some(shard);
        }
        // Last, and in turn, because one that fails is due again at once. Any other checkpoint of
        // the shard seals as well.
        let sealing = self.shards.iter().filter(|(_, backlog)| backlog.wants_to_seal());
        sealing.min_by_key(|(_, backlog)| backlog.failed_ms).map(|(shard, _)| *shard)
    }

    /// A shard that pins the oldest file of the write-ahead log.
    fn pinning(&self, now_ms: i64) -> Option<ShardId> {
        self.journal.pinned_by_oldest().into_iter().find_map(|(key, last)| {
            let backlog = self.shards.get(&ShardId(key.shard))?;
            let ours = backlog.files.key() == key && backlog.files.released_through() < last;
            let rests = backlog.in_vain_ms.is_some_and(|at| now_ms - at < IN_VAIN_PAUSE_MS);
            (ours && !rests).then_some(ShardId(key.shard))
        })
    }

    fn begin(&mut self, shard: ShardId, now_ms: i64) -> Result<(), WorkError> {
        let backlog = self.shards.get_mut(&shard).expect("a shard that is due is in the map");
        // Before the capture: later changes are for the next checkpoint.
        backlog.take_changes(now_ms);
        let work = backlog.take();
        let Some(capture) = backlog.source.capture() else {
            self.shards.remove(&shard);
            return Ok(());
        };
        if capture.index <= backlog.files.released_through() && !work.seals() {
            // Both snapshots have this index: a checkpoint would release nothing.
            backlog.in_vain_ms = Some(now_ms);
            return Ok(());
        }
        let input = PassInput { capture, overdue: &work.overdue };
        let begun =
            Pass::begin(&mut backlog.files, &mut self.unsynced, input, now_ms, &*self.policy);
        match begun {
            Ok(pass) => self.pass = Some(RunningCheckpoint { shard, pass, work }),
            Err(error) => {
                backlog.give_back(work, now_ms);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Advances the running checkpoint.
    fn advance(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        let Some(mut running) = self.pass.take() else { return Ok(Next::Now) };
        let urgent = self.store.budget().is_short() || self.journal.is_full();
        let shard = running.shard;
        let backlog = self.shards.get_mut(&shard).expect("a shard with a checkpoint is in the map");
        let RunningCheckpoint { pass, work, .. } = &mut running;
        let finished = match pass.sync(self.store.data(), &mut self.syncs, urgent) {
            Ok(false) => {
                self.pass = Some(running);
                return Ok(Next::Wait);
            }
            Ok(true) => pass.finish(&mut backlog.files),
            Err(error) => Err(error),
        };
        if let Err(error) = finished {
            backlog.give_back(mem::take(work), now_ms);
            return Err(error);
        }
        backlog.done(work, now_ms);
        self.syncs.take(pass::FINISH_SYNCS);
        // If the log cannot be truncated now, the next step retries.
        if self.truncate(shard).inspect_err(|_| self.resumed = false)? {
            self.release();
        }
        Ok(Next::Now)
    }

    /// Records in the write-ahead log that the older kept snapshot covers the shard's log. Returns
    /// whether that advanced.
    fn truncate(&mut self, shard: ShardId) -> Result<bool, WorkError> {
        let files = &mut self.shards.get_mut(&shard).expect("it is in the map").files;
        let Some(covered) = files.releasable() else { return Ok(false) };
        self.journal.truncate(files.key(), covered)?;
        files.set_released_through(covered.index);
        Ok(true)
    }

    /// Releases files of the write-ahead log that no shard needs.
    fn release(&self) {
        let needed = self.shards.values().map(|backlog| {
            let files = &backlog.files;
            (files.key(), files.released_through() + 1)
        });
        self.journal.release(&needed.collect());
    }
}

#[cfg(test)]
mod tests;
