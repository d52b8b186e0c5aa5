//! Moves what was applied from memory and the write-ahead log to files, in the background.
//!
//! One thread does it for all shards of a broker, and nobody waits for it but a producer that finds
//! the tails' memory used up. [`Checkpointer::step`] does one piece of work and never sleeps, so that a test
//! can drive it and crash in between; a thread of its own calls it while the broker runs.
//!
//! # What it does
//!
//! - *Resume*, once: the write-ahead log is told of what the snapshots of the process before cover.
//! - *Flush*: a tail of a mebibyte is written to segments, without a sync; shorter ones when the
//!   memory becomes short.
//! - *Checkpoint* of a shard at the applied index S ([`pass`]): everything through S durable, then a
//!   snapshot that names it, then the write-ahead log below the *older* kept snapshot may go (D6).
//!   It is due when the write-ahead log is long (for the shards that keep its oldest file), when
//!   memory is short and flushing did not help, some time after a shard changed, and once more
//!   soon after one that left files to be unlinked. On a full disk it is due at once.
//! - *Unlink*: a file goes when neither kept snapshot names it.
//!
//! # Invariants
//!
//! - Segments never hold anything above S while a checkpoint at S is under way: the same thread flushes
//!   and checkpoints, and does not flush a shard whose checkpoint waits for its turn to sync.
//! - A shard in which nothing changed costs nothing.
//! - Syncs keep to their budget per second, unless producers would wait for them.
//! - **D2** a failed sync is final: the thread ends and says so, and the process ends.
//!
//! # After a crash
//!
//! What was flushed and not named by a durable snapshot is cut off and comes again from the write-ahead
//! log. Files that no snapshot names are removed by recovery.

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
use pass::Pass;
#[cfg(test)]
pub(crate) use pass::add;
use syncs::SyncBudget;
use unsynced::UnsyncedLogs;

/// When to do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Above this the shards that keep the write-ahead log's oldest file are checkpointed.
    pub wal_used_bytes_soft_max: u64,
    /// A shard is checkpointed this long after it changed, however little.
    pub checkpoint_age_ms: i64,
    /// Syncs per second, unless producers would wait for them.
    pub syncs_per_second: u32,
    /// With less than this left on the disk no more records are taken: what is in memory can still
    /// be written, and deleting records, which takes a checkpoint, can still make room.
    pub disk_free_bytes_min: u64,
    /// Logs that were flushed and not synced; each has two files open.
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
    disk_looked_ms: Option<i64>,
    /// Whether the write-ahead log was told of what the process before had covered.
    resumed: bool,
}

/// The checkpoint under way.
#[derive(Debug)]
struct RunningCheckpoint {
    shard: ShardId,
    pass: Pass,
    taken: CheckpointWork,
}

/// The first error of several pieces of work that do not depend on each other.
#[derive(Debug, Default)]
struct FirstError(Option<WorkError>);

