//! Saturated lanes do not hold up control messages.

use std::collections::VecDeque;

use bytes::Bytes;
use ropewalk_peer::{Lane, limits};
use ropewalk_shard::ShardId;

use crate::authority::Authority;
use crate::broker::{Seen, append, decoded, pair, until, vote};

/// Requests with large answers are always under way; each round of votes arrives meanwhile.
#[test]
fn control_goes_on_while_the_bulk_lane_is_saturated() {
    let (one, two) = pair(&Authority::new());
    let request = Bytes::from(vec![1; 1 << 20]);
    let mut replies = VecDeque::new();
    let mut answered = 0;
    for term in 0..40 {
        while let Ok(reply) = one.peers.request(two.id, request.clone()) {
            replies.push_back(reply);
        }
        assert!(replies.len() > 4, "{} requests fill the lane", replies.len());
        one.send(&two, 1, &vote(term));
        assert_eq!(decoded(two.message()), vote(term));
        let reply = replies.pop_front().expect("the lane is full");
        assert_eq!(one.runtime.block_on(reply).as_ref(), Ok(&request));
        answered += 1;
    }
    assert_eq!(answered, 40);
    let figures = one.figures(2);
    let lane = figures.lane(Lane::Bulk);
    assert!(lane.received_bytes >= 40 << 20, "{lane:?}");
}

/// A vote that is sent last arrives before the entries that fill the append lane.
#[test]
fn a_vote_overtakes_the_entries_that_wait() {
    let (one, two) = pair(&Authority::new());
    let mut appends = 0;
    for shard in 1..=6 {
        while one.try_send(two.id, shard, &append(1, 1 << 20)) == ropewalk_peer::Sent::Taken {
            appends += 1;
        }
    }
    one.send(&two, 1, &vote(9));
    let mut before = 0;
    loop {
        match two.next() {
            Seen::Append(..) => before += 1,
            Seen::Control(_, _, message) => {
                assert_eq!(decoded(message), vote(9));
                break;
            }
            Seen::Connected(_) | Seen::Disconnected(_) => {}
        }
    }
    assert!(before < appends, "{before} of {appends} entries came first");
    for _ in before..appends {
        assert!(matches!(two.next(), Seen::Append(..)), "none is lost");
    }
}

/// The receiver takes no entries of any shard, as if its disk had stopped.
#[test]
fn r1_control_goes_on_while_the_receiver_takes_no_entries() {
    let (one, two) = pair(&Authority::new());
    let shards = 1..=24;
    two.recorder.stuck.lock().expect("it works in a test").extend(shards.clone().map(ShardId));
    let message = append(1, 1 << 20);
    for term in 0..20 {
        for shard in shards.clone() {
            // Most are refused, because the lane is full.
            let _ = one.try_send(two.id, shard, &message);
        }
        one.send(&two, 1, &vote(term));
        assert_eq!(decoded(two.message()), vote(term));
    }
    let figures = one.figures(2);
    let lane = figures.lane(Lane::Append);
    assert!(lane.queued_bytes <= limits::APPEND_QUEUED_BYTES_MAX, "{lane:?}");
    assert!(lane.not_taken > 0, "{lane:?}");
    until("messages are dropped", || two.figures(1).lane(Lane::Append).dropped > 0);
}

/// Both sides saturate all lanes; everything that was taken arrives.
#[test]
fn nothing_that_was_taken_is_lost_while_the_connection_lasts() {
    let (one, two) = pair(&Authority::new());
    let brokers = [(&one, &two), (&two, &one)];
    let mut taken = [0, 0];
    for round in 0..200 {
        for (at, (from, to)) in brokers.into_iter().enumerate() {
            for shard in 0..8 {
                let sent = from.try_send(to.id, shard, &append(round, 20_000));
                taken[at] += u64::from(sent == ropewalk_peer::Sent::Taken);
            }
        }
    }
    for (at, (from, to)) in brokers.into_iter().enumerate() {
        until("all arrive", || {
            to.figures(from.id.0).lane(Lane::Append).received_frames == taken[at]
        });
        assert!(taken[at] > 100);
    }
}
