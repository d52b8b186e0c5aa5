//! ListOffsets: the offset of a timestamp, or of one of the special positions that negative
//! timestamps represent.

use std::sync::Arc;

use ropewalk_codec::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use ropewalk_codec::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use ropewalk_node::blocking;
use uuid::Uuid;

use super::partition::{HeldPartition, barriers};
use super::{Call, Close, Context, ErrorCode};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The record with the largest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;
/// The first offset on the broker's own disk (KIP-405).
const EARLIEST_LOCAL: i64 = -4;
/// The last offset in object storage (KIP-1005).
const LATEST_TIERED: i64 = -5;
/// The first offset not yet in object storage (KIP-1023).
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// First version that carries the leader epoch of an offset (KIP-320).
const LEADER_EPOCH_SINCE: i16 = 4;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, Close> {
    let mut topics = Vec::with_capacity(request.topics.len());
    let found: Vec<Vec<Result<HeldPartition, ErrorCode>>> =
        request.topics.iter().map(|topic| resolve(ctx, topic)).collect();
    // Every acknowledged record can be read after that.
    let barriers = barriers(found.iter().flatten().flatten()).await;
    for (topic, found) in request.topics.into_iter().zip(found) {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (asked, found) in topic.partitions.into_iter().zip(found) {
            let answer = found.and_then(|found| {
                barriers.get(&found.shard.id()).copied().unwrap_or(Ok(()))?;
                look_up(&found, &asked)
            });
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

fn resolve(ctx: &Context, topic: &ListOffsetsTopic) -> Vec<Result<HeldPartition, ErrorCode>> {
    let view = ctx.topic(&topic.name, Uuid::nil());
    let resolve = |asked: &ListOffsetsPartition| {
        let view = view.as_deref().map_err(|code| *code)?;
        let found = ctx.partition(view, asked.partition_index)?;
        found.check_epoch(asked.current_leader_epoch)?;
        Ok(found)
    };
    topic.partitions.iter().map(resolve).collect()
}

fn look_up(
    found: &HeldPartition,
    asked: &ListOffsetsPartition,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    let log = &found.log;
    let (offset, timestamp) = match asked.timestamp {
        LATEST => (log.high_watermark(), -1),
        EARLIEST | EARLIEST_LOCAL => (log.log_start(), -1),
        // Tiered storage is not served.
        LATEST_TIERED => (-1, -1),
        EARLIEST_PENDING_UPLOAD => (log.log_start(), -1),
        MAX_TIMESTAMP => {
            let found = blocking::in_place(|| log.max_timestamp());
            found.map_err(|error| ErrorCode::from(&error))?.unwrap_or((-1, -1))
        }
        timestamp if timestamp >= 0 => {
            let found = blocking::in_place(|| log.offset_for_timestamp(timestamp));
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
