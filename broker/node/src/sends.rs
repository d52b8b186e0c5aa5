//! What this broker has on its way to the others, over all its shards: the bound of
//! [`SendBudget`], shared by the drivers and the transport.
//!
//! A driver passes its messages through [`Sends::admit`]. A message with entries comes back with
//! its [`OnItsWay`], which the transport drops when it no longer holds the message. That may give
//! another shard its [`Turn`], which its driver receives and [ends](Sends::end_turn).
//!
//! # Invariants
//!
//! - Every turn ends: a driver that has left gets none, and ends those that it did not take.
//! - The lock is held for calculations only. The transport may hold its own lock when it drops an
//!   [`OnItsWay`]; nothing here calls the transport.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_shard::message::Message;
use ropewalk_shard::send_budget::{Admitted, SendBudget, SendLimits, Turn};
use ropewalk_shard::{BrokerId, ShardId};
use tokio::sync::mpsc;

/// The bytes on their way to all brokers.
#[derive(Debug, Default)]
pub struct Sends(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    budget: SendBudget,
    drivers: BTreeMap<ShardId, mpsc::UnboundedSender<Turn>>,
}

/// A message that is on its way to a broker. Dropping it says that the message was sent or is lost.
pub struct OnItsWay {
    sends: Arc<Sends>,
    peer: BrokerId,
    bytes: u64,
}

impl fmt::Debug for OnItsWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnItsWay")
            .field("peer", &self.peer)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.sends.give_back(self.peer, self.bytes);
    }
}

/// The messages that a shard may send now, in order; those with entries with what they take of the
/// bound. And the replicas to which messages were not sent, with the first entry in them.
pub(crate) type MaySend = (Vec<(Message, Option<OnItsWay>)>, BTreeMap<u64, u64>);

impl Sends {
    /// A bound of which nothing is used.
    #[must_use]
    pub fn new(limits: SendLimits) -> Arc<Self> {
        let budget = SendBudget::new(limits);
        Arc::new(Self(Mutex::new(State { budget, drivers: BTreeMap::new() })))
    }

    /// Bytes on their way to all brokers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.lock().budget.bytes()
    }

    /// Registers the driver of a shard. It receives the turns of the shard until it
    /// [leaves](Self::leave).
    pub(crate) fn enter(&self, shard: ShardId) -> mpsc::UnboundedReceiver<Turn> {
        // Bounded by the number of brokers: a shard has one turn for each at a time.
        let (sender, turns) = mpsc::unbounded_channel();
        self.0.lock().drivers.insert(shard, sender);
        turns
    }

    /// The driver of a shard ends, with the turns that it did not take.
    pub(crate) fn leave(&self, shard: ShardId, turns: &mut mpsc::UnboundedReceiver<Turn>) {
        let mut state = self.0.lock();
        state.drivers.remove(&shard);
        while let Ok(turn) = turns.try_recv() {
            state.budget.end_turn(turn);
        }
        state.give_turns();
    }

    /// The messages of a shard that may be sent now.
    pub(crate) fn admit(
        self: &Arc<Self>,
        shard: ShardId,
        messages: Vec<Message>,
        broker_of: impl Fn(u64) -> Option<BrokerId>,
    ) -> MaySend {
        let Admitted { messages, held } = if messages.iter().any(has_payload) {
            self.0.lock().budget.admit(shard, messages, &broker_of)
        } else {
            Admitted { messages, held: BTreeMap::new() }
        };
        let on_its_way = |message: &Message| {
            let peer = has_payload(message).then(|| broker_of(message.to)).flatten()?;
            let bytes = message.payload_bytes() as u64;
            Some(OnItsWay { sends: Arc::clone(self), peer, bytes })
        };
        let with_bytes = |message: Message| {
            let taken = on_its_way(&message);
            (message, taken)
        };
        (messages.into_iter().map(with_bytes).collect(), held)
    }

    /// Ends a turn that a driver received, after it has sent what it has.
    pub(crate) fn end_turn(&self, turn: Turn) {
        let mut state = self.0.lock();
        state.budget.end_turn(turn);
        state.give_turns();
    }

    fn give_back(&self, peer: BrokerId, bytes: u64) {
        let mut state = self.0.lock();
        state.budget.give_back(peer, bytes);
        state.give_turns();
    }
}

