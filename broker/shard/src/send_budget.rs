//! The bound on the entries that a broker has on their way to other brokers, over all its shards.
//!
//! Raft bounds what is on its way from one shard to one follower. A broker that leads many shards
//! could still have the sum of all in memory for a broker that takes nothing. So a message with
//! entries takes its bytes from this budget before it is sent, and the transport returns them when
//! it no longer holds the message, because it was delivered or is lost.
//!
//! # Use
//!
//! The host of the drivers passes the messages of a shard through [`SendBudget::admit`]. It sends
//! what is admitted, and reports what is held to the shard with [`Event::Held`]. Whenever it has
//! returned bytes, it calls [`SendBudget::next_turn`] until there is none, passes
//! [`Event::Sendable`] to the shard of each turn, carries out the actions, and ends the turn.
//!
//! # Invariants
//!
//! - **R1** the bytes on their way never exceed the limits, except by a single message to each
//!   broker to which nothing else is on its way. So brokers that take nothing hold up no other.
//! - While a shard waits for a broker, no other shard sends entries to it outside its turn. Turns
//!   for a broker come in the order in which the shards began to wait, and a turn has room for the
//!   message that waited. So no shard and no message waits for ever at a broker that takes
//!   messages.

use std::collections::{BTreeMap, VecDeque};

#[cfg(doc)]
use crate::driver::Event;
use crate::id::{BrokerId, ShardId};
use crate::limits;
use crate::message::{Body, Message};

/// The limits of a [`SendBudget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendLimits {
    /// Most bytes on their way to one broker.
    pub peer_bytes: u64,
    /// Most bytes on their way to all brokers together.
    pub node_bytes: u64,
}

impl Default for SendLimits {
    fn default() -> Self {
        Self {
            peer_bytes: limits::PEER_BYTES_INFLIGHT_MAX,
            node_bytes: limits::NODE_BYTES_INFLIGHT_MAX,
        }
    }
}

/// What a broker has on its way to others.
#[derive(Debug, Default)]
pub struct SendBudget {
    limits: SendLimits,
    /// Bytes on their way to all brokers, with those that are reserved for turns.
    bytes: u64,
    peers: BTreeMap<BrokerId, Peer>,
    next_place: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// Bytes on their way, with those that are reserved for turns.
    bytes: u64,
    /// Shards that could not send, the first to wait first.
    waiting: VecDeque<Waiting>,
    /// What is left of the bytes that are reserved for the turn of a shard.
    turns: BTreeMap<ShardId, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// The place in the order of all that wait.
    place: u64,
    shard: ShardId,
    bytes: u64,
}

/// The messages of one shard that may be sent now, and those that may not.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Messages to send, in order.
    pub messages: Vec<Message>,
    /// The replicas to which messages were not sent, with the first entry in them.
    pub held: BTreeMap<u64, u64>,
}

/// The turn of a shard to send entries to a broker.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the turn has to be ended"]
pub struct Turn {
    /// The broker that receives the entries.
    pub peer: BrokerId,
    /// The shard that sends them.
    pub shard: ShardId,
}

