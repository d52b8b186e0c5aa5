//! Hellos that are refused: the reason reaches the other side.

use ropewalk_peer::Class;
use ropewalk_peer::hello::{Answer, Hello, Protocols, Reason, Start};
use ropewalk_shard::BrokerId;

use crate::authority::{Authority, CLUSTER};
use crate::broker::{Broker, until};
use crate::raw::{Raw, hello};

/// Error code of a connection whose hello is refused.
const REFUSED: u64 = 1;

/// Broker 1, which knows broker 9 as a member.
fn broker(authority: &Authority) -> Broker {
    let broker = Broker::start(authority, 1);
    broker.awaits(&[9]);
    broker
}

/// The reason with which broker 1 refuses the hello of broker 9 after a change.
fn reason(change: impl FnOnce(&mut Hello)) -> Reason {
    let authority = Authority::new();
    let broker = broker(&authority);
    refusal(&broker, &Raw::broker(&authority, 9), change)
}

fn refusal(broker: &Broker, raw: &Raw, change: impl FnOnce(&mut Hello)) -> Reason {
    let connection = raw.connect(broker, Class::Raft).expect("it works in a test");
    let mut hello = hello(9, 1, Class::Raft);
    change(&mut hello);
    let Answer::Refused(refusal) = raw.greet(&connection, &hello) else {
        panic!("{hello:?} is accepted");
    };
    connection.close(0u32.into(), b"");
    refusal.reason
}

#[test]
fn a_refused_connection_is_closed_if_the_other_side_keeps_it() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    let connection = raw.connect(&broker, Class::Raft).expect("it works in a test");
    let answer = raw.greet(&connection, &hello(8, 1, Class::Raft));
    assert!(matches!(answer, Answer::Refused(_)));
    assert_eq!(raw.closed(&connection), REFUSED);
}

#[test]
fn another_cluster_is_refused() {
    assert_eq!(reason(|hello| hello.cluster_id = "c2".to_owned()), Reason::Cluster);
}

#[test]
fn a_certificate_of_another_cluster_is_refused() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::new(&authority.issue(&["broker-9.c2.ropewalk"]), &authority);
    assert_eq!(refusal(&broker, &raw, |_| {}), Reason::Cluster);
}

#[test]
fn an_unknown_version_is_refused() {
    let later = Protocols { lowest: 1000, highest: 1001 };
    assert_eq!(reason(|hello| hello.protocols = later), Reason::Protocol);
}

#[test]
fn a_broker_that_its_certificate_does_not_name_is_refused() {
    assert_eq!(reason(|hello| hello.broker = BrokerId(8)), Reason::Broker);
    let authority = Authority::new();
    let broker = broker(&authority);
    for names in [&["some.host"][..], &["broker-9.c1.ropewalk", "broker-8.c1.ropewalk"]] {
        let raw = Raw::new(&authority.issue(names), &authority);
        assert_eq!(refusal(&broker, &raw, |_| {}), Reason::Broker, "{names:?}");
    }
    let raw = Raw::new(&authority.issue(&["*.c1.ropewalk"]), &authority);
    assert_eq!(refusal(&broker, &raw, |_| {}), Reason::Broker, "a wildcard names no broker");
    assert_eq!(broker.peers.unknown_refused(), 3);
}

#[test]
fn a_certificate_with_more_names_is_accepted() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let names = ["broker-9.broker.default.svc", "broker-9.c1.ropewalk"];
    Raw::new(&authority.issue(&names), &authority).accepted(&broker, Class::Raft);
    assert_eq!(broker.connected().broker, BrokerId(9));
}

#[test]
fn a_hello_to_another_broker_is_refused() {
    assert_eq!(reason(|hello| hello.to = BrokerId(2)), Reason::Broker);
}

#[test]
fn a_copy_of_the_broker_itself_is_refused() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 1);
    assert_eq!(refusal(&broker, &raw, |hello| hello.broker = BrokerId(1)), Reason::Broker);
}

#[test]
fn a_class_on_the_port_of_another_is_refused() {
    assert_eq!(reason(|hello| hello.class = Class::Bulk), Reason::Class);
}