impl State {
    fn give_turns(&mut self) {
        while let Some(turn) = self.budget.next_turn() {
            let unwanted = match self.drivers.get(&turn.shard) {
                Some(driver) => driver.send(turn).err().map(|refused| refused.0),
                None => Some(turn),
            };
            if let Some(turn) = unwanted {
                self.budget.end_turn(turn);
            }
        }
    }
}

fn has_payload(message: &Message) -> bool {
    message.entries().iter().any(|entry| !entry.data.is_empty())
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::Payload;
    use ropewalk_shard::engine::{Entry, EntryId, EntryKind};
    use ropewalk_shard::message::Body;

    use super::*;

    const LIMITS: SendLimits = SendLimits { peer_bytes: 100, node_bytes: 150 };

    fn broker_of(replica: u64) -> Option<BrokerId> {
        (replica < 10).then(|| BrokerId(i32::try_from(replica).expect("small")))
    }

    /// An append of one entry with so many bytes.
    fn append(to: u64, index: u64, bytes: usize) -> Message {
        let data = Payload::from(bytes::Bytes::from(vec![0; bytes]));
        let entry = Entry { index, term: 1, kind: EntryKind::Normal, data };
        let previous = EntryId { index: index - 1, term: 1 };
        let body = Body::Append { previous, commit: 0, entries: vec![entry] };
        Message { from: 1, to, term: 1, body }
    }

    fn admit(sends: &Arc<Sends>, shard: u32, messages: Vec<Message>) -> MaySend {
        sends.admit(ShardId(shard), messages, broker_of)
    }

    #[test]
    fn r1_what_is_over_the_bound_is_sent_when_the_transport_has_room() {
        let sends = Sends::new(LIMITS);
        let mut turns = sends.enter(ShardId(1));
        let (first, held) = admit(&sends, 1, vec![append(2, 5, 90), append(2, 6, 20)]);
        assert_eq!((first.len(), sends.bytes()), (1, 90));
        assert_eq!(held, BTreeMap::from([(2, 6)]));
        assert!(turns.try_recv().is_err(), "nothing was returned");
        drop(first);
        let turn = turns.try_recv().expect("there is room now");
        assert_eq!((turn.peer, turn.shard), (BrokerId(2), ShardId(1)));
        let (second, held) = admit(&sends, 1, vec![append(2, 6, 20)]);
        sends.end_turn(turn);
        assert!(held.is_empty());
        assert_eq!((second.len(), sends.bytes()), (1, 20));
        drop(second);
        assert_eq!(sends.bytes(), 0);
    }

    #[test]
    fn r1_the_sum_of_all_brokers_is_bounded() {
        let sends = Sends::new(LIMITS);
        let (first, held) = admit(&sends, 1, vec![append(2, 5, 90), append(3, 5, 70)]);
        assert!(held.is_empty(), "nothing else is on its way to broker 3");
        let (none, held) = admit(&sends, 2, vec![append(2, 5, 5), append(3, 5, 5)]);
        assert!(none.is_empty());
        assert_eq!(held, BTreeMap::from([(2, 5), (3, 5)]));
        assert_eq!(sends.bytes(), 160);
        drop(first);
    }

    #[test]
    fn a_turn_of_a_driver_that_has_left_ends_and_the_next_one_begins() {
        let sends = Sends::new(LIMITS);
        let mut turns: Vec<_> = (1..=3).map(|shard| sends.enter(ShardId(shard))).collect();
        let (first, _) = admit(&sends, 1, vec![append(2, 5, 100)]);
        for shard in 2..=3 {
            assert_eq!(admit(&sends, shard, vec![append(2, 5, 100)]).1.len(), 1);
        }
        drop(first);
        assert!(turns[2].try_recv().is_err(), "shard 2 is first");
        // It has not taken its turn when it leaves.
        sends.leave(ShardId(2), &mut turns[1]);
        let turn = turns[2].try_recv().expect("the turn of shard 3");
        // One that has left does not wait any more.
        assert_eq!(admit(&sends, 2, vec![append(2, 5, 100)]).1.len(), 1);
        sends.end_turn(turn);
        assert_eq!(sends.bytes(), 0);
    }

    #[test]
    fn messages_without_entries_or_a_known_broker_take_nothing() {
        let sends = Sends::new(LIMITS);
        let empty = append(2, 5, 0);
        let (sent, held) = admit(&sends, 1, vec![append(99, 5, 1000), empty, append(99, 6, 1000)]);
        assert!(held.is_empty());
        assert!(sent.len() == 3 && sent.iter().all(|(_, on_its_way)| on_its_way.is_none()));
        assert_eq!(sends.bytes(), 0);
    }
}
