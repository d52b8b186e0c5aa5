//! Groups whose coordinator moves with its shard: no member has to join again because of it.

use ropewalk_codec::heartbeat_request::HeartbeatRequest;
use ropewalk_codec::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ropewalk_codec::join_group_response::JoinGroupResponse;
use ropewalk_codec::offset_commit_request::*;
use ropewalk_codec::offset_fetch_request::*;
use ropewalk_codec::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use ropewalk_codec::sync_group_response::SyncGroupResponse;

use super::elsewhere::soon;
use super::trio::{PUBLIC, SHARD, Trio};
use super::*;

const NOT_HERE: i16 = ErrorCode::NotCoordinator.code();

/// A member of group `g` as its client knows it.
#[derive(Debug, Clone, Default)]
struct Member {
    id: Str,
    instance: Option<Str>,
    generation: i32,
}

impl Member {
    fn of(joined: &JoinGroupResponse, instance: Option<Str>) -> Self {
        assert_eq!(joined.error_code, 0);
        Self { id: joined.member_id.clone(), instance, generation: joined.generation_id }
    }
}

impl Trio {
    /// The answer to a join, in a task of its own.
    async fn joins(
        &self,
        at: usize,
        member: &Member,
    ) -> tokio::task::JoinHandle<JoinGroupResponse> {
        let ctx = Arc::clone(&self.brokers[at]);
        // Version 3 asks for no known id first; version 9 is needed for static members.
        let version = if member.instance.is_some() { 9 } else { 3 };
        let call = self.call(ApiKey::JoinGroup, version, PUBLIC).await;
        let request = JoinGroupRequest {
            group_id: "g".into(),
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            session_timeout_ms: 60_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
            }],
            ..Default::default()
        };
        tokio::spawn(
            async move { join_group::handle(&ctx, &call, request).await.expect("answered") },
        )
    }

    async fn join(&self, at: usize, member: &Member) -> JoinGroupResponse {
        soon("the join", self.joins(at, member).await).await.expect("no panic")
    }

    /// The answer to a request for an assignment, in a task of its own. Each of `assigned` gets its
    /// own id.
    async fn syncs(
        &self,
        at: usize,
        member: &Member,
        assigned: &[&Member],
    ) -> tokio::task::JoinHandle<SyncGroupResponse> {
        let ctx = Arc::clone(&self.brokers[at]);
        let call = self.call(ApiKey::SyncGroup, 3, PUBLIC).await;
        let assignment = |member: &&Member| SyncGroupRequestAssignment {
            member_id: member.id.clone(),
            assignment: Bytes::copy_from_slice(member.id.as_bytes()),
        };
        let request = SyncGroupRequest {
            group_id: "g".into(),
            generation_id: member.generation,
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            assignments: assigned.iter().map(assignment).collect(),
            ..Default::default()
        };
        tokio::spawn(
            async move { sync_group::handle(&ctx, &call, request).await.expect("answered") },
        )
    }

    async fn heartbeat(&self, at: usize, member: &Member) -> i16 {
        let call = self.call(ApiKey::Heartbeat, 4, PUBLIC).await;
        let request = HeartbeatRequest {
            group_id: "g".into(),
            generation_id: member.generation,
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
        };
        heartbeat::handle(&self.brokers[at], &call, request).await.expect("answered").error_code
    }

    async fn commit(&self, at: usize, member: &Member, offset: i64) -> i16 {
        let call = self.call(ApiKey::OffsetCommit, 7, PUBLIC).await;
        let partition =
            OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        let partitions = vec![partition];
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: member.generation,
            member_id: member.id.clone(),
            topics: vec![OffsetCommitRequestTopic {
                name: "t".into(),
                partitions,
                ..Default::default()
            }],
            ..Default::default()
        };
        let proposed = offset_commit::propose(&self.brokers[at], &call, request).await;
        let answer = proposed.expect("checked").answer(&self.brokers[at], &call).await;
        let answer = answer.expect("answered").expect("with a response");
        answer.topics[0].partitions[0].error_code
    }

    /// Error code and committed offset.
    async fn committed(&self, at: usize) -> (i16, i64) {
        let call = self.call(ApiKey::OffsetFetch, 5, PUBLIC).await;
        let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] };
        let request = OffsetFetchRequest {
            group_id: "g".into(),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let answer = offset_fetch::handle(&self.brokers[at], &call, request).await;
        let answer = answer.expect("answered");
        let offset = answer.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset);
        (answer.error_code, offset)
    }

    /// A member that has its assignment.
    async fn stable(&self, at: usize, instance: Option<Str>) -> Member {
        let new = Member { instance: instance.clone(), ..Member::default() };
        let member = Member::of(&self.join(at, &new).await, instance);
        let synced = self.syncs(at, &member, &[&member]).await;
        assert_eq!(soon("the assignment", synced).await.expect("no panic").error_code, 0);
        member
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_and_its_offsets_survive_every_move() {
    let trio = Trio::new().await;
    trio.lead(SHARD, 0).await;
    let member = trio.stable(0, None).await;
    let mut at = 0;
    for offset in 1..=12 {
        let before = at;
        at = usize::try_from(offset * 7 % 3).expect("few");
        trio.lead(SHARD, at).await;
        assert_eq!(trio.heartbeat(at, &member).await, 0, "move {offset}: no rebalance");
        assert_eq!(trio.committed(at).await, (0, if offset == 1 { -1 } else { offset - 1 }));
        assert_eq!(trio.commit(at, &member, offset).await, 0);
        if before != at {
            assert_eq!(trio.heartbeat(before, &member).await, NOT_HERE);
            assert_eq!(trio.commit(before, &member, 99).await, NOT_HERE);
            assert_eq!(trio.committed(before).await.0, NOT_HERE);
        }
        let old = Member { generation: member.generation - 1, ..member.clone() };
        assert_eq!(trio.commit(at, &old, 99).await, ErrorCode::IllegalGeneration.code());
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_starts_again_at_the_next_coordinator() {
    let trio = Trio::new().await;
    let instance: Option<Str> = Some("i".into());
    let member = trio.stable(0, instance.clone()).await;
    trio.lead(SHARD, 2).await;
    let new = Member { instance: instance.clone(), ..Member::default() };
    let again = Member::of(&trio.join(2, &new).await, instance);
    assert_eq!(again.generation, member.generation, "no rebalance");
    assert_ne!(again.id, member.id);
    let synced = trio.syncs(2, &again, &[]).await;
    let synced = soon("the assignment", synced).await.expect("no panic");
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, member.id.as_bytes()));
    assert_eq!(trio.heartbeat(2, &member).await, ErrorCode::FencedInstanceId.code());
    assert_eq!(trio.heartbeat(2, &again).await, 0);
    trio.stop().await;
}

/// The assignment of a generation is lost with its coordinator; its number is not used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_waits_for_its_assignment_is_sent_to_the_next_coordinator() {
    let trio = Trio::new().await;
    let first = trio.stable(0, None).await;
    let second = trio.joins(0, &Member::default()).await;
    let rebalances = || {
        let group = trio.brokers[0].groups.snapshot("g", "t").expect("coordinated here");
        group.is_rebalancing.then_some(())
    };
    trio.within("the second joins", rebalances).await;
    let first = Member::of(&trio.join(0, &first).await, None);
    let second = soon("the join", second).await.expect("no panic");
    let second = Member::of(&second, None);
    assert_eq!(second.generation, first.generation);
    // The leader of the group is the first; the second waits for it.
    let waits = trio.syncs(0, &second, &[]).await;
    tokio::task::yield_now().await;
    trio.lead(SHARD, 1).await;
    assert_eq!(soon("the answer", waits).await.expect("no panic").error_code, NOT_HERE);
    for member in [&first, &second] {
        assert_eq!(trio.heartbeat(1, member).await, ErrorCode::RebalanceInProgress.code());
    }
    let joins = [trio.joins(1, &first).await, trio.joins(1, &second).await];
    for joined in joins {
        let joined = Member::of(&soon("the join", joined).await.expect("no panic"), None);
        assert_eq!(joined.generation, first.generation + 1);
    }
    trio.stop().await;
}
