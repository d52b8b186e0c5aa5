//! Hashes of the settings that this process sent, for brokers that do not report them themselves.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::admin::Target;
use crate::cluster_key::ClusterKey;

/// The settings that this process last sent to a broker.
#[derive(Debug)]
pub(crate) struct SentSettings {
    /// Start time of the broker by its own clock, ms since 1970.
    started_at_ms: i64,
    hash: String,
}

/// The settings that this process last sent to each broker. Only needed for brokers of a release
/// that does not report the hash of its settings.
#[derive(Debug, Default)]
pub struct SettingsLog(pub(crate) Mutex<HashMap<Target, SentSettings>>);

impl SettingsLog {
    /// The hash of the settings that were sent to this start of a broker; `None` if none were.
    #[must_use]
    pub fn recall(&self, target: &Target, started_at_ms: i64) -> Option<String> {
        let log = self.0.lock();
        let sent = log.get(target)?;
        (sent.started_at_ms == started_at_ms).then(|| sent.hash.clone())
    }

    /// Records that settings were sent to this start of a broker.
    pub fn remember(&self, target: Target, started_at_ms: i64, hash: String) {
        self.0.lock().insert(target, SentSettings { started_at_ms, hash });
    }

    /// Discards the entries of a cluster.
    pub fn discard(&self, cluster: &ClusterKey) {
        self.0.lock().retain(|target, _| target.cluster != *cluster);
    }
}
