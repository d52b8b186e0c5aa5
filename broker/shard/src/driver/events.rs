//! What goes into a driver's core and what comes out of it.

use std::time::Duration;

use crate::command::{Append, Command};
#[cfg(doc)]
use crate::limits;
use crate::proposal::{AppendResult, ProposeError, SendOrder};
use crate::replica::{Replica, Work, Write};
use crate::state::{Effect, Outcome};

/// Names a call until it is answered. The caller of [`super::Core::take`] draws it; each is used once.
pub type Caller = u64;

/// The time of an event.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since any fixed moment; never goes back.
    pub at: Duration,
    /// The wall clock, Unix milliseconds. It goes into the entries.
    pub time_ms: i64,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Record batches to be proposed.
    Append {
        /// Who wants to know the result.
        caller: Caller,
        /// The batches.
        items: Vec<Append>,
        /// What they may not overtake.
        order: SendOrder,
    },
    /// A command to be proposed.
    Propose {
        /// Who wants to know the outcome.
        caller: Caller,
        /// The command.
        command: Command,
    },
    /// A read that has to see everything that is committed now.
    Read {
        /// Who waits.
        caller: Caller,
    },
    /// The write of this number is durable.
    Durable(u64),
    /// The log refused the write of this number for want of space, or because it refused an earlier
    /// one.
    NoSpace(u64),
    /// [`limits::TICK_MS`] have passed.
    Tick,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Event::Append`].
    Appended(AppendResult),
    /// To [`Event::Propose`].
    Proposed(Result<Outcome, ProposeError>),
    /// To [`Event::Read`].
    Read(Result<(), ProposeError>),
}

/// What has to be done, in the order of the fields.
#[derive(Debug, Default)]
pub struct Actions {
    /// To be submitted to the log, in order; each is then reported by its number.
    pub writes: Vec<Write>,
    /// To be carried out, in order.
    pub effects: Vec<Effect>,
    /// To be answered.
    pub answers: Vec<(Caller, Answer)>,
    /// This replica began or ceased to lead.
    pub leads: Option<Option<u64>>,
}

impl Actions {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.effects.is_empty()
            && self.answers.is_empty()
            && self.leads.is_none()
    }
}

/// The state that entries are applied to, behind whatever lock it has.
pub trait Applies {
    /// One [`Replica::poll`] with the state.
    fn poll(&self, replica: &mut Replica) -> Option<Work>;

    /// [`State::is_of_new_producer`](crate::state::State::is_of_new_producer) of the state.
    fn is_of_new_producer(&self, item: &Append) -> bool;
}
