//! What the log has to say to those who submitted, in order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::Completion;
use crate::log::WalError;

/// The answers of a round. Dropping them gives those that were not given: nobody waits for ever.
#[derive(Default)]
pub struct Answers {
    waiting: VecDeque<(Completion, Result<(), Arc<WalError>>)>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("waiting", &self.waiting.len()).finish()
    }
}

impl Answers {
    pub(super) fn push(&mut self, done: Completion, answer: Result<(), Arc<WalError>>) {
        self.waiting.push_back((done, answer));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives them, in order. One that panics leaves the others to be given by the drop.
    pub fn give(mut self) {
        self.give_all();
    }

    fn give_all(&mut self) {
        while let Some((done, answer)) = self.waiting.pop_front() {
            done(answer);
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.give_all();
    }
}
