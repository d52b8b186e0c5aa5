//! Linearizable reads by Raft's ReadIndex (Ongaro's thesis, section 6.4).

use std::collections::VecDeque;

use super::Ticket;
use crate::engine::{ConfirmedRead, Engine};
use crate::proposal::ProposeError;

/// A read that is resolved: it may be answered, or nothing is known and it is safe to retry.
type Settled = (Ticket, Result<(), ProposeError>);

/// The reads of a replica that are not resolved yet.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Reads that are not requested from the engine yet.
    asked: Vec<Ticket>,
    /// Requested reads that are not confirmed yet, by context.
    requested: VecDeque<(u64, Vec<Ticket>)>,
    /// Confirmed reads, by the index that has to be applied before they are resolved.
    confirmed: VecDeque<(u64, Vec<Ticket>)>,
    next_context: u64,
}

impl Reads {
    /// Reads and the rounds that they wait for.
    pub(super) fn len(&self) -> usize {
        let rounds = self.requested.iter().chain(&self.confirmed);
        self.asked.len() + rounds.map(|(_, tickets)| 1 + tickets.len()).sum::<usize>()
    }

    pub(super) fn ask(&mut self, ticket: Ticket) {
        self.asked.push(ticket);
    }

    /// Requests what was asked in one round of the leader's engine. Without one the reads fail.
    pub(super) fn request(&mut self, leader: Option<&mut Engine>, settled: &mut Vec<Settled>) {
        if self.asked.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut self.asked);
        let context = self.next_context;
        if leader.is_some_and(|engine| engine.read_index(context).is_ok()) {
            self.next_context += 1;
            self.requested.push_back((context, tickets));
        } else {
            settled.extend(tickets.into_iter().map(|t| (t, Err(ProposeError::NotLeader))));
        }
    }

    pub(super) fn confirm(&mut self, read: ConfirmedRead) {
        // The engine confirms contexts in order; a confirmation covers earlier ones that were lost.
        while let Some((requested, _)) = self.requested.front()
            && *requested <= read.context
        {
            let (_, tickets) = self.requested.pop_front().expect("it is there");
            self.confirmed.push_back((read.index, tickets));
        }
    }

    /// Resolves the reads whose index is applied.
    pub(super) fn settle(&mut self, applied: u64, settled: &mut Vec<Settled>) {
        while let Some((index, _)) = self.confirmed.front()
            && *index <= applied
        {
            let (_, tickets) = self.confirmed.pop_front().expect("it is there");
            settled.extend(tickets.into_iter().map(|ticket| (ticket, Ok(()))));
        }
    }

    /// Fails the requested reads: the leadership has changed.
    pub(super) fn fail(&mut self, settled: &mut Vec<Settled>) {
        let reads = self.requested.drain(..).chain(self.confirmed.drain(..));
        let lost = reads.flat_map(|(_, tickets)| tickets);
        settled.extend(lost.map(|ticket| (ticket, Err(ProposeError::NotLeader))));
    }
}