impl SendBudget {
    /// A budget with these limits, of which nothing is used.
    #[must_use]
    pub fn new(limits: SendLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the bytes of the messages of a shard. `broker_of` returns the broker of a replica;
    /// messages to a replica whose broker is not known are admitted without a bound, because no
    /// transport holds them.
    pub fn admit(
        &mut self,
        shard: ShardId,
        messages: Vec<Message>,
        broker_of: impl Fn(u64) -> Option<BrokerId>,
    ) -> Admitted {
        let mut admitted = Admitted::default();
        for message in messages {
            let is_append = matches!(message.body, Body::Append { .. });
            if is_append && admitted.held.contains_key(&message.to) {
                continue;
            }
            let bytes = message.payload_bytes() as u64;
            let peer = broker_of(message.to).filter(|_| bytes > 0);
            match (message.entries().first(), peer) {
                (Some(first), Some(peer)) if !self.take(peer, shard, bytes) => {
                    admitted.held.insert(message.to, first.index);
                }
                _ => admitted.messages.push(message),
            }
        }
        admitted
    }

    /// Takes bytes for a message of a shard to a broker. Returns whether it may be sent; otherwise
    /// the shard waits for its turn.
    pub fn take(&mut self, peer: BrokerId, shard: ShardId, bytes: u64) -> bool {
        let found = self.peers.entry(peer).or_default();
        let reserved = found.turns.get(&shard).copied();
        let may_send = reserved.is_some() || found.waiting.is_empty();
        let reserved = reserved.unwrap_or(0);
        if !may_send || !self.has_room(peer, bytes, reserved) {
            self.wait(peer, shard, bytes);
            return false;
        }
        self.add(peer, bytes.saturating_sub(reserved));
        if let Some(reserved) = self.peers.get_mut(&peer).and_then(|p| p.turns.get_mut(&shard)) {
            *reserved = reserved.saturating_sub(bytes);
        }
        true
    }

    /// Returns the bytes of a message to a broker that was delivered or is lost.
    pub fn give_back(&mut self, peer: BrokerId, bytes: u64) {
        if let Some(found) = self.peers.get_mut(&peer) {
            found.bytes = found.bytes.checked_sub(bytes).expect("bytes that were taken");
            self.bytes = self.bytes.checked_sub(bytes).expect("the sum of all brokers");
        }
    }

    /// The next turn, if a shard waits and there is room for its message.
    pub fn next_turn(&mut self) -> Option<Turn> {
        let heads = self.peers.iter().filter_map(|(peer, found)| {
            let head = found.waiting.front()?;
            // A shard that waits again in its turn has another one after it.
            let has_turn = found.turns.contains_key(&head.shard);
            (!has_turn && self.has_room(*peer, head.bytes, 0)).then_some((*peer, *head))
        });
        let (peer, Waiting { shard, bytes, .. }) = heads.min_by_key(|(_, head)| head.place)?;
        self.add(peer, bytes);
        let found = self.peers.get_mut(&peer).expect("a shard waits for it");
        found.waiting.pop_front();
        found.turns.insert(shard, bytes);
        Some(Turn { peer, shard })
    }

    /// Ends a turn. What the shard did not use of the room is free for others.
    pub fn end_turn(&mut self, turn: Turn) {
        let Turn { peer, shard } = turn;
        let unused = self.peers.get_mut(&peer).and_then(|found| found.turns.remove(&shard));
        self.give_back(peer, unused.unwrap_or(0));
    }

    /// Whether any shard waits.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.peers.values().any(|peer| !peer.waiting.is_empty())
    }

    /// Bytes on their way to a broker, with those that are reserved for turns.
    #[must_use]
    pub fn bytes_to(&self, peer: BrokerId) -> u64 {
        self.peers.get(&peer).map_or(0, |found| found.bytes)
    }

    /// Bytes on their way to all brokers, with those that are reserved for turns.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is room for a message of `bytes`, of which `reserved` are reserved already.
    fn has_room(&self, peer: BrokerId, bytes: u64, reserved: u64) -> bool {
        let used = self.bytes_to(peer) - reserved;
        let fits = used + bytes <= self.limits.peer_bytes
            && self.bytes - reserved + bytes <= self.limits.node_bytes;
        bytes <= reserved || fits || used == 0
    }

    fn add(&mut self, peer: BrokerId, bytes: u64) {
        self.peers.entry(peer).or_default().bytes += bytes;
        self.bytes += bytes;
    }

    fn wait(&mut self, peer: BrokerId, shard: ShardId, bytes: u64) {
        let waiting = &mut self.peers.entry(peer).or_default().waiting;
        if waiting.iter().all(|found| found.shard != shard) {
            waiting.push_back(Waiting { place: self.next_place, shard, bytes });
            self.next_place += 1;
        }
    }
}

#[cfg(test)]
mod tests;
