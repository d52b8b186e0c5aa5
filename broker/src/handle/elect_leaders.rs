//! ElectLeaders: with one broker the preferred leader leads already.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::elect_leaders_request::ElectLeadersRequest;
use ropewalk_codec::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};

/// Answers the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: ElectLeadersRequest,
) -> Result<ElectLeadersResponse, Close> {
    // "All partitions" answers only those that were elected: none.
    let asked = request.topic_partitions.unwrap_or_default();
    let topic = |asked: ropewalk_codec::elect_leaders_request::TopicPartitions| {
        let view = ctx.topic(&asked.topic, Uuid::nil());
        let partition = |partition_id: i32| {
            let found = view.as_deref().map_err(|code| *code);
            let (code, why) = match found.and_then(|view| ctx.partition(view, partition_id)) {
                Ok(_) => (ErrorCode::ElectionNotNeeded, "the leader is the preferred one already"),
                Err(code) => (code, "there is no such partition"),
            };
            PartitionResult {
                partition_id,
                error_code: call.refuse(code),
                error_message: Some(Str::from_static(why)),
            }
        };
        let partition_result = asked.partitions.into_iter().map(partition).collect();
        ReplicaElectionResult { topic: asked.topic, partition_result }
    };
    let replica_election_results = asked.into_iter().map(topic).collect();
    Ok(ElectLeadersResponse { replica_election_results, ..Default::default() })
}
