//! One clock for all groups: which seat is to be woken when.
//!
//! A deadline that moved back is not taken out: the seat is woken, finds nothing to do and sets
//! the alarm anew. So a heartbeat does not touch this. One that moved forward leaves its former
//! time behind, at which the seat then does not listen.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::seat::Seat;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    set: Mutex<Set>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Set {
    /// By time, and by a number that keeps those of one moment apart.
    seats: BTreeMap<(i64, u64), Weak<Seat>>,
    next: u64,
}

impl Alarm {
    /// Wakes the seat at that time.
    pub(super) fn set(&self, at_ms: i64, seat: &Arc<Seat>) {
        let mut set = self.set.lock();
        set.next += 1;
        let key = (at_ms, set.next);
        set.seats.insert(key, Arc::downgrade(seat));
        if set.seats.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.earlier.notify_one();
        }
    }

    /// When the first is to be woken.
    pub(super) fn next(&self) -> Option<i64> {
        self.set.lock().seats.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// Waits until [`Self::next`] has come nearer.
    pub(super) async fn rung(&self) {
        self.earlier.notified().await;
    }

    /// Takes those whose time has come, each with the time it was set to.
    pub(super) fn due(&self, now_ms: i64) -> Vec<(i64, Arc<Seat>)> {
        let mut set = self.set.lock();
        let later = set.seats.split_off(&(now_ms.saturating_add(1), 0));
        let due = std::mem::replace(&mut set.seats, later);
        due.into_iter().filter_map(|((at_ms, _), seat)| Some((at_ms, seat.upgrade()?))).collect()
    }
}
