//! ElectLeaders: with one broker the preferred leader is always the leader.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::elect_leaders_request::ElectLeadersRequest;
use ropewalk_codec::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};

use super::partition::LedPartition;
use super::{Call, Close, Context, ErrorCode};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: ElectLeadersRequest,
) -> Result<ElectLeadersResponse, Close> {
    // A request for all partitions lists only those with an election: none.
    let asked = request.topic_partitions.unwrap_or_default();
    let topic = |asked: ropewalk_codec::elect_leaders_request::TopicPartitions| {
        let partition = |partition_id: i32, found: Result<LedPartition, ErrorCode>| {
            let (code, why) = match found {
                Ok(_) => (
                    ErrorCode::ElectionNotNeeded,
                    Str::from_static("the leader is the preferred one already"),
                ),
                Err(code) => {
                    let why = format!("partition {}-{partition_id}: {}", asked.topic, code.name());
                    (code, Str::from(why))
                }
            };
            PartitionResult {
                partition_id,
                error_code: call.refuse(code),
                error_message: Some(why),
            }
        };
        let partition_result =
            ctx.each_partition(&asked.topic, asked.partitions, |index| *index, partition);
        ReplicaElectionResult { topic: asked.topic, partition_result }
    };
    let replica_election_results = asked.into_iter().map(topic).collect();
    Ok(ElectLeadersResponse { replica_election_results, ..Default::default() })
}
