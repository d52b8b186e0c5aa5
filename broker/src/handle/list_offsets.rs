//! ListOffsets: the offset of a timestamp, or of one of the special positions that negative
//! timestamps represent.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_codec::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use ropewalk_codec::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use ropewalk_node::blocking;
use ropewalk_store::log::ReadError;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::partition::{HeldPartition, barriers};
use super::{Call, Close, Context, ErrorCode};
use crate::limits;

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
    let deadline = Instant::now() + time_limit(request.timeout_ms);
    let mut topics = Vec::with_capacity(request.topics.len());
    let found: Vec<Vec<Result<HeldPartition, ErrorCode>>> =
        request.topics.iter().map(|topic| resolve(ctx, topic)).collect();
    // Every acknowledged record can be read after that.
    let barriers = barriers(found.iter().flatten().flatten()).await;
    for (topic, found) in request.topics.into_iter().zip(found) {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (asked, found) in topic.partitions.into_iter().zip(found) {
            let answer = async {
                let found = found?;
                barriers.get(&found.shard.id()).copied().unwrap_or(Ok(()))?;
                look_up(ctx, &found, &asked, deadline).await
            };
            let mut answer = answer.await.unwrap_or_else(|code| ListOffsetsPartitionResponse {
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

/// How long a lookup in the bucket may take (KIP-1075).
fn time_limit(timeout_ms: i32) -> Duration {
    match u64::try_from(timeout_ms) {
        Ok(ms) if ms > 0 => Duration::from_millis(ms).min(limits::LOOKUP_TIME_MAX),
        Ok(_) | Err(_) => limits::CHANGE_TIME_DEFAULT,
    }
}

fn late(_: Elapsed) -> ErrorCode {
    ErrorCode::RequestTimedOut
}

type Found = Result<Option<(i64, i64)>, ErrorCode>;

/// Offset and timestamp of the first record that is not older: first in the bucket, then here.
async fn by_timestamp(ctx: &Context, found: &HeldPartition, timestamp_ms: i64) -> Found {
    let (log, code) = (&found.log, |error: ReadError| ErrorCode::from(&error));
    loop {
        let range = match blocking::in_place(|| log.offset_for_timestamp(timestamp_ms)) {
            Err(ReadError::Remote(range)) => range,
            all_local => return all_local.map_err(code),
        };
        let remote = ctx.remote.get().ok_or(ErrorCode::KafkaStorageError)?;
        let older = remote.offset_for_timestamp(found.id, range, timestamp_ms).await;
        if let Some(older) = older.map_err(|error| ErrorCode::from(&error))? {
            return Ok(Some(older));
        }
        let local = blocking::in_place(|| log.local_offset_for_timestamp(timestamp_ms));
        // Records that moved meanwhile were searched neither there nor here.
        if log.local_start() == range.until {
            return local.map_err(code);
        }
    }
}

/// Offset and timestamp of the first record with the largest timestamp, in the bucket or here.
async fn max_timestamp(ctx: &Context, found: &HeldPartition) -> Found {
    let (log, code) = (&found.log, |error: ReadError| ErrorCode::from(&error));
    loop {
        let range = match blocking::in_place(|| log.max_timestamp()) {
            Err(ReadError::Remote(range)) => range,
            all_local => return all_local.map_err(code),
        };
        let remote = ctx.remote.get().ok_or(ErrorCode::KafkaStorageError)?;
        let older = remote.max_timestamp(found.id, range).await;
        let older = older.map_err(|error| ErrorCode::from(&error))?;
        let local = blocking::in_place(|| log.local_max_timestamp()).map_err(code)?;
        if log.local_start() == range.until {
            // Of equal timestamps the first record counts.
            let by_age = |&(offset, ms): &(i64, i64)| (ms, Reverse(offset));
            return Ok(older.into_iter().chain(local).max_by_key(by_age));
        }
    }
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

async fn look_up(
    ctx: &Context,
    found: &HeldPartition,
    asked: &ListOffsetsPartition,
    deadline: Instant,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    let log = &found.log;
    let (offset, timestamp) = match asked.timestamp {
        LATEST => (log.high_watermark(), -1),
        EARLIEST => (log.log_start(), -1),
        EARLIEST_LOCAL => (log.local_start(), -1),
        LATEST_TIERED => {
            let end = found.tier_end();
            (if end > log.log_start() { end - 1 } else { -1 }, -1)
        }
        EARLIEST_PENDING_UPLOAD => (found.tier_end(), -1),
        MAX_TIMESTAMP => timeout_at(deadline, max_timestamp(ctx, found))
            .await
            .map_err(late)??
            .unwrap_or((-1, -1)),
        timestamp if timestamp >= 0 => {
            let found = timeout_at(deadline, by_timestamp(ctx, found, timestamp)).await;
            found.map_err(late)??.unwrap_or((-1, -1))
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
