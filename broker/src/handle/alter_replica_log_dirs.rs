//! AlterReplicaLogDirs: there is one log directory, so only the current directory is accepted.

use std::sync::Arc;

use ropewalk_codec::alter_replica_log_dirs_request::AlterReplicaLogDirsRequest;
use ropewalk_codec::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};

use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: AlterReplicaLogDirsRequest,
) -> Result<AlterReplicaLogDirsResponse, Close> {
    let mut results = Vec::new();
    for dir in request.dirs {
        for topic in dir.topics {
            let view = ctx.topic(&topic.name, Uuid::nil());
            let partition = |partition_index: i32| {
                let code = match find(ctx, view.as_deref(), partition_index) {
                    Ok(()) if dir.path == ctx.log_dir => ErrorCode::None,
                    Ok(()) => ErrorCode::LogDirNotFound,
                    Err(code) => code,
                };
                let error_code = call.refuse(code);
                AlterReplicaLogDirPartitionResult { partition_index, error_code }
            };
            let partitions = topic.partitions.iter().copied().map(partition).collect();
            results.push(AlterReplicaLogDirTopicResult { topic_name: topic.name, partitions });
        }
    }
    Ok(AlterReplicaLogDirsResponse { results, ..Default::default() })
}

/// Whether this broker holds a partition, as its leader or not.
fn find(ctx: &Context, topic: Result<&TopicView, &ErrorCode>, index: i32) -> Result<(), ErrorCode> {
    let topic = topic.map_err(|code| *code)?;
    let (id, home) = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let held = ctx.node.shard(home.shard).and_then(|shard| shard.log(&id));
    held.map(drop).ok_or(ErrorCode::ReplicaNotAvailable)
}
