//! The writes of one replica that are in flight, in the order of its log.
//!
//! # Invariants
//!
//! - **D1** a write counts as durable only when it and every earlier write are.
//! - After a refused write nothing is submitted until the log has answered every write in flight;
//!   then all from the refused one on are submitted again, in order.

use std::collections::VecDeque;

use crate::replica::Write;

/// Writes that are not durable together with all before them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Writes(VecDeque<PendingWrite>);

#[derive(Debug)]
struct PendingWrite {
    write: Write,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Submitted,
    Durable,
    /// Refused because the log has no space, or held back because an earlier write was refused.
    Refused,
}

impl Writes {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a write was refused and is not submitted again yet.
    pub(super) fn is_refused(&self) -> bool {
        self.0.iter().any(|write| write.progress == Progress::Refused)
    }

    /// Adds a write; returns it if it is to be submitted now.
    pub(super) fn push(&mut self, write: Write) -> Option<Write> {
        let is_refused = self.is_refused();
        let progress = if is_refused { Progress::Refused } else { Progress::Submitted };
        let submitted = (!is_refused).then(|| write.clone());
        self.0.push_back(PendingWrite { write, progress });
        submitted
    }

    /// Marks the write of this number as durable. Returns the number of the last write that is now
    /// durable together with all before it, if that advanced.
    pub(super) fn durable(&mut self, number: u64) -> Option<u64> {
        self.mark(number, Progress::Durable);
        let mut last = None;
        while let Some(done) = self.0.pop_front_if(|write| write.progress == Progress::Durable) {
            last = Some(done.write.number);
        }
        last
    }

    /// Marks the write of this number as refused for lack of space.
    pub(super) fn refused(&mut self, number: u64) {
        self.mark(number, Progress::Refused);
    }

    fn mark(&mut self, number: u64, progress: Progress) {
        if let Some(found) = self.0.iter_mut().find(|write| write.write.number == number) {
            found.progress = progress;
        }
    }

    /// The writes to submit again now, if any was refused.
    pub(super) fn submit_again(&mut self) -> Vec<Write> {
        let is_open = |write: &PendingWrite| write.progress == Progress::Submitted;
        if !self.is_refused() || self.0.iter().any(is_open) {
            return Vec::new();
        }
        let again = self.0.iter_mut().map(|write| {
            write.progress = Progress::Submitted;
            write.write.clone()
        });
        again.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u64) -> Write {
        Write { number, entries: Vec::new(), hard_state: None }
    }

    fn again(writes: &mut Writes) -> Vec<u64> {
        writes.submit_again().iter().map(|write| write.number).collect()
    }

    #[test]
    fn nothing_is_submitted_behind_a_refused_write_until_all_are_answered() {
        let mut writes = Writes::default();
        assert!(writes.push(write(1)).is_some() && writes.push(write(2)).is_some());
        writes.refused(1);
        assert!(writes.push(write(3)).is_none(), "it would leave a hole");
        assert_eq!(again(&mut writes), [0; 0], "the second is in flight");
        writes.refused(2);
        assert_eq!(again(&mut writes), [1, 2, 3]);
        assert_eq!(writes.durable(2), None, "the first is not");
        assert_eq!(writes.durable(1), Some(2));
    }
}
