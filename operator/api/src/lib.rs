//! The custom resources of Ropewalk, as people write them and as the operator reads them.
//!
//! # Place in the walk
//!
//! A person applies a [`Queue`] or a [`BrokerCluster`]; the API server checks it against the schema
//! and the rules that these types carry; `ropewalk-operator` watches them. Everything that is known
//! by name on both sides (labels, annotations, conditions) stands here and nowhere else.
//!
//! # Invariants
//!
//! - Only what works has a field. A field that is added later means, when absent, what happens today.
//! - Every string, list, map and number has a bound, so that the API server can price the rules.
//! - A rule that can be said in the schema is said there: there is no webhook.

#![expect(unreachable_pub, reason = "`KubeSchema` makes an inner copy of every struct")]

pub mod queue;
pub mod cluster;
pub mod size;
pub mod condition;
pub mod names;
pub mod definitions;

pub use cluster::{BrokerCluster, BrokerClusterSpec, BrokerClusterStatus};
pub use queue::{Queue, QueueSpec, QueueStatus};
pub use size::Size;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to the data when the object that asked for it is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It stays, and an object of the same name finds it again.
    #[default]
    Retain,
    /// It goes with the object.
    Delete,
}

/// Whether the operator acts on an object.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManagementState {
    /// It does.
    #[default]
    Managed,
    /// It changes nothing, and still shows what it sees.
    Paused,
}
