//! The memory budget of the tails of all partitions.
//!
//! A batch in a tail owns its memory: it is the client's frame if that holds little else, or a
//! copy, and never a slice of an entry of many partitions. So the counted bytes are the allocated
//! bytes (R1), except for the head of such a frame. The batches of one request may share its frame;
//! the budget of request memory then counts the frame until the last of them is dropped.
//!
//! - The produce handler awaits [`TailBudget::wait_below`] before it proposes.
//! - A replica that does not serve waits too before it applies entries, in
//!   [`Replica::poll`](ropewalk_shard::replica::Replica::poll): one that replays its log at the
//!   start, because the log may hold many times the budget, and a follower, because the produce
//!   handler of its leader waits for another budget. A leader applies without waiting.
//! - The flushers and the checkpoint thread are woken when the memory is
//!   [short](TailBudget::is_short), before a producer has to wait. Each reports when it fails to
//!   free memory. The checkpoint thread also reports when the disk is so full that the records in
//!   memory could soon not be written; producers are then refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes that tails hold, and their limit.
#[derive(Debug)]
pub struct TailBudget {
    pinned_bytes: AtomicUsize,
    pinned_bytes_max: usize,
    peak_bytes: AtomicUsize,
    disk_full: AtomicBool,
    /// One bit for each [`Worker`] that failed to free memory.
    stuck: AtomicU32,
    changed: Notify,
}

/// A thread that frees memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worker {
    Checkpointer,
    /// One of [`crate::limits::FLUSHERS`].
    Flusher(usize),
}

/// The disk has no space for more records than are in memory already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the disk is full: delete records, shorten the retention or add disk space")]
pub struct DiskFull;

impl TailBudget {
    /// A budget of `pinned_bytes_max` bytes for all partitions of a broker.
    #[must_use]
    pub fn new(pinned_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            pinned_bytes: AtomicUsize::new(0),
            pinned_bytes_max,
            peak_bytes: AtomicUsize::new(0),
            disk_full: AtomicBool::new(false),
            stuck: AtomicU32::new(0),
            changed: Notify::new(),
        })
    }

    /// Bytes that tails hold now.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes.load(Ordering::Acquire)
    }

    /// Most bytes that tails have held since the start.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Whether a replica that does not serve may apply entries now. If the background work cannot
    /// write, as on a disk without a free byte, the replica exceeds the budget, because the entries
    /// may contain the deletions that free space. A disk that only [counts as
    /// full](Self::is_disk_full) can still be written to.
    pub(crate) fn has_room_to_apply(&self) -> bool {
        !self.is_over() || self.stuck.load(Ordering::Acquire) != 0
    }

    /// Sets whether this worker failed to free memory while it was short.
    pub(crate) fn set_stuck(&self, worker: Worker, stuck: bool) {
        let bit = match worker {
            Worker::Checkpointer => 1,
            Worker::Flusher(number) => 2 << number,
        };
        if stuck {
            self.stuck.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.stuck.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Whether producers have to wait.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.pinned_bytes() >= self.pinned_bytes_max
    }

    /// Whether three quarters of the budget are used: producers will soon have to wait.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.pinned_bytes() >= self.short_bytes()
    }

    /// Whether less than half of the budget is used, so that no more tails need be flushed.
    pub(crate) fn is_ample(&self) -> bool {
        self.pinned_bytes() < self.ample_bytes()
    }

    /// Below this the budget is [ample](Self::is_ample).
    pub(crate) fn ample_bytes(&self) -> usize {
        self.pinned_bytes_max / 2
    }

    fn short_bytes(&self) -> usize {
        self.pinned_bytes_max / 4 * 3
    }

    /// Whether records are refused because the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Acquire)
    }

    /// Waits until there is memory. Proposals in flight may still exceed the limit.
    ///
    /// # Errors
    /// When the disk is full: the user has to free space.
    pub async fn wait_below(&self) -> Result<(), DiskFull> {
        loop {
            if let Some(answer) = self.admits() {
                return answer;
            }
            // Only now, because it locks a mutex of all producers.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            // A change between the check and the registration has notified no waiter.
            if self.admits().is_none() {
                changed.await;
            }
        }
    }

    /// Whether a producer may continue or is refused; `None` while it has to wait.
    fn admits(&self) -> Option<Result<(), DiskFull>> {
        if self.is_disk_full() {
            return Some(Err(DiskFull));
        }
        (!self.is_over()).then_some(Ok(()))
    }

    /// Sets whether the disk is full. Returns the value before.
    pub(crate) fn set_disk_full(&self, full: bool) -> bool {
        let before = self.disk_full.swap(full, Ordering::AcqRel);
        if full && !before {
            self.changed.notify_waiters();
        }
        before
    }

    /// Adds bytes. Returns whether memory became [short](Self::is_short) by this.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let before = self.pinned_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.peak_bytes.fetch_max(before + bytes, Ordering::Relaxed);
        (before..before + bytes).contains(&self.short_bytes())
    }

    /// Subtracts bytes, and wakes waiting producers if this makes room.
    pub fn give_back(&self, bytes: usize) {
        let before = self.pinned_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.pinned_bytes_max && before - bytes < self.pinned_bytes_max {
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn r1_a_producer_waits_until_there_is_room() {
        let budget = TailBudget::new(100);
        assert!(!budget.take(60) && !budget.is_short());
        budget.wait_below().await.expect("there is room");
        assert!(budget.take(60) && budget.is_short(), "the checkpoint thread is woken, once");

        let waiting = Arc::clone(&budget);
        let waiter = tokio::spawn(async move { waiting.wait_below().await });
        tokio::task::yield_now().await;
        budget.give_back(20);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished(), "100 of 100 are still taken");
        budget.give_back(1);
        waiter.await.expect("the waiter ends").expect("there is room");
        assert_eq!(budget.pinned_bytes(), 99);
    }

    #[test]
    fn r1_no_wake_up_is_lost_when_room_is_made_while_a_producer_begins_to_wait() {
        const ROUNDS: usize = 20_000;
        let budget = TailBudget::new(100);
        let giver = Arc::clone(&budget);
        let (taken, to_give) = std::sync::mpsc::channel();
        let giving = std::thread::spawn(move || {
            while to_give.recv().is_ok() {
                giver.give_back(100);
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            for round in 0..ROUNDS {
                let _ = budget.take(100);
                taken.send(()).expect("the thread runs");
                let below = budget.wait_below();
                let waited = tokio::time::timeout(std::time::Duration::from_secs(30), below).await;
                waited
                    .unwrap_or_else(|_| panic!("it sleeps in round {round}"))
                    .expect("no full disk");
            }
        });
        drop(taken);
        giving.join().expect("it does not panic");
    }

    #[tokio::test]
    async fn r1_a_producer_that_waits_is_refused_when_the_disk_is_full() {
        let budget = TailBudget::new(100);
        assert!(budget.take(100));
        let waiting = Arc::clone(&budget);
        let waiter = tokio::spawn(async move { waiting.wait_below().await });
        tokio::task::yield_now().await;
        assert!(!budget.set_disk_full(true));
        assert_eq!(waiter.await.expect("the waiter ends"), Err(DiskFull));
        budget.give_back(100);
        assert_eq!(budget.wait_below().await, Err(DiskFull), "there is memory, but no disk");
        assert!(budget.set_disk_full(false));
        assert_eq!(budget.wait_below().await, Ok(()));
    }
}
