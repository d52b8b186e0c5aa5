//! Which clusters are to sleep, and which of their consumers are not yet at their minimum.
//!
//! Shared between the cluster controller, which waits before it stops brokers, and scaling, which takes consumers down
//! first: consumers of a queue that sleeps would only fail and restart.
//!
//! # Invariants
//!
//! - Nobody is waited for longer than [`WAIT_MAX`]: a consumer that cannot be scaled must not keep a cluster awake.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cluster_key::ClusterKey;

/// After so long brokers are stopped whoever still consumes.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Which clusters are to sleep.
#[derive(Debug, Default)]
pub struct Hibernations(Mutex<HashMap<ClusterKey, Hibernation>>);

#[derive(Debug)]
struct Hibernation {
    since: Instant,
    /// `None` until scaling has looked.
    up: Option<Vec<String>>,
}

impl Hibernations {
    /// A cluster is to sleep.
    pub fn begin(&self, cluster: &ClusterKey, now: Instant) {
        self.0.lock().entry(cluster.clone()).or_insert(Hibernation { since: now, up: None });
    }

    /// It is to work, or it is gone.
    pub fn end(&self, cluster: &ClusterKey) {
        self.0.lock().remove(cluster);
    }

    /// Whether its brokers must still run for its consumers, as far as is known; the consumers by name.
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

    /// Since when a cluster is to sleep, if it is.
    pub(crate) fn since(&self, cluster: &ClusterKey) -> Option<Instant> {
        self.0.lock().get(cluster).map(|hibernation| hibernation.since)
    }

    /// Scaling has looked: every cluster that sleeps, and who is still up.
    pub(crate) fn looked(&self, still_up: &HashMap<ClusterKey, Vec<String>>) {
        for (cluster, hibernation) in self.0.lock().iter_mut() {
            hibernation.up = Some(still_up.get(cluster).cloned().unwrap_or_default());
        }
    }
}
