//! ListOffsets: the offset that belongs to a timestamp, or to one of the names that negative
//! timestamps stand for.

use std::sync::Arc;

use ropewalk_codec::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use ropewalk_codec::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use uuid::Uuid;

use super::partition::Found;
use super::{Call, Close, Context, ErrorCode};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The record with the greatest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;
/// The first offset on the broker's own disk (KIP-405).
const EARLIEST_LOCAL: i64 = -4;
/// The last offset in object storage (KIP-1005).
const LATEST_TIERED: i64 = -5;
/// The first offset not yet in object storage (KIP-1023).
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// The first version with words for the epoch of an offset (KIP-320).
const LEADER_EPOCH_SINCE: i16 = 4;

/// Answers the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, Close> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let view = ctx.topic(&topic.name, Uuid::nil());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let found = match &view {
                Ok(view) => ctx.partition(view, asked.partition_index),
                Err(code) => Err(*code),
            };
            let answer = match found {
                Ok(found) => look_up(found, &asked).await,
                Err(code) => Err(code),
            };
            let mut answer = answer.unwrap_or_else(|code| ListOffsetsPartitionResponse {
                partition_index: asked.partition_index,
                error_code: call.refuse(code),
                ..Default::default()
            });
            if call.version < LEADER_EPOCH_SINCE {
                answer.leader_epoch = -1;
            }
            partitions.push(answer);
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    Ok(ListOffsetsResponse { topics, ..Default::default() })
}

async fn look_up(
    found: Found,
    asked: &ListOffsetsPartition,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    found.check_epoch(asked.current_leader_epoch)?;
    found.shard.read_barrier().await?;
    let log = &found.log;
    let (offset, timestamp) = match asked.timestamp {
        LATEST => (log.high_watermark(), -1),
        EARLIEST | EARLIEST_LOCAL => (log.log_start(), -1),
        // Nothing is in object storage.
        LATEST_TIERED => (-1, -1),
        EARLIEST_PENDING_UPLOAD => (log.log_start(), -1),
        MAX_TIMESTAMP => {
            let found = tokio::task::block_in_place(|| log.max_timestamp());
            found.map_err(|error| ErrorCode::from(&error))?.unwrap_or((-1, -1))
        }
        timestamp if timestamp >= 0 => {
            let found = tokio::task::block_in_place(|| log.offset_for_timestamp(timestamp));
            found.map_err(|error| ErrorCode::from(&error))?.unwrap_or((-1, -1))
        }
        _ => return Err(ErrorCode::InvalidRequest),
    };
    let leader_epoch = match offset {
        -1 => -1,
        _ if offset == log.high_watermark() => found.leader_epoch,
        _ => found.epoch_at(offset),
    };
    Ok(ListOffsetsPartitionResponse {
        partition_index: asked.partition_index,
        offset,
        timestamp,
        leader_epoch,
        ..Default::default()
    })
}
