//! Member ids that were issued and not used yet (KIP-394).

use std::collections::BTreeMap;

/// Most issued member ids that are unused; each expires after its session timeout. A join beyond is
/// refused: no group has as many clients that join at the same time.
const PENDING_MAX: usize = 10_000;

/// The issued ids, each with its expiry.
#[derive(Debug, Default)]
pub(super) struct Pending {
    until_ms: BTreeMap<String, i64>,
    /// Size of the ids, bytes.
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

    /// Removes an id. Returns whether it was present.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let removed = self.until_ms.remove(id).is_some();
        if removed {
            self.size_bytes -= id.len();
        }
        removed
    }

    /// Removes the expired ids. Returns whether there were any.
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

    /// The earliest expiry of the ids, milliseconds.
    pub(super) fn earliest_ms(&self) -> Option<i64> {
        self.until_ms.values().copied().min()
    }
}
