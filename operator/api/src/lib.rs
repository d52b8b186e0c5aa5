//! The custom resources of Ropewalk: their fields, schema rules, conditions and names.
//!
//! A user applies a [`Queue`] or a [`BrokerCluster`]; the API server checks it against the schema
//! and the rules that these types carry; `ropewalk-operator` watches it. Labels, annotations and
//! condition types are defined only here.
//!
//! # Invariants
//!
//! - Every field works. A field that is added later means, when absent, what happens today.
//! - Every string, list, map and number has a bound, so that the API server can estimate the cost
//!   of the rules.
//! - Every rule is in the schema: there is no webhook.

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

/// What happens to the data when the object that declared it is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// The data is kept, and a new object of the same name uses it again.
    #[default]
    Retain,
    /// The data is deleted with the object.
    Delete,
}

/// Whether the operator acts on an object.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManagementState {
    /// The operator carries out the spec.
    #[default]
    Managed,
    /// The operator changes nothing and still updates the status.
    Paused,
}
