//! Rounds for which there is no space as a whole.

use std::sync::Arc;

use super::{Rounds, Submission};
use crate::log::{Admission, WalError};

/// What is written of a round for which there is no space as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// All submissions that may use the reserve.
    Reserve,
    /// Those of them that fit: a large one must not keep out the one that frees space.
    ReserveAsFits,
    /// Those that may use all space.
    Release,
}

impl Rounds {
    /// Called without space for the whole round. Completes the normal submissions with the error
    /// and writes the others; if necessary, writes only those that allow files of the log to be
    /// released.
    pub(super) fn write_from_reserve(&mut self, full: &Arc<WalError>) -> Result<(), WalError> {
        let mut error = Arc::clone(full);
        for attempt in [Attempt::Reserve, Attempt::ReserveAsFits, Attempt::Release] {
            match self.write_those(&error, attempt) {
                Err(full @ WalError::Full { .. }) => error = Arc::new(full),
                result => return result,
            }
        }
        self.answer_round(|| Err(Arc::clone(&error)));
        self.publish();
        Ok(())
    }

    /// Writes the submissions of the round that may use this space, and completes the others with
    /// the error.
    fn write_those(&mut self, full: &Arc<WalError>, attempt: Attempt) -> Result<(), WalError> {
        let least = match attempt {
            Attempt::Reserve | Attempt::ReserveAsFits => Admission::Reserve,
            Attempt::Release => Admission::Release,
        };
        self.wal.begin();
        for submission in std::mem::take(&mut self.round) {
            if submission.admission < least {
                self.answers.push(submission.done, Err(Arc::clone(full)));
                continue;
            }
            match self.wal.add(&submission.records) {
                Ok(()) => self.round.push_back(submission),
                Err(error) => self.answers.push(submission.done, Err(Arc::new(error))),
            }
            if attempt == Attempt::ReserveAsFits && !self.wal.is_ready(least) {
                self.drop_last(full)?;
            }
        }
        self.commit(least)
    }

    /// Takes the last submission out of the round, unless it may use all space.
    fn drop_last(&mut self, full: &Arc<WalError>) -> Result<(), WalError> {
        let is_large = |last: &mut Submission| last.admission == Admission::Reserve;
        if let Some(last) = self.round.pop_back_if(is_large) {
            self.answers.push(last.done, Err(Arc::clone(full)));
            self.wal.begin();
            self.round.iter().try_for_each(|kept| self.wal.add(&kept.records))?;
        }
        Ok(())
    }
}
