//! A bound on bytes in memory that all connections share. There is one for each kind of request,
//! and one for answers.
//!
//! A frame acquires its share as its bytes arrive, never by its announced length. If every
//! connection held a part and waited for the rest, none would finish; so one frame at a time may
//! exceed the budget, up to the largest frame size, until its request is done.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A shared number of bytes.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
}

/// A share of a [`Budget`], returned when dropped.
#[derive(Debug, Default)]
pub struct Permit {
    share: Option<OwnedSemaphorePermit>,
    /// Held by the one permit that may exceed the budget.
    reserve: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(bytes)), reserve: Arc::new(Semaphore::new(1)) }
    }

    /// Waits for `bytes`, or for the right to exceed the budget.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        let mut permit = Permit::default();
        self.extend(&mut permit, bytes).await;
        permit
    }

    /// Extends a share like [`Self::acquire`].
    pub async fn extend(&self, permit: &mut Permit, bytes: usize) {
        if permit.reserve.is_some() || self.try_extend(permit, bytes) {
            return;
        }
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            more = Arc::clone(&self.free).acquire_many_owned(wanted) => {
                permit.merge(more.expect("the budget is never closed"));
            }
            turn = Arc::clone(&self.reserve).acquire_owned() => {
                permit.reserve = Some(turn.expect("the reserve is never closed"));
            }
        }
    }

    /// Acquires the bytes if that needs no wait. Returns whether it did.
    pub fn try_extend(&self, permit: &mut Permit, bytes: usize) -> bool {
        if permit.reserve.is_some() {
            return true;
        }
        let Ok(wanted) = u32::try_from(bytes) else { return false };
        match Arc::clone(&self.free).try_acquire_many_owned(wanted) {
            Ok(more) => {
                permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }

    /// The free bytes of the budget.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits()
    }
}

impl Permit {
    /// Whether the permit holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.share.is_none() && self.reserve.is_none()
    }

    /// Whether this is the one permit that may exceed the budget.
    pub(super) fn is_beyond(&self) -> bool {
        self.reserve.is_some()
    }

    /// Bytes of the share.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Returns everything beyond `bytes` to the budget.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(share) = &mut self.share {
            drop(share.split(share.num_permits().saturating_sub(bytes)));
        }
    }

    fn merge(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.share {
            Some(share) => share.merge(more),
            None => self.share = Some(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn r1_half_read_frames_that_hold_the_whole_budget_still_finish_one_by_one() {
        let budget = Budget::new(100);
        let mut a = budget.acquire(50).await;
        let mut b = budget.acquire(50).await;
        assert_eq!(budget.free_bytes(), 0);

        budget.extend(&mut a, 1000).now_or_never().expect("one may go beyond");
        assert!(budget.extend(&mut b, 50).now_or_never().is_none(), "but only one");
        drop(a);
        budget.extend(&mut b, 50).now_or_never().expect("its share is free again");
        drop(b);
        assert_eq!(budget.free_bytes(), 100);
    }

    #[tokio::test]
    async fn a_share_that_was_too_large_is_given_back_in_part() {
        let budget = Budget::new(100);
        let mut a = budget.acquire(80).await;
        a.shrink_to(30);
        assert_eq!(budget.free_bytes(), 70);
        a.shrink_to(90);
        assert_eq!(budget.free_bytes(), 70);
        a.shrink_to(0);
        assert_eq!(budget.free_bytes(), 100);
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let budget = Budget::new(10);
        let a = budget.acquire(10).await;
        let b = budget.acquire(10).await;
        assert!(budget.acquire(10).now_or_never().is_none());
        drop((a, b));
        assert_eq!(budget.free_bytes(), 10);
        assert!(budget.acquire(10).now_or_never().is_some());
    }
}
