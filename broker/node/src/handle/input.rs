//! What the driver of a shard takes from its queue.

use ropewalk_shard::Outcome;
use ropewalk_shard::command::{Append, Command};
use ropewalk_shard::driver::ChangeError;
use ropewalk_shard::engine::{EntryId, HardState, MembersChange};
use ropewalk_shard::message::Message;
use ropewalk_shard::proposal::{AppendResult, ProposeError, SendOrder};
use ropewalk_store::checkpoint::Capture;
use tokio::sync::oneshot;

/// An input of the driver.
#[derive(Debug)]
pub enum Input {
    /// Record batches; the driver joins waiting ones into one entry.
    Append {
        /// The batches, of any partitions of the shard.
        items: Vec<Append>,
        /// The order that the batches belong to.
        order: SendOrder,
        /// Receives the result when the batches are applied.
        done: oneshot::Sender<AppendResult>,
    },
    /// Any other command, which is an entry of its own.
    Propose {
        /// The command to propose.
        command: Command,
        /// Receives the outcome when the command is applied.
        done: oneshot::Sender<Result<Outcome, ProposeError>>,
    },
    /// Answered once everything committed before now is applied (Raft's ReadIndex, the safe form).
    ReadBarrier {
        /// Receives the result when reading is safe.
        done: oneshot::Sender<Result<(), ProposeError>>,
    },
    /// Requests the state as of one applied entry, for a checkpoint. The logs end at that state.
    Capture {
        /// Receives the capture at once.
        done: oneshot::Sender<Capture>,
    },
    /// A message of another replica of the shard.
    Message(Message),
    /// Changes the members.
    Change {
        /// The change to propose.
        change: MembersChange,
        /// Receives the result when the change is applied.
        done: oneshot::Sender<Result<(), ChangeError>>,
    },
    /// Asks a replica to lead in place of this one.
    Transfer(u64),
    /// The process of a replica has ended.
    Ended(u64),
    /// Asks whether a snapshot that includes this entry may replace the log.
    Lacks {
        /// The last entry that the snapshot includes.
        last: EntryId,
        /// Receives the answer at once.
        done: oneshot::Sender<bool>,
    },
    /// Ends the driver.
    Close {
        /// Only if a snapshot that includes this entry may replace the log.
        if_lacks: Option<EntryId>,
        /// Receives the hard state when the driver has ended; is dropped if it does not end.
        done: oneshot::Sender<HardState>,
    },
}

impl Input {
    /// Answers that the input was not accepted. A dropped receiver no longer waits.
    pub(crate) fn refuse(self, error: ProposeError) {
        match self {
            Self::Append { done, .. } => drop(done.send(Err(error))),
            Self::Propose { done, .. } => drop(done.send(Err(error))),
            Self::ReadBarrier { done } => drop(done.send(Err(error))),
            // The receiver sees the closed channel.
            Self::Capture { done } => drop(done),
            Self::Change { done, .. } => drop(done.send(Err(ChangeError::Proposed(error)))),
            // Their receivers see the closed channel.
            Self::Lacks { .. } | Self::Close { .. } => {}
            // Raft tolerates their loss.
            Self::Message(_) | Self::Transfer(_) | Self::Ended(_) => {}
        }
    }
}
