//! Metrics of the tier.

use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use ropewalk_shard::ShardId;
use ropewalk_tier::{Bucket, TierReader};

use crate::limits;
use crate::listen::Budget;

/// The metrics of uploads and deletions; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    uploaded_bytes: Counter,
    uploaded_objects: Counter,
    deleted_objects: Counter,
    errors: Family<Vec<(&'static str, &'static str)>, Counter>,
    lag_bytes: Gauge,
    not_uploaded_seconds: Gauge<f64, AtomicU64>,
    fenced: Gauge,
    checkpoints: Family<Vec<(&'static str, &'static str)>, Counter>,
    checkpoint_age_seconds: Gauge<f64, AtomicU64>,
    orphans: Counter,
}

impl Metrics {
    /// Registers the metrics of a broker with a bucket.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "tier_uploaded_bytes",
            "Bytes of objects that were uploaded and added to a manifest",
            self.uploaded_bytes.clone(),
        );
        registry.register(
            "tier_uploaded_objects",
            "Objects that were uploaded and added to a manifest",
            self.uploaded_objects.clone(),
        );
        registry.register(
            "tier_deleted_objects",
            "Objects that were deleted from the bucket because retention removed their records",
            self.deleted_objects.clone(),
        );
        registry.register(
            "tier_errors",
            "Steps of uploading, folding and deleting that failed, by kind",
            self.errors.clone(),
        );
        registry.register(
            "tier_lag_bytes",
            "Bytes of partitions led by this broker that are to be uploaded and are not yet",
            self.lag_bytes.clone(),
        );
        registry.register(
            "tier_not_uploaded_seconds",
            "Time since when the oldest record of them waits: what a loss of all brokers would lose, seconds",
            self.not_uploaded_seconds.clone(),
        );
        registry.register(
            "tier_fenced",
            "Whether the bucket belongs to a restore of this cluster, so that nothing is uploaded or deleted; 0 or 1",
            self.fenced.clone(),
        );
        registry.register(
            "tier_checkpoints",
            "Checkpoints for a restore that were written to the bucket, by kind: catalog or shard",
            self.checkpoints.clone(),
        );
        registry.register(
            "tier_checkpoint_age_seconds",
            "Time since when a shard led by this broker has changes that are in no checkpoint, seconds",
            self.checkpoint_age_seconds.clone(),
        );
        registry.register(
            "tier_deleted_orphans",
            "Objects and pages that no manifest names and that were deleted from the bucket",
            self.orphans.clone(),
        );
    }

    /// Counts an object that was added to a manifest.
    pub(super) fn uploaded(&self, bytes: u64) {
        self.uploaded_bytes.inc_by(bytes);
        self.uploaded_objects.inc();
    }

    /// Counts objects that were deleted.
    pub(super) fn deleted(&self, count: usize) {
        self.deleted_objects.inc_by(count as u64);
    }

    /// Counts a step that failed.
    pub(super) fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&vec![("kind", kind)]).inc();
    }

    /// The bucket belongs to a restore of this cluster.
    pub(super) fn fenced(&self) {
        self.fenced.set(1);
    }

    /// Counts a checkpoint that was written.
    pub(super) fn checkpoint_written(&self, shard: ShardId) {
        let kind = if shard == ShardId::CATALOG { "catalog" } else { "shard" };
        self.checkpoints.get_or_create(&vec![("kind", kind)]).inc();
    }

    /// Sets the age of the oldest change that no checkpoint includes.
    pub(super) fn set_checkpoint_age(&self, seconds: f64) {
        self.checkpoint_age_seconds.set(seconds);
    }

    /// Counts orphans that were deleted.
    pub(super) fn orphans_deleted(&self, count: usize) {
        self.orphans.inc_by(count as u64);
    }

    /// Sets what is not uploaded yet.
    pub(super) fn set_lag(&self, bytes: u64, waited_seconds: f64) {
        self.lag_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.not_uploaded_seconds.set(waited_seconds);
    }
}

/// The requests to the bucket, read on demand.
#[derive(Debug)]
pub(crate) struct Requests(pub(crate) Bucket);

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let counts = self.0.counts();
        let help = "Attempts of requests to the bucket, by operation";
        let kind = MetricType::Counter;
        let mut metric = encoder.encode_descriptor("tier_requests", help, None, kind)?;
        for (operation, count) in [
            ("put", counts.puts),
            ("get", counts.gets),
            ("head", counts.heads),
            ("list", counts.lists),
            ("delete", counts.deletes),
        ] {
            let labels = [("operation", operation)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        for (name, help, count) in [
            (
                "tier_request_failures",
                "Attempts of requests to the bucket that failed",
                counts.failures,
            ),
            (
                "tier_written_bytes",
                "Bytes of all attempts to put into the bucket",
                counts.written_bytes,
            ),
            ("tier_read_bytes", "Bytes that were read from the bucket", counts.read_bytes),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            ConstCounter::new(count).encode(metric)?;
        }
        Ok(())
    }
}

/// Memory of records that are read from the bucket, read on demand.
#[derive(Debug)]
pub(crate) struct ReadMemory {
    /// What is read for fetches passes through its cache.
    pub(crate) reader: TierReader,
    /// What fetches may hold; of the size [`limits::COLD_BYTES_MAX`].
    pub(crate) cold: Budget,
}

impl Collector for ReadMemory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let held = limits::COLD_BYTES_MAX.saturating_sub(self.cold.free_bytes()) as u64;
        for (name, help, bytes) in [
            (
                "tier_cache_bytes",
                "Bytes of records, footers and manifest pages of the bucket in the cache",
                self.reader.cached_bytes(),
            ),
            (
                "tier_cold_bytes",
                "Bytes of records of the bucket that fetches hold until their clients have them",
                held,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(bytes as f64).encode(metric)?;
        }
        Ok(())
    }
}
