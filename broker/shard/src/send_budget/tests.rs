//! Random use of the budget against a model, and its turns.

use std::ops::Range;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::engine::{Entry, EntryId, EntryKind};

const LIMITS: SendLimits = SendLimits { peer_bytes: 100, node_bytes: 150 };

const PEERS: Range<i32> = 0..3;

#[derive(Debug, Clone)]
enum Step {
    Take { peer: i32, shard: u32, bytes: u64 },
    GiveBack(Index),
    NextTurn,
    EndTurn(Index),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (PEERS, 0..5_u32, 1..=100_u64)
            .prop_map(|(peer, shard, bytes)| Step::Take { peer, shard, bytes }),
        3 => any::<Index>().prop_map(Step::GiveBack),
        2 => Just(Step::NextTurn),
        2 => any::<Index>().prop_map(Step::EndTurn),
    ]
}

/// What is on its way, and who waits in which order.
#[derive(Default)]
struct Model {
    flying: Vec<(BrokerId, u64)>,
    turns: Vec<Turn>,
    waiting: Vec<(BrokerId, ShardId)>,
}

impl Model {
    fn step(&mut self, budget: &mut SendBudget, step: &Step) {
        match step {
            Step::Take { peer, shard, bytes } => {
                self.take(budget, BrokerId(*peer), ShardId(*shard), *bytes);
            }
            Step::GiveBack(index) if !self.flying.is_empty() => {
                let (peer, bytes) = self.flying.swap_remove(index.index(self.flying.len()));
                budget.give_back(peer, bytes);
            }
            Step::EndTurn(index) if !self.turns.is_empty() => {
                let turn = self.turns.swap_remove(index.index(self.turns.len()));
                budget.end_turn(turn);
            }
            Step::NextTurn => {
                self.next_turn(budget);
            }
            Step::GiveBack(_) | Step::EndTurn(_) => {}
        }
        self.check(budget);
    }

    fn take(&mut self, budget: &mut SendBudget, peer: BrokerId, shard: ShardId, bytes: u64) {
        let has_turn = self.turns.contains(&Turn { peer, shard });
        let is_waited_for = self.waiting.iter().any(|(of, _)| *of == peer);
        let is_alone = budget.bytes_to(peer) == 0;
        if budget.take(peer, shard, bytes) {
            assert!(has_turn || !is_waited_for, "it overtakes a shard that waits");
            assert!(has_turn || is_alone || budget.bytes() <= LIMITS.node_bytes);
            self.flying.push((peer, bytes));
        } else if !self.waiting.contains(&(peer, shard)) {
            self.waiting.push((peer, shard));
        }
    }

    /// Begins a turn; returns whether there was one.
    fn next_turn(&mut self, budget: &mut SendBudget) -> bool {
        let alone: Vec<_> = PEERS.filter(|peer| budget.bytes_to(BrokerId(*peer)) == 0).collect();
        let Some(turn) = budget.next_turn() else { return false };
        assert!(alone.contains(&turn.peer.0) || budget.bytes() <= LIMITS.node_bytes);
        let at = self.waiting.iter().position(|(peer, _)| *peer == turn.peer);
        let first = self.waiting.remove(at.expect("it waits"));
        assert_eq!(first, (turn.peer, turn.shard), "turns are in order");
        self.turns.push(turn);
        true
    }

    fn check(&self, budget: &SendBudget) {
        let flying: u64 = self.flying.iter().map(|(_, bytes)| bytes).sum();
        assert!(flying <= budget.bytes());
        assert_eq!(budget.is_waited_for(), !self.waiting.is_empty());
        let mut sum = 0;
        for peer in PEERS.map(BrokerId) {
            let to_peer = self.flying.iter().filter(|(of, _)| *of == peer);
            let to_peer: u64 = to_peer.map(|(_, bytes)| bytes).sum();
            let used = budget.bytes_to(peer);
            assert!(to_peer <= used && used <= LIMITS.peer_bytes, "{to_peer} of {used}");
            if self.turns.iter().all(|turn| turn.peer != peer) {
                assert_eq!(to_peer, used, "nothing is reserved");
            }
            sum += used;
        }
        assert_eq!(sum, budget.bytes());
    }
}

proptest! {
    #[test]
    fn r1_the_bytes_on_their_way_stay_within_the_limits_and_turns_come_in_order(
        steps in vec(any_step(), 0..200),
    ) {
        let (mut budget, mut model) = (SendBudget::new(LIMITS), Model::default());
        for step in &steps {
            model.step(&mut budget, step);
        }
        // Everything arrives: each shard that waits gets its turn, and uses it.
        let flying = std::mem::take(&mut model.flying);
        flying.into_iter().for_each(|(peer, bytes)| budget.give_back(peer, bytes));
        while let Some(turn) = model.turns.pop() {
            budget.end_turn(turn);
        }
        while model.next_turn(&mut budget) {
            let turn = model.turns.pop().expect("it has begun");
            budget.end_turn(turn);
        }
        prop_assert_eq!((budget.bytes(), budget.is_waited_for()), (0, false));
        prop_assert!(model.waiting.is_empty());
    }
}

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);

