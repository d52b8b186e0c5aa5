//! Saturated lanes do not hold up control messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropewalk_peer::{Lane, Peers, Sent, limits};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, HistoryId, ShardId};
use tokio::runtime::Runtime;

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

/// Ends the load when it is dropped, also by a failure.
struct Load<'a>(&'a AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Keeps the bulk lane full until the test is over.
fn fill_bulk(from: &Peers, runtime: &Runtime, to: BrokerId, is_over: &AtomicBool) {
    let (request, mut replies) = (Bytes::from(vec![1; 1 << 20]), VecDeque::new());
    while !is_over.load(Ordering::Acquire) {
        match from.request(to, request.clone()) {
            Ok(reply) => replies.push_back(reply),
            Err(_) => {
                let oldest = replies.pop_front().expect("the lane is full of them");
                runtime.block_on(oldest).expect("it is answered");
            }
        }
    }
}

/// Keeps the append lane full until the test is over.
fn fill_appends(from: &Peers, to: BrokerId, is_over: &AtomicBool) {
    let message = append(1, 1 << 20);
    while !is_over.load(Ordering::Acquire) {
        for shard in 100..108 {
            let shard = ShardId(shard);
            while from.send(to, shard, HistoryId(0), &message) == Sent::Taken {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Prints how long heartbeats take while files and entries fill the other lanes. They take turns
/// with the entries on one connection, so the time depends on the machine; that all of them arrive
/// does not.
#[test]
fn heartbeats_arrive_while_files_and_entries_fill_the_other_lanes() {
    const COUNT: u32 = 300;
    const PAUSE: Duration = Duration::from_millis(10);
    let (one, two) = pair(&Authority::new());
    let (is_over, mut sent, mut times) = (AtomicBool::new(false), BTreeMap::new(), Vec::new());
    let body = Body::Heartbeat { commit: 1, context: Bytes::new() };
    let heartbeat = Message { from: 1, to: 2, term: 1, body };
    let take = |seen: Seen, sent: &BTreeMap<u32, Instant>, times: &mut Vec<Duration>| {
        if let Seen::Control(_, ShardId(shard), _) = seen {
            times.push(sent[&shard].elapsed());
        }
    };
    std::thread::scope(|threads| {
        let (from, runtime, to, is_over) = (&one.peers, &one.runtime, two.id, &is_over);
        let _load = Load(is_over);
        threads.spawn(move || fill_bulk(from, runtime, to, is_over));
        threads.spawn(move || fill_appends(from, to, is_over));
        for shard in 0..COUNT {
            sent.insert(shard, Instant::now());
            one.send(&two, shard, &heartbeat);
            one.peers.flush_heartbeats();
            let due = Instant::now() + PAUSE;
            while let Some(seen) = two.next_until(due) {
                take(seen, &sent, &mut times);
            }
        }
        while times.len() < sent.len() {
            take(two.next(), &sent, &mut times);
        }
    });
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let figures = one.figures(2);
    let moved = [Lane::Append, Lane::Bulk].map(|lane| figures.lane(lane).sent_bytes >> 20);
    println!(
        "{COUNT} heartbeats beside {moved:?} MiB of entries and files: median {:?}, p99 {:?}, longest {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert!(moved.iter().all(|mib| *mib > 8), "{moved:?} MiB are no load");
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
            Seen::Connected(_) | Seen::Disconnected(_) | Seen::Ended(_) => {}
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
