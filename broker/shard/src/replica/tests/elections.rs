//! When replicas campaign, and when a leader gives up.

use super::held::{leader, run};
use super::*;
use crate::limits;

fn of(from: u64, term: u64, body: Body) -> Message {
    Message { from, to: 2, term, body }
}

fn heartbeat(from: u64, term: u64) -> Message {
    of(from, term, Body::Heartbeat { commit: 1, context: Bytes::new() })
}

/// Replica 2 of three, which hears replica 1 as the leader of term 2.
fn following(state: &mut State) -> Replica {
    let mut replica = follower(&Arc::new(AtomicBool::new(true)));
    replica.step(heartbeat(1, 2)).expect("it leads");
    run(&mut replica, state);
    assert_eq!(replica.leader(), Some(1));
    replica
}

fn is_pre_vote(message: &Message) -> bool {
    matches!(message.body, Body::RequestVote { is_pre_vote: true, .. })
}

/// Ticks until the replica asks for votes; `None` if it does not in three election timeouts.
fn ticks_until_campaign(replica: &mut Replica, state: &mut State) -> Option<usize> {
    (1..=3 * limits::ELECTION_TICKS).find(|_| {
        replica.tick();
        run(replica, state).iter().any(is_pre_vote)
    })
}

#[test]
fn a_replica_whose_leader_has_ended_campaigns_within_the_turns_of_the_voters() {
    let mut state = State::new();
    let silent = ticks_until_campaign(&mut following(&mut state), &mut state);
    assert!(silent.is_some_and(|ticks| ticks >= limits::ELECTION_TICKS), "{silent:?}");
    let mut replica = following(&mut state);
    replica.ended(1);
    run(&mut replica, &mut state);
    assert_eq!(replica.leader(), None);
    let ended = ticks_until_campaign(&mut replica, &mut state);
    assert!(ended.is_some_and(|ticks| ticks <= 2 * limits::TURN_TICKS), "{ended:?}");
}

#[test]
fn a_replica_whose_leader_has_ended_would_vote_for_another() {
    let mut state = State::new();
    let last = EntryId { index: 1, term: 1 };
    let request =
        Body::RequestVote { last, committed: last, is_pre_vote: true, is_transfer: false };
    let mut replica = following(&mut state);
    replica.step(of(3, 3, request.clone())).expect("it may ask");
    assert!(run(&mut replica, &mut state).is_empty(), "it hears its leader");
    replica.ended(1);
    replica.step(of(3, 3, request)).expect("it may ask");
    let sent = run(&mut replica, &mut state);
    let granted = |message: &Message| matches!(message.body, Body::Vote { granted: true, .. });
    assert!(sent.iter().any(granted), "{sent:?}");
}

#[test]
fn the_end_of_a_replica_that_does_not_lead_changes_nothing_nor_does_a_wrong_report() {
    let mut state = State::new();
    let mut replica = following(&mut state);
    replica.ended(3);
    assert_eq!(replica.leader(), Some(1));
    replica.ended(1);
    replica.step(heartbeat(1, 2)).expect("it leads");
    run(&mut replica, &mut state);
    assert_eq!(replica.leader(), Some(1), "it is heard");
    let next = ticks_until_campaign(&mut replica, &mut state);
    assert!(next.is_some_and(|ticks| ticks >= limits::ELECTION_TICKS), "{next:?}");

    let mut leads = leader(&mut state);
    leads.ended(2);
    leads.ended(1);
    assert!(leads.leading().is_some(), "it leads itself");
}

/// In any term, the voters that have lost the same leader campaign at different times.
#[test]
fn voters_take_turns() {
    for term in 2..40 {
        let first = [2, 3].map(|id| {
            let mut state = State::new();
            let members = Members { voters: vec![1, 2, 3], ..Members::default() };
            let start = Start {
                replica: id,
                hard_state: HardState { term: 1, vote: 0, commit: 1 },
                members,
                snapshot: EntryId { index: 1, term: 1 },
                entries: Vec::new(),
                source: Box::new(NoMemory),
                seed: term,
            };
            let mut replica = Replica::new(start).expect("a sane start");
            let heard = Message { to: id, ..heartbeat(1, term) };
            replica.step(heard).expect("it leads");
            run(&mut replica, &mut state);
            ticks_until_campaign(&mut replica, &mut state).expect("it campaigns")
        });
        assert_ne!(first[0], first[1], "term {term}");
    }
}

#[test]
fn a_leader_that_hears_no_majority_asks_a_follower_to_lead() {
    let mut state = State::new();
    let mut replica = leader(&mut state);
    let term = replica.term();
    let (mut ticks, mut sent) = (0, Vec::new());
    while replica.leading().is_some() {
        assert!(ticks <= 2 * limits::ELECTION_TICKS, "it hears nothing");
        replica.tick();
        sent = run(&mut replica, &mut state);
        ticks += 1;
    }
    assert!(ticks >= limits::ELECTION_TICKS, "after {ticks} ticks");
    assert_eq!((replica.term(), replica.leader()), (term, None));
    let asked: Vec<u64> = sent
        .iter()
        .filter(|message| message.body == Body::TimeoutNow)
        .map(|message| message.to)
        .collect();
    assert_eq!(asked, [1], "it has the log");
}
