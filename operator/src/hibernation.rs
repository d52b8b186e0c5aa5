//! Clusters that are to hibernate, and which of their consumers are not yet at their minimum.
//!
//! Shared between the cluster controller, which waits before it stops brokers, and scaling, which
//! scales consumers down first: consumers without brokers would only fail and restart.
//!
//! # Invariants
//!
//! - The wait is at most [`WAIT_MAX`]: a consumer that cannot be scaled must not keep a cluster
//!   running.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cluster_key::ClusterKey;

/// Time after which brokers are stopped although consumers still run.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Clusters that are to hibernate.
#[derive(Debug, Default)]
pub struct Hibernations(Mutex<HashMap<ClusterKey, Hibernation>>);

#[derive(Debug)]
struct Hibernation {
    since: Instant,
    /// Consumers above their minimum; `None` until scaling has reported.
    up: Option<Vec<String>>,
}

impl Hibernations {
    /// Registers a cluster that is to hibernate; keeps an earlier start.
    pub fn begin(&self, cluster: &ClusterKey, now: Instant) {
        self.0.lock().entry(cluster.clone()).or_insert(Hibernation { since: now, up: None });
    }

    /// Removes a cluster that is to run or is gone.
    pub fn end(&self, cluster: &ClusterKey) {
        self.0.lock().remove(cluster);
    }

    /// The consumers that a cluster's brokers must still run for; `None` if there are none or the
    /// wait is over, empty if scaling has not reported yet.
    #[must_use]
    pub fn awaits(&self, cluster: &ClusterKey, now: Instant) -> Option<Vec<String>> {
        let hibernations = self.0.lock();
        let hibernation = hibernations.get(cluster)?;
        let is_over = now.saturating_duration_since(hibernation.since) >= WAIT_MAX;
        match &hibernation.up {
            _ if is_over => None,
            None => Some(Vec::new()),
            Some(up) if up.is_empty() => None,
            Some(up) => Some(up.clone()),
        }
    }

    /// Start of a cluster's hibernation, if it is registered.
    pub(crate) fn since(&self, cluster: &ClusterKey) -> Option<Instant> {
        self.0.lock().get(cluster).map(|hibernation| hibernation.since)
    }

    /// Takes the report of scaling: the consumers above their minimum, for every cluster.
    pub(crate) fn report_consumers(&self, still_up: &HashMap<ClusterKey, Vec<String>>) {
        for (cluster, hibernation) in self.0.lock().iter_mut() {
            hibernation.up = Some(still_up.get(cluster).cloned().unwrap_or_default());
        }
    }
}
