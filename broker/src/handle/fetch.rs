//! Fetch: whole batches from each partition, or a wait until there are enough.
//!
//! The records are not copied: a response consists of slices of the tail, or of what was read from
//! a segment. Its size is bounded by the client's limits, by the broker's, and by the response
//! budget that all connections share.
//!
//! `session` holds what a client asks and was answered in a fetch session (KIP-227), `cache` the
//! sessions of the broker; both decide without I/O. `reading` connects them with the logs.

use std::sync::Arc;
use std::time::Duration;

use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest};
use ropewalk_codec::fetch_response::{
    EpochEndOffset, FetchResponse, FetchableTopicResponse, PartitionData,
};
use ropewalk_codec::{Records, Str};
use ropewalk_shard::state::partition::EpochEnd;
use ropewalk_store::log::{Chunk, PartitionLog};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::partition::LedPartition;
use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;
use crate::limits;
use crate::listen::Permit;

mod cache;
mod reading;
mod session;

use reading::Reading;
pub(crate) use reading::{SessionMetrics, Sessions};

/// The requested position of one partition.
#[derive(Debug)]
struct PartitionRead {
    asked: FetchPartition,
    found: Result<LedPartition, ErrorCode>,
    /// Identifies the partition when its log changes.
    token: u32,
    /// Whether its log reports the next change.
    watched: bool,
}

/// The requested partitions of one topic.
#[derive(Debug)]
struct TopicRead {
    topic: Str,
    topic_id: Uuid,
    view: Result<Arc<TopicView>, ErrorCode>,
    partitions: Vec<PartitionRead>,
}

/// Handles a fetch.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: FetchRequest,
) -> Result<FetchResponse, Close> {
    let bytes_max =
        usize::try_from(request.max_bytes).unwrap_or(0).min(ctx.settings.fetch_bytes_max());
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait.min(limits::FETCH_WAIT_MAX);

    let mut reading = match Reading::of(ctx, call, request) {
        Ok(reading) => reading,
        Err(code) => {
            let error_code = call.refuse(code);
            return Ok(FetchResponse { error_code, ..Default::default() });
        }
    };
    loop {
        let waits = bytes_min > 0 && Instant::now() < deadline && !reading.is_empty();
        reading.watch(ctx, waits);
        // A fetch that only waits must not hold memory that other responses need.
        if !waits || partitions(&reading.wants).any(PartitionRead::has_news) {
            let (mut held, room) = share(ctx, bytes_max).await;
            let (mut response, size_bytes, urgent) = collect(call, &reading.wants, room);
            if !waits || urgent || size_bytes >= bytes_min {
                held.shrink_to(size_bytes);
                call.hold(held);
                reading.finish(&mut response);
                return Ok(response);
            }
        }
        // Whether woken or past the deadline, the logs are read again; past the deadline the result
        // is the response.
        let _ = timeout_at(deadline, reading.changed()).await;
    }
}

/// A share of the response budget, and how much may be read under it: the client's full limit if
/// that much is free at once, else a part of it.
async fn share(ctx: &Context, bytes_max: usize) -> (Permit, usize) {
    let first = bytes_max.min(limits::FETCH_RESERVE_BYTES);
    let mut held = ctx.answers.acquire(first).await;
    let has_all = ctx.answers.try_extend(&mut held, bytes_max - first);
    (held, if has_all { bytes_max } else { first })
}

fn partitions(wants: &[TopicRead]) -> impl Iterator<Item = &PartitionRead> {
    wants.iter().flat_map(|wants| &wants.partitions)
}

impl PartitionRead {
    /// Whether the partition has records to return, or an error.
    fn has_news(&self) -> bool {
        let Ok(found) = &self.found else { return true };
        found.log.is_closed()
            || found.log.high_watermark() != self.asked.fetch_offset
            || !matches!(diverging(found, &self.asked), Ok(None))
    }
}

