//! The metrics of a queue with a group that never commits, and with offsets of an older queue.

use bytes::Bytes;
use ropewalk_shard::command::{
    Command, CommitOffsets, Member, OffsetCommit, SetGeneration, ShardCommand,
};
use serde_json::Value;

use super::changes::{ME, TestBroker};
use super::*;

/// A `ConsumerProtocolSubscription` of version 0 to one topic.
fn subscription(topic: &str) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1];
    bytes.extend(u16::try_from(topic.len()).expect("short").to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend([0xff; 4]);
    bytes.into()
}

async fn propose(served: &TestBroker, group: &str, command: ShardCommand) {
    let node = &served.broker.context().node;
    let home = node.catalog().state().catalog.as_ref().expect("there").shard_of(group);
    let shard = node.shard(home).expect("not damaged");
    shard.propose(Command::Shard(command)).await.expect("it leads");
}

/// The group's first generation: two members that read `topic`.
async fn join(served: &TestBroker, group: &str, topic: &str) {
    let member = |n: u32| Member {
        member_id: format!("member-{n}"),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: 30_000,
        session_timeout_ms: 30_000,
        protocols: vec![("range".into(), subscription(topic))],
        assignment: Bytes::new(),
    };
    let generation = SetGeneration {
        group: group.into(),
        protocol_type: "consumer".into(),
        generation: 1,
        protocol: Some("range".into()),
        leader: Some("member-1".into()),
        members: vec![member(1), member(2)],
    };
    propose(served, group, ShardCommand::SetGeneration(generation)).await;
}

async fn commit(served: &TestBroker, group: &str, offset: i64) {
    let topic = served.broker.context().view.by_name("orders").expect("declared");
    let (partition, _) = topic.partition(0).expect("it has one");
    let commit =
        OffsetCommit { offset, leader_epoch: -1, metadata: String::new(), expires_ms: None };
    let offsets = vec![(partition, commit)];
    let commit = CommitOffsets { group: group.into(), member: None, offsets };
    propose(served, group, ShardCommand::CommitOffsets(commit)).await;
}

async fn queue_metrics(served: &TestBroker) -> Value {
    let (status, queue) = served.get("/v1/queues/orders").await;
    assert_eq!(status, 200, "{queue}");
    let (_, all) = served.get("/v1/queues").await;
    let lengths = |queue: &Value| -> Vec<(Value, Value)> {
        let groups = queue["groups"].as_array().expect("a list").iter();
        groups.map(|group| (group["name"].clone(), group["length"].clone())).collect()
    };
    assert_eq!(lengths(&all["queues"][0]), lengths(&queue), "both ways of asking agree");
    queue
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_reads_and_never_commits_is_reported() {
    let served = TestBroker::start(&[]).await;
    served.declare(ME, 2, json!({})).await;
    served.fill(100).await;
    commit(&served, "fast", 100).await;
    let queue = queue_metrics(&served).await;
    assert_eq!((&queue["length"], &queue["groups"][0]["length"]), (&json!(0), &json!(0)));

    join(&served, "stuck", "orders").await;
    join(&served, "elsewhere", "refunds").await;
    let queue = queue_metrics(&served).await;
    let groups = queue["groups"].as_array().expect("a list");
    let names: Vec<_> = groups.iter().map(|group| &group["name"]).collect();
    assert_eq!(names, ["fast", "stuck"], "who reads another queue is not among them");
    assert_eq!((&groups[1]["length"], &groups[1]["members"]), (&json!(100), &json!(2)));
    assert!(groups[1]["delay"]["oldest_ms"].as_i64().is_some(), "{queue}");
    assert_eq!(queue["length"], 100, "that of the slowest group");

    // From its first commit its lag counts from there, and in partitions without one from the log
    // start.
    let member = ropewalk_shard::command::MemberClaim {
        member_id: "member-1".into(),
        instance_id: None,
        generation: 1,
    };
    let topic = served.broker.context().view.by_name("orders").expect("declared");
    let (partition, _) = topic.partition(0).expect("it has one");
    let offset =
        OffsetCommit { offset: 40, leader_epoch: -1, metadata: String::new(), expires_ms: None };
    let offsets = vec![(partition, offset)];
    let commit = CommitOffsets { group: "stuck".into(), member: Some(member), offsets };
    propose(&served, "stuck", ShardCommand::CommitOffsets(commit)).await;
    assert_eq!(queue_metrics(&served).await["length"], 60);
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_beyond_the_end_processed_nothing() {
    let served = TestBroker::start(&[]).await;
    served.declare(ME, 1, json!({})).await;
    served.fill(7).await;
    commit(&served, "late", 1000).await;
    let queue = queue_metrics(&served).await;
    assert_eq!((&queue["length"], &queue["groups"][0]["length"]), (&json!(7), &json!(7)));
    commit(&served, "late", 7).await;
    assert_eq!(queue_metrics(&served).await["length"], 0);
    served.broker.stop().await;
}
