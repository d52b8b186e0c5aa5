//! The part of the driver that concerns other replicas: messages, membership, transfers of
//! leadership.
//!
//! Messages with record batches wait in an inbox while the replica's own writes are slow, its disk
//! is full, or what it has not applied waits for memory, so that a follower takes no more memory
//! than [`limits::INBOX_BYTES_MAX`] and its admission is the same as that of a producer. A leader
//! that knows of a full disk sends batches only where a command behind them must be stored, and
//! those do not wait. Every other message is handled at once. Raft tolerates lost and reordered
//! messages, so what does not fit the inbox is dropped.

use std::collections::VecDeque;

use super::{Answer, Caller, Core, Waiter};
use crate::engine::{Entry, MembersChange};
use crate::limits;
use crate::message::{Body, Message};
use crate::replica::{StopReason, Work};

/// Messages that wait until the replica can take them.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    appends: VecDeque<Message>,
    bytes: usize,
    /// How many messages were dropped because the inbox was full.
    pub(super) dropped: u64,
    /// Since when the disk is full, if it is.
    full: Option<Full>,
}

/// A disk that is full while one leader may lead.
#[derive(Debug)]
struct Full {
    term: u64,
    ticks: usize,
}

/// Ticks after which a leader knows that a follower's disk is full: the answer to a heartbeat says
/// it, and one may be lost. What it sends from then on has to be taken.
const LEADER_KNOWS_TICKS: usize = 3 * limits::HEARTBEAT_TICKS;

impl Inbox {
    fn push(&mut self, message: Message) {
        let bytes = message.payload_bytes();
        if self.bytes + bytes > limits::INBOX_BYTES_MAX && !self.appends.is_empty() {
            self.dropped += 1;
            return;
        }
        self.bytes += bytes;
        self.appends.push_back(message);
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.appends.pop_front()?;
        self.bytes -= message.payload_bytes();
        Some(message)
    }

    pub(super) fn len(&self) -> usize {
        self.appends.len()
    }

    pub(super) fn payload_bytes(&self) -> u64 {
        self.bytes as u64
    }

    pub(super) fn tick(&mut self) {
        if let Some(full) = &mut self.full {
            full.ticks += 1;
        }
    }

    fn set_full(&mut self, is_full: bool, term: u64) {
        match &self.full {
            Some(full) if is_full && full.term == term => {}
            Some(_) | None => self.full = is_full.then_some(Full { term, ticks: 0 }),
        }
    }

    /// Whether the next message has to wait for space. A leader that knows of the full disk sends
    /// batches only when a command behind them has to be stored.
    fn waits_for_space(&self) -> bool {
        let is_new = self.full.as_ref().is_some_and(|full| full.ticks < LEADER_KNOWS_TICKS);
        is_new && self.appends.front().is_some_and(has_batches)
    }
}

fn has_batches(message: &Message) -> bool {
    message.entries().iter().any(Entry::has_batches)
}

impl Core {
    /// How many messages were dropped because they came faster than they could be written.
    #[must_use]
    pub fn dropped_messages(&self) -> u64 {
        self.inbox.dropped
    }

    pub(super) fn take_message(&mut self, message: Message) {
        if matches!(message.body, Body::Append { .. }) {
            self.inbox.push(message);
        } else {
            self.step(message);
        }
    }

    /// Handles the next waiting message if the replica can write it. Returns whether there was one.
    pub(super) fn step_next(&mut self, has_space: bool) -> bool {
        self.replica.set_full(!has_space || self.writes.is_refused());
        self.inbox.set_full(!has_space, self.replica.term());
        if self.writes.len() >= limits::WRITES_INFLIGHT_MAX || self.writes.is_refused() {
            return false;
        }
        if self.inbox.waits_for_space() || self.replica.is_backlogged() {
            return false;
        }
        let Some(message) = self.inbox.pop() else { return false };
        self.step(message);
        true
    }

    fn step(&mut self, message: Message) {
        let from = message.from;
        if let Err(rejection) = self.replica.step(message) {
            if rejection.is_fatal() {
                let mut work = Work::default();
                self.replica.stop(StopReason::Log(rejection), &mut work);
                self.absorb(work);
            }
            self.outbox.rejected.push((from, rejection));
        }
    }

    pub(super) fn take_change(&mut self, caller: Caller, change: MembersChange) {
        let ticket = self.next_ticket;
        match self.replica.propose_members(ticket, change) {
            Ok(()) => {
                self.ticket(Waiter::Change(caller));
            }
            Err(rejection) => self.answer(caller, Answer::Changed(Err(rejection.into()))),
        }
    }
}
