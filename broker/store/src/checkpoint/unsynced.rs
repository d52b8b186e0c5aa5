//! Logs that are flushed and not synced. Their files stay open until the sync, because the kernel
//! reports a write-back error only to file descriptors that were open at the time.
//!
//! # Invariants
//!
//! - **R1** their number is bounded, however many partitions are flushed between two checkpoints.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use ropewalk_segment::SegmentError;

use crate::directory::DataDir;
use crate::limits;
use crate::log::PartitionLog;
use crate::policy::Policy;
use crate::work::WorkError;

/// The logs of a broker that wait for a sync.
#[derive(Debug)]
pub(crate) struct UnsyncedLogs {
    data: DataDir,
    logs: Vec<Weak<PartitionLog>>,
    logs_max: usize,
}

impl UnsyncedLogs {
    pub(super) fn new(data: DataDir, logs_max: usize) -> Self {
        Self { data, logs: Vec::new(), logs_max }
    }

    /// Writes a tail to segments. Returns false if it stays in memory because the spill before it
    /// is damaged: see [`super::pass`].
    pub(crate) fn flush(
        &mut self,
        log: &Arc<PartitionLog>,
        through: i64,
        now_ms: i64,
        policy: &dyn Policy,
    ) -> Result<bool, WorkError> {
        let known = log.sync_cost() > 0;
        let flushed = log.flush(through, now_ms, &policy.segments(log.partition()));
        if !known && log.sync_cost() > 0 {
            self.logs.push(Arc::downgrade(log));
        }
        self.keep_few()?;
        match flushed {
            Err(SegmentError::Damaged(damage)) => {
                if log.mark_stuck() {
                    tracing::error!(partition = %log.partition(), %damage, "flushing a tail failed");
                }
                Ok(false)
            }
            flushed => Ok(flushed.map(|()| true)?),
        }
    }

    /// Syncs all logs when `logs_max` of them are unsynced.
    fn keep_few(&mut self) -> Result<(), WorkError> {
        if self.logs.len() < self.logs_max {
            return Ok(());
        }
        // A log that was dropped needs no sync.
        let logs: Vec<_> = self.logs.drain(..).filter_map(|log| log.upgrade()).collect();
        Ok(sync_together(&self.data, &logs)?)
    }
}

/// Syncs the segments of many logs in parallel. This takes a tenth of the time of one after the
/// other: write-back starts for all files first, and concurrent syncs share a flush of the drive.
pub(crate) fn sync_together(
    data: &DataDir,
    logs: &[Arc<PartitionLog>],
) -> Result<(), SegmentError> {
    if logs.iter().map(|log| log.sync_cost()).sum::<usize>() < limits::SYNCED_TOGETHER_MIN {
        return logs.iter().try_for_each(|log| log.sync());
    }
    data.write_back();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
            log.sync()?;
        }
        Ok(())
    };
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
