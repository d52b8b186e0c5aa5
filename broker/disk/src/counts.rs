//! Number of syncs per reason, for a metric and for tests.

use std::collections::BTreeMap;

use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(crate) struct SyncCounts(Mutex<BTreeMap<&'static str, u64>>);

impl SyncCounts {
    pub(crate) fn count(&self, why: &'static str) {
        *self.0.lock().entry(why).or_default() += 1;
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().clone()
    }
}
