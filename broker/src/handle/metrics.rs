//! Metrics of requests.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use ropewalk_codec::ApiKey;

use crate::handle::ErrorCode;
use crate::handle::fetch::SessionMetrics;

/// Counters of all APIs; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<Api, Counter>,
    errors: Family<ApiError, Counter>,
    duration: Family<Api, Histogram>,
    memory_wait: Histogram,
    fetch_redirects: Counter,
    follower_fetch_bytes: Counter,
    pub(crate) fetch_sessions: SessionMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Api {
    api: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiError {
    api: &'static str,
    error: &'static str,
}

/// Bounds of the buckets of histograms of storage, from 50 µs, seconds.
pub(crate) const STORAGE_SECONDS: [f64; 17] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];

/// From 100 µs to 52 s, because a fetch may wait.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 20))
}

impl Metrics {
    /// Creates the metrics and registers them in `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let all = Self {
            requests: Family::default(),
            errors: Family::default(),
            duration: Family::new_with_constructor(durations as fn() -> Histogram),
            memory_wait: Histogram::new(STORAGE_SECONDS),
            fetch_redirects: Counter::default(),
            follower_fetch_bytes: Counter::default(),
            fetch_sessions: SessionMetrics::register(registry),
        };
        registry.register("requests", "Answered Kafka requests", all.requests.clone());
        registry.register("request_errors", "Error codes in responses, by API", all.errors.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from complete request frame to response",
            Unit::Seconds,
            all.duration.clone(),
        );
        registry.register_with_unit(
            "produce_memory_wait",
            "Time that a produce request waited for memory for its records, of those that waited",
            Unit::Seconds,
            all.memory_wait.clone(),
        );
        registry.register(
            "fetch_redirects",
            "Partitions of fetches whose consumer was sent to a follower in its rack",
            all.fetch_redirects.clone(),
        );
        registry.register(
            "follower_fetch_bytes",
            "Records that consumers got of partitions that this broker follows, bytes",
            all.follower_fetch_bytes.clone(),
        );
        all
    }

    /// Counts partitions whose consumer was sent to a follower, and bytes of records of partitions
    /// that this broker follows.
    pub(super) fn read_followers(&self, redirects: usize, bytes: usize) {
        self.fetch_redirects.inc_by(redirects as u64);
        self.follower_fetch_bytes.inc_by(bytes as u64);
    }

    /// Redirects and bytes that [`Self::read_followers`] has counted.
    #[cfg(test)]
    pub(super) fn followers(&self) -> (u64, u64) {
        (self.fetch_redirects.get(), self.follower_fetch_bytes.get())
    }

    /// Counts a produce request that waited for memory.
    pub(super) fn waited_for_memory(&self, waited: Duration) {
        self.memory_wait.observe(waited.as_secs_f64());
    }

    /// The counters of one API.
    pub(super) fn of(&self, api: ApiKey) -> ApiMetrics {
        ApiMetrics { api, all: self.clone() }
    }
}

/// The counters of one API.
#[derive(Debug)]
pub(super) struct ApiMetrics {
    api: ApiKey,
    all: Metrics,
}

impl ApiMetrics {
    pub(super) fn answered(&self, took: Duration) {
        let api = Api { api: self.api.name() };
        self.all.requests.get_or_create(&api).inc();
        self.all.duration.get_or_create(&api).observe(took.as_secs_f64());
    }

    pub(super) fn failed(&self, error: ErrorCode) {
        let label = ApiError { api: self.api.name(), error: error.name() };
        self.all.errors.get_or_create(&label).inc();
    }
}
