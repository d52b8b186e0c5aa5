//! Logs that were flushed and not synced: their files are open until then, because that is where an error of
//! writing back is told.
//!
//! # Invariants
//!
//! - **R1** there are never more than allowed, however many partitions are flushed between two checkpoints.

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

    /// Writes a tail to segments; whether that can be done. Where the spill before it is damaged it stays:
    /// see [`super::pass`].
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
                    tracing::error!(partition = %log.partition(), %damage, "a tail cannot be flushed");
                }
                Ok(false)
            }
            flushed => Ok(flushed.map(|()| true)?),
        }
    }

    /// Syncs them once they are too many.
    fn keep_few(&mut self) -> Result<(), WorkError> {
        if self.logs.len() < self.logs_max {
            return Ok(());
        }
        // One that was deleted has nothing to lose.
        let logs: Vec<_> = self.logs.drain(..).filter_map(|log| log.upgrade()).collect();
        Ok(sync_together(&self.data, &logs)?)
    }
}

/// Makes the segments of many logs durable, in a tenth of the time that it takes one after the other: all is
/// written first, and syncs that wait at the same time share a flush of the drive.
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
        // A thread that cannot be made is not needed.
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
