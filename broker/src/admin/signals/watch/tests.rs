//! The lines of a signal stream, second by second.

use std::slice::from_ref;

use serde_json::{Value, json};

use super::*;
use crate::group::coordinator::snapshot::MemberSnapshot;
use crate::queue_metrics::PartitionSignal;

fn id() -> TopicId {
    TopicId(uuid::Uuid::from_u128(7))
}

/// A group with (committed, end) of each partition, and its members' partitions.
fn sample(partitions: &[(i64, i64)], members: &[&[i32]]) -> Sample {
    let partition = |(index, (committed, end)): (usize, &(i64, i64))| PartitionSignal {
        partition: i32::try_from(index).expect("few"),
        length: end - committed,
        end: *end,
        committed: *committed,
        arrivals_per_second: 1.0,
        processed_per_second: 2.0,
    };
    let signal = Signal {
        oldest_ms: 5,
        delay_p50_ms: Some(1),
        delay_p99_ms: None,
        processed_per_second: 2.0,
        partitions: partitions.iter().enumerate().map(partition).collect(),
    };
    let member = |(at, partitions): (usize, &&[i32])| MemberSnapshot {
        member_id: format!("m{at}"),
        client_host: "10.0.0.1".into(),
        partitions: partitions.to_vec(),
    };
    let snapshot = GroupSnapshot {
        state: if members.is_empty() { "Empty" } else { "Stable" },
        is_rebalancing: false,
        last_rebalance_ms: Some(9),
        members: members.iter().enumerate().map(member).collect(),
    };
    let known = Some((snapshot, signal));
    Sample { topic: "orders".into(), id: id(), group: "g".into(), known }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn kinds(text: &str) -> Vec<String> {
    let kind = |line: Value| line["kind"].as_str().expect("every line has one").to_owned();
    lines(text).into_iter().map(kind).collect()
}

#[test]
fn a_full_state_is_sent_again_only_after_a_change() {
    let mut watch = Watch::default();
    let first = sample(&[(3, 5), (0, 0)], &[&[0], &[1]]);
    let sent = lines(&watch.tick(from_ref(&first), 77));
    assert_eq!(
        sent[0],
        json!({
            "kind": "state", "topic": "orders", "topicId": id().to_string(), "group": "g",
            "groupState": "Stable", "rebalancing": false, "lastRebalanceMs": 9,
            "length": 2, "oldestAgeMs": 5, "delayP50Ms": 1, "delayP99Ms": null,
            "processedPerSecond": 2.0, "arrivalsPerSecond": 2.0,
            "partitions": [
                { "partition": 0, "length": 2, "end": 5, "committed": 3,
                  "arrivalsPerSecond": 1.0, "processedPerSecond": 2.0 },
                { "partition": 1, "length": 0, "end": 0, "committed": 0,
                  "arrivalsPerSecond": 1.0, "processedPerSecond": 2.0 },
            ],
            "members": [
                { "memberId": "m0", "clientHost": "10.0.0.1", "partitions": [0],
                  "processedPerSecond": 2.0, "backlogged": false },
                { "memberId": "m1", "clientHost": "10.0.0.1", "partitions": [1],
                  "processedPerSecond": 2.0, "backlogged": false },
            ],
        })
    );
    assert_eq!(sent[1], json!({ "kind": "tick", "timeMs": 77 }));
    // At the second sample partition 0 was behind all the time; the third changes nothing.
    let sent = lines(&watch.tick(from_ref(&first), 78));
    assert_eq!(sent[0]["members"][0]["backlogged"], true);
    assert_eq!(sent[0]["members"][1]["backlogged"], false);
    assert_eq!(kinds(&watch.tick(&[first], 79)), ["tick"]);
}

#[test]
fn a_member_is_backlogged_only_if_every_partition_was_all_the_time() {
    let mut watch = Watch::default();
    let backlogged = |text: String| lines(&text)[0]["members"][0]["backlogged"] == json!(true);
    assert!(
        !backlogged(watch.tick(&[sample(&[(0, 10), (0, 10)], &[&[0, 1]])], 0)),
        "not known yet"
    );
    assert!(backlogged(watch.tick(&[sample(&[(5, 20), (9, 10)], &[&[0, 1]])], 0)));
    // All records of a second ago are committed, whatever arrived since.
    assert!(!backlogged(watch.tick(&[sample(&[(20, 30), (9, 10)], &[&[0, 1]])], 0)));
    assert!(!backlogged(watch.tick(&[sample(&[(20, 30), (10, 10)], &[&[0, 1]])], 0)));
    assert!(!backlogged(watch.tick(&[sample(&[(20, 30), (10, 10)], &[&[]])], 0)), "it has none");
}

#[test]
fn who_sleeps_over_records_is_woken_at_once_and_again_until_a_member_comes() {
    let mut watch = Watch::default();
    assert_eq!(kinds(&watch.tick(&[sample(&[(4, 4)], &[])], 0)), ["state", "tick"]);
    let came = sample(&[(4, 5)], &[]);
    let edge = watch.edge(from_ref(&came));
    assert_eq!(
        lines(&edge),
        [
            json!({ "kind": "wake", "topic": "orders", "topicId": id().to_string(), "group": "g", "length": 1 })
        ]
    );
    assert_eq!(watch.edge(from_ref(&came)), "", "once");
    assert_eq!(kinds(&watch.tick(from_ref(&came), 1)), ["state", "wake", "tick"]);
    assert_eq!(kinds(&watch.tick(&[came], 2)), ["wake", "tick"], "level: every second");
    assert_eq!(kinds(&watch.tick(&[sample(&[(4, 5)], &[&[0]])], 3)), ["state", "tick"]);
    // The member left again with unprocessed records.
    assert_eq!(kinds(&watch.edge(&[sample(&[(4, 5)], &[])])), ["wake"]);
}

#[test]
fn k3_what_is_not_known_is_said_to_be_unknown() {
    let mut watch = Watch::default();
    let known = sample(&[(4, 5)], &[&[0]]);
    let unknown = Sample { known: None, ..known.clone() };
    assert_eq!(kinds(&watch.tick(from_ref(&known), 0)), ["state", "tick"]);
    assert_eq!(kinds(&watch.tick(from_ref(&unknown), 1)), ["unknown", "tick"]);
    assert_eq!(kinds(&watch.tick(from_ref(&unknown), 2)), ["tick"]);
    assert_eq!(kinds(&watch.tick(&[known], 3)), ["state", "tick"], "also if it is as it was");
    assert_eq!(kinds(&Watch::default().tick(&[unknown], 0)), ["unknown", "tick"], "from the first");
}

#[test]
fn what_is_no_longer_bound_is_gone_once() {
    let mut watch = Watch::default();
    watch.tick(&[sample(&[(0, 0)], &[])], 0);
    let sent = lines(&watch.tick(&[], 1));
    assert_eq!(
        sent[0],
        json!({ "kind": "gone", "topic": "orders", "topicId": id().to_string(), "group": "g" })
    );
    assert_eq!(kinds(&watch.tick(&[], 2)), ["tick"]);
}
