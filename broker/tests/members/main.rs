//! Broker processes that join a cluster over HTTP, come back, or must not: what they log, and that
//! the others stay as they are.

#[path = "../cluster/authority.rs"]
mod authority;
mod broker;

use std::fs;

use crate::broker::{Cluster, copy, until};

#[test]
fn a_broker_joins_over_http_and_comes_back_without_its_seed() {
    let cluster = Cluster::new();
    let first = cluster.first().ready();
    let mut second = cluster.joining(2, &first).ready();
    for broker in [&first, &second] {
        until("both are listed", || broker.lists() == [1, 2]);
    }
    second.logs("joined the cluster");
    second.logs("receiving the catalog");
    assert_eq!(second.cluster()["clusterId"], authority::CLUSTER);
    // It has a directory now, and asks no other broker.
    second.kill();
    let mut second = second.ready();
    assert!(!second.log().contains("joined the cluster"), "{}", second.log());
    assert!(second.is_running() && first.lists() == [1, 2]);
}

#[test]
fn who_asks_before_there_is_a_cluster_waits() {
    let cluster = Cluster::new();
    let mut first = cluster.first();
    let mut second = cluster.joining(2, &first);
    second.start(&[]);
    second.logs("not joined to the cluster yet");
    first.start(&[]);
    first.until_ready();
    second.until_ready();
}

#[test]
fn a_wrong_token_or_another_cluster_ends_the_start() {
    let cluster = Cluster::new();
    let token = cluster.root.path().join("token");
    fs::write(&token, "the right one").expect("written");
    let wrong = cluster.root.path().join("wrong");
    fs::write(&wrong, "another one").expect("written");
    let (right, wrong) = (token.display().to_string(), wrong.display().to_string());
    let founder = [("format.cluster.id", authority::CLUSTER), ("admin.token.file", right.as_str())];
    let first = cluster.broker(1, &founder).ready();
    let join = ("ropewalk.cluster.join", first.admin.as_str());
    let mut second = cluster.broker(2, &[join, ("admin.token.file", &wrong)]);
    second.start(&[]);
    let (code, why) = second.end();
    assert_ne!(code, Some(0));
    assert!(why.contains("cannot join the cluster"), "{why}");
    let elsewhere = [join, ("admin.token.file", &right), ("format.cluster.id", "another")];
    let mut third = cluster.broker(3, &elsewhere);
    third.start(&[]);
    let (code, why) = third.end();
    assert_ne!(code, Some(0));
    assert!(why.contains("another") && why.contains(authority::CLUSTER), "{why}");
    assert!(!third.data().join("meta").exists(), "nothing was formatted");
}

#[test]
fn d4_a_broker_whose_directory_is_lost_is_refused_and_says_what_to_do() {
    let cluster = Cluster::new();
    let first = cluster.first().ready();
    let mut second = cluster.joining(2, &first).ready();
    until("it is registered", || first.lists() == [1, 2]);
    second.kill();
    let saved = cluster.root.path().join("saved");
    fs::rename(second.data(), &saved).expect("moved");
    second.start(&[]);
    let (code, why) = second.end();
    assert_ne!(code, Some(0));
    assert!(why.contains("its data directory is empty"), "{why}");
    assert!(why.contains("start this broker with a node.id that was never used"), "{why}");
    // With its directory it is itself again.
    if second.data().exists() {
        fs::remove_dir_all(second.data()).expect("removed");
    }
    fs::rename(&saved, second.data()).expect("moved back");
    second.ready();
}

/// A copy that only counted its starts would be the newer one from its second start on.
#[test]
fn d4_a_copy_of_a_data_directory_is_refused_however_often_it_starts() {
    let cluster = Cluster::new();
    let first = cluster.first().ready();
    let mut second = cluster.joining(2, &first).ready();
    second.kill();
    let mut cloned = cluster.joining(2, &first);
    copy(&second.data(), &cloned.data());
    let mut second = second.ready();
    for start in 0..3 {
        cloned.start(&[]);
        cloned.logs("refused by the other broker");
        let log = cloned.log();
        let is_named = log.contains("runs twice") || log.contains("copy of its data directory");
        assert!(is_named, "start {start}:\n{log}");
        cloned.kill();
    }
    first.logs("connection of broker refused");
    assert!(second.is_running());
    second.until_ready();
    assert!(!second.log().contains("refused by the other broker"), "{}", second.log());
}

/// The tasks that a broker has only beside others; `tests/supervision.rs` ends all that one alone
/// has.
#[cfg(debug_assertions)]
#[test]
fn no_task_of_a_broker_of_several_ends_without_the_process() {
    use ropewalk_broker::supervision::{BALANCER, CLUSTER, EXIT_TASK_ENDED, MEMBERS, REGISTRATION};
    for task in [&CLUSTER, &BALANCER, &MEMBERS, &REGISTRATION] {
        for how in ["panic", "return"] {
            let cluster = Cluster::new();
            let mut first = cluster.first();
            first.start(&[("ROPEWALK_END_TASK", &format!("{}:{how}", task.name))]);
            let (code, last_words) = first.end();
            assert_eq!(code, Some(EXIT_TASK_ENDED), "{}: {how}: {last_words}", task.name);
            assert!(last_words.starts_with(task.name), "{last_words}");
            assert!(last_words.contains(how), "{last_words}");
        }
    }
}
