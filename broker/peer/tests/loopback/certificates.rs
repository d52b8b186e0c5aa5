//! Certificate files: what is refused at the start, and what happens when they change.

use std::fs;
use std::sync::Arc;

use ropewalk_peer::{CertificateError, Class, OpenError, Peers};
use ropewalk_shard::BrokerId;

use crate::authority::{Authority, Files};
use crate::broker::{Broker, Seen, options, pair, until};

/// Why broker 1 cannot start with these files.
fn refusal(files: &Files) -> CertificateError {
    let broker = Broker::start(&Authority::new(), 2);
    let _entered = broker.runtime.enter();
    match Peers::open(options(1, files.paths()), broker.recorder.clone()) {
        Err(OpenError::Certificates(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the files are used"),
    }
}

#[test]
fn files_that_peers_would_refuse_are_refused_at_the_start() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = || Files::new(&authority.broker(1), &[&authority]);

    let wrong_name = refusal(&Files::new(&authority.broker(2), &[&authority]));
    assert!(matches!(wrong_name, CertificateError::Name { .. }), "{wrong_name}");
    assert!(wrong_name.to_string().contains("broker-2.c1.ropewalk"), "{wrong_name}");

    let no_name = refusal(&Files::new(&authority.issue(&["host"]), &[&authority]));
    assert!(matches!(no_name, CertificateError::Name { .. }), "{no_name}");

    let untrusted = refusal(&Files::new(&authority.broker(1), &[&other]));
    assert!(matches!(untrusted, CertificateError::Untrusted { .. }), "{untrusted}");

    let files = good();
    fs::write(files.path("key"), authority.broker(1).key).expect("it works in a test");
    let other_key = refusal(&files);
    assert!(matches!(other_key, CertificateError::Unusable(_)), "{other_key}");

    for file in ["chain", "key", "ca"] {
        let files = good();
        fs::write(files.path(file), "no PEM").expect("it works in a test");
        let no_pem = refusal(&files);
        assert!(matches!(no_pem, CertificateError::Pem { .. }), "{no_pem}");
        fs::remove_file(files.path(file)).expect("it works in a test");
        let missing = refusal(&files);
        assert!(matches!(missing, CertificateError::Read { .. }), "{missing}");
        let path = files.path(file);
        assert!(missing.to_string().contains(&*path.to_string_lossy()), "{missing}");
    }
}

#[test]
fn r1_a_huge_file_is_refused() {
    let authority = Authority::new();
    let files = Files::new(&authority.broker(1), &[&authority]);
    fs::write(files.path("ca"), vec![b'\n'; 2 << 20]).expect("it works in a test");
    let error = refusal(&files);
    assert!(matches!(error, CertificateError::Read { .. }), "{error}");
}

#[test]
fn a_renewed_certificate_is_used_and_connections_stay() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    one.files.write(&authority.broker(1), &[&authority]);
    one.peers.reload().expect("the files are good");
    assert!(one.is_connected(2) && two.is_connected(1));
    assert_eq!(one.figures(2).link(Class::Raft).connections, 1);
    // Later connections use it, too.
    let (files, address) = (two.files.clone(), two.address());
    two.kill();
    let two = Broker::start_again(files, 2, &address);
    two.dials(&[&one]);
    assert_eq!(one.connected().incarnation, 2);
}

#[test]
fn a_bad_file_is_refused_and_the_earlier_ones_stay_in_use() {
    let authority = Authority::new();
    let (one, two) = pair(&authority);
    let other = Authority::new();
    one.files.write(&other.broker(1), &[&authority]);
    let error = one.peers.reload().expect_err("peers would refuse it");
    assert!(matches!(error, CertificateError::Untrusted { .. }), "{error}");
    assert!(one.is_connected(2) && two.is_connected(1));
    let (files, address) = (two.files.clone(), two.address());
    two.kill();
    let two = Broker::start_again(files, 2, &address);
    two.dials(&[&one]);
    assert_eq!(one.connected().incarnation, 2, "the earlier certificate is still used");
}

#[test]
fn an_authority_is_replaced_without_losing_a_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    let (one, two) = pair(&old);
    let reload = |broker: &Broker, issuer: &Authority, trusted: &[&Authority]| {
        broker.files.write(&issuer.broker(broker.id.0), trusted);
        broker.peers.reload().expect("the files are good");
    };
    for broker in [&one, &two] {
        reload(broker, &old, &[&old, &new]);
    }
    for broker in [&one, &two] {
        reload(broker, &new, &[&old, &new]);
    }
    assert!(one.is_connected(2) && two.is_connected(1));
    // The connection was made with certificates of the old authority.
    reload(&one, &new, &[&new]);
    while two.next() != Seen::Disconnected(BrokerId(1)) {}
    two.connected();
    until("both classes are connected again", || one.is_connected(2) && two.is_connected(1));
}

#[test]
fn changed_files_are_noticed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (one, two) = pair(&authority);
    one.files.write(&other.broker(1), &[&other]);
    while one.next() != Seen::Disconnected(BrokerId(2)) {}
    until("the other authority is not trusted", || {
        two.figures(1).link(Class::Raft).failed_attempts > 0
    });
    assert!(!one.is_connected(2));
}

#[test]
fn files_may_be_shared_between_starts() {
    let authority = Authority::new();
    let files = Arc::new(Files::new(&authority.broker(1), &[&authority]));
    for _ in 0..2 {
        Broker::start_with(files.clone(), 1, |_| {}).kill();
    }
}
