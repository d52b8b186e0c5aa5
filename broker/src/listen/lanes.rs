//! The budgets of request memory: which one a request counts against, and for how long.
//!
//! Requests that wait for the disk or for the network must not block small ones: a group's
//! heartbeats continue while producers wait for a slow disk. So there are several budgets. Frames
//! of up to [`limits::SMALL_FRAME_BYTES_MAX`] have two, one for requests that are answered without
//! waiting and one for fetches, which may wait for a minute. Every Produce and every larger frame
//! is bulk. A small frame that arrives in pieces is read under a budget of its own, which it
//! returns when it is complete: a client that stops within a frame delays only other incomplete
//! frames.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits;
use crate::listen::{Budget, Permit};

/// The kind of a small frame's request. A larger frame is always [`Lane::Bulk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The request may wait for the disk.
    Bulk,
    /// The request may wait for new records.
    Fetch,
    /// The request is answered without waiting, or returns its memory first ([`Share::release`]).
    Small,
}

/// The budgets of all connections of a broker.
#[derive(Debug, Clone)]
pub struct Lanes {
    bulk: Budget,
    fetch: Budget,
    small: Budget,
    /// For incomplete small frames, so that stalled ones block no complete request.
    partial: Budget,
    /// The half of `bulk` that requests may hold after they are answered: see [`Share::keep`].
    kept: Budget,
}

impl Lanes {
    /// Budgets with this many bytes for bulk; the others are fixed by [`limits`].
    #[must_use]
    pub fn new(bulk_bytes: usize) -> Self {
        Self {
            bulk: Budget::new(bulk_bytes),
            fetch: Budget::new(limits::SMALL_FETCH_BYTES_MAX),
            small: Budget::new(limits::SMALL_REQUEST_BYTES_MAX),
            partial: Budget::new(limits::PARTIAL_FRAME_BYTES_MAX),
            kept: Budget::new(bulk_bytes / 2),
        }
    }

    /// The share of a new request, which is empty.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { permit: Arc::default(), kept: self.kept.clone() }
    }

    /// The budget for reading an incomplete frame of `size_bytes`, whose API is not known yet.
    pub(super) fn to_read(&self, size_bytes: usize) -> &Budget {
        if size_bytes > limits::SMALL_FRAME_BYTES_MAX { &self.bulk } else { &self.partial }
    }

    /// The budget of a complete request.
    pub(super) fn of(&self, lane: Lane, size_bytes: usize) -> &Budget {
        match lane {
            Lane::Bulk => &self.bulk,
            Lane::Fetch | Lane::Small if size_bytes > limits::SMALL_FRAME_BYTES_MAX => &self.bulk,
            Lane::Fetch => &self.fetch,
            Lane::Small => &self.small,
        }
    }

    /// A share that a request of `size_bytes` would hold.
    #[cfg(test)]
    pub(crate) async fn acquire(&self, lane: Lane, size_bytes: usize) -> Share {
        let share = self.share();
        share.put(self.of(lane, size_bytes).acquire(size_bytes).await);
        share
    }

    /// Free bytes of all budgets together.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let all = [&self.bulk, &self.fetch, &self.small, &self.partial];
        all.into_iter().map(Budget::free_bytes).sum()
    }
}

/// A request's share of its budget; clones are the same share. It is returned when the last clone
/// is dropped, or earlier by [`Share::release`].
#[derive(Debug, Clone)]
pub struct Share {
    permit: Arc<Mutex<Permit>>,
    kept: Budget,
}

/// A share that is held after its request is answered: see [`Share::keep`].
#[derive(Debug)]
pub(crate) struct KeptShare {
    _share: Share,
    _kept: Permit,
}

impl Share {
    /// Returns the share to its budget. For a request that is parsed, keeps no slice of its frame,
    /// and may wait for long.
    pub fn release(&self) {
        let released = std::mem::take(&mut *self.permit.lock());
        drop(released);
    }

    /// Stores a permit, and returns the previous one to its budget.
    pub(super) fn put(&self, permit: Permit) {
        let before = std::mem::replace(&mut *self.permit.lock(), permit);
        drop(before);
    }

    /// Holds the share of a bulk request of `size_bytes` until the result is dropped, also after
    /// the answer, because slices of its frame stay in memory. `None` when answered requests
    /// together would hold more than half of the bulk budget, or if the request exceeds the budget,
    /// which only one request may do at a time.
    pub(crate) fn keep(&self, size_bytes: usize) -> Option<KeptShare> {
        if self.permit.lock().is_beyond() {
            return None;
        }
        let mut kept = Permit::default();
        let has_room = self.kept.try_extend(&mut kept, size_bytes);
        has_room.then(|| KeptShare { _share: self.clone(), _kept: kept })
    }
}
