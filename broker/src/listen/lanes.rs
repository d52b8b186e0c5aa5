//! Which budget a request's bytes come from, and how long they are held.
//!
//! Requests that wait for the disk or for the network must not keep small ones from being read: a
//! group's heartbeats go on while producers wait for a slow disk. So there are several budgets. Frames
//! of up to [`limits::SMALL_FRAME_BYTES_MAX`] have two of their own, one for requests that are
//! answered at once and one for fetches, which may wait for a minute; every Produce and everything
//! larger is bulk. A small frame that comes in pieces is read under a budget of its own, which it gives back when it
//! is whole: a client that stops in the middle keeps only others that do so waiting.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits;
use crate::listen::{Budget, Permit};

/// What kind of request a small frame is. A larger frame is always [`Lane::Bulk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// It may wait for the disk.
    Bulk,
    /// It waits for records to come.
    Fetch,
    /// It is answered at once, or gives its frame back before it waits ([`Share::release`]).
    Small,
}

/// The budgets of all connections of a broker.
#[derive(Debug, Clone)]
pub struct Lanes {
    bulk: Budget,
    fetch: Budget,
    small: Budget,
    /// For small frames that do not come whole: those that stand still keep nobody's request from beginning.
    partial: Budget,
}

impl Lanes {
    /// Budgets with so many bytes for bulk; the others are fixed by [`limits`].
    #[must_use]
    pub fn new(bulk_bytes: usize) -> Self {
        Self {
            bulk: Budget::new(bulk_bytes),
            fetch: Budget::new(limits::SMALL_FETCH_BYTES_MAX),
            small: Budget::new(limits::SMALL_REQUEST_BYTES_MAX),
            partial: Budget::new(limits::PARTIAL_FRAME_BYTES_MAX),
        }
    }

    /// The budget that a frame of `size_bytes` is read under which does not come in one piece. What it asks is not
    /// known yet.
    pub(super) fn to_read(&self, size_bytes: usize) -> &Budget {
        if size_bytes > limits::SMALL_FRAME_BYTES_MAX { &self.bulk } else { &self.partial }
    }

    /// The budget of a whole request.
    pub(super) fn of(&self, lane: Lane, size_bytes: usize) -> &Budget {
        match lane {
            Lane::Bulk => &self.bulk,
            Lane::Fetch | Lane::Small if size_bytes > limits::SMALL_FRAME_BYTES_MAX => &self.bulk,
            Lane::Fetch => &self.fetch,
            Lane::Small => &self.small,
        }
    }

    /// A share as a request of `size_bytes` has it.
    #[cfg(test)]
    pub(crate) async fn acquire(&self, lane: Lane, size_bytes: usize) -> Share {
        let share = Share::default();
        share.put(self.of(lane, size_bytes).acquire(size_bytes).await);
        share
    }

    /// Bytes that are free in all budgets together.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let all = [&self.bulk, &self.fetch, &self.small, &self.partial];
        all.into_iter().map(Budget::free_bytes).sum()
    }
}

/// A request's share of its budget; clones are the same share. It is given back when the last clone
/// is gone, or earlier by [`Share::release`].
#[derive(Debug, Clone, Default)]
pub struct Share(Arc<Mutex<Permit>>);

impl Share {
    /// Gives the share back. For a request that is parsed, keeps nothing of its frame, and may wait
    /// for long.
    pub fn release(&self) {
        let released = std::mem::take(&mut *self.0.lock());
        drop(released);
    }

    /// Takes over a share; one that was held before is given back.
    pub(super) fn put(&self, permit: Permit) {
        let before = std::mem::replace(&mut *self.0.lock(), permit);
        drop(before);
    }
}