fn shard(number: u32) -> ShardId {
    ShardId(number)
}

#[test]
fn a_large_message_gets_its_turn_although_others_would_fit() {
    let mut budget = SendBudget::new(LIMITS);
    assert!(budget.take(ONE, shard(1), 60));
    assert!(!budget.take(ONE, shard(2), 90), "it waits");
    assert!(!budget.take(ONE, shard(3), 10), "it would fit, and is behind");
    assert!(budget.take(TWO, shard(3), 10), "another broker is not concerned");
    assert_eq!(budget.next_turn(), None);
    budget.give_back(ONE, 60);
    let turn = budget.next_turn().expect("there is room");
    assert_eq!(turn, Turn { peer: ONE, shard: shard(2) });
    assert!(!budget.take(ONE, shard(3), 10), "the room is reserved");
    assert!(budget.take(ONE, shard(2), 90));
    budget.end_turn(turn);
    let turn = budget.next_turn().expect("10 bytes are left");
    assert_eq!(turn.shard, shard(3));
    budget.end_turn(turn);
    assert_eq!((budget.bytes_to(ONE), budget.bytes()), (90, 100));
}

#[test]
fn brokers_that_take_nothing_leave_one_message_at_a_time_to_another() {
    const THREE: BrokerId = BrokerId(3);
    let mut budget = SendBudget::new(LIMITS);
    assert!(budget.take(ONE, shard(1), 100));
    assert!(budget.take(TWO, shard(1), 50));
    for _ in 0..3 {
        assert!(budget.take(THREE, shard(1), 90), "nothing is on its way there");
        assert!(!budget.take(THREE, shard(2), 10), "the sum is used up");
        budget.give_back(THREE, 90);
        let turn = budget.next_turn().expect("nothing is on its way there");
        assert_eq!((turn.peer, turn.shard), (THREE, shard(2)));
        assert!(budget.take(THREE, shard(2), 10));
        budget.end_turn(turn);
        budget.give_back(THREE, 10);
    }
}

#[test]
fn a_broker_that_takes_nothing_leaves_room_for_another() {
    let mut budget = SendBudget::new(LIMITS);
    assert!(budget.take(ONE, shard(1), 100));
    for number in 1..5 {
        assert!(!budget.take(ONE, shard(number), 1));
    }
    for _ in 0..10 {
        assert!(budget.take(TWO, shard(1), 50));
        budget.give_back(TWO, 50);
    }
    assert_eq!(budget.next_turn(), None, "all of them wait for the first");
}

#[test]
fn the_only_message_may_have_any_size() {
    let mut budget = SendBudget::new(LIMITS);
    assert!(budget.take(ONE, shard(1), 1000));
    assert!(!budget.take(ONE, shard(1), 1));
    assert_eq!(budget.next_turn(), None);
    budget.give_back(ONE, 1000);
    let turn = budget.next_turn().expect("nothing is on its way");
    assert!(budget.take(ONE, shard(1), 1000), "also in a turn");
    budget.end_turn(turn);
}

#[test]
fn what_is_behind_a_held_message_is_held_and_the_rest_is_sent() {
    let entry = |index| {
        let data = Bytes::from(vec![0; 60]).into();
        Entry { index, term: 1, kind: EntryKind::Normal, data }
    };
    let append = |to, previous, entries| {
        let previous = EntryId { index: previous, term: 1 };
        Message { from: 1, to, term: 1, body: Body::Append { previous, commit: 1, entries } }
    };
    let context = Bytes::new();
    let heartbeat =
        Message { from: 1, to: 2, term: 1, body: Body::Heartbeat { commit: 1, context } };
    let messages = vec![
        append(2, 4, vec![entry(5)]),
        append(2, 5, vec![entry(6)]),
        append(2, 6, vec![entry(7)]),
        append(2, 7, Vec::new()),
        heartbeat.clone(),
        append(3, 4, vec![entry(5)]),
    ];
    let mut budget = SendBudget::new(LIMITS);
    let broker = |replica| BrokerId(i32::try_from(replica).expect("small"));
    let Admitted { messages, held } =
        budget.admit(shard(1), messages, |replica| Some(broker(replica)));
    assert_eq!(messages, [append(2, 4, vec![entry(5)]), heartbeat, append(3, 4, vec![entry(5)])]);
    assert_eq!(held, BTreeMap::from([(2, 6)]));
}
