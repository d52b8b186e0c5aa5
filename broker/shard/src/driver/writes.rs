//! The work of one replica that is reported in order: writes to the log, and the messages that may
//! be sent only when they are durable.
//!
//! # Invariants
//!
//! - **D1** a write counts as durable only when it and every earlier write are. A message about it
//!   is sent only then.
//! - After a refused write nothing is submitted until the log has answered every write in flight;
//!   then all from the refused one on are submitted again, in order.

use std::collections::VecDeque;

use super::{Answer, Caller};
use crate::message::Message;
use crate::replica::Write;

/// What is not durable together with all before it, oldest first.
#[derive(Debug, Default)]
pub(super) struct Writes(VecDeque<InFlight>);

#[derive(Debug)]
struct InFlight {
    number: u64,
    /// `None` for work that has nothing to write: it waits for the writes before it.
    write: Option<Write>,
    messages: Vec<Message>,
    answers: Vec<(Caller, Answer)>,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Submitted,
    Durable,
    /// Refused because the log has no space, or held back because an earlier write was refused.
    Refused,
}

/// Work that is durable together with all before it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Finished {
    /// The number to report to the replica.
    pub(super) number: u64,
    /// The messages that waited for it.
    pub(super) messages: Vec<Message>,
    /// The answers that waited for it.
    pub(super) answers: Vec<(Caller, Answer)>,
}

impl Writes {
    /// The number of writes that are not durable.
    pub(super) fn len(&self) -> usize {
        self.0.iter().filter(|work| work.write.is_some()).count()
    }

    /// Work, messages and answers that are not reported yet.
    pub(super) fn in_flight(&self) -> usize {
        self.0.iter().map(|work| 1 + work.messages.len() + work.answers.len()).sum()
    }

    /// Bytes of the payloads of entries in writes that are not durable.
    pub(super) fn payload_bytes(&self) -> u64 {
        let entries = self.0.iter().filter_map(|work| work.write.as_ref()).flat_map(|w| &w.entries);
        entries.map(|entry| entry.data.len() as u64).sum()
    }

    /// Whether a write was refused and is not submitted again yet.
    pub(super) fn is_refused(&self) -> bool {
        self.0.iter().any(|work| work.progress == Progress::Refused)
    }

    /// Adds work; returns the write if it is to be submitted now.
    pub(super) fn push(
        &mut self,
        number: u64,
        write: Option<Write>,
        messages: Vec<Message>,
        answers: Vec<(Caller, Answer)>,
    ) -> Option<Write> {
        let progress = match &write {
            None => Progress::Durable,
            Some(_) if self.is_refused() => Progress::Refused,
            Some(_) => Progress::Submitted,
        };
        let submitted = if progress == Progress::Submitted { write.clone() } else { None };
        self.0.push_back(InFlight { number, write, messages, answers, progress });
        submitted
    }

    /// Marks the write of this number as durable.
    pub(super) fn durable(&mut self, number: u64) {
        self.mark(number, Progress::Durable);
    }

    /// Marks the write of this number as refused for lack of space.
    pub(super) fn refused(&mut self, number: u64) {
        self.mark(number, Progress::Refused);
    }

    /// Takes the work that is now durable together with all before it, if there is any.
    pub(super) fn finished(&mut self) -> Option<Finished> {
        let mut finished = None;
        while let Some(work) = self.0.pop_front_if(|work| work.progress == Progress::Durable) {
            let finished = finished.get_or_insert_with(Finished::default);
            finished.number = work.number;
            finished.messages.extend(work.messages);
            finished.answers.extend(work.answers);
        }
        finished
    }

    fn mark(&mut self, number: u64, progress: Progress) {
        let mut writes = self.0.iter_mut();
        if let Some(found) = writes.find(|work| work.number == number && work.write.is_some()) {
            found.progress = progress;
        }
    }

    /// The writes to submit again now, if any was refused.
    pub(super) fn submit_again(&mut self) -> Vec<Write> {
        let is_open = |work: &InFlight| work.progress == Progress::Submitted;
        if !self.is_refused() || self.0.iter().any(is_open) {
            return Vec::new();
        }
        let again = self.0.iter_mut().filter_map(|work| {
            let write = work.write.clone()?;
            work.progress = Progress::Submitted;
            Some(write)
        });
        again.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Body;

    fn write(number: u64) -> Option<Write> {
        Some(Write { number, entries: Vec::new(), hard_state: None })
    }

    fn message(term: u64) -> Vec<Message> {
        vec![Message { from: 1, to: 2, term, body: Body::TimeoutNow }]
    }

    fn again(writes: &mut Writes) -> Vec<u64> {
        writes.submit_again().iter().map(|write| write.number).collect()
    }

    fn finished(writes: &mut Writes) -> Option<u64> {
        writes.finished().map(|finished| finished.number)
    }

    #[test]
    fn nothing_is_submitted_behind_a_refused_write_until_all_are_answered() {
        let mut writes = Writes::default();
        assert!(writes.push(1, write(1), vec![], vec![]).is_some());
        assert!(writes.push(2, write(2), vec![], vec![]).is_some());
        writes.refused(1);
        assert!(writes.push(3, write(3), vec![], vec![]).is_none(), "it would leave a hole");
        assert_eq!(again(&mut writes), [0; 0], "the second is in flight");
        writes.refused(2);
        assert_eq!(again(&mut writes), [1, 2, 3]);
        writes.durable(2);
        assert_eq!(finished(&mut writes), None, "the first is not");
        writes.durable(1);
        assert_eq!(finished(&mut writes), Some(2));
    }

    #[test]
    fn d1_a_message_waits_for_every_write_before_it() {
        let mut writes = Writes::default();
        writes.push(1, write(1), message(1), vec![]);
        assert!(writes.push(2, None, message(2), vec![]).is_none(), "there is nothing to write");
        assert_eq!((writes.len(), writes.finished()), (1, None));
        writes.durable(2);
        assert_eq!(writes.finished(), None, "only the first is written");
        writes.durable(1);
        let messages = [message(1), message(2)].concat();
        assert_eq!(writes.finished(), Some(Finished { number: 2, messages, answers: vec![] }));
        writes.push(3, None, message(3), vec![]);
        assert_eq!(finished(&mut writes), Some(3), "nothing is before it");
    }

    #[test]
    fn d1_a_vote_behind_refused_entries_is_refused_with_them() {
        let mut writes = Writes::default();
        writes.push(1, write(1), vec![], vec![]);
        writes.refused(1);
        writes.push(2, write(2), message(7), vec![]);
        writes.push(3, None, message(8), vec![]);
        assert_eq!(writes.finished(), None);
        assert_eq!(again(&mut writes), [1, 2], "what has nothing to write is not submitted");
        writes.durable(1);
        assert_eq!(finished(&mut writes), Some(1));
        writes.durable(2);
        assert_eq!(finished(&mut writes), Some(3));
    }
}
