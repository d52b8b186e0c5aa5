//! AlterReplicaLogDirs: there is one log directory, so only the current directory is accepted.

use std::sync::Arc;

use ropewalk_codec::alter_replica_log_dirs_request::AlterReplicaLogDirsRequest;
use ropewalk_codec::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};

use super::partition::LedPartition;
use super::{Call, Close, Context, ErrorCode};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: AlterReplicaLogDirsRequest,
) -> Result<AlterReplicaLogDirsResponse, Close> {
    let mut results = Vec::new();
    for dir in request.dirs {
        for topic in dir.topics {
            let partition = |index: i32, found: Result<LedPartition, ErrorCode>| {
                let code = match found {
                    Ok(_) if dir.path == ctx.log_dir => ErrorCode::None,
                    Ok(_) => ErrorCode::LogDirNotFound,
                    Err(code) => code,
                };
                AlterReplicaLogDirPartitionResult {
                    partition_index: index,
                    error_code: call.refuse(code),
                }
            };
            let partitions =
                ctx.each_partition(&topic.name, topic.partitions, |index| *index, partition);
            results.push(AlterReplicaLogDirTopicResult { topic_name: topic.name, partitions });
        }
    }
    Ok(AlterReplicaLogDirsResponse { results, ..Default::default() })
}
