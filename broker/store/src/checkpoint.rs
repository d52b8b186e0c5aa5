//! Makes applied records and state durable as files and releases the write-ahead log, in the
//! background.
//!
//! One thread does this for all shards of a broker, beside the flushers ([`crate::flush`]), which
//! write tails to segments. Only producers that find the memory of the tails used up wait for them.
//! [`Checkpointer::step`] does one piece of work and never sleeps, so that a test can call it and
//! simulate a crash in between; the checkpoint thread calls it while the broker runs.
//!
//! # Work
//!
//! - *Resume*, once: write `Truncated` records to the write-ahead log for what existing snapshots
//!   cover.
//! - *Checkpoint* the shards that are due, each at its applied index S, in one pass (`pass`): make
//!   everything through S durable, then write snapshots that name it, then note all of them in one
//!   write of the write-ahead log and release it below the *older* kept snapshot (D6). A checkpoint
//!   is due when the write-ahead log is long (for the shards that pin its oldest file), when memory
//!   is short and flushing cannot help, some time after a shard changed, and again soon after one
//!   that left files to be removed. On a full disk it is due at once, and when a replica on another
//!   broker is about to need its files.
//! - *Sync* the logs that are flushed and not synced, when they are many (`unsynced`).
//! - *Remove* files that neither kept snapshot names.
//!
//! # Invariants
//!
//! - A snapshot at S names nothing above S. The files may hold more, because tails are flushed on
//!   while a checkpoint syncs: their ends are read together with S, under the shard's flush lock.
//! - `Truncated` records follow durable snapshots, and the release follows durable records.
//! - A shard without changes causes no work.
//! - Syncs keep to their budget per second, unless producers would wait for them or the write-ahead
//!   log becomes too long.
//! - **D2** a failed sync is final: the thread reports it and ends, and the process ends.
//!
//! # After a crash
//!
//! Recovery cuts off flushed data that no durable snapshot names, and the replay of the write-ahead
//! log restores it. Recovery also removes files that no snapshot names.

use std::collections::BTreeMap;
use std::sync::Arc;

use ropewalk_shard::ShardId;

use crate::budget::Worker;
use crate::flush::Flusher;
use crate::limits;
use crate::policy::Policy;
use crate::store::{Store, flusher_of};
use crate::unsynced::UnsyncedLogs;
use crate::work::{FirstError, Next, WorkError};

mod capture;
pub(crate) mod files;
mod journal;
mod backlog;
mod pass;
mod syncs;

pub use capture::{Capture, Source};
pub use files::ShardFiles;
pub use journal::Journal;

use backlog::ShardBacklog;
#[cfg(test)]
pub(crate) use pass::add;
use pass::{Pass, PassContext, ShardPass};
use syncs::SyncBudget;

