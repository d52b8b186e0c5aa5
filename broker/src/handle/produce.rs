//! Produce: checks every batch, proposes, answers once it is durable on a majority (D1).
//!
//! Two stages. The first checks and proposes and runs in the order of the connection's requests,
//! so that a producer's sequences arrive in order; the second waits for the outcome, and several
//! may wait at once. acks=1 is answered like all; acks=0 is never answered, and on an error the
//! connection is closed so that the client notices.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::{Refusal, check};
use ropewalk_codec::Str;
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ropewalk_codec::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use ropewalk_shard::command::Append;
use ropewalk_shard::handle::AppendResult;
use ropewalk_shard::state::Appended;
use ropewalk_shard::{Shard, ShardId};
use tokio::sync::oneshot;

use super::{Call, Close, Context, ErrorCode, error};
use crate::catalog::TopicView;
use crate::clock;

/// The first version that may carry zstd (KIP-110).
const ZSTD_SINCE: i16 = 7;

/// Requests that were proposed and wait for their outcome.
#[derive(Debug)]
pub(crate) struct Proposed {
    acks: i16,
    response: ProduceResponse,
    waiting: Vec<Waiting>,
}

/// Batches of one shard.
#[derive(Debug)]
struct Waiting {
    /// Topic and partition in the response, and whether the topic stamps append time.
    places: Vec<(usize, usize, bool)>,
    answer: oneshot::Receiver<AppendResult>,
}

/// What goes to one shard.
#[derive(Debug)]
struct ToShard {
    shard: Arc<Shard>,
    items: Vec<Append>,
    places: Vec<(usize, usize, bool)>,
}

/// Checks and proposes; in the order of requests.
pub(crate) async fn propose(
    ctx: &Arc<Context>,
    call: &Call,
    request: ProduceRequest,
) -> Result<Proposed, Close> {
    let acks = request.acks;
    if !matches!(acks, -1..=1) {
        let response = refuse_all(call, request, ErrorCode::InvalidRequiredAcks);
        return Ok(Proposed { acks: -1, response, waiting: Vec::new() });
    }
    if request.transactional_id.is_some() {
        let response = refuse_all(call, request, ErrorCode::InvalidTxnState);
        return Ok(Proposed { acks, response, waiting: Vec::new() });
    }
    if ctx.node.tail_budget().wait_below().await.is_err() {
        let response = refuse_all(call, request, ErrorCode::KafkaStorageError);
        return Ok(Proposed { acks, response, waiting: Vec::new() });
    }
    let now_ms = clock::now_ms();
    let mut shards: BTreeMap<ShardId, ToShard> = BTreeMap::new();
    let mut response = ProduceResponse::default();
    for (t, topic) in request.topic_data.into_iter().enumerate() {
        let view = ctx.topic(&topic.name, topic.topic_id);
        let mut answers = Vec::with_capacity(topic.partition_data.len());
        for (p, data) in topic.partition_data.into_iter().enumerate() {
            let index = data.index;
            let taken = match &view {
                Ok(view) => take(ctx, call, view, data, now_ms),
                Err(code) => Err(refused(call, index, *code, None)),
            };
            answers.push(match taken {
                Ok((shard, append, stamps)) => {
                    let to = shards.entry(shard.id()).or_insert_with(|| ToShard {
                        shard,
                        items: Vec::new(),
                        places: Vec::new(),
                    });
                    to.items.push(append);
                    to.places.push((t, p, stamps));
                    PartitionProduceResponse { index, ..Default::default() }
                }
                Err(answer) => answer,
            });
        }
        response.responses.push(TopicProduceResponse {
            name: topic.name,
            topic_id: topic.topic_id,
            partition_responses: answers,
        });
    }
    let waiting = shards
        .into_values()
        .map(|to| Waiting { answer: to.shard.append(to.items), places: to.places });
    Ok(Proposed { acks, response, waiting: waiting.collect() })
}

