//! The handle of a shard, by which the rest of the broker proposes, reads and checks leadership.
//!
//! The driver, which owns the Raft engine and applies entries, takes [`Input`]s from the handle's
//! queue in order: of two proposals made one after the other through one handle, batches or
//! commands, the second is never committed before the first.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use ropewalk_shard::command::{Append, Command};
use ropewalk_shard::driver::ChangeError;
use ropewalk_shard::engine::{EntryId, HardState, Members, MembersChange, Progress};
use ropewalk_shard::message::Message;
use ropewalk_shard::proposal::{AppendResult, ProposeError, SendOrder};
use ropewalk_shard::{Effect, Outcome, PartitionId, ShardId, State};
use ropewalk_store::PartitionLog;
use ropewalk_store::checkpoint::{Capture, Source};
use tokio::sync::{mpsc, oneshot};

use crate::{blocking, limits};

mod input;
mod members;

pub use input::Input;

/// Who takes part in a shard and who leads it, as this replica knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replication {
    /// The newest term that this replica has seen.
    pub term: u64,
    /// Raft id of the replica that leads in this term; `None` while none is known.
    pub leader: Option<u64>,
    /// The members as of the last applied entry.
    pub members: Members,
}

/// Receives the effects of applied entries in order, after they are readable. Called on the shard's
/// task: it must return quickly and never wait for the shard.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Called with the effects of newly applied entries.
    fn applied(&self, shard: ShardId, effects: &[Effect]);
    /// Called when this replica leads and has applied the first entry of its term (`Some(term)`),
    /// and when it no longer leads (`None`).
    fn leads(&self, shard: ShardId, term: Option<u64>);
    /// Called when the files of another broker have replaced the shard's state, or have brought the
    /// shard to this broker. Entries that are applied afterwards follow that state.
    fn installed(&self, shard: &ShardHandle);
}

/// The feature level of the cluster, as far as this broker knows it. All shards of the broker share
/// it; the driver of the catalog raises it.
#[derive(Debug, Clone, Default)]
pub struct FeatureLevel(Arc<AtomicU8>);

impl FeatureLevel {
    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn raise(&self, level: u8) {
        self.0.fetch_max(level, Ordering::AcqRel);
    }
}

/// Why the replica of a shard has stopped while the broker runs. It neither votes nor applies, and
/// its data is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// The reason, as one sentence.
    pub reason: String,
    /// Whether a newer version of the broker continues. Otherwise the replica is quarantined.
    pub ends_with_upgrade: bool,
}

/// The handle of a shard on this broker. It stays the same when the shard is closed and opened
/// again with other files.
pub struct ShardHandle {
    id: ShardId,
    inbox: RwLock<mpsc::UnboundedSender<Input>>,
    state: RwLock<State>,
    logs: RwLock<HashMap<PartitionId, Arc<PartitionLog>>>,
    /// The term in which this replica leads; 0 when it does not.
    leading_term: AtomicU64,
    /// The index of the last applied entry.
    applied_index: AtomicU64,
    replication: RwLock<Replication>,
    /// How far each member is; empty unless this replica leads.
    progress: RwLock<Vec<Progress>>,
    /// Raft id of the replica that runs; 0 for none.
    replica: AtomicU64,
    /// Bytes of the messages that wait in the queue.
    message_bytes: AtomicUsize,
    is_closing: AtomicBool,
    level: FeatureLevel,
    halted: RwLock<Option<Halt>>,
    is_halted: AtomicBool,
    /// Whether the replica was destroyed and no other one has come.
    is_vacant: AtomicBool,
}

impl fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ShardHandle {
    /// The handle, and the queue that its driver reads.
    #[must_use]
    pub fn new(
        id: ShardId,
        state: State,
        logs: HashMap<PartitionId, Arc<PartitionLog>>,
        level: FeatureLevel,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Input>) {
        let (inbox, queue) = mpsc::unbounded_channel();
        level.raise(state.level());
        let shard = Self {
            id,
            inbox: RwLock::new(inbox),
            state: RwLock::new(state),
            logs: RwLock::new(logs),
            leading_term: AtomicU64::new(0),
            applied_index: AtomicU64::new(0),
            replication: RwLock::default(),
            progress: RwLock::default(),
            replica: AtomicU64::new(0),
            message_bytes: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            level,
            halted: RwLock::default(),
            is_halted: AtomicBool::new(false),
            is_vacant: AtomicBool::new(false),
        };
        (Arc::new(shard), queue)
    }

    /// Opens the shard again after [`Self::close`]. Returns the queue that the next driver reads.
    pub(crate) fn reopen(
        &self,
        state: State,
        logs: HashMap<PartitionId, Arc<PartitionLog>>,
    ) -> mpsc::UnboundedReceiver<Input> {
        let (inbox, queue) = mpsc::unbounded_channel();
        self.level.raise(state.level());
        *self.state.write() = state;
        let replaced = std::mem::replace(&mut *self.logs.write(), logs);
        // Readers that wait for a record look again.
        replaced.into_values().for_each(|log| log.close());
        *self.replication.write() = Replication::default();
        self.set_applied(0);
        self.message_bytes.store(0, Ordering::Release);
        *self.halted.write() = None;
        self.is_halted.store(false, Ordering::Release);
        self.is_closing.store(false, Ordering::Release);
        *self.inbox.write() = inbox;
        self.is_vacant.store(false, Ordering::Release);
        queue
    }

