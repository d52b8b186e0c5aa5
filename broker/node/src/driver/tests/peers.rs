//! A driver whose replica has a peer.

use std::sync::atomic::Ordering;

use ropewalk_shard::Payload;
use ropewalk_shard::engine::Progress;
use ropewalk_shard::limits::{CAUGHT_UP_ENTRIES_MAX, ELECTION_TICKS};
use ropewalk_shard::send_budget::SendLimits;

use super::*;
use crate::limits::MESSAGES_BYTES_MAX;
use crate::sends::Sends;

/// Replica 2 of a shard with the voters 1 and 2, which has written nothing.
fn second() -> Replica {
    let members = Members { voters: vec![1, 2], ..Members::default() };
    let (replica, hard_state) = (2, HardState::default());
    let snapshot = EntryId { index: 1, term: 1 };
    let source = Box::new(EarlierLog(None));
    let entries = Vec::new();
    let start = Start { replica, hard_state, members, snapshot, entries, source, seed: 0 };
    Replica::new(start).expect("a sane start")
}

/// A message of replica 1.
fn from_first(term: u64, body: Body) -> Message {
    Message { from: 1, to: 2, term, body }
}

fn heartbeat(term: u64) -> Message {
    from_first(term, Body::Heartbeat { commit: 1, context: bytes::Bytes::new() })
}

fn append(term: u64, data: Payload) -> Message {
    let entry = Entry { index: 2, term, kind: EntryKind::Normal, data };
    let previous = EntryId { index: 1, term: 1 };
    from_first(term, Body::Append { previous, commit: 1, entries: vec![entry] })
}

#[test]
fn d1_a_vote_leaves_after_its_write_is_durable() {
    on_a_runtime(async {
        let sent = Arc::new(Sent::default());
        let (driver, shard, log, _stop) =
            driver_with(second(), Arc::default(), Arc::clone(&sent) as _);
        let ended = tokio::spawn(driver.run());
        let request = Body::RequestVote {
            last: EntryId { index: 1, term: 1 },
            committed: EntryId { index: 1, term: 1 },
            is_pre_vote: false,
            is_transfer: false,
        };
        assert!(shard.message(from_first(5, request)));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(sent.messages.lock().expect("no panic").is_empty(), "it is not durable");
        log.answer(Ok(())).await;
        let is_vote = |message: &Message| matches!(message.body, Body::Vote { granted: true, .. });
        let messages = sent.until(is_vote).await;
        assert_eq!((messages[0].to, messages[0].term), (1, 5));
        ended.abort();
    });
}

#[test]
fn a_replica_leads_with_the_answers_of_its_peer_and_says_who_leads() {
    on_a_runtime(async {
        let sent = Arc::new(Sent::default());
        let (driver, shard, log, _stop) =
            driver_with(second(), Arc::default(), Arc::clone(&sent) as _);
        let ended = tokio::spawn(driver.run());
        assert!(shard.message(heartbeat(2)));
        log.answer(Ok(())).await;
        while shard.replication().leader != Some(1) {
            tokio::task::yield_now().await;
        }
        assert!(shard.message(from_first(2, Body::TimeoutNow)));
        log.answer(Ok(())).await;
        sent.until(|message| matches!(message.body, Body::RequestVote { .. })).await;
        let committed = EntryId { index: 1, term: 1 };
        let vote = Body::Vote { granted: true, is_pre_vote: false, committed };
        assert!(shard.message(from_first(3, vote)));
        sent.until(|message| !message.entries().is_empty()).await;
        log.answer(Ok(())).await;
        assert_eq!(shard.leading(), None, "the entry of its term is not committed");
        assert!(shard.message(from_first(3, Body::Appended { index: 2, commit: 1 })));
        while shard.leading() != Some(3) {
            tokio::task::yield_now().await;
        }
        let replication = shard.replication();
        assert_eq!((replication.term, replication.leader), (3, Some(2)));
        assert_eq!(replication.members.voters, [1, 2]);
        ended.abort();
    });
}

