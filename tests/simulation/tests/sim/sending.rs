//! Messages between the replicas: what a replica may send, what the network does with it, and when
//! the sender has its bytes back.

use ropewalk_shard::driver::Event;
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::send_budget::{Admitted, SendBudget, SendLimits};
use ropewalk_shard::{BrokerId, HistoryId, ShardId};

use crate::forge;
use crate::node::Node;
use crate::world::{Happening, World};

/// The history of every replica.
const HISTORY: HistoryId = HistoryId(0);
const SHARD: ShardId = ShardId(1);

/// Payloads from this size on are passed by reference.
const LARGE_BYTES: usize = 64 << 10;

/// Each node is a broker with one replica.
fn broker(replica: u64) -> BrokerId {
    BrokerId(i32::try_from(replica).expect("few"))
}

fn replica(broker: BrokerId) -> u64 {
    u64::try_from(broker.0).expect("it was the number of a replica")
}

impl World {
    /// Sets what the replicas may have on their way, before they send any entries.
    pub(crate) fn limit_sends(&mut self, limits: SendLimits) {
        for node in self.nodes.values_mut() {
            node.send_limits = limits;
            if let Some(process) = &mut node.process {
                assert_eq!(process.sends.bytes(), 0);
                process.sends = SendBudget::new(limits);
            }
        }
    }

    /// The messages that a replica may send now. It is informed of the others.
    pub(crate) fn admitted(&mut self, node: u64, messages: Vec<Message>) -> Vec<Message> {
        let at_us = self.at_us;
        let found = self.node(node);
        let Some(process) = &mut found.process else { return messages };
        let Admitted { messages, held } =
            process.sends.admit(SHARD, messages, |replica| Some(broker(replica)));
        for (replica, first) in &held {
            found.event(at_us, Event::Held { replica: *replica, first: *first });
        }
        self.counts.held += held.len();
        messages
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.counts.messages += 1;
        self.counts.digests += usize::from(matches!(message.body, Body::StateDigest { .. }));
        let bytes = message.payload_bytes();
        // Through its encoding, as between brokers, unless copying it would take most of the time.
        let is_small = bytes < LARGE_BYTES;
        let message = if is_small {
            Message::decode(message.encode(HISTORY).to_bytes(), HISTORY)
        } else {
            Ok(message)
        };
        let message = message.expect("what was encoded decodes");
        let (from, to) = (message.from, message.to);
        let sender = self.nodes[&from].incarnation;
        if self.is_lost_in_contest(&message) {
            return self.give_back(sender, from, to, bytes as u64);
        }
        let mut deliveries = self.network.deliveries(from, to, &mut self.dice).into_iter();
        match deliveries.next() {
            Some(delay) => self.fly(delay, message.clone(), Some(sender)),
            None => self.give_back(sender, from, to, bytes as u64),
        }
        for delay in deliveries {
            self.fly(delay, message.clone(), None);
        }
        let forges = |node: &Node| node.forges_until > self.at_us;
        if !self.is_quiet && self.nodes.get(&from).is_some_and(forges) {
            let forged = forge::altered(&message, &mut self.dice);
            for delay in self.network.deliveries(from, to, &mut self.dice) {
                self.fly(delay, forged.clone(), None);
            }
        }
    }

    fn fly(&mut self, delay_us: u64, message: Message, charged: Option<u64>) {
        self.network.departs(message.payload_bytes() as u64);
        self.after(delay_us, Happening::Deliver { message, charged });
    }

    pub(crate) fn deliver(&mut self, mut message: Message, charged: Option<u64>) {
        let (from, to, bytes) = (message.from, message.to, message.payload_bytes() as u64);
        self.alter(&mut message);
        self.network.arrives(bytes);
        if !self.network.is_cut(from, to) {
            self.event(to, Event::Message(message));
        }
        if let Some(incarnation) = charged {
            self.give_back(incarnation, from, to, bytes);
        }
    }

    /// A message is no longer on its way: those that wait for its bytes may get their turn.
    fn give_back(&mut self, incarnation: u64, from: u64, to: u64, bytes: u64) {
        let is_waited_for = self.current(from, incarnation, |node| {
            let sends = &mut node.process.as_mut().expect("it runs").sends;
            sends.give_back(broker(to), bytes);
            sends.is_waited_for()
        });
        if is_waited_for == Some(true) {
            self.after(0, Happening::Turns { node: from, incarnation });
        }
    }

    /// Gives those that wait for bytes their turns.
    pub(crate) fn turns(&mut self, node: u64, incarnation: u64) {
        let next = |node: &mut Node| node.process.as_mut()?.sends.next_turn();
        while let Some(turn) = self.current(node, incarnation, next).flatten() {
            self.event(node, Event::Sendable(replica(turn.peer)));
            self.current(node, incarnation, |node| {
                node.process.as_mut().expect("it runs").sends.end_turn(turn);
            });
        }
    }
}