impl Proposed {
    /// Waits for the outcome; `None` where the client wants no answer.
    pub(crate) async fn outcome(mut self, call: &Call) -> Result<Option<ProduceResponse>, Close> {
        for waiting in self.waiting {
            let answer = waiting.answer.await;
            let answer = answer.unwrap_or(Err(ropewalk_shard::ProposeError::Stopped));
            let results = match answer {
                Ok(results) => results.into_iter().map(|r| r.map_err(Into::into)).collect(),
                Err(error) => vec![Err(ErrorCode::from(error)); waiting.places.len()],
            };
            for ((t, p, stamps), result) in waiting.places.into_iter().zip(results) {
                let place = &mut self.response.responses[t].partition_responses[p];
                *place = match result {
                    Ok(appended) => accepted(place.index, &appended, stamps),
                    Err(code) => refused(call, place.index, code, None),
                };
            }
        }
        if self.acks != 0 {
            return Ok(Some(self.response));
        }
        let parts = self.response.responses.iter().flat_map(|t| &t.partition_responses);
        match parts.map(|p| p.error_code).find(|code| *code != ErrorCode::None.code()) {
            Some(code) => Err(Close::Unanswerable { code }),
            None => Ok(None),
        }
    }
}

/// Checks one partition's batch.
fn take(
    ctx: &Context,
    call: &Call,
    topic: &TopicView,
    data: PartitionProduceData,
    now_ms: i64,
) -> Result<(Arc<Shard>, Append, bool), PartitionProduceResponse> {
    let index = data.index;
    let found = ctx.partition(topic, index).map_err(|code| refused(call, index, code, None))?;
    let bytes = data.records.single().unwrap_or_default();
    let rules = topic.config.rules(call.version >= ZSTD_SINCE);
    let checked = check(bytes, &rules, now_ms).map_err(|why| not_accepted(call, index, &why))?;
    if checked.header.is_transactional() {
        return Err(refused(call, index, ErrorCode::InvalidTxnState, None));
    }
    let append = Append { partition: found.id, batch: owned(checked.bytes, call.size_bytes) };
    Ok((found.shard, append, topic.config.stamps_append_time()))
}

/// The batch with memory of its own. That may be its frame, if there is little else in it: the
/// tail counts the batch and pins the frame (R1).
fn owned(batch: Bytes, frame_bytes: usize) -> Bytes {
    if frame_bytes.saturating_sub(batch.len()) <= batch.len() / 8 {
        batch
    } else {
        Bytes::copy_from_slice(&batch)
    }
}

fn accepted(index: i32, appended: &Appended, stamps: bool) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        base_offset: appended.base_offset,
        log_append_time_ms: if stamps { appended.timestamp_ms } else { -1 },
        log_start_offset: appended.log_start,
        ..Default::default()
    }
}

fn refused(
    call: &Call,
    index: i32,
    code: ErrorCode,
    message: Option<String>,
) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        error_code: call.refuse(code),
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        error_message: message.map(Str::from),
        ..Default::default()
    }
}

fn not_accepted(call: &Call, index: i32, refusal: &Refusal) -> PartitionProduceResponse {
    let mut answer = refused(call, index, refusal.into(), Some(refusal.to_string()));
    answer.record_errors = error::of_records(refusal)
        .map(|(batch_index, message)| BatchIndexAndErrorMessage {
            batch_index,
            batch_index_error_message: Some(message.into()),
        })
        .collect();
    answer
}

fn refuse_all(call: &Call, request: ProduceRequest, code: ErrorCode) -> ProduceResponse {
    let topic = |topic: TopicProduceData| TopicProduceResponse {
        name: topic.name,
        topic_id: topic.topic_id,
        partition_responses: topic
            .partition_data
            .into_iter()
            .map(|data| refused(call, data.index, code, None))
            .collect(),
    };
    let responses = request.topic_data.into_iter().map(topic).collect();
    ProduceResponse { responses, ..Default::default() }
}
