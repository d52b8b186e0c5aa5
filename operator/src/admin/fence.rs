//! The epochs that clusters gave this leader.
//!
//! The brokers mint them: a number kept in the Lease would begin again after a reinstall. An epoch is
//! kept in memory only; a new leader claims its own, and the old one's calls are refused from then on.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;

use crate::signals::ClusterKey;

/// What a claim brings.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Claimed {
    /// Higher than any before.
    pub epoch: u64,
}

/// A place for one cluster's epoch, held while it is being claimed.
pub type Slot = Arc<tokio::sync::Mutex<Option<u64>>>;

/// The epochs that clusters gave this leader.
#[derive(Debug, Default)]
pub struct Epochs(Mutex<HashMap<ClusterKey, Slot>>);

impl Epochs {
    /// The place for the epoch of a cluster.
    pub fn slot(&self, cluster: &ClusterKey) -> Slot {
        self.0.lock().entry(cluster.clone()).or_default().clone()
    }

    /// The next call claims anew.
    pub fn forget(&self, cluster: &ClusterKey) {
        self.0.lock().remove(cluster);
    }
}
