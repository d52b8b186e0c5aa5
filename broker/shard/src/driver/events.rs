//! The events that a driver's core takes, and the actions that it returns.

use std::time::Duration;

use crate::command::{Append, Command};
use crate::engine::{ChangeRejection, Entry, Fetch, MembersChange, MessageRejection};
#[cfg(doc)]
use crate::limits;
use crate::message::Message;
use crate::proposal::{AppendResult, ProposeError, SendOrder};
use crate::replica::{Replica, StopReason, Work, Write};
#[cfg(doc)]
use crate::send_budget::Admitted;
use crate::state::{Effect, Outcome};

/// Identifies a call until it is answered. The caller of [`super::Core::take`] chooses it; each is
/// used once.
pub type Caller = u64;

/// The time of an event.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic time since any fixed moment.
    pub at: Duration,
    /// The wall clock, Unix milliseconds. It is written into the entries.
    pub time_ms: i64,
}

/// An input of the driver's core.
#[derive(Debug)]
pub enum Event {
    /// A call with record batches to be proposed.
    Append {
        /// Identifies the call.
        caller: Caller,
        /// The batches, of any partitions of the shard.
        items: Vec<Append>,
        /// The order that the batches belong to.
        order: SendOrder,
    },
    /// A call with a command to be proposed.
    Propose {
        /// Identifies the call.
        caller: Caller,
        /// The command to propose.
        command: Command,
    },
    /// A linearizable read: it is answered once everything that is committed now is applied.
    Read {
        /// Identifies the call.
        caller: Caller,
    },
    /// The write of this number is durable.
    Durable(u64),
    /// The log refused the write of this number because it has no space, or because it refused an
    /// earlier write.
    NoSpace(u64),
    /// [`limits::TICK_MS`] have passed.
    Tick,
    /// A message of another replica of the shard.
    Message(Message),
    /// The answer to one of [`Actions::fetches`]: the entries, or `None` if the log no longer has
    /// them or they cannot be read.
    Fetched {
        /// The id of the request: [`Fetch::id`].
        id: u64,
        /// The entries, in order from [`Fetch::first`] on.
        entries: Option<Vec<Entry>>,
    },
    /// Messages to this replica are lost.
    Unreachable(u64),
    /// Entries were not sent to a replica, because the broker has too many bytes on their way: see
    /// [`Admitted::held`]. No more are sent to it until [`Event::Sendable`].
    Held {
        /// Raft id of the replica.
        replica: u64,
        /// Index of the first entry that was not sent.
        first: u64,
    },
    /// Entries can be sent to this replica again.
    Sendable(u64),
    /// A call that changes the members.
    Change {
        /// Identifies the call.
        caller: Caller,
        /// The change to propose.
        change: MembersChange,
    },
    /// Asks a replica to lead in place of this one. Calls wait meanwhile, for an election timeout
    /// at most.
    Transfer(u64),
    /// The process of this replica has ended.
    Ended(u64),
    /// A snapshot through this index is durable: the log need not hold what it covers.
    Compacted(u64),
}

/// Why the members were not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was proposed.
    #[error(transparent)]
    Rejected(#[from] ChangeRejection),
    /// The change was proposed and may be committed, or not.
    #[error("the outcome of the change is unknown: {0}")]
    Proposed(ProposeError),
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The answer to [`Event::Append`].
    Appended(AppendResult),
    /// The answer to [`Event::Propose`].
    Proposed(Result<Outcome, ProposeError>),
    /// The answer to [`Event::Read`].
    Read(Result<(), ProposeError>),
    /// The answer to [`Event::Change`].
    Changed(Result<(), ChangeError>),
}

/// What the caller has to do, in the order of the fields.
#[derive(Debug, Default)]
pub struct Actions {
    /// Writes to submit to the log in order. The caller reports the result of each with
    /// [`Event::Durable`] or [`Event::NoSpace`].
    pub writes: Vec<Write>,
    /// Effects to carry out, in order.
    pub effects: Vec<Effect>,
    /// Answers to deliver.
    pub answers: Vec<(Caller, Answer)>,
    /// Set when leadership changed: the term in which this replica leads now, `None` for not
    /// leading.
    pub leads: Option<Option<u64>>,
    /// Messages to send. Each may be lost, duplicated or overtaken.
    pub messages: Vec<Message>,
    /// Entries to read from the log without holding up the driver; each is answered with
    /// [`Event::Fetched`].
    pub fetches: Vec<Fetch>,
    /// Replicas that need a snapshot: the log no longer has the entries that they lack.
    pub snapshots_for: Vec<u64>,
    /// Messages that were refused, with their senders.
    pub rejected: Vec<(u64, MessageRejection)>,
    /// Set once, when the replica stops: it must neither vote nor apply before an operator has
    /// acted.
    pub stopped: Option<StopReason>,
}

impl Actions {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.effects.is_empty()
            && self.answers.is_empty()
            && self.leads.is_none()
            && self.messages.is_empty()
            && self.fetches.is_empty()
            && self.snapshots_for.is_empty()
            && self.rejected.is_empty()
            && self.stopped.is_none()
    }
}

/// Access to the state that entries are applied to. The implementation does the locking.
pub trait StateAccess {
    /// Calls [`Replica::poll`] with the state.
    fn poll(&self, replica: &mut Replica) -> Option<Work>;

    /// Whether the batch is of a new producer: see
    /// [`State::is_of_new_producer`](crate::state::State::is_of_new_producer).
    fn is_of_new_producer(&self, item: &Append) -> bool;

    /// The feature level of the cluster, as far as this broker knows it: see [`crate::command`].
    fn level(&self) -> u8;
}
