//! Why a replica stops.

use crate::command::CommandError;
use crate::engine::{EngineError, MessageRejection, UnknownChange};

/// Why a replica stops: it must neither vote nor apply before an operator has acted.
#[derive(Debug, thiserror::Error)]
pub enum StopReason {
    /// A newer version of the broker wrote a committed entry. Nothing is lost: a broker of that
    /// version applies it.
    #[error("entry {index} was written by a newer version of the broker: {reason}")]
    NewerEntry {
        /// Index of the entry.
        index: u64,
        /// The format of the entry, and what this broker reads.
        reason: String,
    },
    /// A committed entry cannot be decoded although its format is known: it is damaged in a way
    /// that the checksum of the log did not detect. Skipping it would make the replicas diverge.
    #[error("entry {index} cannot be applied, it is damaged: {reason}")]
    DamagedEntry {
        /// Index of the entry.
        index: u64,
        /// Description of the damage.
        reason: String,
    },
    /// A committed entry cannot be read back from the log.
    #[error("entry {index} cannot be read back from the log: {reason}")]
    Unread {
        /// Index of the entry.
        index: u64,
        /// Why it cannot be read.
        reason: String,
    },
    /// The members do not allow a change that was committed.
    #[error("the change of the members at entry {index} cannot be applied: {error}")]
    Members {
        /// Index of the entry.
        index: u64,
        /// The answer of the engine.
        error: EngineError,
    },
    /// The log lacks entries that it acknowledged, or other entries than the leader's are
    /// committed.
    #[error("the log contradicts the leader's: {0}")]
    Log(MessageRejection),
    /// The state is not that of the majority of the voters.
    #[error(
        "the state after entry {index} differs from that of the majority of the voters: its digest \
         is {own:08x} here and {majority:08x} there"
    )]
    Diverged {
        /// Index of the entry.
        index: u64,
        /// The digest of this replica.
        own: u32,
        /// The digest of the majority.
        majority: u32,
    },
}

impl StopReason {
    /// The reason for a command that cannot be decoded.
    pub(super) fn of_command(index: u64, error: CommandError) -> Self {
        let reason = error.to_string();
        match error {
            CommandError::Format(_) => Self::NewerEntry { index, reason },
            CommandError::Malformed(_) => Self::DamagedEntry { index, reason },
        }
    }

    /// The reason for a change of the members that cannot be decoded.
    pub(super) fn of_change(index: u64, error: UnknownChange) -> Self {
        let reason = error.to_string();
        if error.is_newer() {
            Self::NewerEntry { index, reason }
        } else {
            Self::DamagedEntry { index, reason }
        }
    }

    /// Whether a newer version of the broker continues where this one stops. Otherwise the replica
    /// has to be replaced.
    #[must_use]
    pub fn ends_with_upgrade(&self) -> bool {
        matches!(self, Self::NewerEntry { .. })
    }

    /// Whether a restart may not find the reason again, so that the replica would vote. A replay
    /// meets the same entries.
    #[must_use]
    pub fn needs_mark(&self) -> bool {
        matches!(self, Self::Log(_) | Self::Diverged { .. })
    }
}
