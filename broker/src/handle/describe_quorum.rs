//! DescribeQuorum: the voters of the metadata (KIP-595). These are the voters of the catalog shard,
//! whose Raft log is reported as Kafka's `__cluster_metadata`: the index of an entry is its offset,
//! and an entry is committed before it is applied. The leader's last caught-up time is always now
//! (KIP-836).

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_quorum_request;
use ropewalk_codec::describe_quorum_request::DescribeQuorumRequest;
use ropewalk_codec::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};

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
    let (host, port) = ctx.endpoint(&call.peer);
    let listener = Listener {
        name: Str::from(&*call.peer.listener),
        host,
        port: u16::try_from(port).unwrap_or_default(),
    };
    let node = Node { node_id: ctx.broker_id, listeners: vec![listener] };
    Ok(DescribeQuorumResponse {
        topics: topics.collect(),
        nodes: if call.version < NODES_SINCE { Vec::new() } else { vec![node] },
        ..Default::default()
    })
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
    let end = i64::try_from(catalog.applied_index() + 1).expect("fewer than 2^63 entries");
    let now = clock::now_ms();
    let voter = ReplicaState {
        replica_id: ctx.broker_id,
        log_end_offset: end,
        last_fetch_timestamp: now,
        last_caught_up_timestamp: now,
        ..Default::default()
    };
    PartitionData {
        partition_index,
        leader_id: if catalog.leading().is_some() { ctx.broker_id } else { -1 },
        leader_epoch: catalog.leading().map_or(-1, |term| i32::try_from(term).unwrap_or(i32::MAX)),
        high_watermark: end,
        current_voters: vec![voter],
        ..Default::default()
    }
}
