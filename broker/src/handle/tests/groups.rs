//! The whole life of a group in every version of every group API.

use ropewalk_codec::describe_groups_request::DescribeGroupsRequest;
use ropewalk_codec::find_coordinator_request::FindCoordinatorRequest;
use ropewalk_codec::heartbeat_request::HeartbeatRequest;
use ropewalk_codec::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ropewalk_codec::join_group_response::JoinGroupResponse;
use ropewalk_codec::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use ropewalk_codec::list_groups_request::ListGroupsRequest;
use ropewalk_codec::offset_commit_request::*;
use ropewalk_codec::offset_fetch_request::*;
use ropewalk_codec::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};

use super::versions::Client;
use super::*;

/// A client passes through all versions of JoinGroup; the other APIs use the nearest version.
const JOIN_VERSIONS: std::ops::RangeInclusive<i16> = 0..=9;

async fn join(client: &mut Client, version: i16, group: &str) -> JoinGroupResponse {
    let mut request = JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        }],
        ..Default::default()
    };
    let first = client.ask(version, &request).await;
    if version < 4 {
        return first;
    }
    assert_eq!(first.error_code, ErrorCode::MemberIdRequired.code(), "version {version}");
    request.member_id = first.member_id;
    client.ask(version, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_group_in_every_version() {
    let mut client = Client::new().await;
    for version in JOIN_VERSIONS {
        let group = format!("group-{version}");
        let joined = join(&mut client, version, &group).await;
        assert_eq!((joined.error_code, joined.members.len()), (0, 1), "version {version}");
        let (generation_id, member_id) = (joined.generation_id, joined.member_id);
        let assignment = SyncGroupRequestAssignment {
            member_id: member_id.clone(),
            assignment: Bytes::from_static(b"mine"),
        };
        let sync = SyncGroupRequest {
            group_id: group.as_str().into(),
            generation_id,
            member_id: member_id.clone(),
            assignments: vec![assignment],
            ..Default::default()
        };
        let synced = client.ask(version.min(5), &sync).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
        let heartbeat = HeartbeatRequest {
            group_id: group.as_str().into(),
            generation_id,
            member_id: member_id.clone(),
            ..Default::default()
        };
        assert_eq!(client.ask(version.min(4), &heartbeat).await.error_code, 0);
        offsets(&mut client, version, &group, generation_id, &member_id).await;
        let leaver = MemberIdentity { member_id: member_id.clone(), ..Default::default() };
        let (old, new) = if version < 3 { (member_id, vec![]) } else { (Str::new(), vec![leaver]) };
        let leave =
            LeaveGroupRequest { group_id: group.as_str().into(), member_id: old, members: new };
        assert_eq!(client.ask(version.min(5), &leave).await.error_code, 0, "version {version}");
    }
    client.broker.stop().await;
}

async fn offsets(client: &mut Client, version: i16, group: &str, generation: i32, member_id: &Str) {
    let partition = |partition_index| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: 5,
        committed_metadata: Some("note".into()),
        ..Default::default()
    };
    let topics = client.topics().map(|(name, topic_id)| OffsetCommitRequestTopic {
        name,
        topic_id,
        partitions: vec![partition(0), partition(7)],
    });
    let commit = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: generation,
        member_id: member_id.clone(),
        topics: topics.into(),
        ..Default::default()
    };
    let at = (version + 1).clamp(2, 10);
    let committed = client.ask(at, &commit).await;
    assert_eq!(committed.topics[0].partitions[0].error_code, 0, "version {at}");
    assert_ne!(committed.topics[1].partitions[0].error_code, 0, "version {at}");
    for at in 1..=10 {
        let fetched = client.ask(at, &fetch(client, at, group)).await;
        let found = if at < 8 {
            fetched.topics[0].partitions[0].committed_offset
        } else {
            fetched.groups[0].topics[0].partitions[0].committed_offset
        };
        assert_eq!(found, 5, "o3: what was committed is what is fetched, in version {at}");
    }
}

