//! How much memory the tails of all partitions pin together, and the wait for it to shrink.
//!
//! A batch in a tail owns its memory: it is the client's frame if that holds little else, else a
//! copy, and never a slice of an entry of many partitions. So what is counted here is what is
//! allocated (R1), but for the head of such a frame.
//!
//! # Place in the walk
//!
//! The produce handler awaits [`TailBudget::wait_below`] before it proposes. What a start replays from the
//! write-ahead log waits as well, in [`Replica::poll`](ropewalk_shard::replica::Replica::poll): the log may hold many times
//! of what fits. Otherwise apply never waits: what is committed must be applied. The checkpoint
//! thread is woken when the memory is [short](TailBudget::is_short), before anybody has to wait, and
//! flushes, and says when that fails; it also says when the disk is so full that what is in memory could soon not be written any
//! more, and then nothing more is taken.
//!
//! A crash leaves nothing of this behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The memory that tails may pin.
#[derive(Debug)]
pub struct TailBudget {
    pinned_bytes: AtomicUsize,
    pinned_bytes_max: usize,
    peak_bytes: AtomicUsize,
    disk_full: AtomicBool,
    stuck: AtomicBool,
    changed: Notify,
}

/// The disk has no room for more records than are in memory already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the disk is full: delete records, shorten the retention or give it more space")]
pub struct DiskFull;

impl TailBudget {
    /// A budget of so many bytes for all partitions of a broker.
    #[must_use]
    pub fn new(pinned_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            pinned_bytes: AtomicUsize::new(0),
            pinned_bytes_max,
            peak_bytes: AtomicUsize::new(0),
            disk_full: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// What is pinned now.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes.load(Ordering::Acquire)
    }

    /// The most that was pinned since the start, bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Whether what was in the write-ahead log at the start may be applied now. Where writing
    /// fails, as on a disk without a free byte, nobody makes room, and the deletions that do may be among it. A disk
    /// that only [counts as full](Self::is_disk_full) can still be written to.
    pub(crate) fn has_room_to_replay(&self) -> bool {
        !self.is_over() || self.stuck.load(Ordering::Acquire)
    }

    /// Says whether the checkpoint thread failed to make room when it was short.
    pub(crate) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Release);
    }

    /// Whether producers have to wait.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.pinned_bytes() >= self.pinned_bytes_max
    }

    /// Whether producers will have to wait soon, if nothing is written.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.pinned_bytes() >= self.short_bytes()
    }

    /// Whether so much is free that more need not be written for now.
    pub(crate) fn is_ample(&self) -> bool {
        self.pinned_bytes() < self.pinned_bytes_max / 2
    }

    fn short_bytes(&self) -> usize {
        self.pinned_bytes_max / 4 * 3
    }

    /// Whether records are refused because the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Acquire)
    }

    /// Waits until there is room. What is proposed after it may go over by what is under way.
    ///
    /// # Errors
    /// When room has to be made by somebody else.
    pub async fn wait_below(&self) -> Result<(), DiskFull> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_disk_full() {
                return Err(DiskFull);
            }
            if !self.is_over() {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Whether it was so before.
    pub(crate) fn set_disk_full(&self, full: bool) -> bool {
        let before = self.disk_full.swap(full, Ordering::AcqRel);
        if full && !before {
            self.changed.notify_waiters();
        }
        before
    }

    /// Counts so many bytes as pinned. Whether it became [short](Self::is_short) by this.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let before = self.pinned_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.peak_bytes.fetch_max(before + bytes, Ordering::Relaxed);
        (before..before + bytes).contains(&self.short_bytes())
    }

    /// So many bytes are no longer pinned.
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
        assert!(budget.take(60) && budget.is_short(), "who writes is told, once");

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

    #[tokio::test]
    async fn r1_a_producer_that_waits_is_told_when_the_disk_is_full() {
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