/// A consumer may read this replica only then.
#[test]
fn a_replica_follows_while_it_votes_and_hears_its_leader() {
    on_a_runtime(async {
        let sent = Arc::new(Sent::default());
        let (driver, shard, log, _stop) =
            driver_with(second(), Arc::default(), Arc::clone(&sent) as _);
        let ended = tokio::spawn(driver.run());
        assert_eq!(shard.following(), None, "it knows of no leader");
        assert!(shard.message(heartbeat(2)));
        log.answer(Ok(())).await;
        while shard.following() != Some(2) {
            tokio::task::yield_now().await;
        }
        // It hears nothing more, and asks for votes.
        sent.until(|message| matches!(message.body, Body::RequestVote { .. })).await;
        while shard.following().is_some() {
            tokio::task::yield_now().await;
        }
        ended.abort();
    });
}

#[test]
fn a_leader_a_learner_and_a_replica_that_has_stopped_follow_nobody() {
    let replica = |voters: Vec<u64>, learners: Vec<u64>| {
        let (shard, _queue) =
            ShardHandle::new(ShardId(1), State::new(), HashMap::new(), FeatureLevel::default());
        shard.set_replica(2);
        let members = Members { voters, learners, ..Members::default() };
        (shard, members)
    };
    let (voter, members) = replica(vec![1, 2], vec![]);
    voter.set_replication(3, Some(2), &members);
    assert_eq!(voter.following(), None, "it leads");
    voter.set_replication(4, Some(1), &members);
    assert_eq!(voter.following(), Some(4));
    let halt = Halt { reason: "a test".to_owned(), ends_with_upgrade: false };
    voter.set_halted(halt);
    assert_eq!(voter.following(), None, "it applies nothing any more");
    let (learner, members) = replica(vec![1], vec![2]);
    learner.set_replication(4, Some(1), &members);
    assert_eq!(learner.following(), None);
}

/// The driver of a replica that leads in term 3 with the answers of its peer.
async fn leading() -> (Arc<ShardHandle>, Arc<HeldLog>, tokio::task::JoinHandle<()>) {
    leading_and_sending(Arc::default(), Arc::default()).await
}

async fn leading_and_sending(
    sent: Arc<Sent>,
    sends: Arc<Sends>,
) -> (Arc<ShardHandle>, Arc<HeldLog>, tokio::task::JoinHandle<()>) {
    let peers = Arc::clone(&sent) as _;
    let (driver, shard, log, stop) = driver_sending(second(), Arc::default(), peers, sends);
    let ended = tokio::spawn(async move {
        let _runs_as_long = stop;
        driver.run().await.expect("nothing fails");
    });
    shard.message(heartbeat(2));
    log.answer(Ok(())).await;
    shard.message(from_first(2, Body::TimeoutNow));
    log.answer(Ok(())).await;
    sent.until(|message| matches!(message.body, Body::RequestVote { .. })).await;
    let committed = EntryId { index: 1, term: 1 };
    shard.message(from_first(3, Body::Vote { granted: true, is_pre_vote: false, committed }));
    sent.until(|message| !message.entries().is_empty()).await;
    log.answer(Ok(())).await;
    shard.message(from_first(3, Body::Appended { index: 2, commit: 1 }));
    while shard.leading() != Some(3) {
        tokio::task::yield_now().await;
    }
    (shard, log, ended)
}

