//! What a sender decides: whose set it pins, what it sends and when. Without files and clocks.
//!
//! # Invariants
//!
//! - **R1** at most [`limits::TRANSFERS_MAX`] sets are pinned, each receiver has at most one
//!   question that is not answered, and no more bytes are sent than the token bucket allows.
//! - A set that is not used for [`limits::TRANSFER_IDLE_MS`] is released.
//! - Receivers that wait are served in the order in which they asked.

use std::collections::{BTreeMap, VecDeque};

use ropewalk_shard::ShardId;

use super::limit::TokenBucket;
use super::message::{Body, Fetch, Message, Offer, SetId};
use crate::limits;

/// From which replica of this broker to which replica of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The shard that is transferred.
    pub shard: ShardId,
    /// Raft id of the replica that sends files.
    pub from: u64,
    /// Raft id of the replica that receives files.
    pub to: u64,
}

impl Route {
    fn message(self, body: Body) -> Message {
        Message { shard: self.shard, from: self.from, to: self.to, body }
    }
}

/// What the caller of a [`Sender`] has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Send the message.
    Send(Message),
    /// Pin a set and report it with [`Sender::pinned`].
    Pin(Route),
    /// Read a range and send it.
    Read(Route, Fetch),
    /// Release the set of the route.
    Unpin(Route),
}

/// What came of [`Task::Pin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pinning {
    /// A set is pinned.
    Done(Offer),
    /// It has to wait, and is asked for again.
    Later,
    /// It failed, and nothing is pinned.
    Failed,
}

/// The transfers that a broker sends.
#[derive(Debug)]
pub struct Sender {
    slots: BTreeMap<Route, Slot>,
    waiting: VecDeque<Route>,
    bucket: TokenBucket,
}

#[derive(Debug)]
enum Slot {
    Pinning,
    Pinned { offer: Box<Offer>, used_ms: i64, question: Option<Fetch> },
}

impl Slot {
    fn has(&self, set: SetId) -> bool {
        matches!(self, Self::Pinned { offer, .. } if offer.set == set)
    }
}

