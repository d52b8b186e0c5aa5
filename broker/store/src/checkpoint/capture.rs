//! What a checkpoint is made from, and who gives it.

use std::fmt;
use std::sync::Arc;

use ropewalk_shard::engine::Members;
use ropewalk_shard::{PartitionId, ReplicaId, State};

use crate::log::PartitionLog;

/// Where a checkpoint begins: the shard's own loop, or a test.
pub trait Source: Send + fmt::Debug {
    /// The state as of the last applied entry; `None` once the shard has stopped.
    fn capture(&self) -> Option<Capture>;
}

impl<S: Source + Sync> Source for Arc<S> {
    fn capture(&self) -> Option<Capture> {
        S::capture(self)
    }
}

/// What a checkpoint is made from.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Which replica.
    pub replica: ReplicaId,
    /// The last applied entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Who takes part, as of that entry.
    pub members: Members,
    /// The state after that entry.
    pub state: State,
    /// The records of its partitions. They may go on beyond the entry; none is missing.
    pub logs: Vec<(PartitionId, Arc<PartitionLog>)>,
}
