//! Outcomes of proposals, and the order of the proposals of one client.
//!
//! Invariant: each error has a [`Certainty`], and a proposal that may have been committed is never
//! reported as absent.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::limits;
use crate::state::{AppendOutcome, AppendRefusal};

mod send_order;

pub use send_order::{Numbered, SendOrder};

/// Why a proposal has no outcome, split by what is known of it: see [`ProposeError::certainty`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead, or the entry was replaced by the one of another leader. Nothing
    /// was changed, and nothing will be.
    #[error("this replica does not lead the shard")]
    NotLeader,
    /// The shard's driver ended before it proposed the command. Nothing was changed.
    #[error("the shard has stopped")]
    Stopped,
    /// The write-ahead log cannot take more until space is freed. Nothing was changed.
    #[error("no space for the write-ahead log")]
    Full,
    /// Too much is proposed and not committed yet, and that did not change for
    /// [`limits::FULL_WAIT_MAX`]. Nothing was changed.
    #[error("the shard has too many uncommitted bytes: the disk or the followers are too slow")]
    Busy,
    /// An earlier batch of the client was not proposed: see [`SendOrder`]. Nothing was changed.
    #[error("a batch that was sent before this one on the same connection was not stored")]
    Behind,
    /// The entry would be over a bound. Nothing was changed, and a retry will fail in the same way.
    #[error("an entry of {size_bytes} bytes is over the limit of {size_bytes_max} bytes")]
    TooLarge {
        /// Size of the encoded entry.
        size_bytes: usize,
        /// The largest size of an entry.
        size_bytes_max: usize,
    },
    /// A broker of the cluster may not read the command: the feature level is lower than the
    /// command's format. Nothing was changed.
    #[error("the command needs feature level {format}, and the cluster has level {level}")]
    AboveLevel {
        /// The format of the command.
        format: u8,
        /// The feature level of the cluster.
        level: u8,
    },
    /// The command was proposed, and this replica lost the leadership or stopped before the outcome
    /// was known. The command may be committed already or later, and must not be reported as
    /// absent.
    #[error("the command was proposed and its outcome is unknown")]
    Unknown,
}

/// Whether a proposal without an outcome may have been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It was not proposed. A retry may succeed, perhaps at another replica.
    NotTaken,
    /// It may have been committed, may be committed later, or never.
    Unknown,
    /// It was refused, and a retry will be refused too.
    Refused,
}

impl ProposeError {
    /// Whether the proposal may have been committed.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::NotLeader
            | Self::Stopped
            | Self::Full
            | Self::Busy
            | Self::Behind
            | Self::AboveLevel { .. } => Certainty::NotTaken,
            Self::Unknown => Certainty::Unknown,
            Self::TooLarge { .. } => Certainty::Refused,
        }
    }
}

/// The outcome of an append: one result per batch, in order.
pub type AppendResult = Result<Vec<Result<AppendOutcome, AppendRefusal>>, ProposeError>;
