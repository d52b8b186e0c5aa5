//! Connections begin, end, and begin again.

use std::collections::BTreeMap;
use std::sync::Arc;

use ropewalk_peer::{Class, Lane, PeerAddress, Sent};
use ropewalk_shard::BrokerId;

use crate::authority::{Authority, Files, name};
use crate::broker::{Broker, Seen, append, connect, decoded, pair, until, vote};

#[test]
fn two_brokers_connect_and_know_each_other() {
    let authority = Authority::new();
    let (one, two) = (Broker::start(&authority, 1), Broker::start(&authority, 2));
    one.awaits(&[2]);
    two.dials(&[&one]);
    for (broker, other) in [(&one, 2), (&two, 1)] {
        let connected = broker.connected();
        assert_eq!(connected.broker, BrokerId(other));
        let known = (connected.incarnation, connected.features, connected.protocol);
        assert_eq!(known, (1, 3, 1));
        until("both classes are connected", || broker.is_connected(other));
        let figures = broker.figures(other);
        assert_eq!((figures.incarnation, figures.features), (Some(1), Some(3)));
        for class in Class::ALL {
            let link = figures.link(class);
            assert!(link.current_mtu >= ropewalk_peer::transport::MTU_MIN, "{link:?}");
            assert!(link.udp_sent_bytes > 0 && link.udp_received_bytes > 0, "{link:?}");
        }
    }
}

/// Also a check of the kernel's limit on batches: with packets that are too large for it, large
/// messages would no longer arrive.
#[test]
fn larger_packets_are_found_and_used() {
    let (one, two) = pair(&Authority::new());
    let mtu = |broker: &Broker, other| broker.figures(other).link(Class::Raft).current_mtu;
    until("both find a larger size", || mtu(&one, 2).min(mtu(&two, 1)) > 6_000);
    for term in 1..=3 {
        one.send(&two, 1, &append(term, 16 << 20));
        assert_eq!(decoded(two.message()), append(term, 16 << 20));
    }
    assert_eq!(one.figures(2).link(Class::Raft).black_holes, 0);
}

#[test]
fn nothing_is_taken_without_a_connection() {
    let authority = Authority::new();
    let one = Broker::start(&authority, 1);
    assert_eq!(one.try_send(BrokerId(2), 0, &vote(1)), Sent::NotConnected, "not a member");
    one.awaits(&[2]);
    assert_eq!(one.try_send(BrokerId(2), 0, &vote(1)), Sent::NotConnected, "not reached");
    let refused = one.peers.request(BrokerId(2), bytes::Bytes::new()).expect_err("not reached");
    assert_eq!(refused, Sent::NotConnected);
}

/// Both dial at once, so that two connections cross. Whatever the order, one is left that both use.
#[test]
fn brokers_that_dial_each_other_at_once_agree_on_a_connection() {
    let authority = Authority::new();
    let files = [1, 2].map(|id| Arc::new(Files::new(&authority.broker(id), &[&authority])));
    for _ in 0..8 {
        let start = |at: usize, id| Broker::start_with(files[at].clone(), id, |_| {});
        let (one, two) = (start(0, 1), start(1, 2));
        one.dials(&[&two]);
        two.dials(&[&one]);
        until("both classes are connected", || one.is_connected(2) && two.is_connected(1));
        for (broker, other) in [(&one, &two), (&two, &one)] {
            // Those that are sent on the connection that does not stay are lost.
            let mut term = 0;
            until("messages arrive", || {
                term += 1;
                let _ = broker.try_send(other.id, 0, &vote(term));
                other.figures(broker.id.0).lane(Lane::Control).received_frames >= 20
            });
        }
        until("the connections stay", || one.is_connected(2) && two.is_connected(1));
    }
}

#[test]
fn a_broker_that_was_killed_connects_again_with_its_next_incarnation() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    let (files, address) = (two.files.clone(), two.address());
    two.kill();
    let two = Broker::start_again(files, 2, &address);
    two.dials(&[&one]);
    assert_eq!(one.connected().incarnation, 2, "it does not wait for the end of the old one");
    two.connected();
    one.send(&two, 5, &vote(7));
    assert_eq!(decoded(two.message()), vote(7));
    assert_eq!(one.figures(2).link(Class::Raft).connections, 2);
}

#[test]
fn a_killed_broker_is_noticed_and_dialled_until_it_is_back() {
    let authority = Authority::new();
    let (one, two) = (Broker::start(&authority, 1), Broker::start(&authority, 2));
    // The other way round: the one that stays dials.
    connect(&two, &one);
    let (files, address) = (two.files.clone(), two.address());
    two.kill();
    assert_eq!(one.next(), Seen::Ended(BrokerId(2)));
    assert_eq!(one.next(), Seen::Disconnected(BrokerId(2)));
    until("the other class has ended", || !one.figures(2).link(Class::Bulk).is_connected);
    assert_eq!(one.try_send(BrokerId(2), 0, &vote(1)), Sent::NotConnected);
    until("an attempt fails", || one.figures(2).link(Class::Raft).failed_attempts > 0);
    let two = Broker::start_again(files, 2, &address);
    two.awaits(&[1]);
    assert_eq!(one.connected().incarnation, 2);
    two.connected();
    until("both classes are connected", || one.is_connected(2) && two.is_connected(1));
}