fn fetch(client: &Client, version: i16, group: &str) -> OffsetFetchRequest {
    let names = client.topics();
    if version < 8 {
        let topics =
            names.map(|(name, _)| OffsetFetchRequestTopic { name, partition_indexes: vec![0, 7] });
        let group_id = group.into();
        return OffsetFetchRequest { group_id, topics: Some(topics.into()), ..Default::default() };
    }
    let topics = names.map(|(name, topic_id)| OffsetFetchRequestTopics {
        name,
        topic_id,
        partition_indexes: vec![0, 7],
    });
    let group = OffsetFetchRequestGroup {
        group_id: group.into(),
        topics: Some(topics.into()),
        ..Default::default()
    };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_found_listed_and_deleted_in_every_version() {
    let mut client = Client::new().await;
    join(&mut client, 9, "here").await;
    let found = client
        .ask_all(|_, version| {
            let keys: Vec<Str> = vec!["here".into(), "".into()];
            FindCoordinatorRequest {
                key: if version < 4 { "here".into() } else { Str::new() },
                coordinator_keys: if version < 4 { vec![] } else { keys },
                ..Default::default()
            }
        })
        .await;
    for (version, answer) in found {
        let node = if version < 4 { answer.node_id } else { answer.coordinators[0].node_id };
        assert_eq!(node, 1, "version {version}");
    }
    let described = client
        .ask_all(|_, _| DescribeGroupsRequest {
            groups: vec!["here".into(), "none".into()],
            ..Default::default()
        })
        .await;
    for (version, answer) in described {
        assert_eq!(answer.groups[0].members.len(), 1, "version {version}");
    }
    let listed = client.ask_all(|_, _| ListGroupsRequest::default()).await;
    for (version, answer) in listed {
        assert_eq!(answer.groups.len(), 1, "version {version}");
    }
    client
        .ask_all(|_, _| {
            use ropewalk_codec::offset_delete_request::*;
            let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
            let topic = OffsetDeleteRequestTopic { name: "t".into(), partitions };
            OffsetDeleteRequest { group_id: "here".into(), topics: vec![topic] }
        })
        .await;
    let deleted = client
        .ask_all(|_, _| ropewalk_codec::delete_groups_request::DeleteGroupsRequest {
            groups_names: vec!["here".into(), "none".into()],
        })
        .await;
    for (version, answer) in deleted {
        let codes: Vec<_> = answer.results.iter().map(|result| result.error_code).collect();
        let expected = [ErrorCode::NonEmptyGroup.code(), ErrorCode::GroupIdNotFound.code()];
        assert_eq!(codes, expected, "version {version}");
    }
    client.broker.stop().await;
}

/// A client that does not find the API retries forever without a message.
#[tokio::test(flavor = "multi_thread")]
async fn the_newer_consumer_protocol_is_refused_in_words() {
    let mut client = Client::new().await;
    let answers = client
        .ask_all(|_, _| {
            ropewalk_codec::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest {
                group_id: "new".into(),
                member_epoch: 0,
                ..Default::default()
            }
        })
        .await;
    for (version, answer) in answers {
        assert_eq!(answer.error_code, ErrorCode::UnsupportedVersion.code(), "version {version}");
        let why = answer.error_message.as_deref().unwrap_or_default();
        assert!(why.contains("group.protocol=classic"), "{why}");
    }
    client.broker.stop().await;
}

/// JoinGroup v0 has no rebalance timeout; the session timeout is used.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_join_with_version_0_wait_for_each_other() {
    let mut client = Client::new().await;
    let request = JoinGroupRequest {
        group_id: "old".into(),
        session_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        }],
        ..Default::default()
    };
    let first = client.ask(0, &request).await;
    assert_eq!((first.error_code, first.members.len()), (0, 1));
    let mut late = Client::beside(&client.broker).await;
    let second = {
        let request = request.clone();
        tokio::spawn(async move { late.ask(0, &request).await })
    };
    let groups = Arc::clone(&client.broker.context().groups);
    let due = Instant::now() + SOON;
    while groups.members_of("old") != Some(2) {
        assert!(Instant::now() < due, "a member that waits is counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = JoinGroupRequest { member_id: first.member_id, ..request };
    let again = client.ask(0, &again).await;
    let second = second.await.expect("answered");
    let codes = (again.error_code, second.error_code);
    assert_eq!((codes, again.generation_id, second.generation_id), ((0, 0), 2, 2));
    assert_eq!(again.members.len() + second.members.len(), 2, "one of them leads and sees both");
    client.broker.stop().await;
}

/// The snapshot of a group: the assignments, and the duration of the rebalance.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_seen_to_rebalance_to_work_and_to_be_empty_again() {
    let mut client = Client::new().await;
    let groups = Arc::clone(&client.broker.context().groups);
    let snapshot = |topic: &str| groups.snapshot("watched", topic).expect("coordinated here");
    assert_eq!((snapshot("orders").state, snapshot("orders").members.len()), ("Empty", 0));

    let joined = join(&mut client, 5, "watched").await;
    let waiting = snapshot("orders");
    assert!(waiting.is_rebalancing, "{waiting:?}");
    assert_eq!((waiting.members.len(), waiting.last_rebalance_ms), (1, None));
    let assignment = SyncGroupRequestAssignment {
        member_id: joined.member_id.clone(),
        assignment: Bytes::from_static(
            b"\0\0\0\0\0\x01\0\x06orders\0\0\0\x02\0\0\0\x03\0\0\0\x01\xff\xff\xff\xff",
        ),
    };
    let sync = SyncGroupRequest {
        group_id: "watched".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![assignment],
        ..Default::default()
    };
    assert_eq!(client.ask(3, &sync).await.error_code, 0);
    let working = snapshot("orders");
    assert_eq!((working.state, working.is_rebalancing), ("Stable", false));
    assert!(working.last_rebalance_ms.is_some_and(|ms| ms >= 0), "{working:?}");
    let member = &working.members[0];
    assert_eq!((member.client_host.as_str(), &member.partitions[..]), ("127.0.0.1", &[1, 3][..]));
    assert!(snapshot("refunds").members[0].partitions.is_empty(), "nothing of another topic");

    let leave = LeaveGroupRequest {
        group_id: "watched".into(),
        member_id: joined.member_id,
        ..Default::default()
    };
    assert_eq!(client.ask(1, &leave).await.error_code, 0);
    assert_eq!((snapshot("orders").state, snapshot("orders").members.len()), ("Empty", 0));
    client.broker.stop().await;
}

