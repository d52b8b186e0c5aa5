//! OffsetForLeaderEpoch: the end offset of an epoch, by which a client detects whether its position
//! is still part of the log (KIP-320).
//!
//! A read barrier precedes the answer: the log of a leader that was deposed ends before its clients
//! know of it, and they would conclude that their records were lost.

use std::sync::Arc;

use ropewalk_codec::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use ropewalk_codec::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use ropewalk_shard::state::partition::EpochEnd;
use uuid::Uuid;

use super::partition::{HeldPartition, barriers};
use super::{Call, Close, Context, ErrorCode};

/// Epoch and offset of the answer for an epoch that this log cannot have.
const UNDEFINED: EpochEnd = EpochEnd { epoch: -1, end_offset: -1 };

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, Close> {
    let mut topics = Vec::with_capacity(request.topics.len());
    let found: Vec<Vec<Result<HeldPartition, ErrorCode>>> =
        request.topics.iter().map(|topic| resolve(ctx, topic)).collect();
    let barriers = barriers(found.iter().flatten().flatten()).await;
    for (topic, found) in request.topics.into_iter().zip(found) {
        let answer = |(asked, found): (OffsetForLeaderPartition, Result<HeldPartition, _>)| {
            let end = found.and_then(|found| {
                barriers.get(&found.shard.id()).copied().unwrap_or(Ok(()))?;
                end_of(&found, &asked)
            });
            end.unwrap_or_else(|code| EpochEndOffset {
                partition: asked.partition,
                error_code: call.refuse(code),
                ..Default::default()
            })
        };
        let partitions = topic.partitions.into_iter().zip(found).map(answer).collect();
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    Ok(OffsetForLeaderEpochResponse { topics, ..Default::default() })
}

fn resolve(ctx: &Context, topic: &OffsetForLeaderTopic) -> Vec<Result<HeldPartition, ErrorCode>> {
    let view = ctx.topic(&topic.topic, Uuid::nil());
    let resolve = |asked: &OffsetForLeaderPartition| {
        let view = view.as_deref().map_err(|code| *code)?;
        let found = ctx.partition(view, asked.partition)?;
        found.check_epoch(asked.current_leader_epoch)?;
        Ok(found)
    };
    topic.partitions.iter().map(resolve).collect()
}

fn end_of(
    found: &HeldPartition,
    asked: &OffsetForLeaderPartition,
) -> Result<EpochEndOffset, ErrorCode> {
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
