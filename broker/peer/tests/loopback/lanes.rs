//! What the lanes promise: order, bounds, and that one does not hold up another.

use bytes::Bytes;
use ropewalk_peer::{Lane, RequestError, Sent, limits};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, ShardId};

use crate::authority::Authority;
use crate::broker::{Broker, Seen, append, decoded, pair, until, vote};

#[test]
fn messages_of_one_shard_arrive_in_order() {
    let (one, two) = pair(&Authority::new());
    let count = 2000;
    for term in 0..count {
        one.send(&two, 3, &append(term, 100));
    }
    for term in 0..count {
        assert_eq!(decoded(two.message()).term, term);
    }
    let (sent, received) = (one.figures(2), two.figures(1));
    let (sent, received) = (sent.lane(Lane::Append), received.lane(Lane::Append));
    assert_eq!((sent.sent_frames, sent.queued_bytes), (count, 0));
    assert_eq!((received.received_frames, received.received_bytes), (count, sent.sent_bytes));
}

#[test]
fn control_messages_arrive_in_order_with_their_shard_and_sender() {
    let (one, two) = pair(&Authority::new());
    for term in 0..500 {
        one.send(&two, 7, &vote(term));
    }
    let mut term = 0;
    while term < 500 {
        if let Seen::Control(from, shard, message) = two.next() {
            assert_eq!((from, shard), (BrokerId(1), ShardId(7)));
            assert_eq!(decoded(message), vote(term));
            term += 1;
        }
    }
}

#[test]
fn the_largest_entry_arrives() {
    let (one, two) = pair(&Authority::new());
    let message = append(1, ropewalk_shard::limits::ENTRY_BYTES_HARD_MAX);
    one.send(&two, 1, &message);
    assert_eq!(decoded(two.message()), message);
}

#[test]
fn a_shard_that_takes_nothing_holds_up_no_other() {
    let (one, two) = pair(&Authority::new());
    two.recorder.stuck.lock().expect("it works in a test").insert(ShardId(1));
    for _ in 0..4 {
        one.send(&two, 1, &append(1, 1 << 20));
    }
    for term in 0..100 {
        one.send(&two, 2, &append(term, 100));
    }
    for term in 0..100 {
        assert_eq!(decoded(two.message()).term, term);
    }
    until("the messages of the first are dropped", || {
        two.figures(1).lane(Lane::Append).dropped == 4
    });
    two.recorder.stuck.lock().expect("it works in a test").clear();
    one.send(&two, 1, &append(77, 100));
    assert_eq!(decoded(two.message()).term, 77, "its lane continues");
}

#[test]
fn r1_a_full_append_lane_takes_no_more_and_recovers() {
    let (one, two) = pair(&Authority::new());
    two.recorder.stuck.lock().expect("it works in a test").insert(ShardId(1));
    let message = append(1, 1 << 20);
    let mut taken = 0;
    let refused = loop {
        match one.try_send(BrokerId(2), 1, &message) {
            Sent::Taken => taken += 1,
            refused @ (Sent::Full | Sent::NotConnected) => break refused,
        }
    };
    assert_eq!(refused, Sent::Full);
    assert!(taken >= 7, "{taken} messages were taken");
    let figures = one.figures(2);
    let lane = figures.lane(Lane::Append);
    assert!(lane.queued_bytes <= limits::APPEND_SHARD_BYTES_MAX, "{lane:?}");
    assert_eq!(lane.not_taken, 1);
    assert_eq!(one.try_send(BrokerId(2), 2, &message), Sent::Taken, "another shard has space");
    two.recorder.stuck.lock().expect("it works in a test").clear();
    until("the queue is empty", || one.figures(2).lane(Lane::Append).queued_bytes == 0);
    assert_eq!(one.try_send(BrokerId(2), 1, &message), Sent::Taken);
}

fn heartbeat(term: u64, context: &'static [u8]) -> Message {
    let body = Body::Heartbeat { commit: 1, context: Bytes::from_static(context) };
    Message { from: 1, to: 2, term, body }
}

