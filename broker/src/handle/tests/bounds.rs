//! Bounds of client requests: each is refused with an error code before it reaches a shard.

use ropewalk_codec::create_topics_request::CreateTopicsRequest;
use ropewalk_codec::incremental_alter_configs_request as alter;
use ropewalk_codec::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ropewalk_codec::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ropewalk_codec::offset_commit_request::*;
use ropewalk_codec::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};

use super::versions::{Client, create};
use super::*;

fn join(group: &str, metadata_bytes: usize) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from(vec![0; metadata_bytes]),
        }],
        ..Default::default()
    }
}

fn commit(partitions: Vec<(i64, String)>) -> OffsetCommitRequest {
    let partition = |(committed_offset, note): (i64, String)| OffsetCommitRequestPartition {
        partition_index: 0,
        committed_offset,
        committed_metadata: Some(note.into()),
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: partitions.into_iter().map(partition).collect(),
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

async fn committed(client: &mut Client) -> i64 {
    let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] };
    let request = OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    client.ask(5, &request).await.topics[0].partitions[0].committed_offset
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_commit_may_be_large_and_name_a_partition_many_times() {
    let mut client = Client::new().await;
    // More offsets of one partition than one entry holds: the last one applies.
    let note = "x".repeat(4096);
    let answer = client.ask(8, &commit((0..9_000).map(|at| (at, note.clone())).collect())).await;
    assert!(answer.topics[0].partitions.iter().all(|part| part.error_code == 0));
    assert_eq!(committed(&mut client).await, 8_999);
    assert_eq!(client.ask(8, &commit(vec![(5, note)])).await.topics[0].partitions[0].error_code, 0);
    client.broker.stop().await;
}

/// offset.metadata.max.bytes is compared with UTF-16 code units, as in Kafka.
#[tokio::test(flavor = "multi_thread")]
async fn a_commits_note_is_measured_in_the_units_of_java() {
    let mut client = Client::new().await;
    let too_large = ErrorCode::OffsetMetadataTooLarge.code();
    for (note, code) in [
        ("é漢".repeat(2048), 0),
        ("é漢".repeat(2048) + "x", too_large),
        ("😀".repeat(2048), 0),
        ("😀".repeat(2049), too_large),
        ("x".repeat(4097), too_large),
    ] {
        let answers = client
            .ask_all(|client, version| {
                let mut request = commit(vec![(1, note.clone())]);
                if version >= 10 {
                    request.topics[0].topic_id = client.topics()[0].1;
                }
                request
            })
            .await;
        for (version, answer) in answers {
            let found = answer.topics[0].partitions[0].error_code;
            assert_eq!(found, code, "version {version}, {} characters", note.chars().count());
        }
    }
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_too_large_member_metadata_is_refused_without_delaying_others() {
    let mut client = Client::new().await;
    let too_large = ErrorCode::MessageTooLarge.code();
    assert_eq!(client.ask(3, &join("large", 2 << 20)).await.error_code, too_large);
    // Three members of the largest size that wait for each other.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut member = Client::beside(&client.broker).await;
        waiting.push(tokio::spawn(async move { member.ask(1, &join("g", 1_000_000)).await }));
    }
    let metadata = MetadataRequest { topics: None, ..Default::default() };
    let answer = timeout(Duration::from_secs(5), client.ask(9, &metadata)).await;
    assert_eq!(answer.expect("no other request waits for them").topics.len(), 1);
    waiting.into_iter().for_each(|member| member.abort());

    // A request larger than any group accepts is not even read.
    let mut stream = connect(&client.broker).await;
    stream.write_all(&(60_u32 << 20).to_be_bytes()).await.expect("sent");
    stream.write_all(&[0, 11, 0, 1, 0, 0, 0, 1]).await.expect("sent");
    let closed = timeout(SOON, stream.read_u8()).await.expect("in time");
    assert!(closed.is_err(), "the connection is closed");

    let long = "x".repeat(crate::limits::GROUP_ID_BYTES_MAX + 1);
    let refused = client.ask(3, &join(&long, 10)).await;
    assert_eq!(refused.error_code, ErrorCode::InvalidGroupId.code());
    client.broker.stop().await;
}

/// Joins, disconnects and joins again, as old clients do while they wait.
#[tokio::test(flavor = "multi_thread")]
async fn disconnected_joins_leave_no_member_behind_for_long() {
    let client = Client::new().await;
    let short = JoinGroupRequest { session_timeout_ms: 6_000, ..join("ghosts", 10) };
    for _ in 0..50 {
        let frame = encode_request(1, Some("t"), 3, &short).expect("it encodes").into_bytes();
        let mut stream = connect(&client.broker).await;
        stream.write_all(&frame).await.expect("sent");
    }
    let groups = Arc::clone(&client.broker.context().groups);
    let due = Instant::now() + Duration::from_secs(30);
    loop {
        let members = groups.snapshot("ghosts", "t").expect("coordinated here").members.len();
        if members == 0 && Instant::now() + Duration::from_secs(23) > due {
            break;
        }
        assert!(Instant::now() < due, "{members} members are still there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_internal_topics_are_refused() {
    let mut client = Client::new().await;
    for name in ["__consumer_offsets", "__transaction_state", "__share_group_state"] {
        let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
        let request = MetadataRequest {
            topics: Some(vec![topic]),
            allow_auto_topic_creation: true,
            ..Default::default()
        };
        let answers = [client.ask(4, &request).await, client.ask(12, &request).await];
        for answer in answers {
            let unknown = ErrorCode::UnknownTopicOrPartition.code();
            assert_eq!(answer.topics[0].error_code, unknown, "{name}");
        }
        let refused = &client.ask(5, &create(name)).await.topics[0];
        assert_eq!(refused.error_code, ErrorCode::InvalidTopicException.code());
        let why = refused.error_message.as_deref().unwrap_or_default();
        assert!(why.contains("internal topic of Kafka"), "{why}");
    }
    assert_eq!(client.broker.context().view.all().len(), 1, "only t is there");
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_configs_are_bounded_in_each_value_and_together() {
    let mut client = Client::new().await;
    let list = "0:1,".repeat(8_000);
    let key = "leader.replication.throttled.replicas";
    let set = |operation, value: &str| {
        let config = alter::AlterableConfig {
            name: key.into(),
            config_operation: operation,
            value: Some(value.into()),
        };
        let resource = alter::AlterConfigsResource {
            resource_type: 2,
            resource_name: "t".into(),
            configs: vec![config],
        };
        alter::IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }
    };
    assert_eq!(client.ask(1, &set(0, &list)).await.responses[0].error_code, 0);
    let more: Vec<String> = (0..500).map(|n| format!("{n}:2")).collect();
    let refused = client.ask(1, &set(2, &more.join(","))).await;
    let refused = &refused.responses[0];
    let why = refused.error_message.as_deref().unwrap_or_default();
    assert_eq!(refused.error_code, ErrorCode::InvalidConfig.code(), "{why}");
    assert!(why.contains(key) && why.contains("no more than 32767 bytes"), "{why}");

    // 40 topics with the largest configuration each, which are several entries.
    let topics = (0..40).map(|n| {
        let mut topic = create(&format!("t-{n}")).topics.remove(0);
        let other = "follower.replication.throttled.replicas";
        topic.configs = vec![config(key, &list), config(other, &list), config(key, &list)];
        topic
    });
    let topics = topics.collect();
    let request = CreateTopicsRequest { topics, timeout_ms: 20_000, ..Default::default() };
    let made = client.ask(7, &request).await;
    assert!(made.topics.iter().all(|topic| topic.error_code == 0), "{:?}", made.topics[0]);
    client.broker.stop().await;
}
