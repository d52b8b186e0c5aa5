//! AlterPartitionReassignments: replicas are placed per shard, so only the current replica set is
//! accepted, and requesting it changes nothing.

use std::sync::Arc;

use ropewalk_codec::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use ropewalk_codec::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};

use super::create_topics::check_replicas;
use super::partition::LedPartition;
use super::{Call, Close, Context, ErrorCode};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: AlterPartitionReassignmentsRequest,
) -> Result<AlterPartitionReassignmentsResponse, Close> {
    let topic = |topic: ReassignableTopic| {
        let partition = |asked: ReassignablePartition, found: Result<LedPartition, ErrorCode>| {
            let checked = found
                .map_err(|code| (code, "there is no such partition".to_owned()))
                .and_then(|_| match &asked.replicas {
                    Some(replicas) => check_replicas(ctx, replicas),
                    None => Err((
                        ErrorCode::NoReassignmentInProgress,
                        "no reassignment is in progress".to_owned(),
                    )),
                });
            let (code, error_message) = match checked {
                Ok(()) => (ErrorCode::None, None),
                Err((code, why)) => (code, Some(why.into())),
            };
            ReassignablePartitionResponse {
                partition_index: asked.partition_index,
                error_code: call.refuse(code),
                error_message,
            }
        };
        let index = |asked: &ReassignablePartition| asked.partition_index;
        let partitions = ctx.each_partition(&topic.name, topic.partitions, index, partition);
        ReassignableTopicResponse { name: topic.name, partitions }
    };
    let responses = request.topics.into_iter().map(topic).collect();
    Ok(AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        responses,
        ..Default::default()
    })
}
