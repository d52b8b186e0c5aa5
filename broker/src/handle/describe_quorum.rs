//! DescribeQuorum: the voters of the metadata (KIP-595). These are the voters of the catalog shard,
//! whose Raft log is reported as Kafka's `__cluster_metadata`: the index of an entry is its offset,
//! and an entry is committed before it is applied. Only the leader knows how far the others are;
//! another broker answers with what the leader has reported last, and with its own high watermark.
//! Tools ask any broker, and Kafka's brokers pass the request on. The last caught-up time of the
//! leader is always now (KIP-836).

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_quorum_request;
use ropewalk_codec::describe_quorum_request::DescribeQuorumRequest;
use ropewalk_codec::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use ropewalk_shard::{BrokerId, ShardId};

use super::placement::Endpoint;
use super::{Call, Close, Context, ErrorCode};
use crate::clock;
use crate::cluster::report::{Member, newest_leader};

const METADATA_TOPIC: &str = "__cluster_metadata";

/// First version that carries the voters' endpoints (KIP-853).
const NODES_SINCE: i16 = 2;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DescribeQuorumRequest,
) -> Result<DescribeQuorumResponse, Close> {
    let topics = request.topics.into_iter().map(|topic| TopicData {
        partitions: topic.partitions.iter().map(|asked| quorum(ctx, call, &topic, asked)).collect(),
        topic_name: topic.topic_name.clone(),
    });
    let topics = topics.collect();
    let nodes = if call.version < NODES_SINCE { Vec::new() } else { voters(ctx, call) };
    Ok(DescribeQuorumResponse { topics, nodes, ..Default::default() })
}

/// The brokers that vote, with their endpoints of the client's listener.
fn voters(ctx: &Context, call: &Call) -> Vec<Node> {
    let voters = ctx.cluster.holders(ShardId::CATALOG).voters.into_iter();
    let endpoints = voters.filter_map(|id| ctx.endpoint_of(id, &call.peer));
    let node = |Endpoint { id, host, port, .. }| {
        let name = Str::from(&*call.peer.listener);
        let listener = Listener { name, host, port: u16::try_from(port).unwrap_or_default() };
        Node { node_id: id, listeners: vec![listener] }
    };
    endpoints.map(node).collect()
}

fn quorum(
    ctx: &Context,
    call: &Call,
    topic: &describe_quorum_request::TopicData,
    asked: &describe_quorum_request::PartitionData,
) -> PartitionData {
    let partition_index = asked.partition_index;
    if topic.topic_name != *METADATA_TOPIC || partition_index != 0 {
        return PartitionData {
            partition_index,
            error_code: call.refuse(ErrorCode::UnknownTopicOrPartition),
            ..Default::default()
        };
    }
    let Some(Quorum { leader, term, followers, end }) = known(ctx) else {
        return PartitionData {
            partition_index,
            error_code: call.refuse(ErrorCode::NotLeaderOrFollower),
            leader_id: -1,
            leader_epoch: -1,
            ..Default::default()
        };
    };
    let now = clock::now_ms();
    let own = ReplicaState {
        replica_id: leader.0,
        log_end_offset: end,
        last_fetch_timestamp: now,
        last_caught_up_timestamp: now,
        ..Default::default()
    };
    let (mut current_voters, mut observers) = (vec![own], Vec::new());
    for (broker, member) in followers {
        let caught_up = if member.is_caught_up { now } else { -1 };
        let state = ReplicaState {
            replica_id: broker.0,
            log_end_offset: offset_after(member.matched),
            last_fetch_timestamp: caught_up,
            last_caught_up_timestamp: caught_up,
            ..Default::default()
        };
        if member.is_voter { current_voters.push(state) } else { observers.push(state) }
    }
    PartitionData {
        partition_index,
        leader_id: leader.0,
        leader_epoch: i32::try_from(term).unwrap_or(i32::MAX),
        high_watermark: offset_after(ctx.node.catalog().applied_index()),
        current_voters,
        observers,
        ..Default::default()
    }
}

/// The members of the catalog shard, as its leader knows them.
struct Quorum {
    leader: BrokerId,
    term: u64,
    /// The others, with their brokers.
    followers: Vec<(BrokerId, Member)>,
    /// The offset after the leader's last entry, as far as it is known here.
    end: i64,
}

/// `None` while no leader of the catalog is known.
fn known(ctx: &Context) -> Option<Quorum> {
    let reports = ctx.cluster.reports();
    let (leader, led) = newest_leader(&reports, ShardId::CATALOG)?;
    let (own, others): (Vec<Member>, Vec<Member>) =
        led.members.iter().partition(|member| member.replica == led.replica);
    let end = own.first().map_or(0, |own| own.matched);
    let state = ctx.node.catalog().state();
    let info = state.catalog.as_ref().and_then(|catalog| catalog.shards.get(&ShardId::CATALOG));
    let broker_of = |member: Member| {
        let placed = info?.replicas.get(&member.replica)?;
        Some((placed.broker, member))
    };
    Some(Quorum {
        leader,
        term: led.term,
        followers: others.into_iter().filter_map(broker_of).collect(),
        end: offset_after(end.max(ctx.node.catalog().applied_index())),
    })
}

fn offset_after(index: u64) -> i64 {
    i64::try_from(index + 1).expect("fewer than 2^63 entries")
}
