//! Entries that the sender held back.

use super::*;

/// Polls until nothing is ready, with each write durable at once. Returns the messages.
pub(super) fn run(replica: &mut Replica, state: &mut State) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(work) = replica.poll(state) {
        if let Some(number) = work.number {
            replica.persisted(number);
        }
        sent.extend(work.messages.into_iter().chain(work.messages_after));
    }
    sent
}

/// Replica 2 as the leader, elected by replica 1, which has its log.
pub(super) fn leader(state: &mut State) -> Replica {
    let mut replica = follower(&Arc::new(AtomicBool::new(true)));
    for _ in 0..50 {
        replica.tick();
        let mut sent = run(&mut replica, state);
        while let Some(Message { to, term, body, .. }) = sent.pop() {
            let answer = if to != 1 {
                None
            } else if let Body::RequestVote { is_pre_vote, .. } = body {
                Some(Body::Vote { granted: true, is_pre_vote, committed: EntryId::default() })
            } else if let Body::Append { previous, entries, commit } = body {
                let index = entries.last().map_or(previous.index, |last| last.index);
                Some(Body::Appended { index, commit })
            } else {
                None
            };
            let Some(body) = answer else { continue };
            replica.step(Message { from: 1, to: 2, term, body }).expect("it waits for it");
            sent.extend(run(&mut replica, state));
        }
        if replica.leading().is_some() {
            return replica;
        }
    }
    panic!("it is not elected");
}

/// The first and the last index of the entries in each message to replica 1.
fn entries_to_one(sent: &[Message]) -> Vec<(u64, u64)> {
    let entries = sent.iter().filter(|message| message.to == 1).map(Message::entries);
    let ends = entries.filter_map(|all| Some((all.first()?.index, all.last()?.index)));
    ends.collect()
}

#[test]
fn entries_that_were_held_back_are_sent_and_what_is_on_its_way_is_not_sent_twice() {
    let mut state = State::new();
    let mut replica = leader(&mut state);
    let next = replica.last_index() + 1;
    let mut propose = |replica: &mut Replica, ticket| {
        replica.propose(ticket, &append("x"), 0).expect("it leads");
        entries_to_one(&run(replica, &mut state))
    };
    assert_eq!(propose(&mut replica, 1), [(next, next)], "it is on its way");
    assert_eq!(propose(&mut replica, 2), [(next + 1, next + 1)], "there is no room for it");
    replica.hold(1, next + 1);
    assert!(propose(&mut replica, 3).is_empty(), "it is held back");
    replica.release(1);
    assert_eq!(entries_to_one(&run(&mut replica, &mut state)), [(next + 1, next + 2)]);
    replica.release(1);
    assert!(entries_to_one(&run(&mut replica, &mut state)).is_empty(), "it is not held");
}
