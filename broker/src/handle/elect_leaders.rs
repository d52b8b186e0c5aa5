//! ElectLeaders: the cluster decides by itself which broker leads a shard. The broker that leads is
//! the first of the replicas and so the preferred one, and no election is needed while there is
//! one.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use ropewalk_codec::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;

/// The election of the preferred leader, as opposed to that of any replica.
const PREFERRED: i8 = 0;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: ElectLeadersRequest,
) -> Result<ElectLeadersResponse, Close> {
    // A request for all partitions lists only those with an election: none.
    let asked = request.topic_partitions.unwrap_or_default();
    let topic = |asked: TopicPartitions| {
        let view = ctx.topic(&asked.topic, Uuid::nil());
        let partition = |partition_id: i32| {
            let code = why_not(ctx, view.as_deref(), partition_id, request.election_type);
            let why = if code == ErrorCode::ElectionNotNeeded {
                Str::from_static("the leader is the preferred one already")
            } else {
                Str::from(format!("partition {}-{partition_id}: {}", asked.topic, code.name()))
            };
            PartitionResult {
                partition_id,
                error_code: call.refuse(code),
                error_message: Some(why),
            }
        };
        let partition_result = asked.partitions.iter().copied().map(partition).collect();
        ReplicaElectionResult { topic: asked.topic.clone(), partition_result }
    };
    let replica_election_results = asked.into_iter().map(topic).collect();
    Ok(ElectLeadersResponse { replica_election_results, ..Default::default() })
}

/// Why no election is held.
fn why_not(
    ctx: &Context,
    topic: Result<&TopicView, &ErrorCode>,
    index: i32,
    election_type: i8,
) -> ErrorCode {
    let topic = match topic {
        Ok(topic) => topic,
        Err(code) => return *code,
    };
    let Some((_, home)) = topic.partition(index) else {
        return ErrorCode::UnknownTopicOrPartition;
    };
    match ctx.cluster.leader(home.shard) {
        Some(_) => ErrorCode::ElectionNotNeeded,
        None if election_type == PREFERRED => ErrorCode::PreferredLeaderNotAvailable,
        None => ErrorCode::EligibleLeadersNotAvailable,
    }
}
