//! The feature level of the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The feature level of the cluster, as far as this broker knows it. All shards of the broker share
/// it; the driver of the catalog raises it.
#[derive(Debug, Clone, Default)]
pub struct FeatureLevel(Arc<AtomicU8>);

impl FeatureLevel {
    pub(super) fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn raise(&self, level: u8) {
        self.0.fetch_max(level, Ordering::AcqRel);
    }
}
