//! The part of a Queue that says which messages are in the bucket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Size;

/// Which messages of a Queue are in the bucket, and how long brokers keep what is there.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tiering {
    /// `Upload` moves older messages to the bucket. `Keep` uploads no further ones; those in the
    /// bucket stay until `retention` removes them. `Discard` deletes those in the bucket. Default
    /// `Upload`.
    #[serde(default)]
    pub mode: TieringMode,
    /// How long brokers keep messages that are in the bucket. Consumers read older ones from the
    /// bucket. Default: as long as `retention`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_retention: Option<LocalRetention>,
}

/// What happens to the older messages of a Queue.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TieringMode {
    /// They move to the bucket.
    #[default]
    Upload,
    /// No further ones move there.
    Keep,
    /// Those in the bucket are deleted.
    Discard,
}

/// How long brokers keep messages that are in the bucket.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LocalRetention {
    /// Seconds, 1 to 3150000000, and at most those of `retention`. Default: those of `retention`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_150_000_000_i64))]
    pub max_age_seconds: Option<i64>,
    /// Bytes of the whole queue on one broker, at most those of `retention`. Default: those of
    /// `retention`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
}
