//! The tier: older records in a bucket.
//!
//! Topics with `remote.storage.enable` upload their records as objects, and the brokers remove
//! their own copies by `local.retention.*`. What is in the bucket is a part of the state of each
//! shard (its manifest); `broker/tier` has the formats and the bucket.
//!
//! ```text
//! uploader:  records of a leader ─▶ object ─▶ put, verified ─▶ AddObject ─▶ manifest
//! retention: manifest ─▶ SetLocalStart ─▶ each replica removes its segments
//!            retention.* ─▶ AdvanceLogStart ─▶ DropObjects ─▶ grace ─▶ delete ─▶ ObjectsDeleted
//! remote:    a fetch below the local start ─▶ manifest ─▶ ranged reads, cached
//! ```
//!
//! # Invariants
//!
//! - **T1** an object is put and verified, then added to the manifest, and only then may replicas
//!   remove their records. In the bucket it is the other way round: the manifest first, then the
//!   objects. A crash leaves at most an object that no manifest names.
//! - **O4** an object begins where the one before it ends; the state refuses any other.
//! - Only the leader of a shard uploads, decides and deletes, after a read barrier of its term.
//! - Uploads and reads have their own threads and memory, so that a slow bucket delays no
//!   acknowledgement.
//!
//! # Limits
//!
//! Compacted topics are not tiered. Objects that a deposed leader put, and those of deleted topics,
//! stay in the bucket.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use ropewalk_tier::{Bucket, ClusterId, ReaderLimits, TierError, TierReader, claim, probe};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::limits;
use crate::settings::{Settings, TierSettings};

pub(crate) mod convert;
mod health;
mod metrics;
mod plan;
mod expire;
mod parts;
mod led;
mod pages;
mod local;
mod upload;
mod delete;
mod uploader;
mod retention;
pub(crate) mod remote;

pub(crate) use health::Health;
pub(crate) use parts::{Broker, has_tier};

use metrics::Metrics;
use parts::{Parts, Rules};
use plan::UploadRules;

/// The bucket of this broker, opened.
#[derive(Debug)]
pub(crate) struct Tier {
    bucket: Bucket,
    cluster: ClusterId,
    settings: TierSettings,
    metrics: Metrics,
    health: Arc<Health>,
}

impl Tier {
    /// Opens the bucket. Nothing is sent yet.
    ///
    /// # Errors
    /// When the settings cannot be used; the error says what to do.
    pub(crate) fn open(settings: TierSettings, cluster_id: &str) -> Result<Self, TierError> {
        let cluster =
            ClusterId::new(cluster_id).map_err(|error| TierError::Settings(error.to_string()))?;
        let bucket = Bucket::open(&settings.bucket)?;
        let (metrics, health) = (Metrics::default(), Arc::new(Health::unprepared()));
        Ok(Self { bucket, cluster, settings, metrics, health })
    }

    /// Examines what the bucket's store can do, and claims the bucket for the cluster. A bucket
    /// that does not answer, or refuses the credentials, does not keep the broker from starting:
    /// this is repeated before the first upload.
    ///
    /// # Errors
    /// When the bucket cannot be used; the error says what to do.
    pub(crate) async fn prepare(&self) -> Result<(), TierError> {
        let prepared = tokio::time::timeout(limits::TIER_START_TIME_MAX, self.try_to_prepare());
        let error = match prepared.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => TierError::Unavailable {
                bucket: self.bucket.url().to_owned(),
                operation: ropewalk_tier::Operation::Put,
                name: "a probe".to_owned(),
                reason: "no answer in time".to_owned(),
            },
        };
        match error {
            TierError::Unavailable { .. } | TierError::Denied { .. } => {
                self.health.failed(&error, Instant::now());
                warn!(%error, "the bucket cannot be used now, will retry: records stay on the disks");
                Ok(())
            }
            TierError::Settings(_)
            | TierError::Missing { .. }
            | TierError::OtherContent { .. }
            | TierError::Damaged { .. }
            | TierError::Unsuitable { .. }
            | TierError::OtherCluster { .. } => Err(error),
        }
    }

    async fn try_to_prepare(&self) -> Result<(), TierError> {
        probe(&self.bucket).await?;
        let claim = claim(&self.bucket, &self.cluster).await?;
        self.health.prepared();
        info!(bucket = self.bucket.url(), epoch = claim.epoch, "older records move to the bucket");
        Ok(())
    }

    /// Prepares the bucket, if that did not succeed at the start.
    async fn until_prepared(&self) {
        while !self.health.is_prepared() {
            tokio::time::sleep(limits::TIER_INTERVAL).await;
            if self.health.is_backing_off(Instant::now()) {
                continue;
            }
            if let Err(error) = self.try_to_prepare().await {
                let pause = self.health.failed(&error, Instant::now());
                self.metrics.failed(error.kind());
                warn!(%error, ?pause, "the bucket cannot be used, will retry");
            }
        }
    }

    /// Registers the metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        registry.register_collector(Box::new(metrics::Requests(self.bucket.clone())));
    }

    /// Whether the bucket works.
    pub(crate) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// The cluster, as part of the names of objects.
    pub(crate) fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// What reads from the bucket.
    pub(crate) fn reader(&self) -> TierReader {
        let limits =
            ReaderLimits { chunk_bytes_max: self.settings.cache_bytes, ..ReaderLimits::default() };
        TierReader::new(self.bucket.clone(), limits)
    }

    /// Uploads records and carries out their retention until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>, broker: Broker, settings: Arc<Settings>) {
        let parts = Arc::new(self.parts(broker));
        let uploader = uploader::Uploader::new(Arc::clone(&parts)).run();
        let retention = retention::TierRetention::new(parts);
        let retention = retention.run(move || settings.retention_check_interval());
        tokio::join!(self.until_prepared(), uploader, retention);
    }

    fn parts(&self, broker: Broker) -> Parts {
        let upload = UploadRules {
            object_bytes: self.settings.object_bytes,
            age_max: self.settings.upload_age_max,
        };
        let grace_ms = i64::try_from(self.settings.delete_grace.as_millis()).unwrap_or(i64::MAX);
        Parts::new(
            (self.bucket.clone(), self.cluster.clone()),
            broker,
            Rules { upload, grace_ms },
            (self.metrics.clone(), self.health()),
        )
    }
}

#[cfg(test)]
mod tests;