#[test]
fn a_leader_says_how_far_its_members_are() {
    on_a_runtime(async {
        let (shard, log, ended) = leading().await;
        let member = |replica, matched, is_caught_up| Progress {
            replica,
            matched,
            is_voter: true,
            is_caught_up,
        };
        let reaches = async |expected: [Progress; 2]| {
            while shard.progress() != expected {
                tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            }
        };
        reaches([member(1, 2, true), member(2, 2, true)]).await;
        for _ in 0..=CAUGHT_UP_ENTRIES_MAX {
            drop(shard.submit(command()));
            log.answer(Ok(())).await;
        }
        let last = 3 + CAUGHT_UP_ENTRIES_MAX;
        reaches([member(1, 2, false), member(2, last, true)]).await;
        shard.message(from_first(3, Body::Appended { index: last, commit: 1 }));
        reaches([member(1, last, true), member(2, last, true)]).await;
        // It leads no longer.
        shard.message(heartbeat(4));
        while !shard.progress().is_empty() {
            tokio::task::yield_now().await;
        }
        ended.abort();
    });
}

#[test]
fn r1_entries_over_the_bound_of_all_shards_are_sent_when_others_have_left() {
    on_a_runtime(async {
        let sent = Arc::new(Sent::default());
        let sends = Sends::new(SendLimits { peer_bytes: 1, node_bytes: 1 });
        let (shard, log, ended) = leading_and_sending(Arc::clone(&sent), Arc::clone(&sends)).await;
        let first_index = |message: &Message| message.entries().first().map(|entry| entry.index);
        drop(shard.submit(command()));
        sent.until(|message| first_index(message) == Some(3)).await;
        log.answer(Ok(())).await;
        drop(shard.submit(command()));
        log.answer(Ok(())).await;
        assert!(sends.bytes() > 0);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let is_fourth = |message: &Message| first_index(message) == Some(4);
        assert!(!sent.messages.lock().expect("no panic").iter().any(is_fourth), "there is no room");
        // The transport has sent what it held.
        let held = std::mem::take(&mut *sent.on_their_way.lock().expect("no panic"));
        assert_eq!(held.len(), 1);
        drop(held);
        sent.until(is_fourth).await;
        ended.abort();
    });
}

#[test]
fn messages_that_wait_for_the_driver_are_bounded() {
    on_a_runtime(async {
        let sent = Arc::new(Sent::default());
        let (driver, shard, log, _stop) =
            driver_with(second(), Arc::default(), Arc::clone(&sent) as _);
        let large = || append(2, Payload::from(bytes::Bytes::from(vec![0; 1 << 20])));
        let taken = (0..100).take_while(|_| shard.message(large())).count();
        assert!(taken > 0 && (taken << 20) <= MESSAGES_BYTES_MAX, "{taken}");
        assert!(!shard.message(large()), "it has no room");
        // The driver makes room.
        let ended = tokio::spawn(driver.run());
        log.answer(Ok(())).await;
        while !shard.message(heartbeat(2)) {
            tokio::task::yield_now().await;
        }
        ended.abort();
    });
}

#[test]
fn a_peer_that_takes_no_message_does_not_hold_up_the_driver() {
    on_a_runtime(async {
        let sent = Arc::new(Sent::default());
        sent.is_cut.store(true, Ordering::Release);
        let (driver, shard, log, stop) =
            driver_with(second(), Arc::default(), Arc::clone(&sent) as _);
        let ended = tokio::spawn(driver.run());
        assert!(shard.message(heartbeat(2)));
        log.answer(Ok(())).await;
        sent.until(|message| matches!(message.body, Body::HeartbeatResponse { .. })).await;
        stop.send(true).expect("it listens");
        ended.await.expect("it does not panic").expect("it was asked to end");
    });
}

/// Raft discards with each check of its quorum which members it has heard of. A caller that checks
/// only after those moments could never promote a learner that answers all the time.
#[test]
fn a_member_that_answers_is_caught_up_at_every_moment() {
    on_a_runtime(async {
        let (shard, _log, ended) = leading().await;
        for _ in 0..2 * ELECTION_TICKS {
            let context = bytes::Bytes::new();
            let body = Body::HeartbeatResponse { commit: 1, context, is_full: false };
            shard.message(from_first(3, body));
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            let progress = shard.progress();
            assert_eq!(progress.len(), 2);
            assert!(progress.iter().all(|member| member.is_caught_up), "{progress:?}");
        }
        ended.abort();
    });
}
