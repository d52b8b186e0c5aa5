//! DeleteRecords: moves a partition's log start up.

use std::sync::Arc;

use ropewalk_codec::delete_records_request::{DeleteRecordsPartition, DeleteRecordsRequest};
use ropewalk_codec::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use ropewalk_shard::command::{Command, ShardCommand};
use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;

/// Stands for the high watermark.
const ALL: i64 = -1;

/// Answers the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Close> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let view = ctx.topic(&topic.name, Uuid::nil());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let moved = match &view {
                Ok(view) => advance(ctx, view, &asked).await,
                Err(code) => Err(*code),
            };
            partitions.push(match moved {
                Ok(low_watermark) => DeleteRecordsPartitionResult {
                    partition_index: asked.partition_index,
                    low_watermark,
                    ..Default::default()
                },
                Err(code) => DeleteRecordsPartitionResult {
                    partition_index: asked.partition_index,
                    low_watermark: -1,
                    error_code: call.refuse(code),
                },
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    Ok(DeleteRecordsResponse { topics, ..Default::default() })
}

/// The log start after the move. Moving it to where it is, or below, changes nothing.
async fn advance(
    ctx: &Context,
    topic: &TopicView,
    asked: &DeleteRecordsPartition,
) -> Result<i64, ErrorCode> {
    let found = ctx.partition(topic, asked.partition_index)?;
    if !topic.config.deletes() {
        // Compacted topics keep the last record of every key.
        return Err(ErrorCode::PolicyViolation);
    }
    let end = found.log.high_watermark();
    let offset = if asked.offset == ALL { end } else { asked.offset };
    if !(0..=end).contains(&offset) {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let command = ShardCommand::AdvanceLogStart(vec![(found.id, offset)]);
    found.shard.propose(Command::Shard(command)).await?;
    Ok(found.log.log_start())
}
