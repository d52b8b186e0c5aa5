//! Calls that are refused: they waited too long, came behind a refused batch, or were not proposed.

use super::{Answer, Caller, Core, Now, Part, Pending, Proposal, StateAccess};
use crate::command::Append;
use crate::limits;
use crate::proposal::ProposeError;

impl Core {
    /// Refuses calls that waited longer than [`limits::FULL_WAIT_MAX`]. Returns whether any did.
    pub(super) fn refuse_overdue(&mut self, now: Now, state: &impl StateAccess) -> bool {
        let is_refused = self.writes.is_refused();
        let obstacle = if is_refused {
            Some(ProposeError::Full)
        } else if self.writes.len() < limits::WRITES_INFLIGHT_MAX {
            self.obstacle
        } else {
            // A write is in flight, however slow; its completion lets the queue advance.
            None
        };
        let Some(obstacle) = obstacle else { return false };
        // A command behind batches that wait for space can be proposed once they are refused.
        let is_held = |what: &Proposal| match what {
            Proposal::Appends(_) => true,
            Proposal::Command(_) => is_refused || obstacle == ProposeError::Busy,
        };
        let mut any = false;
        while let Some(pending) = self.queue.pop_front_if(|pending| {
            now.at.saturating_sub(pending.since) > limits::FULL_WAIT_MAX && is_held(&pending.what)
        }) {
            if let Proposal::Appends(items) = &pending.what {
                self.end_order(pending.caller, items, state);
            }
            self.refuse(pending, obstacle);
            any = true;
        }
        any
    }

    /// The oldest call in the queue, if its [`SendOrder`](crate::proposal::SendOrder) has ended.
    pub(super) fn pop_behind(&mut self) -> Option<Pending> {
        let calls = &self.calls;
        self.queue.pop_front_if(|pending| match pending.what {
            Proposal::Appends(_) => {
                calls.get(&pending.caller).is_some_and(|call| call.order.is_ended())
            }
            Proposal::Command(_) => false,
        })
    }

    /// Ends the send order of a call whose batches are refused, if one is of a new producer.
    pub(super) fn end_order<'a>(
        &self,
        caller: Caller,
        items: impl IntoIterator<Item = &'a Append>,
        state: &impl StateAccess,
    ) {
        if let Some(call) = self.calls.get(&caller)
            && items.into_iter().any(|item| state.is_of_new_producer(item))
        {
            call.order.end();
        }
    }

    /// Fails the calls whose batches were joined into an entry that was not proposed.
    pub(super) fn fail_parts(
        &mut self,
        parts: &[Part],
        mut items: &[Append],
        error: ProposeError,
        state: &impl StateAccess,
    ) {
        for part in parts {
            let (of_part, rest) = items.split_at(part.count);
            self.end_order(part.caller, of_part, state);
            self.fail(part.caller, error);
            items = rest;
        }
    }

    /// Answers a call that is refused before it was proposed.
    pub(super) fn refuse(&mut self, pending: Pending, error: ProposeError) {
        match pending.what {
            Proposal::Appends(_) => self.fail(pending.caller, error),
            Proposal::Command(_) => self.answer(pending.caller, Answer::Proposed(Err(error))),
        }
    }

    /// Fails a call, of which other batches may be proposed or applied already.
    pub(super) fn fail(&mut self, caller: Caller, error: ProposeError) {
        // Several entries may carry parts of the call: the first error answers it.
        let Some(call) = self.calls.remove(&caller) else { return };
        let nothing_happened = call.results.is_empty() && call.proposed == 0;
        let error = if nothing_happened { error } else { ProposeError::Unknown };
        self.queue.retain(|pending| pending.caller != caller);
        self.answer(caller, Answer::Appended(Err(error)));
    }
}
