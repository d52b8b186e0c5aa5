//! The timers of all groups: when each group handle is woken next.
//!
//! A deadline that moved to a later time is not removed: the handle is woken, has nothing to do and
//! sets the timer again. So a heartbeat does not touch the timers. A deadline that moved to an
//! earlier time leaves its former entry behind, which the handle ignores.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::group_handle::GroupHandle;

/// The timers of all groups.
#[derive(Debug, Default)]
pub(super) struct Timers {
    set: Mutex<Set>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Set {
    /// Ordered by time, and by a sequence number that separates equal times.
    handles: BTreeMap<(i64, u64), Weak<GroupHandle>>,
    next: u64,
}

impl Timers {
    /// Wakes the handle at that time.
    pub(super) fn set(&self, at_ms: i64, handle: &Arc<GroupHandle>) {
        let mut set = self.set.lock();
        set.next += 1;
        let key = (at_ms, set.next);
        set.handles.insert(key, Arc::downgrade(handle));
        if set.handles.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.earlier.notify_one();
        }
    }

    /// The earliest time, milliseconds.
    pub(super) fn next(&self) -> Option<i64> {
        self.set.lock().handles.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// Waits until [`Self::next`] has become earlier.
    pub(super) async fn earlier(&self) {
        self.earlier.notified().await;
    }

    /// Removes the due timers and returns each with the time it was set to.
    pub(super) fn due(&self, now_ms: i64) -> Vec<(i64, Arc<GroupHandle>)> {
        let mut set = self.set.lock();
        let later = set.handles.split_off(&(now_ms.saturating_add(1), 0));
        let due = std::mem::replace(&mut set.handles, later);
        due.into_iter()
            .filter_map(|((at_ms, _), handle)| Some((at_ms, handle.upgrade()?)))
            .collect()
    }
}
