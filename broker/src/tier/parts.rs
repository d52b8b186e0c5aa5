//! What the steps of the tier share.

use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::{Node, ShardHandle};
use ropewalk_shard::PartitionId;
use ropewalk_tier::{Bucket, ClusterId, Remedy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::fence::{Broker, Fence};
use super::health::Health;
use super::led::StepError;
use super::metrics::Metrics;
use super::plan::UploadRules;
use crate::catalog::{TopicView, View};
use crate::limits;

/// How the bucket is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// When objects are uploaded.
    pub(crate) upload: UploadRules,
    /// How long a dropped object stays in the bucket, milliseconds.
    pub(crate) grace_ms: i64,
    /// Between two looks for orphans of a shard.
    pub(crate) orphan_check_interval: Duration,
}

/// What the steps of the tier share.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) bucket: Bucket,
    pub(crate) cluster: ClusterId,
    pub(crate) node: Arc<Node>,
    pub(crate) view: Arc<View>,
    pub(crate) rules: Rules,
    pub(crate) metrics: Metrics,
    pub(crate) health: Arc<Health>,
    /// Whether the cluster may still upload and delete.
    pub(super) fence: Fence,
    /// Memory for objects that are being uploaded, in units of 1 KiB.
    memory: Arc<Semaphore>,
}

/// Whether the partition has records in the bucket, so that its segments alone do not say how old
/// and large it is: its retention is that of the tier.
pub(crate) fn has_tier(shard: &ShardHandle, id: &PartitionId) -> bool {
    shard.state().partitions.get(id).is_some_and(|partition| partition.tier.is_some())
}

impl Parts {
    pub(crate) fn new(
        (bucket, cluster): (Bucket, ClusterId),
        broker: Broker,
        rules: Rules,
        (metrics, health): (Metrics, Arc<Health>),
    ) -> Self {
        let memory = Arc::new(Semaphore::new(limits::TIER_UPLOAD_BYTES_MAX >> 10));
        let reports = (metrics.clone(), Arc::clone(&health));
        let claimed = (bucket.clone(), cluster.clone());
        let Broker { node, view, .. } = broker.clone();
        let fence = Fence::new(claimed, broker, reports);
        Self { bucket, cluster, node, view, rules, metrics, health, fence, memory }
    }

    /// The partitions of a topic that this broker leads.
    pub(super) fn led<'a>(
        &'a self,
        topic: &'a TopicView,
    ) -> impl Iterator<Item = (PartitionId, &'a Arc<ShardHandle>)> {
        (0_i32..).zip(&topic.partitions).filter_map(|(index, home)| {
            let shard = self.node.shard(home.shard).filter(|shard| shard.leading().is_some())?;
            Some((PartitionId { topic: topic.id, index }, shard))
        })
    }

    /// Waits for memory for an upload of so many bytes.
    pub(super) async fn reserve(&self, bytes: u64) -> OwnedSemaphorePermit {
        let wanted =
            usize::try_from(bytes).unwrap_or(usize::MAX).min(limits::TIER_UPLOAD_BYTES_MAX);
        let units = (wanted >> 10).max(1) as u32;
        let permits = Arc::clone(&self.memory).acquire_many_owned(units).await;
        permits.expect("the semaphore is never closed")
    }

    /// How long a partition waits after a failure. If the bucket as a whole fails, all others wait
    /// too.
    pub(super) fn pause_after(&self, error: &StepError) -> Duration {
        match error {
            StepError::Bucket(error) if error.remedy() != Remedy::Object => {
                self.health.failed(error, Instant::now())
            }
            StepError::Proposed(_) => limits::TIER_PAUSE,
            StepError::Bucket(_)
            | StepError::Local(_)
            | StepError::Encode(_)
            | StepError::Page(_)
            | StepError::Refused(_)
            | StepError::Unclaimed
            | StepError::Unfinished
            | StepError::Fenced
            | StepError::NotLeader => limits::TIER_PAUSE_MAX,
        }
    }
}
