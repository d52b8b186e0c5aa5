//! The decisions of a sender: limits, the queue, and when a set ends.

use proptest::prelude::*;
use ropewalk_shard::engine::{EntryId, Members};

use super::super::message::{Item, StopReason};
use super::*;

const RATE: u64 = 10 << 20;
const PIECE: u32 = limits::TRANSFER_PIECE_BYTES_MAX;

fn route(to: u64) -> Route {
    Route { shard: ShardId(1), from: 1, to }
}

fn set(number: u64) -> SetId {
    SetId { replica: 1, number }
}

fn offer(number: u64) -> Offer {
    let last = EntryId { index: 5, term: 1 };
    let members = Members::lone(1);
    Offer { set: set(number), last, members, list_bytes: 10, list_sum: 0, files_bytes: 10 }
}

/// A message of the receiver of the route.
fn from(route: Route, body: Body) -> Message {
    Message { shard: route.shard, from: route.to, to: route.from, body }
}

fn fetch(number: u64) -> Body {
    Body::Fetch(Fetch {
        set: set(number),
        item: Item::File(0),
        position_bytes: 0,
        length_bytes: PIECE,
    })
}

fn begun(sender: &mut Sender, to: u64, now_ms: i64) {
    assert_eq!(sender.want(route(to), now_ms), [Task::Pin(route(to))]);
    sender.pinned(route(to), Pinning::Done(offer(to)), now_ms);
}

#[test]
fn r1_two_are_sent_and_the_third_waits_for_its_turn() {
    let mut sender = Sender::new(RATE);
    begun(&mut sender, 2, 0);
    begun(&mut sender, 3, 0);
    for _ in 0..2 {
        let waits = sender.handle(&from(route(4), Body::Want), 0);
        assert_eq!(waits, [Task::Send(route(4).message(Body::Wait))]);
    }
    sender.want(route(5), 0);
    let stop = Body::Stop { set: set(2), reason: StopReason::Installed };
    let next = sender.handle(&from(route(2), stop), 0);
    assert_eq!(next, [Task::Unpin(route(2)), Task::Pin(route(4))]);
    assert_eq!(sender.transfers(), limits::TRANSFERS_MAX);
    let failed = sender.pinned(route(4), Pinning::Failed, 0);
    assert_eq!(failed, [Task::Send(route(4).message(Body::Wait)), Task::Pin(route(5))]);
}

#[test]
fn a_full_receiver_gives_its_place_to_another() {
    let mut sender = Sender::new(RATE);
    begun(&mut sender, 2, 0);
    begun(&mut sender, 3, 0);
    sender.want(route(4), 0);
    let stop = Body::Stop { set: set(3), reason: StopReason::Full };
    let next = sender.handle(&from(route(3), stop), 0);
    assert_eq!(next, [Task::Unpin(route(3)), Task::Pin(route(4))]);
    let late = sender.handle(&from(route(3), fetch(3)), 0);
    assert_eq!(late, [Task::Send(route(3).message(Body::Expired { set: set(3) }))]);
}

#[test]
fn a_set_that_nobody_uses_is_released() {
    let mut sender = Sender::new(RATE);
    begun(&mut sender, 2, 0);
    assert_eq!(sender.tick(limits::TRANSFER_IDLE_MS - 1), []);
    let offered = sender.handle(&from(route(2), Body::Want), limits::TRANSFER_IDLE_MS - 1);
    assert_eq!(offered, [Task::Send(route(2).message(Body::Offer(offer(2))))]);
    assert_eq!(sender.tick(limits::TRANSFER_IDLE_MS), []);
    assert_eq!(sender.tick(2 * limits::TRANSFER_IDLE_MS), [Task::Unpin(route(2))]);
    assert_eq!(sender.transfers(), 0);
}

#[test]
fn a_stop_of_another_set_does_not_end_this_one() {
    let mut sender = Sender::new(RATE);
    begun(&mut sender, 2, 0);
    let stop = Body::Stop { set: set(9), reason: StopReason::Busy };
    assert_eq!(sender.handle(&from(route(2), stop), 0), []);
    assert_eq!(sender.transfers(), 1);
}

#[test]
fn a_pin_that_waits_for_a_compaction_is_tried_again() {
    let mut sender = Sender::new(RATE);
    assert_eq!(sender.want(route(2), 0), [Task::Pin(route(2))]);
    assert_eq!(sender.pinned(route(2), Pinning::Later, 0), []);
    assert_eq!(sender.tick(1), [Task::Pin(route(2))]);
}

proptest! {
    /// Two receivers that ask again and again never get more than the rate.
    #[test]
    fn r1_the_rate_holds_for_all_transfers_together(
        asks in proptest::collection::vec((2..4_u64, 0..100_i64), 1..300),
    ) {
        let mut sender = Sender::new(RATE);
        begun(&mut sender, 2, 0);
        begun(&mut sender, 3, 0);
        let (mut now_ms, mut sent) = (0, 0);
        for (to, wait_ms) in asks {
            now_ms += wait_ms;
            let mut tasks = sender.tick(now_ms);
            tasks.extend(sender.handle(&from(route(to), fetch(to)), now_ms));
            let reads = tasks.iter().filter(|task| matches!(task, Task::Read(..))).count();
            sent += reads as u64 * u64::from(PIECE);
            prop_assert!(sent <= u64::from(PIECE) + RATE * now_ms.unsigned_abs() / 1000);
        }
        let last = sender.tick(now_ms + 1_000);
        prop_assert!(last.iter().all(|task| matches!(task, Task::Read(..))));
    }
}
