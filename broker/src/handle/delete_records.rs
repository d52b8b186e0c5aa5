//! DeleteRecords: advances the log start of partitions, with one command per shard.
//!
//! A read barrier precedes the check of the offsets: a leader that was deposed lacks records, and
//! would refuse an offset that exists, or take its own end for that of the partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use ropewalk_codec::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use ropewalk_codec::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::{PartitionId, ShardId};
use ropewalk_store::PartitionLog;
use tracing::info;
use uuid::Uuid;

use super::partition::{HeldPartition, barriers};
use super::{Call, Close, Context, ErrorCode, deadline};
use crate::limits;

/// The offset that represents the high watermark.
const ALL: i64 = -1;

/// Most partitions that one log line names.
const NAMED_MAX: usize = 20;

/// The log start of a partition before and after the request.
#[derive(Debug)]
struct LogStartChange {
    before: i64,
    after: i64,
}

/// The place of a partition's result in the response.
#[derive(Debug, Clone, Copy)]
struct ResultPlace {
    /// Index of the topic.
    topic: usize,
    /// Index of the partition within its topic.
    partition: usize,
}

/// A partition whose log start is to be advanced.
#[derive(Debug)]
struct LogStartMove {
    place: ResultPlace,
    shard: Arc<ShardHandle>,
    log: Arc<PartitionLog>,
    id: PartitionId,
    before: i64,
    offset: i64,
}

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Close> {
    let found: Vec<Vec<Result<HeldPartition, ErrorCode>>> =
        request.topics.iter().map(|topic| resolve(ctx, topic)).collect();
    let barriers = barriers(found.iter().flatten().flatten()).await;
    let mut shards: BTreeMap<ShardId, Vec<LogStartMove>> = BTreeMap::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for (t, (topic, found)) in request.topics.into_iter().zip(found).enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (p, (asked, found)) in topic.partitions.into_iter().zip(found).enumerate() {
            let checked = found.and_then(|found| {
                barriers.get(&found.shard.id()).copied().unwrap_or(Ok(()))?;
                check(found, &asked, ResultPlace { topic: t, partition: p })
            });
            let code = match checked {
                Ok(checked) => {
                    shards.entry(checked.shard.id()).or_default().push(checked);
                    ErrorCode::None
                }
                Err(code) => code,
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: asked.partition_index,
                low_watermark: -1,
                error_code: call.refuse(code),
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    let pieces = shards.into_values().flat_map(pieces);
    let mut removed: BTreeMap<usize, BTreeMap<i32, i64>> = BTreeMap::new();
    for moves in join_all(pieces.map(|moves| advance(call, moves, request.timeout_ms))).await {
        for (place, moved) in moves {
            let result = &mut topics[place.topic].partitions[place.partition];
            match moved {
                Ok(LogStartChange { before, after }) => {
                    result.low_watermark = after;
                    if after > before {
                        removed
                            .entry(place.topic)
                            .or_default()
                            .insert(result.partition_index, after);
                    }
                }
                Err(code) => result.error_code = call.refuse(code),
            }
        }
    }
    for (t, log_starts) in removed {
        info!(
            topic = &*topics[t].name,
            client_id = call.client_id.as_deref(),
            peer = %call.peer.address,
            partitions = log_starts.len(),
            log_starts = listed(&log_starts),
            "records deleted by a client"
        );
    }
    Ok(DeleteRecordsResponse { topics, ..Default::default() })
}

/// The partitions of one topic whose records may be deleted.
fn resolve(ctx: &Context, topic: &DeleteRecordsTopic) -> Vec<Result<HeldPartition, ErrorCode>> {
    let view = ctx.topic(&topic.name, Uuid::nil());
    let resolve = |asked: &DeleteRecordsPartition| {
        let view = view.as_deref().map_err(|code| *code)?;
        let found = ctx.partition(view, asked.partition_index)?;
        if view.config.compacts() && !view.config.deletes() {
            // A compacted topic keeps the last record of every key.
            return Err(ErrorCode::PolicyViolation);
        }
        Ok(found)
    };
    topic.partitions.iter().map(resolve).collect()
}

/// The move of one partition. Advancing to the current log start or below changes nothing and is
/// not an error.
fn check(
    found: HeldPartition,
    asked: &DeleteRecordsPartition,
    place: ResultPlace,
) -> Result<LogStartMove, ErrorCode> {
    let end = found.log.high_watermark();
    let offset = if asked.offset == ALL { end } else { asked.offset };
    if !(0..=end).contains(&offset) {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let before = found.log.log_start();
    Ok(LogStartMove { place, shard: found.shard, log: found.log, id: found.id, before, offset })
}

/// Splits one shard's moves into chunks that are one entry each.
fn pieces(mut moves: Vec<LogStartMove>) -> impl Iterator<Item = Vec<LogStartMove>> {
    std::iter::from_fn(move || {
        let rest = moves.split_off(moves.len().min(limits::ENTRY_PARTITIONS_MAX));
        let piece = std::mem::replace(&mut moves, rest);
        (!piece.is_empty()).then_some(piece)
    })
}

/// The log starts after the moves of one shard, by their places in the response.
async fn advance(
    call: &Call,
    moves: Vec<LogStartMove>,
    timeout_ms: i32,
) -> Vec<(ResultPlace, Result<LogStartChange, ErrorCode>)> {
    let offsets = moves.iter().map(|to| (to.id, to.offset)).collect();
    let command = Command::Shard(ShardCommand::AdvanceLogStart(offsets));
    let Some(shard) = moves.first().map(|to| Arc::clone(&to.shard)) else { return Vec::new() };
    let change = call.counted(async move { shard.propose(command).await });
    let done = deadline::within(timeout_ms, change).await;
    let failed = match done {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.into()),
        Err(late) => Some(late.into()),
    };
    let outcome = |to: LogStartMove| {
        let moved = || Ok(LogStartChange { before: to.before, after: to.log.log_start() });
        (to.place, failed.map_or_else(moved, Err))
    };
    moves.into_iter().map(outcome).collect()
}

/// The first partitions of a topic with their log starts, for the log line.
fn listed(log_starts: &BTreeMap<i32, i64>) -> String {
    let named = log_starts.iter().take(NAMED_MAX).map(|(index, start)| format!("{index}: {start}"));
    let more = (log_starts.len() > NAMED_MAX).then(|| "…".to_owned());
    named.chain(more).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn a_line_of_the_log_names_so_many_partitions() {
        assert_eq!(listed(&[(0, 5), (3, 7)].into()), "0: 5, 3: 7");
        let many = listed(&(0..100).map(|index| (index, 1)).collect());
        assert!(many.ends_with("19: 1, …"), "{many}");
    }
}
