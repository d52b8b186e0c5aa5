//! AlterPartitionReassignments: replicas belong to shards and the cluster places them, so only the
//! current replica set is accepted, and requesting it changes nothing.

use std::sync::Arc;

use ropewalk_codec::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use ropewalk_codec::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use uuid::Uuid;

use super::create_topics::has_replicas;
use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: AlterPartitionReassignmentsRequest,
) -> Result<AlterPartitionReassignmentsResponse, Close> {
    let topic = |topic: ReassignableTopic| {
        let view = ctx.topic(&topic.name, Uuid::nil());
        let partition = |asked: ReassignablePartition| {
            let (code, error_message) = match check(ctx, view.as_deref(), &asked) {
                Ok(()) => (ErrorCode::None, None),
                Err((code, why)) => (code, Some(why.into())),
            };
            ReassignablePartitionResponse {
                partition_index: asked.partition_index,
                error_code: call.refuse(code),
                error_message,
            }
        };
        let partitions = topic.partitions.into_iter().map(partition).collect();
        ReassignableTopicResponse { name: topic.name, partitions }
    };
    let responses = request.topics.into_iter().map(topic).collect();
    Ok(AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        responses,
        ..Default::default()
    })
}

fn check(
    ctx: &Context,
    topic: Result<&TopicView, &ErrorCode>,
    asked: &ReassignablePartition,
) -> Result<(), (ErrorCode, String)> {
    let missing = |code| (code, "there is no such partition".to_owned());
    let topic = topic.map_err(|code| missing(*code))?;
    let found = topic.partition(asked.partition_index);
    let (_, home) = found.ok_or_else(|| missing(ErrorCode::UnknownTopicOrPartition))?;
    let Some(replicas) = &asked.replicas else {
        let why = "no reassignment was requested: the cluster places its replicas by itself";
        return Err((ErrorCode::NoReassignmentInProgress, why.to_owned()));
    };
    if has_replicas(ctx, home.shard, replicas) {
        return Ok(());
    }
    let current = ctx.replicas(home.shard);
    let why = format!(
        "replicas {replicas:?} are not possible: the partition is on {current:?} with the other \
         partitions of its shard, and the cluster places shards by itself"
    );
    Err((ErrorCode::InvalidReplicaAssignment, why))
}
