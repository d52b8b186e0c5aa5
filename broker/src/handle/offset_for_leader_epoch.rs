//! OffsetForLeaderEpoch: the end offset of an epoch, by which a client detects whether its position
//! is still part of the log (KIP-320).

use std::sync::Arc;

use ropewalk_codec::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition,
};
use ropewalk_codec::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use ropewalk_shard::state::partition::EpochEnd;
use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;

/// Epoch and offset of the answer for an epoch that this log cannot have.
const UNDEFINED: EpochEnd = EpochEnd { epoch: -1, end_offset: -1 };

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, Close> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let view = ctx.topic(&topic.topic, Uuid::nil());
        let answer = |asked: OffsetForLeaderPartition| {
            let end = view.as_deref().map_err(|code| *code);
            let end = end.and_then(|view| end_of(ctx, view, &asked));
            end.unwrap_or_else(|code| EpochEndOffset {
                partition: asked.partition,
                error_code: call.refuse(code),
                ..Default::default()
            })
        };
        let partitions = topic.partitions.into_iter().map(answer).collect();
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    Ok(OffsetForLeaderEpochResponse { topics, ..Default::default() })
}

fn end_of(
    ctx: &Context,
    topic: &TopicView,
    asked: &OffsetForLeaderPartition,
) -> Result<EpochEndOffset, ErrorCode> {
    let found = ctx.partition(topic, asked.partition)?;
    found.check_epoch(asked.current_leader_epoch)?;
    let state = found.shard.state();
    let partition = state.partitions.get(&found.id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let end = partition.epoch_end(asked.leader_epoch, found.leader_epoch);
    let EpochEnd { epoch: leader_epoch, end_offset } = end.unwrap_or(UNDEFINED);
    Ok(EpochEndOffset {
        partition: asked.partition,
        leader_epoch,
        end_offset,
        ..Default::default()
    })
}
