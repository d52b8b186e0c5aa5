//! The input of a checkpoint: a capture of one shard's state and logs.

use std::fmt;
use std::sync::Arc;

use ropewalk_shard::engine::Members;
use ropewalk_shard::{PartitionId, ReplicaId, State};

use crate::log::PartitionLog;

/// Captures the state of a shard. Implemented by the shard's handle, and by tests.
pub trait Source: Send + fmt::Debug {
    /// The state as of the last applied entry; `None` once the shard has stopped.
    fn capture(&self) -> Option<Capture>;
}

impl<S: Source + Sync> Source for Arc<S> {
    fn capture(&self) -> Option<Capture> {
        S::capture(self)
    }
}

/// The state and the logs of a shard as of one applied entry.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The replica that was captured.
    pub replica: ReplicaId,
    /// Index of the last applied entry.
    pub index: u64,
    /// Term of the last applied entry.
    pub term: u64,
    /// The shard's members, as of that entry.
    pub members: Members,
    /// The state after that entry.
    pub state: State,
    /// The logs of all partitions. They may contain later records too.
    pub logs: Vec<(PartitionId, Arc<PartitionLog>)>,
}
