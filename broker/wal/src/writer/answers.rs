//! The results of submissions, in order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::Completion;
use crate::log::WalError;

/// The completions of a round with their results. Dropping it runs those that were not run yet, so
/// that no caller waits forever.
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

    /// Runs the completions in order. If one panics, dropping `self` runs the others.
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
