//! Local retention of one partition: its records leave the disks of all replicas.

use ropewalk_shard::command::TierChange;
use tracing::debug;

use super::expire;
use super::led::{Led, StepError};
use crate::clock;
use crate::settings::topic::TopicConfig;

/// Raises the local start as far as the configuration asks for and the manifest permits (T1).
pub(super) async fn retain(led: &Led, config: &TopicConfig) -> Result<(), StepError> {
    let Some(tier) = led.look(|partition| partition.tier.clone())? else { return Ok(()) };
    let segments = led.log.segment_infos();
    let start = expire::local_start(&tier, &segments, clock::now_ms(), &config.local_retention());
    let Some(start) = start else { return Ok(()) };
    debug!(partition = %led.id, start, "records stay in the bucket only");
    led.change(TierChange::SetLocalStart(start)).await
}
