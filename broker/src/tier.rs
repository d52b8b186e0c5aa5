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
//! checkpoints: catalog, offsets of groups, manifests ─▶ what a restore needs beside the objects
//! orphans:   a folder ─▶ what no manifest names, after a grace ─▶ delete
//! ```
//!
//! # Invariants
//!
//! - **T1** an object is put and verified, then added to the manifest, and only then may replicas
//!   remove their records. In the bucket it is the other way round: the manifest first, then the
//!   objects. A crash leaves at most an object that no manifest names.
//! - **O4** an object begins where the one before it ends; the state refuses any other.
//! - Only the leader of a shard uploads, decides and deletes, after a read barrier of its term, and
//!   only while the claim of the cluster is the one that counts in the bucket (T2).
//! - Uploads and reads have their own threads and memory, so that a slow bucket delays no
//!   acknowledgement.
//!
//! # Limits
//!
//! Compacted topics are not tiered.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use ropewalk_tier::{Bucket, ClusterId, ReaderLimits, TierError, TierReader, check_owner, probe};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::limits;
use crate::settings::{Settings, TierSettings};

pub(crate) mod convert;
mod health;
mod metrics;
mod plan;
mod expire;
mod led;
mod fence;
mod parts;
mod pages;
mod local;
mod upload;
mod delete;
mod uploader;
mod retention;
mod capture;
mod checkpoints;
mod orphans;
pub(crate) mod remote;

pub(crate) use expire::expired_without_bucket;
pub(crate) use fence::Broker;
pub(crate) use health::Health;
pub(crate) use metrics::ReadMemory;
pub(crate) use parts::has_tier;

use checkpoints::{Checkpoints, Which};
use led::StepError;
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

    /// Examines what the bucket's store can do, and whether it belongs to another cluster. A bucket
    /// that does not answer, or refuses the credentials, does not keep the broker from starting:
    /// this is repeated before the first upload. The claim of the cluster is put later, because the
    /// catalog records it first.
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
        if ends_the_start(&error) {
            return Err(error);
        }
        self.health.failed(&error, Instant::now());
        warn!(%error, "the bucket cannot be used now, will retry: records stay on the disks");
        Ok(())
    }

    async fn try_to_prepare(&self) -> Result<(), TierError> {
        probe(&self.bucket).await?;
        check_owner(&self.bucket, &self.cluster).await?;
        self.health.examined();
        Ok(())
    }

    /// Prepares the bucket, if that did not succeed at the start, and then compares the claim of
    /// the cluster at intervals.
    async fn watch_claim(&self, parts: &Parts) {
        let mut has_failed = false;
        while !self.health.is_fenced() {
            let interval = match self.confirm_claim(parts).await {
                Ok(()) => {
                    // Another failure is for the steps to end that reported it.
                    if std::mem::take(&mut has_failed) {
                        self.health.succeeded();
                    }
                    limits::TIER_CLAIM_CHECK_INTERVAL
                }
                Err(error) if error.is_of_leadership() => limits::TIER_INTERVAL,
                Err(error) => {
                    let pause = parts.pause_after(&error);
                    has_failed = true;
                    self.metrics.failed(error.kind());
                    warn!(%error, ?pause, "the bucket cannot be used, will retry");
                    pause
                }
            };
            tokio::time::sleep(interval).await;
        }
    }

    async fn confirm_claim(&self, parts: &Parts) -> Result<(), StepError> {
        if !self.health.is_examined() {
            self.try_to_prepare().await?;
        }
        parts.fence.confirm(Duration::ZERO).await?;
        if self.health.claimed() {
            info!(bucket = self.bucket.url(), "older records move to the bucket");
        }
        Ok(())
    }

    /// Registers the metrics, also those of what reads from the bucket for fetches.
    pub(crate) fn register(&self, registry: &mut Registry, reads: ReadMemory) {
        registry.register_collector(Box::new(reads));
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

    /// What works with the bucket from now on.
    pub(crate) fn work(self: Arc<Self>, broker: Broker) -> Arc<Work> {
        let parts = Arc::new(self.parts(broker));
        let interval = self.settings.checkpoint_interval;
        let checkpoints = Checkpoints::new(Arc::clone(&parts), interval);
        Arc::new(Work { tier: self, parts, checkpoints: Mutex::new(checkpoints) })
    }

    fn parts(&self, broker: Broker) -> Parts {
        let upload = UploadRules {
            object_bytes: self.settings.object_bytes,
            age_max: self.settings.upload_age_max,
        };
        let orphan_check_interval = self.settings.orphan_check_interval;
        let grace_ms = i64::try_from(self.settings.delete_grace.as_millis()).unwrap_or(i64::MAX);
        Parts::new(
            (self.bucket.clone(), self.cluster.clone()),
            broker,
            Rules { upload, grace_ms, orphan_check_interval },
            (self.metrics.clone(), self.health()),
        )
    }
}

/// What works with the bucket while the broker runs.
#[derive(Debug)]
pub(crate) struct Work {
    tier: Arc<Tier>,
    parts: Arc<Parts>,
    checkpoints: Mutex<Checkpoints>,
}

impl Work {
    /// Uploads records, writes checkpoints, and carries out retention until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>, settings: Arc<Settings>) {
        let uploader = uploader::Uploader::new(Arc::clone(&self.parts)).run();
        let retention = retention::TierRetention::new(Arc::clone(&self.parts));
        let retention = retention.run(move || settings.retention_check_interval());
        let orphans = orphans::Orphans::new(Arc::clone(&self.parts)).run();
        let claim = self.tier.watch_claim(&self.parts);
        tokio::join!(claim, uploader, retention, self.write_checkpoints(), orphans);
    }

    async fn write_checkpoints(&self) {
        loop {
            self.checkpoints.lock().await.pass(Which::Due).await;
            tokio::time::sleep(limits::TIER_CHECKPOINT_LOOK_INTERVAL).await;
        }
    }

    /// Writes the last checkpoints of a broker that stops, as long as there is time for them.
    pub(crate) async fn stop(&self) {
        let last = async { self.checkpoints.lock().await.pass(Which::Changed).await };
        if tokio::time::timeout(limits::TIER_STOP_TIME_MAX, last).await.is_err() {
            let limit = limits::TIER_STOP_TIME_MAX;
            warn!(?limit, "stopping without the last checkpoints in the bucket");
        }
    }
}

/// Whether a broker does not start because of its bucket. A bucket that is missing, or whose
/// certificate has expired, does not keep it from serving what its disks have.
fn ends_the_start(error: &TierError) -> bool {
    match error {
        TierError::Unavailable { .. } | TierError::Denied { .. } | TierError::Unready { .. } => {
            false
        }
        TierError::Settings(_)
        | TierError::Missing { .. }
        | TierError::OtherContent { .. }
        | TierError::Damaged { .. }
        | TierError::Unsuitable { .. }
        | TierError::Fenced { .. }
        | TierError::OtherCluster { .. } => true,
    }
}

#[cfg(test)]
mod tests;
