//! Which settings this process sent to brokers, for brokers that do not report it themselves.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::admin::Target;
use crate::cluster_key::ClusterKey;

/// Which settings each start of a broker got from this process: when the broker was started, by its clock,
/// and the hash of the settings. Only needed for brokers that do not report the hash themselves.
#[derive(Debug, Default)]
pub struct SettingsLog(pub(crate) Mutex<HashMap<Target, (i64, String)>>);

impl SettingsLog {
    /// The hash that this start of a broker got; `None` if it got none.
    #[must_use]
    pub fn recall(&self, target: &Target, started_at_ms: i64) -> Option<String> {
        let log = self.0.lock();
        let (start, hash) = log.get(target)?;
        (*start == started_at_ms).then(|| hash.clone())
    }

    /// This start of a broker got settings.
    pub fn remember(&self, target: Target, started_at_ms: i64, hash: String) {
        self.0.lock().insert(target, (started_at_ms, hash));
    }

    /// Drops what is known of a cluster.
    pub fn forget(&self, cluster: &ClusterKey) {
        self.0.lock().retain(|target, _| target.cluster != *cluster);
    }
}
