//! When followers learn what is committed.

use super::held::{leader, run};
use super::*;

/// Consumers read followers, which must not wait for the next record or heartbeat.
#[test]
fn followers_learn_of_a_commit_at_once() {
    let mut state = State::new();
    let mut replica = leader(&mut state);
    replica.propose(1, &append("x"), 0).expect("it leads");
    run(&mut replica, &mut state);
    let last = replica.last_index();
    assert!(replica.committed() < last, "no majority has it");
    let body = Body::Appended { index: last, commit: replica.committed() };
    let term = replica.term();
    replica.step(Message { from: 1, to: 2, term, body }).expect("it waits for it");
    let sent = run(&mut replica, &mut state);
    let informed = sent.iter().filter_map(|message| {
        let Body::Append { commit, entries, .. } = &message.body else { return None };
        assert!(message.to != 1 || entries.is_empty(), "it has the entries");
        (*commit == last).then_some(message.to)
    });
    let mut informed: Vec<_> = informed.collect();
    informed.sort_unstable();
    assert_eq!(informed, [1], "replica 3 has not answered yet, and is sent nothing behind a probe");
}
