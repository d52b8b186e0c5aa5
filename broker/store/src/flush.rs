//! Writes the tails of partitions to segments, in the background.
//!
//! A few threads do this, each for a part of the shards ([`limits::FLUSHERS`]). They write to the
//! page cache and never wait for a sync or for a checkpoint, so tails are written on while a
//! checkpoint makes files durable. Producers wait only when the memory of the tails is used up.
//! [`Flusher::step`] does one piece of work and sleeps only in the [pause](Store::set_pause) that
//! the caller has set, so that a test can call it between any two operations of a checkpoint.
//!
//! A tail of 1 MiB is written; when memory is short, shorter ones too, the longest first. What is
//! shorter than [`limits::SPILL_BYTES_MAX`] is left to a checkpoint, which writes the small tails
//! of a shard to one file.
//!
//! # Invariants
//!
//! - A log that counts as full is in the list of its flusher or of [`PartitionLogs`] until a flush
//!   has left less than [`limits::TAIL_BYTES_TO_FLUSH`] of its tail.
//! - A closed partition is not flushed: its directory may have been emptied.
//! - **D2** an error of a sync is final, also for a flusher: no later write succeeds.
//!
//! # After a crash
//!
//! Recovery cuts off flushed data that no durable snapshot names, and the replay of the write-ahead
//! log restores it.

use std::cmp::Reverse;
use std::mem;
use std::sync::Arc;

use ropewalk_shard::ShardId;
use ropewalk_thread::Thread;

use crate::budget::Worker;
use crate::limits;
use crate::log::PartitionLog;
use crate::partition_logs::PartitionLogs;
use crate::policy::Policy;
use crate::store::Store;
use crate::unsynced::{TailFlush, UnsyncedLogs};
use crate::work::{FirstError, Next, WorkError};

/// The flushing of a part of a broker's shards.
#[derive(Debug)]
pub struct Flusher {
    number: usize,
    store: Arc<Store>,
    policy: Arc<dyn Policy>,
    unsynced: Arc<UnsyncedLogs>,
    shards: Vec<FlushedShard>,
}

#[derive(Debug)]
struct FlushedShard {
    logs: Arc<PartitionLogs>,
    /// Logs whose tail is to be flushed.
    full: Vec<Arc<PartitionLog>>,
}

impl Flusher {
    /// A flusher of these shards.
    pub(crate) fn new(
        number: usize,
        store: Arc<Store>,
        policy: Arc<dyn Policy>,
        unsynced: Arc<UnsyncedLogs>,
        shards: Vec<Arc<PartitionLogs>>,
    ) -> Self {
        let shards = shards.into_iter().map(|logs| FlushedShard { logs, full: Vec::new() });
        Self { number, store, policy, unsynced, shards: shards.collect() }
    }

    /// Adds a shard.
    pub fn add(&mut self, logs: Arc<PartitionLogs>) {
        self.shards.push(FlushedShard { logs, full: Vec::new() });
    }

    /// Removes a shard: its tails are flushed no longer.
    pub fn remove(&mut self, shard: ShardId) {
        self.shards.retain(|flushed| flushed.logs.shard() != shard);
    }

    /// Sets the thread that calls [`Self::step`], which is woken when a tail is to be flushed.
    pub fn run_by(&self, thread: Thread) {
        self.store.set_flusher(self.number, thread);
    }

    /// Flushes the tails that are due. One that fails does not prevent the others.
    ///
    /// # Errors
    /// See [`WorkError`]. After one that is not final, `step` may be called again and retries.
    pub fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        let mut errors = FirstError::default();
        let mut next = Next::Wait;
        for shard in 0..self.shards.len() {
            let FlushedShard { logs, full } = &mut self.shards[shard];
            full.extend(logs.take_full());
            for log in mem::take(full) {
                if log.is_full() && self.flush_one(shard, &log, now_ms, &mut errors)? {
                    next = Next::Now;
                }
            }
        }
        if self.store.budget().is_short() {
            self.relieve(now_ms, &mut errors)?;
        }
        let done = errors.first();
        let budget = self.store.budget();
        budget.set_stuck(Worker::Flusher(self.number), done.is_err() && budget.is_short());
        done.map(|()| next)
    }

    /// Flushes every tail, however short. Only for tests, which call it between any two operations
    /// of a checkpoint.
    ///
    /// # Errors
    /// See [`WorkError`].
    pub fn flush_all(&mut self, now_ms: i64) -> Result<(), WorkError> {
        for shard in &self.shards {
            for log in shard.logs.dirty() {
                self.flush(&shard.logs, &log, now_ms)?;
            }
        }
        Ok(())
    }

    /// Flushes a full tail. Returns whether producers have filled it again: a full tail is reported
    /// only once.
    fn flush_one(
        &mut self,
        shard: usize,
        log: &Arc<PartitionLog>,
        now_ms: i64,
        errors: &mut FirstError,
    ) -> Result<bool, WorkError> {
        self.store.pause_before(log.tail_bytes());
        let flushed = self.flush(&self.shards[shard].logs, log, now_ms);
        let flushed = errors.note(flushed)?.unwrap_or(TailFlush::Later);
        let again = match flushed {
            TailFlush::Moved => log.is_full(),
            TailFlush::Stays => false,
            TailFlush::Later => true,
        };
        self.shards[shard].full.extend(again.then(|| Arc::clone(log)));
        Ok(again && flushed == TailFlush::Moved)
    }

    fn flush(
        &self,
        logs: &PartitionLogs,
        log: &Arc<PartitionLog>,
        now_ms: i64,
    ) -> Result<TailFlush, WorkError> {
        // The checkpoint that holds the lock wakes the flusher when it releases it.
        let Some(_held) = logs.try_flush() else { return Ok(TailFlush::Later) };
        if log.is_closed() {
            return Ok(TailFlush::Stays);
        }
        self.unsynced.try_flush(log, now_ms, &*self.policy)
    }

    /// Writes the longest tails when memory is short, down to [`limits::SPILL_BYTES_MAX`].
    fn relieve(&self, now_ms: i64, errors: &mut FirstError) -> Result<(), WorkError> {
        let mut longest: Vec<(usize, &PartitionLogs, Arc<PartitionLog>)> = Vec::new();
        for shard in &self.shards {
            let dirty = shard.logs.dirty().into_iter();
            let long = dirty.filter_map(|log| {
                let bytes = log.tail_bytes();
                (bytes >= limits::SPILL_BYTES_MAX).then_some((bytes, &*shard.logs, log))
            });
            longest.extend(long);
        }
        longest.sort_unstable_by_key(|(bytes, _, log)| (Reverse(*bytes), log.partition()));
        for (_, logs, log) in longest {
            if self.store.budget().is_ample() {
                break;
            }
            let flushed = self.flush(logs, &log, now_ms);
            errors.note(flushed)?;
        }
        Ok(())
    }
}
