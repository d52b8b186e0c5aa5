//! AlterReplicaLogDirs: there is one directory, so a replica can only be "moved" to where it is.

use std::sync::Arc;

use ropewalk_codec::alter_replica_log_dirs_request::AlterReplicaLogDirsRequest;
use ropewalk_codec::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};
use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};

/// Answers the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: AlterReplicaLogDirsRequest,
) -> Result<AlterReplicaLogDirsResponse, Close> {
    let mut results = Vec::new();
    for dir in request.dirs {
        for topic in dir.topics {
            let view = ctx.topic(&topic.name, Uuid::nil());
            let partition = |index: i32| {
                let found = view.as_deref().map_err(|code| *code);
                let code = match found.and_then(|view| ctx.partition(view, index)) {
                    Ok(_) if dir.path == ctx.log_dir => ErrorCode::None,
                    Ok(_) => ErrorCode::LogDirNotFound,
                    Err(code) => code,
                };
                AlterReplicaLogDirPartitionResult {
                    partition_index: index,
                    error_code: call.refuse(code),
                }
            };
            let partitions = topic.partitions.into_iter().map(partition).collect();
            results.push(AlterReplicaLogDirTopicResult { topic_name: topic.name, partitions });
        }
    }
    Ok(AlterReplicaLogDirsResponse { results, ..Default::default() })
}
