//! A shard as the rest of the broker sees it: propose, read, ask who leads.
//!
//! [`Shard`] is the handle half. The other half, which owns the Raft engine and applies entries,
//! takes [`Input`]s from the handle's queue, in order: of two proposals made one after the other
//! through one handle, batches and commands alike, the second is never committed before the first.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, oneshot};

use crate::command::{Append, Command};
use crate::engine::Members;
use crate::id::{PartitionId, ReplicaId, ShardId};
#[cfg(doc)]
use crate::limits;
use crate::log::PartitionLog;
use crate::state::{AppendRefusal, Appended, Effect, Outcome, State};

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
pub type AppendResult = Result<Vec<Result<Appended, AppendRefusal>>, ProposeError>;

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

/// What the owning loop is sent.
#[derive(Debug)]
pub enum Input {
    /// Record batches; the loop joins those that wait into one entry.
    Append {
        /// The batches.
        items: Vec<Append>,
        /// What they may not overtake.
        order: SendOrder,
        /// Told when they are applied.
        done: oneshot::Sender<AppendResult>,
    },
    /// Any other command: an entry of its own.
    Propose {
        /// What.
        command: Command,
        /// Told when it is applied.
        done: oneshot::Sender<Result<Outcome, ProposeError>>,
    },
    /// Answered once everything committed before now is applied (Raft's ReadIndex, the safe form).
    ReadBarrier {
        /// Told when reading is safe.
        done: oneshot::Sender<Result<(), ProposeError>>,
    },
    /// The state as of one applied entry, for a checkpoint. The logs then end where it says.
    Capture {
        /// Told at once.
        done: oneshot::Sender<Capture>,
    },
}

impl Input {
    /// Answers that it was not taken. Receivers that are gone have stopped waiting.
    pub(crate) fn refuse(self, error: ProposeError) {
        match self {
            Self::Append { done, .. } => drop(done.send(Err(error))),
            Self::Propose { done, .. } => drop(done.send(Err(error))),
            Self::ReadBarrier { done } => drop(done.send(Err(error))),
            // There is no state any more: the receiver sees that.
            Self::Capture { done } => drop(done),
        }
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

/// Sees what apply did, in order, after it is readable. Called on the shard's own loop: it must
/// return quickly and never wait for the shard.
pub trait Observer: Send + Sync + fmt::Debug {
    /// The effects of one batch of entries.
    fn applied(&self, shard: ShardId, effects: &[Effect]);
    /// This replica began (`Some(term)`) or ceased to lead, and its term's first entry is applied.
    fn leads(&self, shard: ShardId, term: Option<u64>);
}

/// A shard on this broker.
pub struct Shard {
    id: ShardId,
    inbox: mpsc::UnboundedSender<Input>,
    state: RwLock<State>,
    logs: RwLock<HashMap<PartitionId, Arc<PartitionLog>>>,
    /// The term this replica leads in; 0 when it does not.
    leading_term: AtomicU64,
    /// The index of the newest entry that is applied.
    applied_index: AtomicU64,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shard {
    /// The handle, and the queue that its owning loop reads.
    #[must_use]
    pub fn new(
        id: ShardId,
        state: State,
        logs: HashMap<PartitionId, Arc<PartitionLog>>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Input>) {
        let (inbox, queue) = mpsc::unbounded_channel();
        let shard = Self {
            id,
            inbox,
            state: RwLock::new(state),
            logs: RwLock::new(logs),
            leading_term: AtomicU64::new(0),
            applied_index: AtomicU64::new(0),
        };
        (Arc::new(shard), queue)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The term this replica leads in, its first entry applied; `None` while it does not lead.
    #[must_use]
    pub fn leading(&self) -> Option<u64> {
        match self.leading_term.load(Ordering::Acquire) {
            0 => None,
            term => Some(term),
        }
    }

    /// The index of the newest applied entry of the shard's log; 0 before the first.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// What is applied so far. Hold it briefly: apply waits for it.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// The records of a partition.
    #[must_use]
    pub fn log(&self, partition: &PartitionId) -> Option<Arc<PartitionLog>> {
        self.logs.read().get(partition).cloned()
    }

    /// Every partition's records.
    #[must_use]
    pub fn logs(&self) -> Vec<(PartitionId, Arc<PartitionLog>)> {
        self.logs.read().iter().map(|(id, log)| (*id, Arc::clone(log))).collect()
    }

    /// The partitions that live here, in no order. The state is not locked for it.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.logs.read().keys().copied().collect()
    }

    /// Proposes batches. They take their place in line now, not when the answer is awaited. The
    /// caller bounds how many bytes are under way. Batches that are larger together than
    /// [`limits::ENTRY_BYTES_MAX`] become several entries. An answer that is dropped means that the
    /// outcome is not known. Batches of which one may not overtake the other share an `order`.
    pub fn append(&self, items: Vec<Append>, order: SendOrder) -> oneshot::Receiver<AppendResult> {
        let (done, answer) = oneshot::channel();
        self.send(Input::Append { items, order, done });
        answer
    }

    /// Proposes a command and waits until it is applied.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.submit(command).await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// The same, but the command takes its place in line now, not when the answer is awaited. An
    /// answer that is dropped means that the outcome is not known.
    pub fn submit(&self, command: Command) -> oneshot::Receiver<Result<Outcome, ProposeError>> {
        let (done, answer) = oneshot::channel();
        self.send(Input::Propose { command, done });
        answer
    }

    /// Waits until everything that was committed before this call is applied here, and this
    /// replica was still the leader after the call began.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        let (done, answer) = oneshot::channel();
        self.send(Input::ReadBarrier { done });
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// The state as of the last applied entry. Blocks until the shard's loop has answered: for
    /// threads, not for tasks.
    ///
    /// # Errors
    /// `Stopped` when the loop has ended.
    pub fn capture(&self) -> Result<Capture, ProposeError> {
        let (done, answer) = oneshot::channel();
        self.send(Input::Capture { done });
        answer.blocking_recv().map_err(|_| ProposeError::Stopped)
    }

    fn send(&self, input: Input) {
        if let Err(mpsc::error::SendError(input)) = self.inbox.send(input) {
            input.refuse(ProposeError::Stopped);
        }
    }

    /// For the owning loop: apply under the write lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write())
    }

    /// For the owning loop: a partition was opened.
    pub(crate) fn insert_log(&self, partition: PartitionId, log: Arc<PartitionLog>) {
        self.logs.write().insert(partition, log);
    }

    /// For the owning loop: a partition was closed.
    pub(crate) fn remove_log(&self, partition: &PartitionId) -> Option<Arc<PartitionLog>> {
        self.logs.write().remove(partition)
    }

    /// For the owning loop: entries through this index are applied.
    pub(crate) fn set_applied(&self, index: u64) {
        self.applied_index.store(index, Ordering::Release);
    }

    /// For the owning loop: leadership began or ended.
    pub(crate) fn set_leading(&self, term: Option<u64>) {
        self.leading_term.store(term.unwrap_or(0), Ordering::Release);
    }
}
