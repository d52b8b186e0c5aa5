//! A shard as the rest of the broker sees it: propose, read, ask who leads.
//!
//! [`ShardHandle`] is the handle half. The other half, which owns the Raft engine and applies entries,
//! takes [`Input`]s from the handle's queue, in order: of two proposals made one after the other
//! through one handle, batches and commands alike, the second is never committed before the first.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use ropewalk_shard::command::{Append, Command};
#[cfg(doc)]
use ropewalk_shard::limits;
use ropewalk_shard::proposal::{AppendResult, ProposeError, SendOrder};
use ropewalk_shard::{Effect, Outcome, PartitionId, ShardId, State};
use ropewalk_store::PartitionLog;
use ropewalk_store::checkpoint::{Capture, Source};
use tokio::sync::{mpsc, oneshot};

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

/// Sees what apply did, in order, after it is readable. Called on the shard's own loop: it must
/// return quickly and never wait for the shard.
pub trait Observer: Send + Sync + fmt::Debug {
    /// The effects of one batch of entries.
    fn applied(&self, shard: ShardId, effects: &[Effect]);
    /// This replica began (`Some(term)`) or ceased to lead, and its term's first entry is applied.
    fn leads(&self, shard: ShardId, term: Option<u64>);
}

/// A shard on this broker.
pub struct ShardHandle {
    id: ShardId,
    inbox: mpsc::UnboundedSender<Input>,
    state: RwLock<State>,
    logs: RwLock<HashMap<PartitionId, Arc<PartitionLog>>>,
    /// The term this replica leads in; 0 when it does not.
    leading_term: AtomicU64,
    /// The index of the newest entry that is applied.
    applied_index: AtomicU64,
}

impl fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ShardHandle {
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

impl Source for ShardHandle {
    fn capture(&self) -> Option<Capture> {
        Self::capture(self).ok()
    }
}