    /// Releases what the handle holds of a replica that is destroyed, and whose driver has ended.
    /// Returns the logs of its partitions.
    pub(crate) fn vacate(&self) -> Vec<Arc<PartitionLog>> {
        self.is_vacant.store(true, Ordering::Release);
        self.replica.store(0, Ordering::Release);
        *self.state.write() = State::default();
        *self.replication.write() = Replication::default();
        self.set_applied(0);
        let logs: Vec<_> = std::mem::take(&mut *self.logs.write()).into_values().collect();
        // Readers that wait for a record look again.
        logs.iter().for_each(|log| log.close());
        logs
    }

    /// Whether the replica was destroyed and no other one has come.
    pub(crate) fn is_vacant(&self) -> bool {
        self.is_vacant.load(Ordering::Acquire)
    }

    /// The shard's id.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The term in which this replica leads and has applied its first entry; `None` while it does
    /// not.
    #[must_use]
    pub fn leading(&self) -> Option<u64> {
        match self.leading_term.load(Ordering::Acquire) {
            0 => None,
            term => Some(term),
        }
    }

    /// Whether the shard has a leader, as far as this replica knows: itself, with the first entry
    /// of its term applied, or another one.
    #[must_use]
    pub fn has_leader(&self) -> bool {
        let leader = self.replication.read().leader;
        self.leading().is_some() || leader.is_some_and(|leader| Some(leader) != self.replica())
    }

    /// The index of the last applied entry of the shard's log; 0 before the first.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// Why the shard's replica has stopped; `None` while it runs.
    #[must_use]
    pub fn halted(&self) -> Option<Halt> {
        self.halted.read().clone()
    }

