//! A partition whose shard this broker leads: what a step of the tier reads, and what it proposes.
//!
//! # Invariants
//!
//! - A step begins after a read barrier, so that it sees everything that earlier leaders committed.
//! - A step is abandoned when the term ends. What it put into the bucket stays there as an orphan,
//!   because the state refuses objects and pages of earlier terms.

use std::sync::Arc;

use ropewalk_node::ShardHandle;
use ropewalk_shard::command::{ChangeTier, Command, ShardCommand, TierChange};
use ropewalk_shard::state::{Partition, TierRefusal};
use ropewalk_shard::{Outcome, PartitionId, ProposeError};
use ropewalk_store::PartitionLog;
use ropewalk_tier::{EncodeError, FormatError, Origin, TierError};

/// Why a step was not taken, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] TierError),
    /// Records on this broker cannot be read.
    #[error("the records on this broker cannot be read: {0}")]
    Local(String),
    /// An object cannot be made of the records.
    #[error("the records cannot be put into an object: {0}")]
    Encode(#[from] EncodeError),
    /// A page or checkpoint cannot be made, or is not what the manifest says.
    #[error("the manifest or state cannot be written in the bucket's format: {0}")]
    Page(#[from] FormatError),
    /// The command was not applied, or its outcome is unknown.
    #[error(transparent)]
    Proposed(#[from] ProposeError),
    /// The state refused the change.
    #[error("the manifest was not changed: {0}")]
    Refused(#[from] TierRefusal),
    /// The catalog has no claim of the bucket yet. Its leader records one.
    #[error("the cluster has not recorded a claim of the bucket yet")]
    Unclaimed,
    /// The cluster is being restored from the bucket.
    #[error("the restore of this cluster is not finished")]
    Unfinished,
    /// The bucket belongs to another cluster, or to a restore of this one.
    #[error("the bucket belongs to another cluster, or to a restore of this one")]
    Fenced,
    /// The term ended, or the partition is closed. Another leader continues.
    #[error("this broker does not lead the partition any more")]
    NotLeader,
}

impl StepError {
    /// A short name for metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bucket(error) => error.kind(),
            Self::Local(_) => "local_read",
            Self::Encode(_) | Self::Page(_) => "encode",
            Self::Proposed(_) => "propose",
            Self::Refused(_) => "refused",
            Self::Unclaimed => "unclaimed",
            Self::Unfinished => "unfinished_restore",
            Self::Fenced => "fenced",
            Self::NotLeader => "not_leader",
        }
    }

    /// Whether it is expected where leaders change or stop, or where no step is permitted now.
    pub(super) fn is_of_leadership(&self) -> bool {
        match self {
            // What blocks all steps is reported once, by the health of the bucket.
            Self::NotLeader | Self::Unclaimed | Self::Unfinished | Self::Fenced => true,
            Self::Proposed(error) => match error {
                ProposeError::NotLeader
                | ProposeError::Stopped
                | ProposeError::Unknown
                | ProposeError::AboveLevel { .. } => true,
                ProposeError::Full
                | ProposeError::Busy
                | ProposeError::Behind
                | ProposeError::TooLarge { .. } => false,
            },
            Self::Refused(refusal) => *refusal == TierRefusal::NoSuchPartition,
            Self::Bucket(_) | Self::Local(_) | Self::Encode(_) | Self::Page(_) => false,
        }
    }
}

/// A partition during one term of this broker.
#[derive(Debug, Clone)]
pub(super) struct Led {
    pub(super) shard: Arc<ShardHandle>,
    pub(super) log: Arc<PartitionLog>,
    pub(super) id: PartitionId,
    pub(super) term: u64,
}

impl Led {
    /// The partition, if this broker leads its shard. Waits until everything that was committed
    /// before is applied.
    pub(super) async fn begin(
        shard: &Arc<ShardHandle>,
        id: PartitionId,
    ) -> Result<Self, StepError> {
        let term = shard.leading().ok_or(StepError::NotLeader)?;
        shard.read_barrier().await?;
        let log = shard.log(&id).ok_or(StepError::NotLeader)?;
        let led = Self { shard: Arc::clone(shard), log, id, term };
        led.check()?;
        Ok(led)
    }

    /// Fails when the term has ended.
    pub(super) fn check(&self) -> Result<(), StepError> {
        if self.shard.leading() == Some(self.term) { Ok(()) } else { Err(StepError::NotLeader) }
    }

    /// As of an earlier term.
    #[cfg(test)]
    pub(super) fn deposed(mut self) -> Self {
        self.term -= 1;
        self
    }

    /// Who writes objects and pages now.
    pub(super) fn origin(&self) -> Origin {
        Origin { history: self.shard.history().0, term: self.term }
    }

    /// Reads the state of the partition. The state is locked meanwhile.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Partition) -> T) -> Result<T, StepError> {
        let state = self.shard.state();
        state.partitions.get(&self.id).map(|partition| look(partition)).ok_or(StepError::NotLeader)
    }

    /// Proposes a change of the tier, and waits until it is applied.
    pub(super) async fn change(&self, change: TierChange) -> Result<(), StepError> {
        let change = ChangeTier { change, partition: self.id };
        self.propose(ShardCommand::ChangeTier(change)).await
    }

    /// Proposes that the log starts at `offset`.
    pub(super) async fn advance_log_start(&self, offset: i64) -> Result<(), StepError> {
        self.propose(ShardCommand::AdvanceLogStart(vec![(self.id, offset)])).await
    }

    async fn propose(&self, command: ShardCommand) -> Result<(), StepError> {
        self.check()?;
        match self.shard.propose(Command::Shard(command)).await? {
            Outcome::Done => Ok(()),
            Outcome::TierRefused(refusal) => Err(refusal.into()),
            Outcome::TermChanged => Err(StepError::NotLeader),
            Outcome::Appended(_) | Outcome::Catalog { .. } | Outcome::GroupRefused(_) => {
                unreachable!("the outcome matches the command")
            }
        }
    }
}
