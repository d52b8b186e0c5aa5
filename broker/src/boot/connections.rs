//! The limits on the number of client connections.

use std::sync::Arc;

use tracing::warn;

use crate::limits;
use crate::listen;
use crate::settings::Settings;

/// The configured connection limits, capped by the number of file descriptors.
#[derive(Debug)]
pub(super) struct Connections {
    settings: Arc<Settings>,
    files_max: usize,
}

impl Connections {
    /// Raises the process's soft limit of file descriptors to the hard limit, and warns if that
    /// leaves room for few clients.
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let files_max = limits::connections_for(files);
        if files_max < limits::CONNECTIONS_EXPECTED {
            warn!(
                limit_nofile = files,
                connections_max = files_max,
                "few file descriptors: Kafka connections beyond connections_max are refused; raise the limit of \
                 the process (ulimit -n, LimitNOFILE) to at least {}",
                limits::FILES_RESERVED + limits::CONNECTIONS_EXPECTED
            );
        }
        Self { settings, files_max }
    }
}

impl listen::ConnectionLimits for Connections {
    fn connections_max(&self) -> usize {
        self.settings.connections_max().min(self.files_max)
    }

    fn connections_per_ip_max(&self) -> usize {
        self.settings.connections_per_ip_max()
    }
}
