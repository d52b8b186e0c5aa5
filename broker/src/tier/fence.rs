//! The claim of the bucket: whether this cluster may still upload and delete.
//!
//! The catalog stores the claim of the cluster before any broker puts it into the bucket. A restore
//! of the cluster from the bucket puts the next one, and from then on this cluster changes nothing
//! there any more: its leaders compare the claim before their first upload and at intervals, and
//! before they delete.
//!
//! # Invariants
//!
//! - **T2** a cluster whose bucket was taken over neither uploads nor deletes, until it ends.
//! - A cluster that is being restored changes nothing in the bucket until the restore is finished.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::{Node, ShardHandle};
use ropewalk_shard::command::{CatalogCommand, Command};
use ropewalk_shard::manifest::{BucketClaim, RestoreState};
use ropewalk_shard::state::catalog::Answer;
use ropewalk_shard::{Outcome, ShardId};
use ropewalk_tier::{Bucket, Claim, ClusterId, TierError, hold_claim};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{error, info};

use super::health::{Block, Health};
use super::led::{Led, StepError};
use super::metrics::Metrics;
use crate::catalog::View;
use crate::cluster::Cluster;
use crate::limits;

/// The parts of the broker that the tier uses.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) node: Arc<Node>,
    pub(crate) view: Arc<View>,
    pub(crate) cluster: Arc<Cluster>,
}

/// Compares the claim of the cluster with that of the bucket.
#[derive(Debug)]
pub(crate) struct Fence {
    bucket: Bucket,
    cluster: ClusterId,
    broker: Broker,
    metrics: Metrics,
    health: Arc<Health>,
    /// Locked while the bucket is asked, so that others wait for the same answer.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    held: Option<Held>,
    /// The terms in which this broker leads, with the time at which each was first seen.
    led: HashMap<ShardId, (u64, Instant)>,
}

/// The claim was the one that counts.
#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: u32,
    /// When the bucket began to be asked.
    at: Instant,
}

impl Fence {
    pub(super) fn new(
        (bucket, cluster): (Bucket, ClusterId),
        broker: Broker,
        (metrics, health): (Metrics, Arc<Health>),
    ) -> Self {
        Self { bucket, cluster, broker, metrics, health, known: Mutex::default() }
    }

    /// Permits an upload of the leader of a shard. Returns the epoch of the claim.
    pub(super) async fn permit_upload(
        &self,
        shard: &ShardHandle,
        term: u64,
    ) -> Result<u32, StepError> {
        let mut known = self.known.lock().await;
        let now = Instant::now();
        let led = known.led.entry(shard.id()).or_insert((term, now));
        if led.0 != term {
            *led = (term, now);
        }
        let leads_since = led.1;
        let is_fresh = |held: &Held| {
            held.at >= leads_since && held.at.elapsed() <= limits::TIER_CLAIM_CHECK_INTERVAL
        };
        self.held(&mut known, is_fresh).await
    }

    /// Permits an upload of records or pages of a partition.
    pub(super) async fn permit_upload_of(&self, led: &Led) -> Result<(), StepError> {
        self.permit_upload(&led.shard, led.term).await.map(drop)
    }

    /// Permits deletions that follow at once.
    pub(super) async fn permit_deletion(&self) -> Result<(), StepError> {
        self.confirm(limits::TIER_CLAIM_DELETE_AGE).await
    }

    /// Confirms that the claim counts, or did so this short a time ago.
    pub(super) async fn confirm(&self, age_max: Duration) -> Result<(), StepError> {
        let mut known = self.known.lock().await;
        self.held(&mut known, |held| held.at.elapsed() <= age_max).await.map(drop)
    }

    async fn held(
        &self,
        known: &mut Known,
        is_fresh: impl Fn(&Held) -> bool,
    ) -> Result<u32, StepError> {
        if self.health.is_fenced() {
            return Err(StepError::Fenced);
        }
        if let Some(held) = known.held.filter(is_fresh) {
            return Ok(held.epoch);
        }
        known.held = None;
        let at = Instant::now();
        let BucketClaim { epoch, holder, restore } = self.recorded().await?;
        match restore {
            RestoreState::Unfinished => {
                self.health.block(Block::UnfinishedRestore);
                return Err(StepError::Unfinished);
            }
            RestoreState::No | RestoreState::Finished => self.health.restore_finished(),
        }
        let claim = Claim { cluster: self.cluster.clone(), epoch, holder };
        match hold_claim(&self.bucket, &claim).await {
            Ok(()) => {
                known.held = Some(Held { epoch, at });
                Ok(epoch)
            }
            Err(fenced @ (TierError::Fenced { .. } | TierError::OtherCluster { .. })) => {
                error!(error = %fenced, "this cluster uploads and deletes nothing any more");
                self.health.block(Block::Fenced(fenced.to_string()));
                self.metrics.fenced();
                Err(StepError::Fenced)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The claim that the catalog has. The first broker that needs one stores it.
    async fn recorded(&self) -> Result<BucketClaim, StepError> {
        let Broker { node, cluster, .. } = &self.broker;
        let catalog = node.try_catalog().ok_or(StepError::Unclaimed)?;
        let recorded = || catalog.state().catalog.as_ref().and_then(|catalog| catalog.claim);
        if let Some(claim) = recorded() {
            return Ok(claim);
        }
        let holder = uuid::Uuid::new_v4().as_u64_pair().0;
        let claim = BucketClaim { epoch: 1, holder, restore: RestoreState::No };
        let command = CatalogCommand::RecordClaim(claim);
        match cluster.propose(ShardId::CATALOG, Command::Catalog(command)).await? {
            Outcome::Catalog { answer: Answer::Done, .. } => {
                info!(bucket = self.bucket.url(), "claim of the bucket recorded");
                Ok(claim)
            }
            // Another broker was faster, whose claim may not have arrived here yet.
            Outcome::Catalog { .. } => recorded().ok_or(StepError::Unclaimed),
            Outcome::TermChanged => Err(StepError::NotLeader),
            Outcome::Done
            | Outcome::Appended(_)
            | Outcome::GroupRefused(_)
            | Outcome::TierRefused(_) => unreachable!("the outcome matches the command"),
        }
    }
}
