//! DescribeQuorum: the voters of the metadata (KIP-595). These are the voters of the catalog shard,
//! whose Raft log is reported as Kafka's `__cluster_metadata`: the index of an entry is its offset,
//! and an entry is committed before it is applied. Only the leader knows how far the others are.
//! Its own last caught-up time is always now (KIP-836).

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_quorum_request;
use ropewalk_codec::describe_quorum_request::DescribeQuorumRequest;
use ropewalk_codec::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use ropewalk_shard::engine::Progress;
use ropewalk_shard::{ReplicaId, ShardId};

use super::placement::Endpoint;
use super::{Call, Close, Context, ErrorCode};
use crate::clock;

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
    let catalog = ctx.node.catalog();
    let Some(term) = catalog.leading() else {
        return PartitionData {
            partition_index,
            error_code: call.refuse(ErrorCode::NotLeaderOrFollower),
            leader_id: -1,
            leader_epoch: -1,
            ..Default::default()
        };
    };
    let end = offset_after(catalog.applied_index());
    let now = clock::now_ms();
    let own = ReplicaState {
        replica_id: ctx.broker_id,
        log_end_offset: end,
        last_fetch_timestamp: now,
        last_caught_up_timestamp: now,
        ..Default::default()
    };
    let (mut current_voters, mut observers) = (vec![own], Vec::new());
    for (replica_id, member) in followers(ctx) {
        let caught_up = if member.is_caught_up { now } else { -1 };
        let state = ReplicaState {
            replica_id,
            log_end_offset: offset_after(member.matched),
            last_fetch_timestamp: caught_up,
            last_caught_up_timestamp: caught_up,
            ..Default::default()
        };
        if member.is_voter { current_voters.push(state) } else { observers.push(state) }
    }
    PartitionData {
        partition_index,
        leader_id: ctx.broker_id,
        leader_epoch: i32::try_from(term).unwrap_or(i32::MAX),
        high_watermark: end,
        current_voters,
        observers,
        ..Default::default()
    }
}

/// The other members of the catalog shard, with the ids of their brokers.
fn followers(ctx: &Context) -> Vec<(i32, Progress)> {
    let catalog = ctx.node.catalog();
    let (own, members) = (catalog.replica(), catalog.progress());
    let state = catalog.state();
    let info = state.catalog.as_ref().and_then(|catalog| catalog.shards.get(&ShardId::CATALOG));
    let broker_of = |member: Progress| {
        let placed = info?.replicas.get(&ReplicaId(member.replica))?;
        Some((placed.broker.0, member))
    };
    let others = members.into_iter().filter(|member| Some(member.replica) != own);
    others.filter_map(broker_of).collect()
}

fn offset_after(index: u64) -> i64 {
    i64::try_from(index + 1).expect("fewer than 2^63 entries")
}