    /// Whether the replica has stopped.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.is_halted.load(Ordering::Acquire)
    }

    /// The feature level of the cluster, as far as this broker knows it.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.level.get()
    }

    /// Locks the applied state for reading. Hold the guard briefly: the driver waits for it.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// The log of a partition.
    #[must_use]
    pub fn log(&self, partition: &PartitionId) -> Option<Arc<PartitionLog>> {
        self.logs.read().get(partition).cloned()
    }

    /// The logs of all partitions.
    #[must_use]
    pub fn logs(&self) -> Vec<(PartitionId, Arc<PartitionLog>)> {
        self.logs.read().iter().map(|(id, log)| (*id, Arc::clone(log))).collect()
    }

    /// The partitions of this shard, in no order. Does not lock the state.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.logs.read().keys().copied().collect()
    }

    /// Proposes batches. They are queued now, not when the answer is awaited. The caller bounds the
    /// bytes in flight. Batches that together are larger than
    /// [`ENTRY_BYTES_MAX`](ropewalk_shard::limits::ENTRY_BYTES_MAX) become several entries. If the
    /// sender of the answer is dropped, the outcome is unknown. Batches that must keep their order
    /// share an `order`.
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

    /// Like [`Self::propose`], but the command is queued now, not when the answer is awaited. If
    /// the sender of the answer is dropped, the outcome is unknown.
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

    /// Passes in a message of another replica of the shard. Returns whether it was taken: while
    /// more than [`limits::MESSAGES_BYTES_MAX`] bytes wait for the driver, messages are dropped.
    pub fn message(&self, message: Message) -> bool {
        let bytes = message_bytes(&message);
        let waiting = self.message_bytes.fetch_add(bytes, Ordering::AcqRel);
        if waiting + bytes > limits::MESSAGES_BYTES_MAX && waiting > 0 {
            self.message_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return false;
        }
        self.send(Input::Message(message));
        true
    }

    /// Bytes of the messages that wait for the driver.
    pub(crate) fn message_bytes(&self) -> usize {
        self.message_bytes.load(Ordering::Acquire)
    }

    /// Changes the members, and waits until the change is applied.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change_members(&self, change: MembersChange) -> Result<(), ChangeError> {
        let (done, answer) = oneshot::channel();
        self.send(Input::Change { change, done });
        answer.await.unwrap_or(Err(ChangeError::Proposed(ProposeError::Unknown)))
    }

    /// Asks the replica `to` to lead in place of this one. Calls wait meanwhile. Who leads then is
    /// in [`Self::replication`]; nothing happens if this replica does not lead, or `to` is no
    /// voter.
    pub fn transfer_leadership(&self, to: u64) {
        self.send(Input::Transfer(to));
    }

    /// Reports that the process of another replica has ended: see
    /// [`Engine::ended`](ropewalk_shard::engine::Engine::ended).
    pub fn ended(&self, replica: u64) {
        self.send(Input::Ended(replica));
    }

    /// Whether a snapshot that includes the entry `last` may replace the log of this replica: see
    /// [`Replica::lacks`](ropewalk_shard::replica::Replica::lacks). Blocks until the driver has
    /// answered; false if it has ended.
    #[must_use]
    pub fn lacks(&self, last: EntryId) -> bool {
        let (done, answer) = oneshot::channel();
        self.send(Input::Lacks { last, done });
        blocking::wait(answer).unwrap_or(false)
    }

    /// Ends the driver, and waits for it. Open calls are answered as at a stop of the broker.
    /// Returns the hard state of the replica; `None` if the driver had ended. Blocks.
    pub(crate) fn close(&self) -> Option<HardState> {
        let (done, ended) = oneshot::channel();
        self.send(Input::Close { if_lacks: None, done });
        blocking::wait(ended).ok()
    }

    /// Like [`Self::close`], but only if a snapshot that includes the entry `last` may replace the
    /// log; otherwise the driver continues, and this returns `None`. Blocks.
    #[must_use]
    pub fn close_if_lacks(&self, last: EntryId) -> Option<HardState> {
        let (done, ended) = oneshot::channel();
        self.send(Input::Close { if_lacks: Some(last), done });
        blocking::wait(ended).ok()
    }

    /// Raft id of the replica; `None` before its driver first ran.
    #[must_use]
    pub fn replica(&self) -> Option<u64> {
        Some(self.replica.load(Ordering::Acquire)).filter(|id| *id != 0)
    }

    /// For the driver: sets the replica that runs.
    pub(crate) fn set_replica(&self, replica: u64) {
        self.replica.store(replica, Ordering::Release);
    }

    /// Whether the driver ends because the shard is closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    /// For the driver: it ends because the shard is closed.
    pub(crate) fn set_closing(&self) {
        self.is_closing.store(true, Ordering::Release);
    }

    /// How far each member is, by replica; empty unless this replica leads. The driver renews it
    /// with each change of the members or the leader, and with each
    /// [tick](ropewalk_shard::limits::TICK_MS). A leader without other members has no ticks.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        self.progress.read().clone()
    }

    /// The state as of the last applied entry. Blocks until the driver has answered: for threads,
    /// not for tasks.
    ///
    /// # Errors
    /// `Stopped` when the driver has ended.
    pub fn capture(&self) -> Result<Capture, ProposeError> {
        let (done, answer) = oneshot::channel();
        self.send(Input::Capture { done });
        blocking::wait(answer).map_err(|_| ProposeError::Stopped)
    }

    fn send(&self, input: Input) {
        let sent = self.inbox.read().send(input);
        if let Err(mpsc::error::SendError(input)) = sent {
            input.refuse(ProposeError::Stopped);
        }
    }

    /// For the driver: changes the state under the write lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write())
    }

    /// For the driver: adds the log of a partition that was opened.
    pub(crate) fn insert_log(&self, partition: PartitionId, log: Arc<PartitionLog>) {
        self.logs.write().insert(partition, log);
    }

    /// For the driver: removes the log of a partition that was closed.
    pub(crate) fn remove_log(&self, partition: &PartitionId) -> Option<Arc<PartitionLog>> {
        self.logs.write().remove(partition)
    }

    /// For the driver: a message was taken from the queue.
    pub(crate) fn message_taken(&self, message: &Message) {
        self.message_bytes.fetch_sub(message_bytes(message), Ordering::AcqRel);
    }

    /// For the driver: sets who takes part and who leads. Returns what was known before, if that
    /// is new.
    pub(crate) fn set_replication(
        &self,
        term: u64,
        leader: Option<u64>,
        members: &Members,
    ) -> Option<Replication> {
        {
            let held = self.replication.read();
            if held.term == term && held.leader == leader && held.members == *members {
                return None;
            }
        }
        let new = Replication { term, leader, members: members.clone() };
        Some(std::mem::replace(&mut *self.replication.write(), new))
    }

    /// For the driver: sets how far each member is.
    pub(crate) fn set_progress(&self, progress: Vec<Progress>) {
        *self.progress.write() = progress;
    }

    /// For the driver: sets the index of the last applied entry.
    pub(crate) fn set_applied(&self, index: u64) {
        self.applied_index.store(index, Ordering::Release);
    }

    /// For the driver of the catalog: raises the feature level to that of the applied state.
    pub(crate) fn follow_level(&self) {
        self.level.raise(self.state.read().level());
    }

    /// For the driver: records that the replica has stopped.
    pub(crate) fn set_halted(&self, halt: Halt) {
        *self.halted.write() = Some(halt);
        self.is_halted.store(true, Ordering::Release);
    }

    /// For the driver: sets the term in which this replica leads.
    pub(crate) fn set_leading(&self, term: Option<u64>) {
        self.leading_term.store(term.unwrap_or(0), Ordering::Release);
    }
}

fn message_bytes(message: &Message) -> usize {
    message.payload_bytes() + limits::MESSAGE_BYTES_MIN
}

impl Source for ShardHandle {
    fn capture(&self) -> Option<Capture> {
        Self::capture(self).ok()
    }
}
