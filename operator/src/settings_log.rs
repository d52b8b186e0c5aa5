//! Hashes of the settings that this process sent, for brokers that do not report them themselves.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::admin::Target;
use crate::cluster_key::ClusterKey;

/// For each broker: its start time by its own clock in ms, and the hash of the settings that this
/// process sent to it since. Only needed for brokers of a release that does not report the hash.
#[derive(Debug, Default)]
pub struct SettingsLog(pub(crate) Mutex<HashMap<Target, (i64, String)>>);

impl SettingsLog {
    /// The hash of the settings that were sent to this start of a broker; `None` if none were.
    #[must_use]
    pub fn recall(&self, target: &Target, started_at_ms: i64) -> Option<String> {
        let log = self.0.lock();
        let (start, hash) = log.get(target)?;
        (*start == started_at_ms).then(|| hash.clone())
    }

    /// Records that settings were sent to this start of a broker.
    pub fn remember(&self, target: Target, started_at_ms: i64, hash: String) {
        self.0.lock().insert(target, (started_at_ms, hash));
    }

    /// Discards the entries of a cluster.
    pub fn discard(&self, cluster: &ClusterKey) {
        self.0.lock().retain(|target, _| target.cluster != *cluster);
    }
}