#[test]
fn a_broker_that_is_not_a_member_is_refused_until_it_is() {
    let authority = Authority::new();
    let broker = Broker::start(&authority, 1);
    let raw = Raw::broker(&authority, 9);
    assert_eq!(refusal(&broker, &raw, |_| {}), Reason::NotMember);
    assert_eq!(broker.peers.unknown_refused(), 1);
    broker.awaits(&[9]);
    let connection = raw.accepted(&broker, Class::Raft);
    broker.awaits(&[]);
    assert_eq!(raw.closed(&connection), 4, "it is removed");
    assert_eq!(refusal(&broker, &raw, |_| {}), Reason::NotMember);
}

#[test]
fn an_older_incarnation_is_refused_and_a_newer_one_ends_the_connections() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    let connections = Class::ALL.map(|class| raw.accepted(&broker, class));
    assert_eq!(refusal(&broker, &raw, |hello| hello.incarnation = 4), Reason::Stale);
    assert!(connections.iter().all(|connection| connection.close_reason().is_none()));
    assert_eq!(broker.figures(9).hellos_refused, 1);
    let newer = raw.connect(&broker, Class::Raft).expect("it works in a test");
    let answer = raw.greet(&newer, &Hello { incarnation: 6, ..hello(9, 1, Class::Raft) });
    assert!(matches!(answer, Answer::Accepted { .. }));
    for connection in &connections {
        assert_eq!(raw.closed(connection), 2, "it is replaced, in both classes");
    }
    assert_eq!(refusal(&broker, &raw, |_| {}), Reason::Stale);
    until("the newer incarnation is shown", || broker.figures(9).incarnation == Some(6));
}

#[test]
fn a_copy_with_the_same_incarnation_is_refused() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    let first = raw.accepted(&broker, Class::Raft);
    assert_eq!(refusal(&broker, &raw, |hello| hello.process = 51), Reason::Copy);
    assert!(first.close_reason().is_none(), "the first one stays");
}

#[test]
fn d4_a_copy_that_has_started_more_often_is_refused_and_the_first_one_stays() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    let first = raw.accepted(&broker, Class::Raft);
    let copy = |hello: &mut Hello| {
        hello.incarnation = 7;
        hello.process = 70;
        hello.earlier =
            vec![Start { incarnation: 5, process: 51 }, Start { incarnation: 6, process: 60 }];
    };
    assert_eq!(refusal(&broker, &raw, copy), Reason::Copy);
    assert!(first.close_reason().is_none(), "the first one stays");
}

#[test]
fn the_same_process_may_dial_again() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    let first = raw.accepted(&broker, Class::Raft);
    let second = raw.accepted(&broker, Class::Raft);
    assert_eq!(raw.closed(&first), 2, "it is replaced");
    assert!(second.close_reason().is_none());
    until("one is left", || broker.figures(9).link(Class::Raft).connections == 2);
}

#[test]
fn what_is_no_hello_is_refused() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"RWPEER\x01\x00"] {
        let connection = raw.connect(&broker, Class::Raft).expect("it works in a test");
        let length = u32::try_from(bytes.len()).expect("it works in a test");
        let answer = raw.greet_with(&connection, length, bytes).expect("an answer");
        assert!(matches!(answer, Answer::Refused(refusal) if refusal.reason == Reason::Malformed));
    }
    assert_eq!(broker.figures(9).hellos_refused, 3);
}

#[test]
fn r1_a_hello_that_announces_4_gib_ends_the_connection() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    for length in [u32::MAX, 1025] {
        let connection = raw.connect(&broker, Class::Bulk).expect("it works in a test");
        assert!(raw.greet_with(&connection, length, &[0; 1000]).is_err());
    }
    raw.accepted(&broker, Class::Bulk);
}

#[test]
fn a_connection_without_a_hello_is_closed() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    let silent = raw.connect(&broker, Class::Raft).expect("it works in a test");
    raw.closed(&silent);
    until("it is counted", || broker.peers.unknown_refused() == 1);
}

#[test]
fn the_refusal_names_both_clusters() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let raw = Raw::broker(&authority, 9);
    let connection = raw.connect(&broker, Class::Raft).expect("it works in a test");
    let other = Hello { cluster_id: "other".to_owned(), ..hello(9, 1, Class::Raft) };
    let Answer::Refused(refusal) = raw.greet(&connection, &other) else { panic!("accepted") };
    assert!(refusal.text.contains("other") && refusal.text.contains(CLUSTER), "{refusal}");
}
