//! Why a shard is in the way of an operation, as answers name it.

use ropewalk_shard::ShardId;
use serde::{Deserialize, Serialize};

/// Why a shard is left, or in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardReason {
    /// Number of the shard; 0 is the catalog.
    pub shard: u32,
    /// One CamelCase word, for programs.
    pub reason: String,
    /// One sentence for people; the wording may change.
    pub message: String,
    /// Record bytes of the shard; null if the broker that was asked does not hold it, and in
    /// refusals.
    pub bytes: Option<u64>,
}

impl ShardReason {
    /// A reason without a size.
    #[must_use]
    pub fn new(shard: ShardId, reason: &str, message: String) -> Self {
        Self { shard: shard.0, reason: reason.to_owned(), message, bytes: None }
    }
}