/// Reads the available records: the response, the size of its records, and whether it must be sent
/// without a wait.
fn collect(call: &Call, wants: &[TopicRead], bytes_max: usize) -> (FetchResponse, usize, bool) {
    let mut size_bytes = 0;
    let mut urgent = false;
    let mut responses = Vec::with_capacity(wants.len());
    for topic in wants {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for want in &topic.partitions {
            let data = read(call, want, bytes_max.saturating_sub(size_bytes), size_bytes == 0);
            size_bytes += data.records.len();
            urgent |= data.error_code != ErrorCode::None.code() || data.diverging_epoch.epoch >= 0;
            partitions.push(data);
        }
        responses.push(FetchableTopicResponse {
            topic: topic.topic.clone(),
            topic_id: topic.topic_id,
            partitions,
        });
    }
    (FetchResponse { responses, ..Default::default() }, size_bytes, urgent)
}

/// Reads one partition. The first batch of a response is returned whatever its size (KIP-74).
fn read(call: &Call, want: &PartitionRead, room: usize, first: bool) -> PartitionData {
    let asked = &want.asked;
    let found = match &want.found {
        Ok(found) => found,
        Err(code) => return failed(call, asked.partition, *code),
    };
    if found.log.is_closed() {
        return failed(call, asked.partition, ErrorCode::UnknownTopicOrPartition);
    }
    let mut data = PartitionData {
        partition_index: asked.partition,
        high_watermark: found.log.high_watermark(),
        log_start_offset: found.log.log_start(),
        ..Default::default()
    };
    data.last_stable_offset = data.high_watermark;
    data.records = Records::from_chunks(Vec::new());
    match diverging(found, asked) {
        Ok(None) => {}
        Ok(Some(diverging)) => {
            data.diverging_epoch = diverging;
            return data;
        }
        Err(code) => return PartitionData { error_code: call.refuse(code), ..data },
    }
    let limit = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(room);
    match read_log(&found.log, asked.fetch_offset, limit, first) {
        Ok(chunk) => {
            // The chunk may end above the high watermark that was read before it.
            data.high_watermark = data.high_watermark.max(chunk.next_offset);
            data.last_stable_offset = data.high_watermark;
            data.records = Records::from_chunks(chunk.bytes);
            data
        }
        Err(code) => PartitionData {
            records: Records::from_chunks(Vec::new()),
            error_code: call.refuse(code),
            ..data
        },
    }
}

fn read_log(
    log: &Arc<PartitionLog>,
    from: i64,
    bytes_max: usize,
    at_least_one: bool,
) -> Result<Chunk, ErrorCode> {
    let read = match log.read_from_memory(from, bytes_max, at_least_one) {
        Ok(Some(chunk)) => return Ok(chunk),
        Ok(None) => tokio::task::block_in_place(|| log.read(from, bytes_max, at_least_one)),
        Err(error) => Err(error),
    };
    read.map_err(|error| {
        tracing::debug!(partition = %log.partition(), from, %error, "nothing to read");
        ErrorCode::from(&error)
    })
}

/// The end of the client's diverging epoch, if its log diverges from this one (KIP-595). As in
/// Kafka, an offset below the log start is out of range whatever its epoch, and so is an epoch that
/// this log cannot have.
fn diverging(
    found: &LedPartition,
    asked: &FetchPartition,
) -> Result<Option<EpochEndOffset>, ErrorCode> {
    if asked.last_fetched_epoch < 0 {
        return Ok(None);
    }
    let state = found.shard.state();
    let partition = state.partitions.get(&found.id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if asked.fetch_offset < partition.log_start {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let end = partition.epoch_end(asked.last_fetched_epoch, found.leader_epoch);
    let EpochEnd { epoch, end_offset } = end.ok_or(ErrorCode::OffsetOutOfRange)?;
    let parted = epoch < asked.last_fetched_epoch || end_offset < asked.fetch_offset;
    Ok(parted.then_some(EpochEndOffset { epoch, end_offset }))
}

fn failed(call: &Call, partition_index: i32, code: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index,
        error_code: call.refuse(code),
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        records: Records::from_chunks(Vec::new()),
        ..Default::default()
    }
}
