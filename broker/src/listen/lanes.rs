//! Which budget a request's bytes come from, and how long they are held.
//!
//! Requests that wait for the disk or for the network must not keep small ones from being read: a
//! group's heartbeats go on while producers wait for a slow disk. So there are three budgets. Frames
//! of up to [`limits::SMALL_FRAME_BYTES_MAX`] have two of their own, one for requests that are
//! answered at once and one for fetches, which may wait for a minute; every Produce and everything
//! larger is bulk.

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
}

impl Lanes {
    /// Budgets with so many bytes for bulk; the others are fixed by [`limits`].
    #[must_use]
    pub fn new(bulk_bytes: usize) -> Self {
        Self {
            bulk: Budget::new(bulk_bytes),
            fetch: Budget::new(limits::SMALL_FETCH_BYTES_MAX),
            small: Budget::new(limits::SMALL_REQUEST_BYTES_MAX),
        }
    }

    /// The budget that a frame of `size_bytes` is read under. What it asks is not known yet.
    pub(super) fn to_read(&self, size_bytes: usize) -> &Budget {
        self.of(Lane::Small, size_bytes)
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

    /// Bytes that are free in all three budgets together.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.bulk.free_bytes() + self.fetch.free_bytes() + self.small.free_bytes()
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
