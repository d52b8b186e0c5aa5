//! Response fields beside the records: times, log starts, epochs, ids; and the effects of a
//! request's version, limits and flags.

use std::collections::HashSet;

use ropewalk_batch::{Builder, Compression};
use ropewalk_codec::create_partitions_request::*;
use ropewalk_codec::fetch_request::*;
use ropewalk_codec::heartbeat_request::HeartbeatRequest;
use ropewalk_codec::init_producer_id_request::InitProducerIdRequest;
use ropewalk_codec::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ropewalk_codec::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ropewalk_codec::offset_commit_request::*;
use ropewalk_codec::offset_fetch_request::*;
use uuid::Uuid;

use super::records::{FETCH, batch, fetch, from, produce};
use super::versions::{Client, create};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_produce_says_where_the_log_begins_and_when_the_broker_stored_it() {
    let mut client = Client::new().await;
    let mut request = create("stamped");
    request.topics[0].configs = vec![config("message.timestamp.type", "LogAppendTime")];
    assert_eq!(client.ask(5, &request).await.topics[0].error_code, 0);
    for (topic, stamps) in [("t", false), ("stamped", true)] {
        client.store(topic, &["a", "b"]).await;
        assert_eq!(client.delete(topic, 1).await, (0, 1));
        let before_ms = crate::clock::now_ms();
        let answer = client.ask(9, &produce(topic, -1, vec![(0, batch(&["c"]))])).await;
        let part = &answer.responses[0].partition_responses[0];
        assert_eq!((part.base_offset, part.log_start_offset), (2, 1), "{topic}");
        let stored_ms = part.log_append_time_ms;
        let expected = if stamps { stored_ms >= before_ms } else { stored_ms == -1 };
        assert!(expected, "{topic}: stored at {stored_ms}, asked at {before_ms}");
    }
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_that_mean_nothing_are_refused_and_store_nothing() {
    let mut client = Client::new().await;
    for acks in [2, -2, i16::MAX] {
        let answer = client.ask(9, &produce("t", acks, vec![(0, batch(&["v"]))])).await;
        let code = answer.responses[0].partition_responses[0].error_code;
        assert_eq!(code, ErrorCode::InvalidRequiredAcks.code(), "acks={acks}");
    }
    assert_eq!(client.list("t", -1).await.1, 0);
    client.broker.stop().await;
}

/// An older client could not decompress them (KIP-110).
#[tokio::test(flavor = "multi_thread")]
async fn zstd_is_taken_from_version_7_on() {
    let mut client = Client::new().await;
    let zstd = Builder::new().compression(Compression::Zstd);
    let zstd = zstd.record(crate::clock::now_ms(), None, Some(b"v")).build();
    for (version, code) in [(6, ErrorCode::UnsupportedCompressionType), (7, ErrorCode::None)] {
        let answer = client.ask(version, &produce("t", -1, vec![(0, zstd.clone())])).await;
        let found = answer.responses[0].partition_responses[0].error_code;
        assert_eq!(found, code.code(), "version {version}");
    }
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_bounded_over_all_its_partitions_and_has_no_session() {
    let mut client = Client::new().await;
    client.make("two", 2).await;
    let value = "x".repeat(1000);
    let parts = vec![(0, batch(&[&value])), (1, batch(&[&value]))];
    client.ask(9, &produce("two", -1, parts)).await;
    let asked = |partition| FetchPartition { partition, ..from(0) };
    let partitions = vec![asked(0), asked(1)];
    let topic = FetchTopic { topic: "two".into(), partitions, ..Default::default() };
    let request =
        FetchRequest { max_bytes: 1500, min_bytes: 1, topics: vec![topic], ..Default::default() };
    let answer = client.ask(FETCH, &request).await;
    let sizes: Vec<_> =
        answer.responses[0].partitions.iter().map(|part| part.records.len()).collect();
    assert!(sizes[0] > 1000 && sizes[1] == 0, "max_bytes=1500 counts for both: {sizes:?}");
    assert_eq!(answer.session_id, 0, "sessions are declined");

    let request = FetchRequest { session_id: 7, session_epoch: 3, ..fetch("two", from(0)) };
    let answer = client.ask(FETCH, &request).await;
    assert_eq!(answer.error_code, ErrorCode::FetchSessionIdNotFound.code());
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_timestamp_need_not_be_the_last() {
    let mut client = Client::new().await;
    let now_ms = crate::clock::now_ms();
    for timestamp_ms in [now_ms - 2000, now_ms, now_ms - 1000] {
        let batch = Builder::new().record(timestamp_ms, None, Some(b"v")).build();
        client.ask(9, &produce("t", -1, vec![(0, batch)])).await;
    }
    let (code, offset, _) = client.list("t", -3).await;
    assert_eq!((code, offset), (0, 1));
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_holds_the_leader_epoch() {
    let dir = TempDir::new().expect("a directory");
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    client.make("t", 1).await;
    client.store("t", &["v"]).await;
    client.broker.stop().await;
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    let (_, _, current) = client.list("t", -1).await;
    let topics = vec![MetadataRequestTopic { name: Some("t".into()), ..Default::default() }];
    let request = MetadataRequest { topics: Some(topics), ..Default::default() };
    let answer = client.ask(9, &request).await;
    let part = &answer.topics[0].partitions[0];
    assert_eq!((part.error_code, part.leader_id, part.leader_epoch), (0, 1, current));
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_for_who_does_not_want_it() {
    let mut client = Client::new().await;
    let topics = vec![MetadataRequestTopic { name: Some("unasked".into()), ..Default::default() }];
    let request = MetadataRequest {
        topics: Some(topics),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(client.ask(9, &request).await.topics[0].error_code, unknown);
    assert!(client.broker.context().view.by_name("unasked").is_none());

    let grown = CreatePartitionsTopic { name: "t".into(), count: 3, assignments: None };
    let request =
        CreatePartitionsRequest { topics: vec![grown], timeout_ms: 10_000, validate_only: true };
    assert_eq!(client.ask(3, &request).await.results[0].error_code, 0);
    let view = client.broker.context().view.by_name("t").expect("it is there");
    assert_eq!(view.partitions.len(), 1, "it was only to be validated");
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_fetched_with_its_epoch_and_ages_only_by_its_own_time() {
    let mut client = Client::new().await;
    let commit = |client: &Client, version, retention_time_ms, known: bool| {
        let (name, topic_id) = client.topics()[usize::from(!known)].clone();
        let partition = OffsetCommitRequestPartition {
            committed_offset: 5,
            committed_leader_epoch: if version >= 6 { 3 } else { -1 },
            ..Default::default()
        };
        let topic = OffsetCommitRequestTopic { name, topic_id, partitions: vec![partition] };
        OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: -1,
            retention_time_ms,
            topics: vec![topic],
            ..Default::default()
        }
    };
    let expires = |client: &Client| {
        let node = &client.broker.context().node;
        let states = node.shards().map(|shard| shard.state().clone());
        let mut groups = states.filter_map(|state| state.groups.get("g").cloned());
        let group = groups.next().expect("it committed");
        group.offsets.values().next().expect("one partition").expires_ms
    };
    for (version, retention_ms, is_set) in [(4, 60_000, true), (4, -1, false), (8, -1, false)] {
        let request = commit(&client, version, retention_ms, true);
        let answer = client.ask(version, &request).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        assert_eq!(expires(&client).is_some(), is_set, "version {version}, {retention_ms} ms");
    }
    let request = commit(&client, 10, -1, false);
    let answer = client.ask(10, &request).await;
    let code = answer.topics[0].partitions[0].error_code;
    assert_eq!(code, ErrorCode::UnknownTopicId.code(), "named by id");

    let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0, 7] };
    let request = OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    let answer = client.ask(5, &request).await;
    let found = answer.topics[0].partitions.iter();
    let found: Vec<_> = found.map(|p| (p.committed_offset, p.committed_leader_epoch)).collect();
    assert_eq!(found, [(5, 3), (-1, -1)], "the second has no commit");
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_of_a_process_whose_place_was_taken_is_fenced() {
    let mut client = Client::new().await;
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        group_instance_id: Some("place".into()),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        }],
        ..Default::default()
    };
    let joined = client.ask(7, &join).await;
    assert_eq!(joined.error_code, 0);
    let heartbeat = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: "the-one-before".into(),
        group_instance_id: Some("place".into()),
    };
    let code = client.ask(4, &heartbeat).await.error_code;
    assert_eq!(code, ErrorCode::FencedInstanceId.code());
    client.broker.stop().await;
}

/// More ids than one block of the catalog has.
#[tokio::test(flavor = "multi_thread")]
async fn d5_no_producer_id_is_given_out_twice() {
    let mut client = Client::new().await;
    let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let mut seen = HashSet::new();
    for _ in 0..2_100 {
        let answer = client.ask(4, &request).await;
        assert_eq!(answer.error_code, 0);
        assert!(seen.insert(answer.producer_id), "{} came again", answer.producer_id);
    }
    client.broker.stop().await;
}

/// The connection stays open while a client names ids of deleted topics.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_by_id_is_answered_under_the_id() {
    let mut client = Client::new().await;
    client.store("t", &["v"]).await;
    let [(_, known), (_, unknown)] = client.topics();
    for (topic_id, code) in [(known, ErrorCode::None), (unknown, ErrorCode::UnknownTopicId)] {
        let topic = FetchTopic { topic_id, partitions: vec![from(0)], ..Default::default() };
        let request = FetchRequest { min_bytes: 1, topics: vec![topic], ..Default::default() };
        let answer = client.ask(13, &request).await;
        assert_ne!(answer.responses[0].topic_id, Uuid::nil());
        assert_eq!(answer.responses[0].topic_id, topic_id);
        assert_eq!(answer.responses[0].partitions[0].error_code, code.code());
    }
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_grows_and_follows_the_brokers_defaults() {
    use ropewalk_shard::command::ConfigResource;

    use crate::catalog::TopicError;

    let client = Client::new().await;
    let context = client.broker.context();
    let view = || context.view.by_name("t").expect("it is there");
    let same = context.topics.grow(&view(), 1, false).await;
    assert!(matches!(same, Err(TopicError::InvalidPartitions(_))), "{same:?}");
    assert_eq!(context.topics.grow(&view(), 2, false).await, Ok(()));
    assert_eq!(view().partitions.len(), 2);

    let changes = vec![("log.retention.ms".to_owned(), Some("5000".to_owned()))];
    let all_brokers = ConfigResource::Broker(None);
    context.topics.alter_configs(all_brokers, changes).await.expect("it is possible");
    assert_eq!(view().config.retention().retention_ms, Some(5000));
    client.broker.stop().await;
}
