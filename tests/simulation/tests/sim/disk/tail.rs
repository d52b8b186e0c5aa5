//! The records of applied entries that are in memory until they are written to segments.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of records, and the budget for them. A process begins with none.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: AtomicU64,
    bytes_max: AtomicU64,
    /// The most that a process had since the budget was set.
    peak: AtomicU64,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            bytes_max: AtomicU64::new(u64::MAX),
            peak: AtomicU64::new(0),
        }
    }
}

impl Tail {
    pub(crate) fn set_budget(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.peak.store(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn take(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
    }

    /// Writes up to so many bytes to segments.
    pub(crate) fn flush(&self, bytes: u64) {
        let left = self.bytes.load(Ordering::Relaxed).saturating_sub(bytes);
        self.bytes.store(left, Ordering::Relaxed);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < self.bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}