/// Limits of the background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Growth of the write-ahead log after which the shards that pin its oldest file are
    /// checkpointed. It is released below the older of two snapshots, so it becomes
    /// [twice](limits::WAL_HALVES) as long.
    pub wal_used_bytes_soft_max: u64,
    /// A shard is checkpointed this long after it changed, however little.
    pub checkpoint_age_ms: i64,
    /// Most syncs per second, unless producers would wait for them.
    pub syncs_per_second: u32,
    /// With less free space on the disk, producers are refused. The rest is for the records in
    /// memory, and for the checkpoint that the deletion of records needs to free space.
    pub disk_free_bytes_min: u64,
    /// Most logs that are flushed and not synced; each keeps two files open. From half of it on
    /// they are synced.
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
    pass: Option<Pass>,
    syncs: SyncBudget,
    unsynced: Arc<UnsyncedLogs>,
    disk_checked_ms: Option<i64>,
    /// Whether the write-ahead log is released through the snapshots that existed at start.
    resumed: bool,
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
        let unsynced = Arc::new(UnsyncedLogs::new(options.unsynced_logs_max));
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

    /// Removes a shard, whose driver has ended: its files are no longer changed. A checkpoint of it
    /// that runs is given up.
    pub fn remove(&mut self, shard: ShardId) {
        if let Some(pass) = &mut self.pass {
            pass.keep_shards(|of_shard| of_shard.shard != shard);
        }
        self.shards.remove(&shard);
    }

    /// The flushers of all shards that were added.
    #[must_use]
    pub fn flushers(&self) -> Vec<Flusher> {
        let of = |number| {
            let shards = self.shards.iter().filter(|(shard, _)| flusher_of(**shard) == number);
            let shards = shards.map(|(_, backlog)| Arc::clone(backlog.files.partition_logs()));
            let (store, policy) = (Arc::clone(&self.store), Arc::clone(&self.policy));
            Flusher::new(number, store, policy, Arc::clone(&self.unsynced), shards.collect())
        };
        (0..limits::FLUSHERS).map(of).collect()
    }

    /// Does one piece of work of each kind that is due. A failure does not prevent the others.
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
        if self.unsynced.keep_few(self.store.data())? {
            self.store.wake_flushers();
        }
        let checkpointed = self.checkpoint_some(now_ms);
        let next = errors.note(checkpointed)?;
        let done = errors.first();
        let budget = self.store.budget();
        budget.set_stuck(Worker::Checkpointer, done.is_err() && budget.is_short());
        done?;
        Ok(next.unwrap_or(Next::Wait))
    }

    /// Advances the running checkpoint, or begins one that is due.
    fn checkpoint_some(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        if self.pass.is_none() {
            let due = self.due(now_ms);
            if due.is_empty() {
                return Ok(Next::Wait);
            }
            let begun = self.begin(due, now_ms);
            if self.pass.is_none() {
                return begun.map(|()| Next::Now);
            }
            return self.advance(now_ms).and_then(|next| begun.map(|()| next));
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
        let begun = self.begin(self.shards.keys().copied().collect(), now_ms);
        if let Some(pass) = &mut self.pass {
            let shards = &self.shards;
            pass.keep_shards(|pass| pass.index() > shards[&pass.shard].files.newest().index);
        }
        while self.pass.is_some() {
            self.advance(now_ms)?;
        }
        begun
    }

    /// Releases what the snapshots at start cover. An earlier process may have ended after it wrote
    /// a snapshot and before it wrote the `Truncated` record or removed the files.
    fn resume(&mut self, errors: &mut FirstError) -> Result<(), WorkError> {
        if self.resumed {
            return Ok(());
        }
        let noted = self.truncate();
        // Releasing now may free the space that the records need.
        self.release();
        self.resumed = errors.note(noted)?.is_some();
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

    /// The shards that a checkpoint which begins now covers; none if it is not due.
    fn due(&self, now_ms: i64) -> Vec<ShardId> {
        let spillable = self.spillable();
        if !spillable.is_empty() {
            return spillable;
        }
        let mut due = self.pinning(now_ms);
        due.extend(self.shards.iter().filter(|(_, of)| of.is_wanted).map(|(shard, _)| *shard));
        let in_need = self.store.budget().is_disk_full();
        if in_need || self.syncs.is_left() {
            due.extend(self.shards.iter().filter_map(|(shard, backlog)| {
                let dirty = backlog.dirty_since_ms.map(|at| at + self.options.checkpoint_age_ms);
                let removals = backlog.removals_since_ms.map(|at| at + UNLINK_AGE_MS);
                let due_ms = dirty.into_iter().chain(removals).min();
                let is_due = due_ms.is_some_and(|at| in_need || at <= now_ms);
                (is_due || backlog.wants_to_seal()).then_some(*shard)
            }));
        }
        due.sort_unstable();
        due.dedup();
        due
    }

    /// The shards with small tails, if memory is short and flushers cannot free enough.
    fn spillable(&self) -> Vec<ShardId> {
        let budget = self.store.budget();
        if !budget.is_short() {
            return Vec::new();
        }
        let bytes = self.shards.iter().map(|(shard, backlog)| (*shard, backlog.spillable_bytes()));
        let some: Vec<(ShardId, usize)> = bytes.filter(|(_, bytes)| *bytes > 0).collect();
        let all_bytes: usize = some.iter().map(|(_, bytes)| bytes).sum();
        if all_bytes < budget.ample_bytes() {
            return Vec::new();
        }
        some.into_iter().map(|(shard, _)| shard).collect()
    }

    /// The shards that pin the oldest file of the write-ahead log, when it is long or full.
    fn pinning(&self, now_ms: i64) -> Vec<ShardId> {
        // A full log has to be released, however short it is.
        let is_full = self.journal.is_full();
        if !is_full && !self.is_log_longer_than(1) {
            return Vec::new();
        }
        let is_urgent = is_full || self.is_log_longer_than(limits::WAL_HALVES);
        let pinned = self.journal.pinned_by_oldest().into_iter();
        let due = pinned.filter(|(key, last)| {
            let Some(backlog) = self.shards.get(&ShardId(key.shard)) else { return false };
            let ours = backlog.files.key() == *key && backlog.files.released_through() < *last;
            let rests = backlog.in_vain_ms.is_some_and(|at| now_ms - at < IN_VAIN_PAUSE_MS);
            // The next checkpoint releases the file, whenever it is. Without changes it is cheap.
            let can_wait =
                backlog.files.newest().index >= *last && backlog.dirty_since_ms.is_some();
            ours && !rests && (is_urgent || !can_wait)
        });
        due.map(|(key, _)| ShardId(key.shard)).collect()
    }

    /// Whether the write-ahead log is longer than this many times the size at which a checkpoint is
    /// due for its length.
    fn is_log_longer_than(&self, times: u64) -> bool {
        self.journal.used_bytes() > self.options.wal_used_bytes_soft_max.saturating_mul(times)
    }

    /// Begins a pass over these shards. A shard that fails does not prevent the others.
    fn begin(&mut self, shards: Vec<ShardId>, now_ms: i64) -> Result<(), WorkError> {
        let (mut errors, mut pass) = (FirstError::default(), Pass::default());
        for shard in shards {
            let begun = self.begin_one(shard, &mut pass, now_ms);
            errors.note(begun)?;
        }
        self.pass = Some(pass).filter(|pass| !pass.is_empty());
        errors.first()
    }

    fn begin_one(&mut self, shard: ShardId, pass: &mut Pass, now_ms: i64) -> Result<(), WorkError> {
        let backlog = self.shards.get_mut(&shard).expect("a shard that is due is in the map");
        let logs = Arc::clone(backlog.files.partition_logs());
        // From before the capture until the ends of the files are known.
        let held = logs.hold_flushes();
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
        let context = PassContext {
            store: &self.store,
            unsynced: &self.unsynced,
            policy: &*self.policy,
            now_ms,
        };
        let added = pass.add(backlog, capture, work, context);
        drop(held);
        self.store.wake_flusher(shard);
        added
    }

    /// Advances the running checkpoint.
    fn advance(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        let Some(mut pass) = self.pass.take() else { return Ok(Next::Now) };
        let urgent = self.store.budget().is_short()
            || self.journal.is_full()
            || self.is_log_longer_than(limits::WAL_HALVES_URGENT);
        match pass.sync(self.store.data(), &mut self.syncs, urgent) {
            Ok(false) => {
                self.pass = Some(pass);
                return Ok(Next::Wait);
            }
            Ok(true) => {}
            Err(error) => {
                pass.give_back(&mut self.shards, now_ms);
                return Err(error);
            }
        }
        let mut errors = FirstError::default();
        self.finish(pass.into_shards(), now_ms, &mut errors)?;
        // If the log cannot be truncated now, the next step retries.
        let truncated = self.truncate().inspect_err(|_| self.resumed = false);
        if errors.note(truncated)? == Some(true) {
            self.release();
        }
        errors.first().map(|()| Next::Now)
    }

    /// Completes the checkpoints of shards whose segments are durable.
    fn finish(
        &mut self,
        shards: Vec<ShardPass>,
        now_ms: i64,
        errors: &mut FirstError,
    ) -> Result<(), WorkError> {
        let mut written = Vec::new();
        for mut pass in shards {
            let backlog = self.shards.get_mut(&pass.shard).expect("its checkpoint runs");
            self.syncs.take(pass::SHARD_SYNCS);
            let snapshot = pass.snapshot(&mut backlog.files);
            let snapshot = snapshot.and_then(|snapshot| {
                backlog.files.write(&snapshot)?;
                Ok(snapshot)
            });
            match errors.note(snapshot)? {
                Some(snapshot) => written.push((pass, snapshot)),
                None => backlog.give_back(pass.work, now_ms),
            }
        }
        let Some((first, _)) = written.first() else { return Ok(()) };
        self.syncs.take(pass::END_SYNCS);
        self.shards[&first.shard].files.sync_names()?;
        for (pass, snapshot) in written {
            let backlog = self.shards.get_mut(&pass.shard).expect("its checkpoint runs");
            backlog.files.keep(&snapshot);
            backlog.done(&pass.work, now_ms);
        }
        Ok(())
    }

    /// Records in the write-ahead log through which entry the older kept snapshots cover the logs
    /// of the shards. Returns whether that advanced.
    fn truncate(&mut self) -> Result<bool, WorkError> {
        let releasable = self.shards.iter().filter_map(|(shard, backlog)| {
            Some((*shard, backlog.files.key(), backlog.files.releasable()?))
        });
        let releasable: Vec<_> = releasable.collect();
        if releasable.is_empty() {
            return Ok(false);
        }
        let covered: Vec<_> = releasable.iter().map(|(_, key, covered)| (*key, *covered)).collect();
        self.journal.truncate(&covered)?;
        for (shard, _, covered) in releasable {
            let backlog = self.shards.get_mut(&shard).expect("it was there");
            backlog.files.set_released_through(covered.index);
        }
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
