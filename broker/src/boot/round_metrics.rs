//! Metrics of the rounds of the write-ahead log.

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use ropewalk_wal::RoundReport;
use tokio::time::Instant;

use super::disk_speed::DiskSpeed;
use crate::handle::metrics::STORAGE_SECONDS;

/// Histograms of all rounds with records; clones share them.
#[derive(Debug, Clone)]
pub(super) struct RoundMetrics {
    duration: Histogram,
    size_bytes: Histogram,
    file_wait: Histogram,
    speed: DiskSpeed,
}

/// From 4 KiB to 32 MiB: a round holds up to 4 MiB, or one larger submission.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(4096.0, 2.0, 14))
}

impl RoundMetrics {
    /// Creates the metrics and registers them in `registry`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self {
            duration: Histogram::new(STORAGE_SECONDS),
            size_bytes: sizes(),
            file_wait: Histogram::new(STORAGE_SECONDS),
            speed: DiskSpeed::default(),
        };
        registry.register_with_unit(
            "wal_round_duration",
            "Time from the start of a round's write until the round was durable",
            Unit::Seconds,
            all.duration.clone(),
        );
        registry.register_with_unit(
            "wal_round_size",
            "Bytes of a round on disk",
            Unit::Bytes,
            all.size_bytes.clone(),
        );
        registry.register_with_unit(
            "wal_round_file_wait",
            "Time before its write that a round waited for a file of the log",
            Unit::Seconds,
            all.file_wait.clone(),
        );
        all
    }

    /// Counts one round. Called on the log's thread; allocates nothing.
    pub(super) fn observe(&self, round: &RoundReport) {
        if round.bytes == 0 {
            return;
        }
        self.duration.observe(round.wrote.as_secs_f64());
        self.size_bytes.observe(round.bytes as f64);
        self.file_wait.observe(round.waited_for_file.as_secs_f64());
        self.speed.observe(round, Instant::now());
    }

    /// Whether the disk is slow, by the rounds that were counted.
    pub(super) fn speed(&self) -> DiskSpeed {
        self.speed.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_round_with_records_is_counted_once() {
        let mut registry = Registry::with_prefix("ropewalk");
        let metrics = RoundMetrics::register(&mut registry);
        let round = RoundReport {
            submissions: 1,
            records: 2,
            bytes: 8192,
            wrote: Duration::from_micros(300),
            waited_for_file: Duration::from_millis(3),
        };
        metrics.observe(&round);
        metrics.observe(&RoundReport { bytes: 0, ..round });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("it encodes");
        for line in [
            "ropewalk_wal_round_duration_seconds_count 1",
            "ropewalk_wal_round_duration_seconds_bucket{le=\"0.00025\"} 0",
            "ropewalk_wal_round_duration_seconds_bucket{le=\"0.0005\"} 1",
            "ropewalk_wal_round_size_bytes_bucket{le=\"4096.0\"} 0",
            "ropewalk_wal_round_size_bytes_bucket{le=\"8192.0\"} 1",
            "ropewalk_wal_round_file_wait_seconds_bucket{le=\"0.0025\"} 0",
            "ropewalk_wal_round_file_wait_seconds_bucket{le=\"0.005\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
