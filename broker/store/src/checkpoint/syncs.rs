//! The rate limit of background syncs, so that they do not delay the syncs of the write-ahead log.

/// A token bucket for syncs.
#[derive(Debug)]
pub(crate) struct SyncBudget {
    per_second: u32,
    /// Tokens in thousandths; may be negative by the syncs of one log.
    left: i64,
    refilled_ms: Option<i64>,
    suspended: bool,
}

impl SyncBudget {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, left: 0, refilled_ms: None, suspended: false }
    }

    pub(super) fn refill(&mut self, now_ms: i64) {
        let full = i64::from(self.per_second) * 1000;
        let passed_ms = match self.refilled_ms.replace(now_ms) {
            Some(before) => (now_ms - before).clamp(0, 1000),
            None => 1000,
        };
        self.left = (self.left + passed_ms * i64::from(self.per_second)).min(full);
    }

    /// Removes the limit, because the broker stops.
    pub(super) fn suspend(&mut self) {
        self.suspended = true;
    }

    pub(crate) fn is_left(&self) -> bool {
        self.suspended || self.left > 0
    }

    /// Number of syncs that may be made now.
    pub(crate) fn left(&self) -> usize {
        if self.suspended { usize::MAX } else { usize::try_from(self.left / 1000).unwrap_or(0) }
    }

    pub(crate) fn take(&mut self, syncs: usize) {
        self.left -= i64::try_from(syncs).unwrap_or(i64::MAX / 1000) * 1000;
    }
}