/// Nothing is sent here, so each connection is silent; and it is probed when the caller asks.
#[test]
fn a_silent_broker_whose_process_exists_is_not_taken_for_ended() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    let begun = std::time::Instant::now();
    while begun.elapsed() < 3 * ropewalk_peer::limits::SILENCE_MAX {
        one.runtime.block_on(one.peers.look());
    }
    one.send(&two, 5, &vote(7));
    assert_eq!(decoded(two.message()), vote(7));
    assert_eq!(one.figures(2).link(Class::Raft).connections, 1, "it is the first connection");
}

#[test]
fn the_name_is_resolved_again_and_the_address_may_change() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    one.kill();
    while two.next() != Seen::Disconnected(BrokerId(1)) {}
    let one = Broker::start_with(two_files(&authority), 1, |options| options.incarnation = 2);
    one.awaits(&[2]);
    let moved = PeerAddress { host: "localhost".to_owned(), ..one.address() };
    two.peers.set_peers(&[(BrokerId(1), moved)].into());
    assert_eq!(two.connected().incarnation, 2);
}

fn two_files(authority: &Authority) -> Arc<Files> {
    Arc::new(Files::new(&authority.broker(1), &[authority]))
}

#[test]
fn a_newer_incarnation_ends_the_connections_of_the_older_one() {
    let authority = Authority::new();
    let (one, older) = pair(&authority);
    let newer = Broker::start_with(older.files.clone(), 2, |options| options.incarnation = 2);
    newer.dials(&[&one]);
    assert_eq!(one.connected().incarnation, 2);
    newer.connected();
    while older.next() != Seen::Disconnected(BrokerId(1)) {}
    until("the older one is refused", || older.figures(1).hellos_rejected > 0);
    one.send(&newer, 1, &vote(1));
    assert_eq!(decoded(newer.message()), vote(1));
}

#[test]
fn a_copy_of_a_broker_is_refused_and_the_first_one_stays() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    let copy = Broker::start_with(two.files.clone(), 2, |_| {});
    copy.dials(&[&one]);
    until("the copy is refused", || copy.figures(1).hellos_rejected >= 2);
    assert_eq!(one.figures(2).link(Class::Raft).connections, 1);
    two.send(&one, 1, &vote(1));
    assert_eq!(decoded(one.message()), vote(1));
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let one = Broker::start(&authority, 1);
    // It trusts both, so that only broker 1 can refuse.
    let files = Files::new(&other.broker(2), &[&authority, &other]);
    let two = Broker::start_with(Arc::new(files), 2, |_| {});
    one.awaits(&[2]);
    two.dials(&[&one]);
    until("both classes are refused", || {
        let failed = |class| two.figures(1).link(class).failed_attempts;
        Class::ALL.iter().all(|class| failed(*class) > 0) && one.peers.unknown_refused() > 1
    });
    for (broker, other) in [(&one, 2), (&two, 1)] {
        let figures = broker.figures(other);
        assert!(Class::ALL.iter().all(|class| figures.link(*class).connections == 0));
    }
}

#[test]
fn a_broker_with_another_name_than_was_dialled_is_refused() {
    let authority = Authority::new();
    let (one, two) = (Broker::start(&authority, 1), Broker::start(&authority, 2));
    two.awaits(&[1]);
    // What is meant to be broker 3 is broker 2.
    one.peers.set_peers(&[(BrokerId(3), two.address())].into());
    until("attempts fail", || one.figures(3).link(Class::Raft).failed_attempts > 1);
    assert_eq!(one.figures(3).link(Class::Raft).connections, 0);
    assert_eq!(two.figures(1).link(Class::Raft).connections, 0);
    assert_ne!(name(3), name(2));
}

#[test]
fn a_broker_of_another_cluster_cannot_connect() {
    let authority = Authority::new();
    let one = Broker::start(&authority, 1);
    one.awaits(&[2]);
    let issued = authority.issue(&["broker-2.c2.ropewalk"]);
    let files = Files::new(&issued, &[&authority]);
    let two = Broker::start_with(Arc::new(files), 2, |options| {
        options.cluster_id = "c2".to_owned();
    });
    two.dials(&[&one]);
    until("attempts fail", || two.figures(1).link(Class::Raft).failed_attempts > 1);
    assert_eq!(one.figures(2).link(Class::Raft).connections, 0);
}

#[test]
fn a_removed_peer_is_disconnected_and_may_return() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    two.peers.set_peers(&BTreeMap::new());
    while one.next() != Seen::Disconnected(BrokerId(2)) {}
    while two.next() != Seen::Disconnected(BrokerId(1)) {}
    assert!(two.peers.figures().is_empty());
    two.dials(&[&one]);
    one.connected();
    two.connected();
}

#[test]
fn a_broker_that_stops_says_goodbye() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    two.peers.stop();
    while one.next() != Seen::Disconnected(BrokerId(2)) {}
    while two.next() != Seen::Disconnected(BrokerId(1)) {}
}
