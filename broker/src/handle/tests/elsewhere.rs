//! Requests to brokers of which others lead, and the moves of leaders.

use futures_util::FutureExt as _;
use ropewalk_codec::alter_partition_reassignments_request::*;
use ropewalk_codec::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ropewalk_codec::describe_cluster_request::DescribeClusterRequest;
use ropewalk_codec::describe_log_dirs_request::DescribeLogDirsRequest;
use ropewalk_codec::describe_quorum_request as quorum;
use ropewalk_codec::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ropewalk_codec::fetch_response::{FetchResponse, PartitionData};
use ropewalk_codec::find_coordinator_request::FindCoordinatorRequest;
use ropewalk_codec::heartbeat_request::HeartbeatRequest;
use ropewalk_codec::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ropewalk_codec::list_offsets_request::*;
use ropewalk_codec::metadata_request::MetadataRequest;
use ropewalk_codec::metadata_response::MetadataResponse;
use ropewalk_codec::offset_for_leader_epoch_request::*;
use ropewalk_codec::produce_request::ProduceRequest;
use ropewalk_codec::produce_response::ProduceResponse;
use ropewalk_codec::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use ropewalk_shard::ShardId;
use ropewalk_shard::engine::MembersChange;

use super::records::{batch, fetch, from, numbered, produce};
use super::trio::{INTERNAL, PUBLIC, SHARD, Trio, replica};
use super::*;
use crate::listen::{Lane, Lanes};

const NOT_LEADER: i16 = ErrorCode::NotLeaderOrFollower.code();

impl Trio {
    async fn metadata(&self, at: usize, version: i16, listener: &str) -> MetadataResponse {
        let call = self.call(ApiKey::Metadata, version, listener).await;
        let request = MetadataRequest { topics: None, ..Default::default() };
        metadata::handle(&self.brokers[at], &call, request).await.expect("answered")
    }

    /// Leader and leader epoch of the partition, as a broker knows it.
    pub(super) async fn placed(&self, at: usize) -> (i32, i32) {
        let answer = self.metadata(at, 9, PUBLIC).await;
        let part = &answer.topics[0].partitions[0];
        (part.leader_id, part.leader_epoch)
    }

    async fn produce(&self, at: usize, version: i16) -> ProduceResponse {
        let request: ProduceRequest = produce("t", -1, vec![(0, batch(&["v"]))]);
        let call = self.call(ApiKey::Produce, version, PUBLIC).await;
        let proposed = produce::propose(&self.brokers[at], &call, request).await.expect("checked");
        let answer = proposed.answer(&self.brokers[at], &call).await.expect("answered");
        answer.expect("acks are not 0")
    }

    /// Appends one record at the leader.
    pub(super) async fn store(&self) {
        let leader = self.within("one leads", || self.leader_of(SHARD)).await;
        let answer = self.produce(leader, 9).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }

    pub(super) async fn fetch(
        &self,
        at: usize,
        version: i16,
        request: FetchRequest,
    ) -> FetchResponse {
        let call = self.call(ApiKey::Fetch, version, PUBLIC).await;
        fetch::handle(&self.brokers[at], &call, request).await.expect("answered")
    }

    /// A fetch from an offset that waits for long, in a task of its own.
    pub(super) async fn wait_for(
        &self,
        at: usize,
        request: FetchRequest,
    ) -> tokio::task::JoinHandle<FetchResponse> {
        let call = self.call(ApiKey::Fetch, 12, PUBLIC).await;
        let ctx = Arc::clone(&self.brokers[at]);
        tokio::spawn(async move { fetch::handle(&ctx, &call, request).await.expect("answered") })
    }
}

pub(super) fn waiting(partition: FetchPartition) -> FetchRequest {
    FetchRequest { min_bytes: 1, max_wait_ms: 600_000, ..fetch("t", partition) }
}

pub(super) fn part(answer: &FetchResponse) -> &PartitionData {
    &answer.responses[0].partitions[0]
}

