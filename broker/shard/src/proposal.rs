//! Proposals: what becomes of one, and the order that those of one client keep.
//!
//! Invariant: an error says what is known of the proposal ([`ProposeError::certainty`]); one that
//! may have happened is never reported as absent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(doc)]
use crate::limits;
use crate::state::{AppendOutcome, AppendRefusal};

/// Why a proposal has no outcome, split by what is known of it: see [`ProposeError::certainty`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead, or the entry was replaced by the one of another leader. Nothing
    /// was changed, and nothing will be.
    #[error("this replica does not lead the shard")]
    NotLeader,
    /// The shard's loop ended before the proposal was taken. Nothing was changed.
    #[error("the shard has stopped")]
    Stopped,
    /// The write-ahead log cannot take more until space is freed. Nothing was changed.
    #[error("no space for the write-ahead log")]
    Full,
    /// Too much is proposed and not committed yet, and that did not change for
    /// [`limits::FULL_WAIT_MAX`]. Nothing was changed.
    #[error("the shard has too many uncommitted bytes: the disk or the followers are too slow")]
    Busy,
    /// A batch that the client sent before was not taken: see [`SendOrder`]. Nothing was changed.
    #[error("a batch that was sent before this one on the same connection was not stored")]
    Behind,
    /// The entry would be over a bound. Nothing was changed, and the same proposal will never be
    /// taken.
    #[error("an entry of {size_bytes} bytes is over the limit of {size_bytes_max} bytes")]
    TooLarge {
        /// The encoded size.
        size_bytes: usize,
        /// What an entry may have.
        size_bytes_max: usize,
    },
    /// The proposal was taken, and this replica lost the lead or stopped before it was decided. It
    /// may have been committed, or may be committed later: nobody may report it as absent.
    #[error("the proposal was taken and its outcome is not known")]
    Unknown,
}

/// What is known of a proposal that has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It was not taken. The same proposal may be taken later, perhaps elsewhere.
    NotTaken,
    /// It may happen, may have happened, or may never happen.
    Unknown,
    /// It was refused and will always be.
    Refused,
}

impl ProposeError {
    /// What is known of the proposal.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::NotLeader | Self::Stopped | Self::Full | Self::Busy | Self::Behind => {
                Certainty::NotTaken
            }
            Self::Unknown => Certainty::Unknown,
            Self::TooLarge { .. } => Certainty::Refused,
        }
    }
}

/// What a batch's proposal resolves to: a result per batch, in order.
pub type AppendResult = Result<Vec<Result<AppendOutcome, AppendRefusal>>, ProposeError>;

/// The order of batches that a client sends without waiting for answers, as on one connection. Once one
/// of a producer that its partition does not know was not taken, every later one is refused as well:
/// such a partition takes any first sequence, so that the later one would be stored before the retry of
/// the earlier one. Clones are the same order; a new connection begins a new one.
#[derive(Debug, Clone, Default)]
pub struct SendOrder(Arc<AtomicBool>);

impl SendOrder {
    /// A batch of a new producer was not taken: none of this order is from now on.
    pub fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether no batch of this order is taken any more.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