impl Sender {
    /// A sender without transfers that sends so many bytes per second.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let burst_bytes = u64::from(limits::TRANSFER_PIECE_BYTES_MAX);
        let bucket = TokenBucket::new(bytes_per_second, burst_bytes);
        Self { slots: BTreeMap::new(), waiting: VecDeque::new(), bucket }
    }

    /// Number of sets that are pinned or about to be.
    #[must_use]
    pub fn transfers(&self) -> usize {
        self.slots.len()
    }

    /// Begins a transfer: the leader's log lacks what the replica needs, or the replica asks.
    pub fn want(&mut self, route: Route, now_ms: i64) -> Vec<Task> {
        let has_room = self.slots.len() < limits::TRANSFERS_MAX;
        match self.slots.get_mut(&route) {
            Some(Slot::Pinning) => Vec::new(),
            Some(Slot::Pinned { offer, used_ms, .. }) => {
                // The answer to an earlier question was lost, or the receiver has restarted.
                *used_ms = now_ms;
                vec![Task::Send(route.message(Body::Offer((**offer).clone())))]
            }
            None if has_room => {
                self.waiting.retain(|waiting| *waiting != route);
                self.slots.insert(route, Slot::Pinning);
                vec![Task::Pin(route)]
            }
            None => {
                let is_new = !self.waiting.contains(&route);
                if is_new && self.waiting.len() < limits::TRANSFERS_WAITING_MAX {
                    self.waiting.push_back(route);
                }
                vec![Task::Send(route.message(Body::Wait))]
            }
        }
    }

    /// Takes the result of [`Task::Pin`].
    pub fn pinned(&mut self, route: Route, pinning: Pinning, now_ms: i64) -> Vec<Task> {
        match pinning {
            Pinning::Done(offer) => {
                let message = route.message(Body::Offer(offer.clone()));
                let offer = Box::new(offer);
                let slot = Slot::Pinned { offer, used_ms: now_ms, question: None };
                self.slots.insert(route, slot);
                vec![Task::Send(message)]
            }
            // The next tick tries again.
            Pinning::Later => Vec::new(),
            Pinning::Failed => {
                self.slots.remove(&route);
                let mut tasks = vec![Task::Send(route.message(Body::Wait))];
                tasks.extend(self.admit());
                tasks
            }
        }
    }

    /// Takes a message of a receiver.
    pub fn handle(&mut self, message: &Message, now_ms: i64) -> Vec<Task> {
        let route = Route { shard: message.shard, from: message.to, to: message.from };
        match &message.body {
            Body::Want => self.want(route, now_ms),
            Body::Fetch(fetch) => match self.slots.get_mut(&route) {
                Some(Slot::Pinned { offer, used_ms, question }) if offer.set == fetch.set => {
                    *used_ms = now_ms;
                    *question = Some(*fetch);
                    self.answer(route, now_ms)
                }
                Some(_) | None => {
                    vec![Task::Send(route.message(Body::Expired { set: fetch.set }))]
                }
            },
            Body::Stop { set, .. } if self.slots.get(&route).is_some_and(|slot| slot.has(*set)) => {
                self.release(route)
            }
            Body::Stop { .. } => {
                self.waiting.retain(|waiting| *waiting != route);
                Vec::new()
            }
            Body::Offer(_) | Body::Wait | Body::Piece { .. } | Body::Expired { .. } => Vec::new(),
        }
    }

    /// Reports that a set is no longer kept.
    pub fn expired(&mut self, route: Route, set: SetId) -> Vec<Task> {
        let mut tasks = vec![Task::Send(route.message(Body::Expired { set }))];
        if self.slots.get(&route).is_some_and(|slot| slot.has(set)) {
            tasks.extend(self.release(route));
        }
        tasks
    }

    /// Ends all transfers from a replica that no longer exists.
    pub fn end(&mut self, shard: ShardId, from: u64) -> Vec<Task> {
        let is_of = |route: &Route| (route.shard, route.from) == (shard, from);
        self.waiting.retain(|route| !is_of(route));
        let routes: Vec<Route> = self.slots.keys().filter(|route| is_of(route)).copied().collect();
        let mut tasks = Vec::new();
        for route in routes {
            match self.slots.get(&route) {
                Some(Slot::Pinned { offer, .. }) => {
                    let set = offer.set;
                    tasks.extend(self.expired(route, set));
                }
                Some(Slot::Pinning) => tasks.extend(self.release(route)),
                None => {}
            }
        }
        tasks
    }

    /// Does what has become due.
    pub fn tick(&mut self, now_ms: i64) -> Vec<Task> {
        let mut tasks = Vec::new();
        let routes: Vec<Route> = self.slots.keys().copied().collect();
        for route in routes {
            match self.slots.get(&route) {
                Some(Slot::Pinning) => tasks.push(Task::Pin(route)),
                Some(Slot::Pinned { used_ms, .. })
                    if now_ms.saturating_sub(*used_ms) >= limits::TRANSFER_IDLE_MS =>
                {
                    tasks.extend(self.release(route));
                }
                Some(Slot::Pinned { .. }) => tasks.extend(self.answer(route, now_ms)),
                None => {}
            }
        }
        tasks
    }

    /// Answers the question of a receiver if the rate allows it.
    fn answer(&mut self, route: Route, now_ms: i64) -> Vec<Task> {
        let Some(Slot::Pinned { question, .. }) = self.slots.get_mut(&route) else {
            return Vec::new();
        };
        let may = question.filter(|of| self.bucket.take(u64::from(of.length_bytes), now_ms));
        if may.is_some() {
            *question = None;
        }
        may.map(|of| Task::Read(route, of)).into_iter().collect()
    }

    fn release(&mut self, route: Route) -> Vec<Task> {
        self.slots.remove(&route);
        let mut tasks = vec![Task::Unpin(route)];
        tasks.extend(self.admit());
        tasks
    }

    /// Begins the next transfer that waits.
    fn admit(&mut self) -> Option<Task> {
        let route = self.waiting.pop_front()?;
        self.slots.insert(route, Slot::Pinning);
        Some(Task::Pin(route))
    }
}

#[cfg(test)]
impl Sender {
    /// Empties the token bucket.
    pub(super) fn drain(&mut self) {
        while self.bucket.take(1 << 10, 0) {}
    }
}

#[cfg(test)]
mod tests;