pub(super) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), work).await.unwrap_or_else(|_| panic!("too late: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broker_names_all_brokers_of_the_listener_and_the_leader() {
    let trio = Trio::new().await;
    let mut epochs = Vec::new();
    for leader in [0, 2] {
        trio.lead(SHARD, leader).await;
        let leader = i32::try_from(leader).expect("few");
        for at in 0..3 {
            let answer = trio.metadata(at, 9, PUBLIC).await;
            let brokers: Vec<_> =
                answer.brokers.iter().map(|b| (b.node_id, &*b.host, b.port)).collect();
            let expected = [(0, "broker-0", 9092), (1, "broker-1", 9093), (2, "broker-2", 9094)];
            assert_eq!(brokers, expected);
            assert_eq!(answer.brokers[1].rack.as_deref(), Some("zone-1"));
            assert_eq!(answer.controller_id, 0, "it leads the catalog");
            let part = &answer.topics[0].partitions[0];
            assert_eq!((part.error_code, part.leader_id), (0, leader), "at {at}");
            let mut replicas = part.replica_nodes.clone();
            assert_eq!(replicas[0], leader, "the preferred leader");
            replicas.sort_unstable();
            assert_eq!((replicas, &part.isr_nodes[..]), (vec![0, 1, 2], &[0, 1, 2][..]));
            assert!(part.offline_replicas.is_empty());
            epochs.push(part.leader_epoch);

            let answer = trio.metadata(at, 9, INTERNAL).await;
            let brokers: Vec<_> = answer.brokers.iter().map(|b| (b.node_id, b.port)).collect();
            assert_eq!(brokers, [(1, 9193), (2, 9194)], "the first lacks the listener");
            let part = &answer.topics[0].partitions[0];
            let expected = match leader {
                0 => (ErrorCode::ListenerNotFound.code(), -1),
                _ => (0, leader),
            };
            assert_eq!((part.error_code, part.leader_id), expected, "at {at}");
            let older = &trio.metadata(at, 5, INTERNAL).await.topics[0].partitions[0];
            let code = if leader == 0 { ErrorCode::LeaderNotAvailable.code() } else { 0 };
            assert_eq!(older.error_code, code, "before version 6");
        }
    }
    assert!(epochs[..3].iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    assert!(epochs[3..].iter().all(|epoch| *epoch == epochs[3]), "{epochs:?}");
    assert!(epochs[0] < epochs[3], "{epochs:?}");

    let call = trio.call(ApiKey::DescribeCluster, 1, PUBLIC).await;
    let request = DescribeClusterRequest { endpoint_type: 1, ..Default::default() };
    let answer =
        describe_cluster::handle(&trio.brokers[1], &call, request).await.expect("answered");
    let ids: Vec<_> = answer.brokers.iter().map(|broker| broker.broker_id).collect();
    assert_eq!((ids, answer.controller_id), (vec![0, 1, 2], 0));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_offline_and_fenced() {
    let trio = Trio::new().await;
    trio.cut(2, true);
    let answer = trio.metadata(1, 13, PUBLIC).await;
    let brokers: Vec<_> = answer.brokers.iter().map(|broker| broker.node_id).collect();
    assert_eq!(brokers, [0, 1], "some clients wait for each broker that is listed");
    let part = &answer.topics[0].partitions[0];
    assert_eq!((part.error_code, part.leader_id), (0, 0));
    assert_eq!(part.replica_nodes, [0, 1, 2]);
    assert_eq!((&part.isr_nodes[..], &part.offline_replicas[..]), (&[0, 1][..], &[2][..]));
    for (include_fenced_brokers, expected) in
        [(false, vec![(0, false), (1, false)]), (true, vec![(0, false), (1, false), (2, true)])]
    {
        let call = trio.call(ApiKey::DescribeCluster, 2, PUBLIC).await;
        let request = DescribeClusterRequest {
            endpoint_type: 1,
            include_fenced_brokers,
            ..Default::default()
        };
        let answer = describe_cluster::handle(&trio.brokers[1], &call, request).await;
        let brokers = answer.expect("answered").brokers;
        let brokers: Vec<_> = brokers.iter().map(|b| (b.broker_id, b.is_fenced)).collect();
        assert_eq!(brokers, expected);
    }
    trio.cut(2, false);
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_wrong_broker_is_told_the_right_one() {
    let trio = Trio::new().await;
    trio.store().await;
    let (leader, epoch) = trio.placed(1).await;
    for (version, has_hints) in [(9, false), (10, true), (13, true)] {
        let mut request: ProduceRequest = produce("t", -1, vec![(0, batch(&["v"]))]);
        if version >= 13 {
            request.topic_data[0].topic_id = trio.brokers[1].view.by_name("t").expect("known").id.0;
        }
        let call = trio.call(ApiKey::Produce, version, PUBLIC).await;
        let proposed = produce::propose(&trio.brokers[1], &call, request).await.expect("checked");
        let answer = proposed.answer(&trio.brokers[1], &call).await.expect("answered");
        let answer = answer.expect("acks are not 0");
        let refused = &answer.responses[0].partition_responses[0];
        assert_eq!(refused.error_code, NOT_LEADER, "version {version}");
        let hint = (refused.current_leader.leader_id, refused.current_leader.leader_epoch);
        let endpoints: Vec<_> =
            answer.node_endpoints.iter().map(|n| (n.node_id, &*n.host, n.port)).collect();
        let expected = if has_hints { vec![(0, "broker-0", 9092)] } else { vec![] };
        assert_eq!(endpoints, expected, "version {version}");
        assert_eq!(hint, if has_hints { (leader, epoch) } else { (-1, -1) });
        call.reply(&answer).expect("the version has the fields");
    }
    for (version, has_hints) in [(15, false), (16, true)] {
        let topic_id = trio.brokers[2].view.by_name("t").expect("known").id.0;
        let partitions = vec![from(0)];
        let topic = FetchTopic { topic_id, partitions, ..Default::default() };
        let request = FetchRequest { topics: vec![topic], min_bytes: 1, ..Default::default() };
        let answer = trio.fetch(2, version, request).await;
        assert_eq!(part(&answer).error_code, NOT_LEADER);
        let hint = &part(&answer).current_leader;
        let expected = if has_hints { (leader, epoch) } else { (-1, -1) };
        assert_eq!((hint.leader_id, hint.leader_epoch), expected, "version {version}");
        assert_eq!(answer.node_endpoints.len(), usize::from(has_hints));
    }
    for code in [list_latest(&trio, 1).await.0, epoch_end(&trio, 1, epoch).await.0] {
        assert_eq!(code, NOT_LEADER);
    }
    assert_eq!(list_latest(&trio, 0).await, (0, 1));
    trio.stop().await;
}

/// A client that is informed of nothing asks for metadata, and franz-go only once in five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_produce_waits_for_the_leader_that_it_names() {
    let trio = Trio::new().await;
    let (leader, epoch) = trio.placed(1).await;
    let call = trio.call(ApiKey::Produce, 10, PUBLIC).await;
    let request: ProduceRequest = produce("t", -1, vec![(0, batch(&["v"]))]);
    let proposed = produce::propose(&trio.brokers[1], &call, request).await.expect("checked");
    let mut answer = Box::pin(proposed.answer(&trio.brokers[1], &call));
    trio.cut(1, true);
    assert!((&mut answer).now_or_never().is_none(), "no broker is known to lead");
    trio.cut(1, false);
    let answer = answer.await.expect("answered").expect("acks are not 0");
    let refused = &answer.responses[0].partition_responses[0];
    let hint = (refused.current_leader.leader_id, refused.current_leader.leader_epoch);
    assert_eq!((refused.error_code, hint), (NOT_LEADER, (leader, epoch)));
    trio.cut(1, true);
    let answer = trio.produce(1, 10).await;
    let refused = &answer.responses[0].partition_responses[0];
    assert_eq!((refused.error_code, refused.current_leader.leader_id), (NOT_LEADER, -1));
    trio.cut(1, false);
    trio.stop().await;
}

async fn list_latest(trio: &Trio, at: usize) -> (i16, i64) {
    let partition =
        ListOffsetsPartition { timestamp: -1, current_leader_epoch: -1, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
    let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
    let call = trio.call(ApiKey::ListOffsets, 7, PUBLIC).await;
    let answer = list_offsets::handle(&trio.brokers[at], &call, request).await.expect("answered");
    let part = &answer.topics[0].partitions[0];
    (part.error_code, part.offset)
}

async fn epoch_end(trio: &Trio, at: usize, leader_epoch: i32) -> (i16, i64) {
    let partition =
        OffsetForLeaderPartition { leader_epoch, current_leader_epoch: -1, ..Default::default() };
    let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition] };
    let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
    let call = trio.call(ApiKey::OffsetForLeaderEpoch, 4, PUBLIC).await;
    let answer = offset_for_leader_epoch::handle(&trio.brokers[at], &call, request).await;
    let answer = answer.expect("answered");
    let part = &answer.topics[0].partitions[0];
    (part.error_code, part.end_offset)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_waits_is_answered_when_the_leader_moves() {
    let trio = Trio::new().await;
    trio.store().await;
    let plain = trio.wait_for(0, waiting(from(1))).await;
    // A session in which the partition is settled when the wait begins.
    let opened = FetchRequest { session_epoch: 0, max_wait_ms: 0, ..waiting(from(1)) };
    let opened = trio.fetch(0, 12, opened).await;
    assert_ne!(opened.session_id, 0);
    let next = FetchRequest {
        session_id: opened.session_id,
        session_epoch: 1,
        topics: Vec::new(),
        ..waiting(from(1))
    };
    let in_session = trio.wait_for(0, next).await;
    tokio::task::yield_now().await;
    trio.lead(SHARD, 1).await;
    for waited in [plain, in_session] {
        let answer = soon("the answer", waited).await.expect("no panic");
        assert_eq!(part(&answer).error_code, NOT_LEADER);
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l17_a_deposed_leader_never_says_that_an_offset_is_out_of_range() {
    let trio = Trio::new().await;
    trio.store().await;
    let (_, epoch) = trio.placed(0).await;
    trio.cut(0, true);
    trio.within("another leads", || trio.leader_of(SHARD)).await;
    trio.store().await;
    trio.store().await;
    // The client has read at the new leader, and asks the old one, which may still consider itself
    // the leader.
    let beyond = FetchPartition { current_leader_epoch: -1, ..from(3) };
    let newer = FetchPartition { last_fetched_epoch: epoch + 5, ..from(1) };
    for asked in [beyond, newer] {
        let answer = trio.wait_for(0, FetchRequest { max_wait_ms: 0, ..waiting(asked) }).await;
        let answer = soon("the answer", answer).await.expect("no panic");
        assert_eq!(part(&answer).error_code, NOT_LEADER);
    }
    let (code, _) = soon("the answer", epoch_end(&trio, 0, epoch)).await;
    assert_eq!(code, NOT_LEADER);
    assert_eq!(soon("the answer", list_latest(&trio, 0)).await.0, NOT_LEADER);
    // The new leader knows.
    let leader = trio.leader_of(SHARD).expect("it leads");
    let end = trio.fetch(leader, 12, FetchRequest { max_wait_ms: 0, ..waiting(from(3)) }).await;
    assert_eq!((part(&end).error_code, part(&end).high_watermark), (0, 3));
    let beyond = trio.fetch(leader, 12, FetchRequest { max_wait_ms: 0, ..waiting(from(4)) }).await;
    assert_eq!(part(&beyond).error_code, ErrorCode::OffsetOutOfRange.code());
    trio.cut(0, false);
    trio.stop().await;
}

/// A client discards the brokers that are not listed, and trusts the newest epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_cut_off_lists_the_others_and_overrides_no_newer_leader() {
    let trio = Trio::new().await;
    let (_, epoch) = trio.placed(0).await;
    let listed = async |at: usize| {
        let answer = trio.metadata(at, 9, PUBLIC).await;
        answer.brokers.iter().map(|broker| broker.node_id).collect::<Vec<_>>()
    };
    trio.cut(0, true);
    assert_eq!(listed(0).await, [0, 1, 2], "it does not know who is alive");
    assert_eq!(listed(1).await, [1, 2]);
    let next = trio.within("another leads", || trio.leader_of(SHARD)).await;
    let deposed = || trio.brokers[0].node.shard(SHARD)?.leading().is_none().then_some(());
    trio.within("the old one knows", deposed).await;
    let answer = trio.metadata(0, 9, PUBLIC).await;
    let part = &answer.topics[0].partitions[0];
    assert_eq!((part.error_code, part.leader_id), (ErrorCode::LeaderNotAvailable.code(), -1));
    assert_eq!(part.leader_epoch, epoch, "the last that it knows, not none");
    let (leader_id, newer) = trio.placed(next).await;
    assert_eq!(usize::try_from(leader_id), Ok(next));
    assert!(newer > epoch, "{newer}");
    trio.cut(0, false);
    trio.stop().await;
}

async fn coordinator(trio: &Trio, at: usize) -> (i16, i32, i32) {
    let request =
        FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let call = trio.call(ApiKey::FindCoordinator, 4, PUBLIC).await;
    let answer = find_coordinator::handle(&trio.brokers[at], &call, request).await;
    let answer = answer.expect("answered").coordinators.remove(0);
    (answer.error_code, answer.node_id, answer.port)
}

fn join_request(member_id: &Str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        member_id: member_id.clone(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_moves_with_its_shard_and_its_members_go_on() {
    let trio = Trio::new().await;
    let join = async |at: usize, member_id: &Str| {
        let call = trio.call(ApiKey::JoinGroup, 3, PUBLIC).await;
        join_group::handle(&trio.brokers[at], &call, join_request(member_id))
            .await
            .expect("answered")
    };
    let heartbeat = async |at: usize, member_id: &Str, generation_id: i32| {
        let call = trio.call(ApiKey::Heartbeat, 4, PUBLIC).await;
        let (group_id, member_id) = ("g".into(), member_id.clone());
        let request = HeartbeatRequest { group_id, generation_id, member_id, ..Default::default() };
        heartbeat::handle(&trio.brokers[at], &call, request).await.expect("answered").error_code
    };
    for at in 0..3 {
        assert_eq!(coordinator(&trio, at).await, (0, 0, 9092), "at {at}");
    }
    let not_here = ErrorCode::NotCoordinator.code();
    assert_eq!(join(1, &Str::new()).await.error_code, not_here);
    let joined = join(0, &Str::new()).await;
    assert_eq!(joined.error_code, 0);
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::from_static(b"mine"),
        }],
        ..Default::default()
    };
    let call = trio.call(ApiKey::SyncGroup, 3, PUBLIC).await;
    let synced = sync_group::handle(&trio.brokers[0], &call, sync).await.expect("answered");
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));

    trio.lead(SHARD, 2).await;
    assert_eq!(heartbeat(0, &joined.member_id, joined.generation_id).await, not_here);
    assert_eq!(heartbeat(1, &joined.member_id, joined.generation_id).await, not_here);
    for at in 0..3 {
        assert_eq!(coordinator(&trio, at).await, (0, 2, 9094), "at {at}");
    }
    assert_eq!(heartbeat(2, &joined.member_id, joined.generation_id).await, 0, "no rebalance");

    // The join of another member waits for the first, and then the leadership moves.
    let second = {
        let (ctx, call) =
            (Arc::clone(&trio.brokers[2]), trio.call(ApiKey::JoinGroup, 3, PUBLIC).await);
        let request = join_request(&Str::new());
        tokio::spawn(async move {
            join_group::handle(&ctx, &call, request).await.expect("answered").error_code
        })
    };
    let rebalances = || {
        let described = trio.brokers[2].groups.snapshot("g", "t").expect("coordinated here");
        described.is_rebalancing.then_some(())
    };
    trio.within("the second joins", rebalances).await;
    trio.lead(SHARD, 1).await;
    let code = soon("the answer", second).await.expect("no panic");
    assert_eq!(code, not_here, "a join that waits is answered when its coordinator is deposed");
    assert_eq!(heartbeat(1, &joined.member_id, joined.generation_id).await, 0, "as it was");
    trio.stop().await;
}

/// The catalog moves alone: clients send changes to its leader.
#[tokio::test(flavor = "multi_thread")]
async fn the_controller_is_who_leads_the_catalog_or_any_broker_of_the_listener() {
    let trio = Trio::new().await;
    trio.lead(ShardId::CATALOG, 2).await;
    assert_eq!(trio.metadata(1, 9, PUBLIC).await.controller_id, 2);
    trio.lead(ShardId::CATALOG, 0).await;
    assert_eq!(trio.metadata(1, 9, INTERNAL).await.controller_id, 1, "the leader has no endpoint");
    trio.stop().await;
}

/// Code, replication factor and message for a topic that is validated only.
async fn validated(trio: &Trio, factor: i16, in_sync: &str) -> (i16, i16, Option<Str>) {
    let topic = CreatableTopic {
        name: "new".into(),
        num_partitions: 1,
        replication_factor: factor,
        configs: vec![config("min.insync.replicas", in_sync)],
        ..Default::default()
    };
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: true };
    let call = trio.call(ApiKey::CreateTopics, 7, PUBLIC).await;
    let answer = create_topics::handle(&trio.brokers[1], &call, request).await.expect("answered");
    let topic = &answer.topics[0];
    (topic.error_code, topic.replication_factor, topic.error_message.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replicas_of_a_topic_are_those_of_the_cluster() {
    let trio = Trio::new().await;
    for factor in [-1, 1, 2, 3] {
        let (code, replicas, _) = validated(&trio, factor, "2").await;
        assert_eq!((code, replicas), (0, 3), "{factor}");
    }
    let (code, _, why) = validated(&trio, 4, "1").await;
    assert_eq!(code, ErrorCode::InvalidReplicationFactor.code());
    assert!(why.expect("it says why").contains("the number of brokers, 3"));
    assert_eq!(validated(&trio, 3, "3").await.0, ErrorCode::InvalidConfig.code());

    for (replicas, code) in [
        (Some(vec![2, 0, 1]), ErrorCode::None),
        (Some(vec![0]), ErrorCode::InvalidReplicaAssignment),
        (Some(vec![0, 1, 1]), ErrorCode::InvalidReplicaAssignment),
        (None, ErrorCode::NoReassignmentInProgress),
    ] {
        let partition = ReassignablePartition { partition_index: 0, replicas };
        let topic = ReassignableTopic { name: "t".into(), partitions: vec![partition] };
        let request =
            AlterPartitionReassignmentsRequest { topics: vec![topic], ..Default::default() };
        let call = trio.call(ApiKey::AlterPartitionReassignments, 1, PUBLIC).await;
        let answer = alter_partition_reassignments::handle(&trio.brokers[2], &call, request).await;
        let answer = answer.expect("answered");
        assert_eq!(answer.responses[0].partitions[0].error_code, code.code());
    }
    let call = trio.call(ApiKey::ListPartitionReassignments, 0, PUBLIC).await;
    let answer =
        list_partition_reassignments::handle(&trio.brokers[2], &call, Default::default()).await;
    assert!(answer.expect("answered").topics.is_empty(), "no replica is being added");
    trio.stop().await;
}

/// A partition accepts any first sequence of a producer that it does not know, and the broker that
/// refused the first batch may lead when the second comes.
#[tokio::test(flavor = "multi_thread")]
async fn no_batch_overtakes_one_of_a_new_producer_that_met_no_leader() {
    let trio = Trio::new().await;
    let shard = trio.brokers[1].node.shard(SHARD).expect("it holds the shard");
    trio.within("it is open", || (!shard.partitions().is_empty()).then_some(())).await;
    let connection = trio.call(ApiKey::Produce, 9, PUBLIC).await;
    let send = async |sequence| {
        let share = Lanes::new(1 << 20).acquire(Lane::Bulk, 1).await;
        let peer = Arc::clone(&connection.peer);
        let call = Call { peer, ..Call::of_test(ApiKey::Produce, share) };
        let proposed = produce::propose(&trio.brokers[1], &call, numbered(0, sequence)).await;
        let answer = proposed.expect("checked").answer(&trio.brokers[1], &call).await;
        let answer = answer.expect("answered").expect("acks are not 0");
        let part = &answer.responses[0].partition_responses[0];
        (part.error_code, part.base_offset)
    };
    assert_eq!(send(0).await, (NOT_LEADER, -1));
    trio.lead(SHARD, 1).await;
    assert_eq!(send(1).await, (ErrorCode::NotEnoughReplicas.code(), -1), "0 is not stored");
    assert_eq!([send(0).await, send(1).await], [(0, 0), (0, 1)]);
    trio.stop().await;
}

/// A shard that moves has one replica more, or one fewer, until the move ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_gets_no_more_replicas_while_a_shard_moves() {
    let trio = Trio::new().await;
    trio.change(SHARD, MembersChange::Remove(replica(2, SHARD))).await;
    let two = || (trio.brokers[1].replicas(SHARD).len() == 2).then_some(());
    trio.within("the second broker knows it", two).await;
    let (code, replicas, _) = validated(&trio, -1, "1").await;
    assert_eq!((code, replicas), (0, 1), "two replicas are never kept");
    let (code, ..) = validated(&trio, 2, "1").await;
    assert_eq!(code, ErrorCode::InvalidReplicationFactor.code());
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_broker_tells_that_no_election_is_needed_and_what_it_holds() {
    let trio = Trio::new().await;
    let partitions = TopicPartitions { topic: "t".into(), partitions: vec![0, 7] };
    let request =
        ElectLeadersRequest { topic_partitions: Some(vec![partitions]), ..Default::default() };
    let call = trio.call(ApiKey::ElectLeaders, 2, PUBLIC).await;
    let answer = elect_leaders::handle(&trio.brokers[1], &call, request).await.expect("answered");
    let results = &answer.replica_election_results[0].partition_result;
    let codes: Vec<_> = results.iter().map(|result| result.error_code).collect();
    let expected = [ErrorCode::ElectionNotNeeded, ErrorCode::UnknownTopicOrPartition];
    assert_eq!(codes, expected.map(ErrorCode::code));

    let shard = trio.brokers[2].node.shard(SHARD).expect("it holds the shard");
    trio.within("it is open", || (!shard.partitions().is_empty()).then_some(())).await;
    let call = trio.call(ApiKey::DescribeLogDirs, 4, PUBLIC).await;
    let all = DescribeLogDirsRequest { topics: None };
    let answer = describe_log_dirs::handle(&trio.brokers[2], &call, all).await;
    let held = &answer.expect("answered").results[0].topics[0];
    assert_eq!((&*held.name, held.partitions.len()), ("t", 1), "a follower holds it as well");

    for (at, code) in [(0, ErrorCode::None), (2, ErrorCode::NotLeaderOrFollower)] {
        let partitions = vec![quorum::PartitionData { partition_index: 0 }];
        let topic = quorum::TopicData { topic_name: "__cluster_metadata".into(), partitions };
        let request = quorum::DescribeQuorumRequest { topics: vec![topic] };
        let call = trio.call(ApiKey::DescribeQuorum, 2, PUBLIC).await;
        let answer = describe_quorum::handle(&trio.brokers[at], &call, request).await;
        let answer = answer.expect("answered");
        assert_eq!(answer.topics[0].partitions[0].error_code, code.code(), "at {at}");
        let nodes: Vec<_> = answer.nodes.iter().map(|node| node.node_id).collect();
        assert_eq!(nodes, [0, 1, 2]);
    }
    trio.stop().await;
}
