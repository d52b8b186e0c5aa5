//! How much memory the tails of all partitions pin together, and the wait for it to shrink.
//!
//! A tail owns the memory of its batches: it copies them out of the entry that brought them, so
//! that one small batch never keeps an entry of many partitions alive, and what is counted here is
//! what is allocated (R1).
//!
//! # Place in the walk
//!
//! The produce handler awaits [`TailBudget::wait_below`] before it proposes, and so does whoever
//! replays a long log. Apply itself never waits: what is committed must be applied. The checkpoint
//! thread looks at [`TailBudget::is_over`] and flushes.
//!
//! A crash leaves nothing of this behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The memory that tails may pin.
#[derive(Debug)]
pub struct TailBudget {
    pinned_bytes: AtomicUsize,
    pinned_bytes_max: usize,
    below: Notify,
}

impl TailBudget {
    /// A budget of so many bytes for all partitions of a broker.
    #[must_use]
    pub fn new(pinned_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { pinned_bytes: AtomicUsize::new(0), pinned_bytes_max, below: Notify::new() })
    }

    /// What is pinned now.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes.load(Ordering::Acquire)
    }

    /// What may be pinned before producers have to wait.
    #[must_use]
    pub fn pinned_bytes_max(&self) -> usize {
        self.pinned_bytes_max
    }

    /// Whether producers have to wait.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.pinned_bytes() >= self.pinned_bytes_max
    }

    /// Waits until there is room. What is proposed after it may go over by what is under way.
    pub async fn wait_below(&self) {
        loop {
            let mut below = std::pin::pin!(self.below.notified());
            below.as_mut().enable();
            if !self.is_over() {
                return;
            }
            below.await;
        }
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.pinned_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        let before = self.pinned_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.pinned_bytes_max && before - bytes < self.pinned_bytes_max {
            self.below.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn r1_a_producer_waits_until_there_is_room() {
        let budget = TailBudget::new(100);
        budget.take(60);
        budget.wait_below().await;
        budget.take(60);

        let waiting = Arc::clone(&budget);
        let waiter = tokio::spawn(async move { waiting.wait_below().await });
        tokio::task::yield_now().await;
        budget.give_back(20);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished(), "100 of 100 are still taken");
        budget.give_back(1);
        waiter.await.expect("the waiter ends");
        assert_eq!(budget.pinned_bytes(), 99);
    }
}
