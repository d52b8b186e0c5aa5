//! Logs that are flushed and not synced. Their files stay open until the sync, because the kernel
//! reports a write-back error only to file descriptors that were open at the time.
//!
//! Flushers add logs, the checkpoint thread syncs them when they are many. At the limit a flusher
//! leaves further logs in memory.
//!
//! # Invariants
//!
//! - **R1** their number is bounded, however many partitions are flushed between two checkpoints.
//! - A log with unsynced files is in the list, or is about to be added by the thread that flushed
//!   it.
//! - The lock is a leaf: no other lock is taken while it is held.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;
use ropewalk_segment::{PendingSync, SegmentError};

use crate::directory::DataDir;
use crate::limits;
use crate::log::PartitionLog;
use crate::log::layers::Flushed;
use crate::policy::Policy;
use crate::work::WorkError;

/// The logs of a broker that wait for a sync.
#[derive(Debug)]
pub(crate) struct UnsyncedLogs {
    logs: Mutex<Vec<Weak<PartitionLog>>>,
    logs_max: usize,
}

/// What became of a tail that was to be flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TailFlush {
    /// It is in segments.
    Moved,
    /// It stays in memory because the spill before it is damaged: see [`crate::log::layers`].
    Stays,
    /// It has to be tried again later.
    Later,
}

impl UnsyncedLogs {
    pub(crate) fn new(logs_max: usize) -> Self {
        Self { logs: Mutex::default(), logs_max }
    }

    /// Writes the tail through an offset to segments, for a checkpoint.
    pub(crate) fn flush(
        &self,
        log: &Arc<PartitionLog>,
        through: i64,
        now_ms: i64,
        policy: &dyn Policy,
    ) -> Result<TailFlush, WorkError> {
        let flushed = log.flush(through, now_ms, &policy.segments(log.partition()));
        self.note(log, flushed.map(|()| Flushed::Done))
    }

    /// Writes a tail to segments, for a flusher. Waits for no other thread.
    pub(crate) fn try_flush(
        &self,
        log: &Arc<PartitionLog>,
        now_ms: i64,
        policy: &dyn Policy,
    ) -> Result<TailFlush, WorkError> {
        if self.logs.lock().len() >= self.logs_max && !log.is_listed() {
            return Ok(TailFlush::Later);
        }
        let flushed = log.try_flush(now_ms, &policy.segments(log.partition()));
        self.note(log, flushed)
    }

    /// Adds a log to the list, also if its flush failed in the middle.
    fn note(
        &self,
        log: &Arc<PartitionLog>,
        flushed: Result<Flushed, SegmentError>,
    ) -> Result<TailFlush, WorkError> {
        let is_busy = matches!(flushed, Ok(Flushed::Busy));
        if !is_busy && !log.set_listed(true) {
            self.logs.lock().push(Arc::downgrade(log));
        }
        match flushed {
            Ok(Flushed::Done) => Ok(TailFlush::Moved),
            Ok(Flushed::Busy) => Ok(TailFlush::Later),
            Err(SegmentError::Damaged(damage)) => {
                if log.mark_stuck() {
                    tracing::error!(partition = %log.partition(), %damage, "flushing a tail failed");
                }
                Ok(TailFlush::Stays)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Syncs all logs in the list if it is half full. Returns whether it was.
    pub(crate) fn keep_few(&self, data: &DataDir) -> Result<bool, WorkError> {
        self.sync_from(self.logs_max.div_ceil(2), data)
    }

    /// Syncs all logs in the list if it is full.
    pub(crate) fn keep_bound(&self, data: &DataDir) -> Result<(), WorkError> {
        self.sync_from(self.logs_max, data).map(drop)
    }

    fn sync_from(&self, least: usize, data: &DataDir) -> Result<bool, WorkError> {
        if self.logs.lock().len() < least {
            return Ok(false);
        }
        let taken = mem::take(&mut *self.logs.lock());
        // A log that was dropped needs no sync.
        let logs: Vec<_> = taken.iter().filter_map(Weak::upgrade).collect();
        let mut pending = Vec::new();
        for log in logs {
            // A flush from here on adds the log again.
            log.set_listed(false);
            pending.extend(log.pending_sync()?.map(|sync| (log, sync)));
        }
        sync_all(data, &pending, true)?;
        Ok(true)
    }
}

/// Makes the segments of some logs durable.
///
/// If it is urgent, many are synced in parallel. This takes a tenth of the time of one after the
/// other: write-back starts for all files first, and concurrent syncs share a flush of the drive.
///
/// # Errors
/// A failed sync is final (D2).
pub(crate) fn sync_all(
    data: &DataDir,
    syncs: &[(Arc<PartitionLog>, PendingSync)],
    is_urgent: bool,
) -> Result<(), SegmentError> {
    // One sync of the directory of all partitions serves all of them, and has to precede the end of
    // each.
    if let Some((log, pending)) = syncs.iter().find(|(_, pending)| pending.needs_parent()) {
        let parent = pending.sync_parent();
        if parent.is_err() {
            return log.synced(pending, parent);
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((log, pending)) = syncs.get(next.fetch_add(1, Ordering::Relaxed)) {
            log.synced(pending, pending.sync_files())?;
        }
        Ok(())
    };
    let cost: usize = syncs.iter().map(|(_, pending)| pending.cost()).sum();
    // A simulated thread starts none that it does not wait for.
    if !is_urgent || cost < limits::SYNCED_TOGETHER_MIN || ropewalk_thread::is_simulated() {
        return work();
    }
    data.write_back();
    thread::scope(|scope| {
        // If a thread cannot be started, the others do its work.
        let start =
            |_| thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, work).ok();
        let helpers: Vec<_> = (1..limits::SYNCS_TOGETHER).filter_map(start).collect();
        let own = work();
        helpers
            .into_iter()
            .map(|helper| helper.join().expect("a sync does not panic"))
            .fold(own, Result::and)
    })
}