/// Members that ended with the old process have one session timeout, and block no member after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_come_back_after_a_restart_is_out() {
    let dir = TempDir::new().expect("a directory");
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    let request = JoinGroupRequest {
        group_id: "left".into(),
        session_timeout_ms: 6_000,
        rebalance_timeout_ms: 6_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        }],
        ..Default::default()
    };
    let joined = client.ask(3, &request).await;
    let part = SyncGroupRequestAssignment {
        member_id: joined.member_id.clone(),
        assignment: Bytes::from_static(b"mine"),
    };
    let sync = SyncGroupRequest {
        group_id: "left".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id,
        assignments: vec![part],
        ..Default::default()
    };
    assert_eq!(client.ask(3, &sync).await.error_code, 0);
    client.broker.stop().await;

    let client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    let groups = Arc::clone(&client.broker.context().groups);
    let becomes = async |members: Option<usize>| {
        let due = Instant::now() + SOON;
        while groups.members_of("left") != members {
            assert!(Instant::now() < due, "{:?}, not {members:?}", groups.members_of("left"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    becomes(Some(1)).await;
    becomes(None).await;
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_to_a_missing_group_is_refused() {
    let mut client = Client::new().await;
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![OffsetCommitRequestPartition::default()],
        ..Default::default()
    };
    let commit = OffsetCommitRequest {
        group_id: "none".into(),
        generation_id_or_member_epoch: 1,
        member_id: "m".into(),
        topics: vec![topic],
        ..Default::default()
    };
    // Versions before 9 have no error code for it.
    for (version, code) in [(8, ErrorCode::IllegalGeneration), (9, ErrorCode::GroupIdNotFound)] {
        let answer = client.ask(version, &commit).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, code.code(), "version {version}");
    }
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_wait_of_who_joins() {
    let mut client = Client::new().await;
    join(&mut client, 3, "waits").await;
    let mut late = Client::beside(&client.broker).await;
    let waits = tokio::spawn(async move {
        let request = JoinGroupRequest {
            group_id: "waits".into(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::new(),
            }],
            ..Default::default()
        };
        late.ask(3, &request).await
    });
    let groups = Arc::clone(&client.broker.context().groups);
    let due = Instant::now() + SOON;
    while groups.members_of("waits") != Some(2) {
        assert!(Instant::now() < due, "it is counted while it waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    groups.stop();
    let answer = timeout(SOON, waits).await.expect("it is answered at once").expect("answered");
    assert_eq!(answer.error_code, ErrorCode::CoordinatorNotAvailable.code());
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_a_topic_that_a_member_reads_are_not_deleted() {
    use ropewalk_codec::offset_delete_request::*;

    let mut client = Client::new().await;
    let reads_t = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff");
    let request = JoinGroupRequest {
        group_id: "reads".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: reads_t }],
        ..Default::default()
    };
    let joined = client.ask(3, &request).await;
    let (generation_id, member_id) = (joined.generation_id, joined.member_id);
    let sync = SyncGroupRequest {
        group_id: "reads".into(),
        generation_id,
        member_id: member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: member_id.clone(),
            assignment: Bytes::from_static(b"mine"),
        }],
        ..Default::default()
    };
    assert_eq!(client.ask(3, &sync).await.error_code, 0);
    // Commits, and fetches the commit in every version.
    offsets(&mut client, 5, "reads", generation_id, &member_id).await;
    let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
    let topic = OffsetDeleteRequestTopic { name: "t".into(), partitions };
    let delete = OffsetDeleteRequest { group_id: "reads".into(), topics: vec![topic] };
    let code = client.ask(0, &delete).await.topics[0].partitions[0].error_code;
    assert_eq!(code, ErrorCode::GroupSubscribedToTopic.code());
    let request = fetch(&client, 5, "reads");
    let left = client.ask(5, &request).await.topics[0].partitions[0].committed_offset;
    assert_eq!(left, 5);
    client.broker.stop().await;
}

fn commit_of_nobody(committed_offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition { committed_offset, ..Default::default() };
    let (name, partitions) = ("t".into(), vec![partition]);
    let topics = vec![OffsetCommitRequestTopic { name, partitions, ..Default::default() }];
    let generation_id_or_member_epoch = -1;
    let group_id = "g".into();
    OffsetCommitRequest { group_id, generation_id_or_member_epoch, topics, ..Default::default() }
}

/// A client that commits after every record, and does not wait, has many on their way.
#[tokio::test(flavor = "multi_thread")]
async fn commits_of_one_connection_do_not_wait_for_each_other_and_keep_their_order() {
    let mut client = Client::new().await;
    let ctx = Arc::clone(client.broker.context());
    let share = crate::listen::Lanes::new(1).acquire(crate::listen::Lane::Small, 1).await;
    let call = Call::of_test(ApiKey::OffsetCommit, share);
    let mut proposed = Vec::new();
    for offset in [7, 5] {
        let pending = offset_commit::propose(&ctx, &call, commit_of_nobody(offset)).await;
        proposed.push(pending.expect("checked"));
    }
    for pending in proposed {
        let answer = pending.answer(&ctx, &call).await.expect("answered").expect("a response");
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }
    let route = ROUTES.iter().find(|route| route.key == ApiKey::OffsetCommit).expect("served");
    assert_eq!(route.turn, Turn::Pipelined);

    let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] };
    let asked = OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    let committed = client.ask(7, &asked).await.topics[0].partitions[0].committed_offset;
    assert_eq!(committed, 5, "the last one, although it is lower");

    let mut stream = connect(&client.broker).await;
    for id in 0..20 {
        let frame = encode_request(id, Some("t"), 8, &commit_of_nobody(i64::from(20 - id)));
        stream.write_all(&frame.expect("it encodes").into_bytes()).await.expect("sent");
    }
    for expected in 0..20 {
        let read = async {
            let mut body = vec![0; stream.read_u32().await.expect("an answer") as usize];
            stream.read_exact(&mut body).await.expect("the whole answer");
            body
        };
        let body = timeout(SOON, read).await.expect("in time");
        let decoded = decode_response::<OffsetCommitRequest>(body.into(), 8);
        let (id, answer) = decoded.expect("it decodes");
        assert_eq!((id, answer.topics[0].partitions[0].error_code), (expected, 0));
    }
    let committed = client.ask(7, &asked).await.topics[0].partitions[0].committed_offset;
    assert_eq!(committed, 1);
    client.broker.stop().await;
}