impl FirstError {
    /// What came of a piece of work; `None` if it has to be done again. One that is final ends all work.
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

/// What a checkpoint no longer names goes with the next one, which comes this long after it although
/// nothing changed.
const UNLINK_AGE_MS: i64 = 10_000;
/// How often the disk is asked for the space left.
const DISK_LOOK_MS: u64 = 100;
/// A shard that keeps the write-ahead log and cannot help it is not asked again at once.
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
        let (shards, pass, disk_looked_ms, resumed) = (BTreeMap::new(), None, None, false);
        Self {
            store,
            journal,
            policy,
            options,
            shards,
            pass,
            syncs,
            unsynced,
            disk_looked_ms,
            resumed,
        }
    }

    /// What all shards share.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Looks after a shard from now on.
    pub fn add(&mut self, files: ShardFiles, source: Box<dyn Source>) {
        self.shards.insert(files.shard(), ShardBacklog::new(files, source));
    }

    /// Does one piece of work of each kind that is due. One that fails does not keep the others from being
    /// done: a checkpoint may be what makes room for a flush.
    ///
    /// # Errors
    /// See [`WorkError`]. After one that is not final, `step` may be called again, and tries again what
    /// failed.
    pub fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        self.syncs.refill(now_ms);
        self.look_at_disk(now_ms);
        let mut troubles = FirstError::default();
        self.resume(&mut troubles)?;
        for shard in self.shards.values_mut() {
            shard.look(now_ms);
        }
        let is_more = self.flush_some(now_ms, &mut troubles)?;
        let checkpointed = self.checkpoint_some(now_ms);
        let next = troubles.note(checkpointed)?;
        let done = troubles.first();
        let budget = self.store.budget();
        budget.set_stuck(done.is_err() && budget.is_short());
        done?;
        Ok(if is_more { Next::Now } else { next.unwrap_or(Next::Wait) })
    }

    /// Goes on with the checkpoint that is under way or due.
    fn checkpoint_some(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        if self.pass.is_none() {
            let Some(due) = self.due(now_ms) else { return Ok(Next::Wait) };
            self.begin(due, now_ms)?;
        }
        self.go_on(now_ms)
    }

    /// Checkpoints every shard that has moved, so that the next start has nothing to replay.
    ///
    /// # Errors
    /// See [`WorkError`].
    pub fn checkpoint_all(&mut self, now_ms: i64) -> Result<(), WorkError> {
        self.syncs.suspend();
        while self.pass.is_some() {
            self.go_on(now_ms)?;
        }
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            self.begin(shard, now_ms)?;
            let moved = |pass: &Pass| pass.index() > self.shards[&shard].files.newest().index;
            if self.pass.as_ref().is_some_and(|underway| !moved(&underway.pass)) {
                self.pass = None;
            }
            while self.pass.is_some() {
                self.go_on(now_ms)?;
            }
        }
        Ok(())
    }

    /// Lets go of what snapshots cover, unless that is done: the process before may have ended between
    /// writing one and saying so, or between saying so and letting go.
    fn resume(&mut self, troubles: &mut FirstError) -> Result<(), WorkError> {
        if self.resumed {
            return Ok(());
        }
        let mut is_whole = true;
        for shard in self.shards.keys().copied().collect::<Vec<_>>() {
            let noted = self.truncate(shard);
            is_whole &= troubles.note(noted)?.is_some();
        }
        // What was noted may be what makes room for the rest.
        self.release();
        self.resumed = is_whole;
        Ok(())
    }

    /// Says when records have to be refused, and when no longer.
    fn look_at_disk(&mut self, now_ms: i64) {
        if self.disk_looked_ms.is_some_and(|at| now_ms.abs_diff(at) < DISK_LOOK_MS) {
            return;
        }
        self.disk_looked_ms = Some(now_ms);
        let data = self.store.data();
        // A disk that cannot be asked is found out by writing to it.
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
                "the disk is full: records are refused until there is room; delete records, shorten \
                 the retention or give it more space",
            ),
            (true, false) => tracing::info!(free_bytes, "the disk has room again"),
            (true, true) | (false, false) => {}
        }
    }

    /// Writes long tails to segments, and shorter ones when memory is short. Whether some are long again.
    fn flush_some(&mut self, now_ms: i64, troubles: &mut FirstError) -> Result<bool, WorkError> {
        let busy = self.pass.as_ref().map(|underway| underway.shard);
        let mut is_more = false;
        for (_, kept) in self.shards.iter_mut().filter(|(shard, _)| Some(**shard) != busy) {
            for log in mem::take(&mut kept.full) {
                if !log.is_full() {
                    continue;
                }
                let flushed = self.unsynced.flush(&log, i64::MAX, now_ms, &*self.policy);
                // Producers may have filled it again meanwhile, and a full tail is reported only once.
                let again = match troubles.note(flushed)? {
                    Some(moved) => moved && log.is_full(),
                    None => true,
                };
                is_more |= again;
                kept.full.extend(again.then_some(log));
            }
        }
        if self.store.budget().is_short() {
            self.relieve(now_ms, troubles)?;
        }
        Ok(is_more)
    }

    /// Producers will wait for memory soon: writes the longest tails, down to what a spill file is for.
    fn relieve(&mut self, now_ms: i64, troubles: &mut FirstError) -> Result<(), WorkError> {
        let busy = self.pass.as_ref().map(|underway| underway.shard);
        let idle = self.shards.iter().filter(|(shard, _)| Some(**shard) != busy);
        let dirty = idle.flat_map(|(_, kept)| &kept.dirty);
        let mut longest: Vec<(usize, &Arc<PartitionLog>)> =
            dirty.map(|log| (log.tail_bytes(), log)).collect();
        longest.sort_unstable_by_key(|(bytes, log)| (Reverse(*bytes), log.partition()));
        for (bytes, log) in longest {
            if bytes < limits::SPILL_BYTES_MAX || self.store.budget().is_ample() {
                break;
            }
            let flushed = self.unsynced.flush(log, i64::MAX, now_ms, &*self.policy);
            troubles.note(flushed)?;
        }
        Ok(())
    }

    /// The shard whose checkpoint is due next.
    fn due(&self, now_ms: i64) -> Option<ShardId> {
        if self.store.budget().is_short() {
            let most = self.shards.iter().max_by_key(|(_, kept)| kept.tail_bytes());
            if let Some((shard, _)) = most.filter(|(_, kept)| kept.tail_bytes() > 0) {
                return Some(*shard);
            }
        }
        let is_long = self.journal.used_bytes() > self.options.wal_used_bytes_soft_max;
        // A full log has to be emptied, however short it is.
        if (is_long || self.journal.is_full())
            && let Some(shard) = self.pinning(now_ms)
        {
            return Some(shard);
        }
        let in_need = self.store.budget().is_disk_full();
        if !in_need && !self.syncs.is_left() {
            return None;
        }
        let due_ms = |kept: &ShardBacklog| {
            let dirty = kept.dirty_since_ms.map(|at| at + self.options.checkpoint_age_ms);
            let doomed = kept.doomed_since_ms.map(|at| at + UNLINK_AGE_MS);
            dirty.into_iter().chain(doomed).min()
        };
        let waiting = self.shards.iter().filter_map(|(shard, kept)| Some((due_ms(kept)?, *shard)));
        if let Some((_, shard)) = waiting.min().filter(|(at, _)| in_need || *at <= now_ms) {
            return Some(shard);
        }
        // Last, and by turns, because one that fails is due again at once. Any checkpoint of the shard seals as well.
        let sealing = self.shards.iter().filter(|(_, kept)| kept.wants_to_seal());
        sealing.min_by_key(|(_, kept)| kept.failed_ms).map(|(shard, _)| *shard)
    }

    /// A shard that keeps the write-ahead log's oldest file.
    fn pinning(&self, now_ms: i64) -> Option<ShardId> {
        self.journal.pinned_by_oldest().into_iter().find_map(|(key, last)| {
            let kept = self.shards.get(&ShardId(key.shard))?;
            let ours = kept.files.key() == key && kept.files.released_through() < last;
            let rests = kept.in_vain_ms.is_some_and(|at| now_ms - at < IN_VAIN_PAUSE_MS);
            (ours && !rests).then_some(ShardId(key.shard))
        })
    }

    fn begin(&mut self, shard: ShardId, now_ms: i64) -> Result<(), WorkError> {
        let kept = self.shards.get_mut(&shard).expect("only shards that are kept are due");
        // Before the capture: what changes after it is for the next checkpoint.
        kept.look(now_ms);
        let taken = kept.take();
        let Some(capture) = kept.source.capture() else {
            self.shards.remove(&shard);
            return Ok(());
        };
        if capture.index <= kept.files.released_through() && !taken.seals() {
            // Both snapshots are of this index: there is nothing to gain.
            kept.in_vain_ms = Some(now_ms);
            return Ok(());
        }
        let work = (capture, &taken.overdue[..]);
        let begun = Pass::begin(&mut kept.files, &mut self.unsynced, work, now_ms, &*self.policy);
        match begun {
            Ok(pass) => self.pass = Some(RunningCheckpoint { shard, pass, taken }),
            Err(error) => {
                kept.give_back(taken, now_ms);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Goes on with the checkpoint under way.
    fn go_on(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        let Some(mut underway) = self.pass.take() else { return Ok(Next::Now) };
        let urgent = self.store.budget().is_short() || self.journal.is_full();
        let shard = underway.shard;
        let kept = self.shards.get_mut(&shard).expect("a shard with a checkpoint is kept");
        let RunningCheckpoint { pass, taken, .. } = &mut underway;
        let finished = match pass.sync(self.store.data(), &mut self.syncs, urgent) {
            Ok(false) => {
                self.pass = Some(underway);
                return Ok(Next::Wait);
            }
            Ok(true) => pass.finish(&mut kept.files),
            Err(error) => Err(error),
        };
        if let Err(error) = finished {
            kept.give_back(mem::take(taken), now_ms);
            return Err(error);
        }
        kept.done(taken, now_ms);
        self.syncs.take(pass::FINISH_SYNCS);
        // What cannot be noted now is noted at the next step.
        if self.truncate(shard).inspect_err(|_| self.resumed = false)? {
            self.release();
        }
        Ok(Next::Now)
    }

    /// Notes that the log of a shard is covered through its older kept snapshot; whether that is news.
    fn truncate(&mut self, shard: ShardId) -> Result<bool, WorkError> {
        let files = &mut self.shards.get_mut(&shard).expect("only shards that are kept").files;
        let Some((index, term)) = files.releasable() else { return Ok(false) };
        self.journal.truncate(files.key(), index, term)?;
        files.set_released_through(index);
        Ok(true)
    }

    /// Lets files of the log go.
    fn release(&self) {
        let needed = self.shards.values().map(|kept| {
            let files = &kept.files;
            (files.key(), files.released_through() + 1)
        });
        self.journal.release(&needed.collect());
    }
}

#[cfg(test)]
mod tests;
