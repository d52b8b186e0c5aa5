//! Member ids that were given out and not used yet (KIP-394).

use std::collections::BTreeMap;

/// Ids that are given out and not used yet; each ends with its session timeout. More at once
/// are refused: no group has as many clients that join at the same time.
const PENDING_MAX: usize = 10_000;

/// The ids, and until when each may be used.
#[derive(Debug, Default)]
pub(super) struct Pending {
    until_ms: BTreeMap<String, i64>,
    /// What the ids take, bytes.
    size_bytes: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.until_ms.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.until_ms.len() >= PENDING_MAX
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub(super) fn insert(&mut self, id: String, until_ms: i64) {
        let size_bytes = id.len();
        if self.until_ms.insert(id, until_ms).is_none() {
            self.size_bytes += size_bytes;
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let removed = self.until_ms.remove(id).is_some();
        if removed {
            self.size_bytes -= id.len();
        }
        removed
    }

    /// Removes those whose time is over; whether there were any.
    pub(super) fn expire(&mut self, now_ms: i64) -> bool {
        let before = self.until_ms.len();
        let mut expired_bytes = 0;
        self.until_ms.retain(|id, until_ms| {
            let is_live = *until_ms > now_ms;
            expired_bytes += if is_live { 0 } else { id.len() };
            is_live
        });
        self.size_bytes -= expired_bytes;
        self.until_ms.len() < before
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// When the first of them may no longer be used.
    pub(super) fn earliest_ms(&self) -> Option<i64> {
        self.until_ms.values().copied().min()
    }
}