/// The next heartbeats, with their shards.
fn heartbeats(broker: &Broker, count: usize) -> Vec<(u32, u64)> {
    let mut all = Vec::new();
    while all.len() < count {
        if let Seen::Control(_, shard, message) = broker.next() {
            all.push((shard.0, decoded(message).term));
        }
    }
    all
}

#[test]
fn heartbeats_of_all_shards_are_one_frame_in_each_tick() {
    let (one, two) = pair(&Authority::new());
    for tick in 1..=3 {
        for shard in 0..100 {
            assert_eq!(one.try_send(two.id, shard, &heartbeat(tick, b"")), Sent::Taken);
            let answer = Message {
                body: Body::HeartbeatResponse { commit: 1, context: Bytes::new(), is_full: false },
                ..heartbeat(tick, b"")
            };
            assert_eq!(one.try_send(two.id, shard, &answer), Sent::Taken);
        }
        one.peers.flush_heartbeats();
        let expected: Vec<_> = (0..100).flat_map(|shard| [(shard, tick); 2]).collect();
        assert_eq!(heartbeats(&two, 200), expected);
        assert_eq!(two.figures(1).lane(Lane::Control).received_frames, tick);
    }
    until("the frames are counted", || one.figures(2).lane(Lane::Control).sent_frames == 3);
}

#[test]
fn a_heartbeat_of_a_read_does_not_wait_for_the_tick() {
    let (one, two) = pair(&Authority::new());
    let _ = one.try_send(two.id, 1, &heartbeat(1, b""));
    let _ = one.try_send(two.id, 2, &heartbeat(2, b"read"));
    assert_eq!(heartbeats(&two, 2), [(1, 1), (2, 2)]);
}

#[test]
fn requests_are_answered() {
    let (one, two) = pair(&Authority::new());
    for (from, to) in [(&one, &two), (&two, &one)] {
        for request in [Bytes::new(), Bytes::from_static(b"piece"), Bytes::from(vec![3; 1 << 20])] {
            assert_eq!(from.ask(to, request.clone()), Ok(request));
        }
    }
    let largest = Bytes::from(vec![3; limits::BULK_FRAME_BYTES_MAX]);
    assert_eq!(one.ask(&two, largest.clone()), Ok(largest));
    assert_eq!(one.ask(&two, "refuse"), Err(RequestError::Refused));
}

#[test]
fn a_larger_request_than_the_lane_allows_is_not_taken() {
    let (one, two) = pair(&Authority::new());
    let too_large = Bytes::from(vec![0; limits::BULK_FRAME_BYTES_MAX + 1]);
    assert_eq!(one.peers.request(two.id, too_large).expect_err("too large"), Sent::Full);
}

#[test]
fn r1_requests_that_wait_fill_the_bulk_lane_until_they_are_given_up() {
    let (one, two) = pair(&Authority::new());
    let wait = || one.peers.request(two.id, Bytes::from_static(b"wait"));
    let mut waiting = Vec::new();
    let full = loop {
        match wait() {
            Ok(reply) => waiting.push(reply),
            Err(refused) => break refused,
        }
    };
    assert_eq!(full, Sent::Full);
    assert_eq!(waiting.len(), limits::BULK_BYTES_MAX / (limits::BULK_FRAME_BYTES_MAX + 4));
    waiting.truncate(1);
    until("there is space again", || {
        one.figures(2).lane(Lane::Bulk).queued_bytes < 2 * limits::BULK_FRAME_BYTES_MAX
    });
    assert_eq!(one.ask(&two, "next"), Ok(Bytes::from_static(b"next")));
}

#[test]
fn a_request_ends_with_its_connection() {
    let (one, two) = pair(&Authority::new());
    let reply = one.peers.request(two.id, Bytes::from_static(b"wait")).expect("it works in a test");
    two.peers.stop();
    assert_eq!(one.runtime.block_on(reply), Err(RequestError::Disconnected));
}
