//! Each rule of a hello, and that both sides keep the same one of two connections.

use proptest::prelude::*;

use super::*;
use crate::hello::Protocols;

fn identity(broker: i32) -> Identity {
    Identity {
        broker: BrokerId(broker),
        cluster_id: "c".to_owned(),
        start: Start { incarnation: 7, process: 70 },
        earlier: Vec::new(),
        features: 2,
    }
}

fn name(broker: i32, cluster: &str) -> BrokerName {
    BrokerName::new(BrokerId(broker), cluster).expect("a valid name")
}

/// The answer of broker 2 to the hello of broker 1 after a change.
fn answer(change: impl FnOnce(&mut Hello)) -> Result<u16, Reason> {
    let mut hello = identity(1).hello(BrokerId(2), Class::Raft);
    change(&mut hello);
    let answer = identity(2).check(&name(1, "c"), &hello, Class::Raft);
    answer.map_err(|refusal| refusal.reason)
}

#[test]
fn a_hello_that_agrees_with_everything_is_accepted() {
    assert_eq!(answer(|_| {}), Ok(1));
    assert_eq!(answer(|hello| hello.protocols.highest = 9), Ok(1));
}

#[test]
fn each_disagreement_is_refused_with_its_reason() {
    let later = Protocols { lowest: 2, highest: 9 };
    assert_eq!(answer(|hello| hello.protocols = later), Err(Reason::Protocol));
    assert_eq!(answer(|hello| hello.cluster_id = "d".to_owned()), Err(Reason::Cluster));
    assert_eq!(answer(|hello| hello.broker = BrokerId(3)), Err(Reason::Broker));
    assert_eq!(answer(|hello| hello.to = BrokerId(3)), Err(Reason::Broker));
    assert_eq!(answer(|hello| hello.class = Class::Bulk), Err(Reason::Class));
}

#[test]
fn the_certificate_decides() {
    let hello = identity(1).hello(BrokerId(2), Class::Raft);
    let check = |name: &BrokerName| {
        identity(2).check(name, &hello, Class::Raft).map_err(|refusal| refusal.reason)
    };
    assert_eq!(check(&name(1, "c")), Ok(1));
    assert_eq!(check(&name(3, "c")), Err(Reason::Broker));
    assert_eq!(check(&name(1, "d")), Err(Reason::Cluster));
}

#[test]
fn a_copy_of_this_broker_is_refused() {
    let own = identity(2).hello(BrokerId(2), Class::Raft);
    let refusal = identity(2).check(&name(2, "c"), &own, Class::Raft).expect_err("it is a copy");
    assert_eq!(refusal.reason, Reason::Broker);
}

#[test]
fn a_refusal_names_the_values() {
    let mut hello = identity(1).hello(BrokerId(2), Class::Raft);
    hello.cluster_id = "other".to_owned();
    let refusal = identity(2).check(&name(1, "c"), &hello, Class::Raft).expect_err("another");
    assert!(refusal.text.contains("\"other\"") && refusal.text.contains("\"c\""), "{refusal}");
}

#[test]
fn a_newer_incarnation_wins_and_an_older_one_is_refused() {
    let start = |incarnation, process| Start { incarnation, process };
    let of =
        |newest, new| standing(BrokerId(1), newest, new, &[]).map_err(|refusal| refusal.reason);
    assert_eq!(of(None, start(0, 1)), Ok(Standing::Newer));
    assert_eq!(of(Some(start(5, 1)), start(6, 2)), Ok(Standing::Newer));
    assert_eq!(of(Some(start(5, 1)), start(5, 1)), Ok(Standing::Same));
    assert_eq!(of(Some(start(5, 1)), start(5, 2)), Err(Reason::Copy));
    assert_eq!(of(Some(start(5, 1)), start(4, 2)), Err(Reason::Stale));
}

#[test]
fn d4_a_copy_is_refused_also_when_it_has_started_more_often() {
    let start = |incarnation, process| Start { incarnation, process };
    let of = |newest: Start, earlier: &[Start]| {
        let new = start(9, 90);
        standing(BrokerId(1), Some(newest), new, earlier).map_err(|refusal| refusal.reason)
    };
    let own = [start(6, 60), start(7, 70), start(8, 80)];
    for known in own {
        assert_eq!(of(known, &own), Ok(Standing::Newer), "{known:?}");
    }
    assert_eq!(of(start(8, 81), &own), Err(Reason::Copy));
    assert_eq!(of(start(6, 61), &own), Err(Reason::Copy));
    assert_eq!(of(start(5, 51), &own), Ok(Standing::Newer), "it is not remembered");
    assert_eq!(of(start(8, 81), &[]), Ok(Standing::Newer), "an older broker remembers nothing");
}

#[test]
fn a_connection_that_is_dialled_again_replaces_the_dead_one() {
    for dialler in [Dialler::Own, Dialler::Peer] {
        assert_eq!(winner(BrokerId(1), BrokerId(2), dialler, dialler), Winner::New);
        assert_eq!(winner(BrokerId(2), BrokerId(1), dialler, dialler), Winner::New);
    }
}

/// The connections that one side has, in the order in which it accepted them.
fn stays(own: i32, peer: i32, order: [Dialler; 2]) -> Dialler {
    match winner(BrokerId(own), BrokerId(peer), order[0], order[1]) {
        Winner::Current => order[0],
        Winner::New => order[1],
    }
}

proptest! {
    /// Whatever the order in which each side accepts the two connections, both keep the same one.
    #[test]
    fn both_sides_keep_the_same_of_two_connections(
        one in 0..9i32,
        two in 0..9i32,
        first in any::<[bool; 2]>(),
    ) {
        prop_assume!(one != two);
        let order = |own_first: bool| {
            if own_first {
                [Dialler::Own, Dialler::Peer]
            } else {
                [Dialler::Peer, Dialler::Own]
            }
        };
        let at_one = stays(one, two, order(first[0]));
        let at_two = stays(two, one, order(first[1]));
        prop_assert_eq!(at_one == Dialler::Own, at_two == Dialler::Peer);
        prop_assert_eq!(at_one == Dialler::Own, one < two, "the lower id dialled it");
    }
}
