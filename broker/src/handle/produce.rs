//! Produce: checks every batch, proposes it, and answers once it is durable on a majority (D1).
//!
//! There are two stages. The first checks and proposes in the order of the connection's requests,
//! so that a producer's sequences arrive in order. The second waits for the outcome, and several
//! requests may wait at once. acks=1 is answered like acks=all. acks=0 is never answered; on an
//! error the connection is closed, so that the client notices.
//!
//! A client waits for `timeout_ms`. A batch that was proposed by then is answered with
//! REQUEST_TIMED_OUT: it may still be stored, and its share of the request memory is held until the
//! outcome is known. With acks=0 no client waits, and only the connection's bounds apply.
//!
//! A batch that comes ahead of an earlier one of its producer is refused as "not enough replicas"
//! the first time, and only then as out of order: see [`SendOrder`].
//!
//! A refusal because another broker leads names that broker (KIP-951), and waits a little while
//! no broker leads: franz-go asks for metadata once in five seconds at most, and would learn of the
//! next leader only then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::{Refusal, check, sequence_after};
use ropewalk_codec::Str;
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ropewalk_codec::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
    ProduceResponse, TopicProduceResponse,
};
use ropewalk_node::ShardHandle;
use ropewalk_shard::ShardId;
use ropewalk_shard::command::Append;
use ropewalk_shard::limits::{BATCH_BYTES_MAX, ENTRY_BYTES_MAX};
use ropewalk_shard::proposal::{AppendResult, Numbered, SendOrder};
use ropewalk_shard::state::{AppendOutcome, AppendRefusal};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::placement::{Endpoint, LeaderHints};
use super::{Call, Close, Context, ErrorCode, deadline, error};
use crate::catalog::TopicView;
use crate::clock;
use crate::limits;

mod batch_memory;

use batch_memory::BatchMemory;

/// First version that may carry zstd (KIP-110).
const ZSTD_SINCE: i16 = 7;
/// First version whose response names the leader of a partition that is led elsewhere (KIP-951).
const LEADER_HINTS_SINCE: i16 = 10;

/// Proposed batches of a request, waiting for their outcome.
#[derive(Debug)]
pub(crate) struct PendingProduce {
    acks: i16,
    /// When the client stops waiting; never with acks=0.
    due: Option<Instant>,
    timeout_ms: i32,
    response: ProduceResponse,
    waiting: Vec<Waiting>,
}

/// The place of a batch's answer in the response.
#[derive(Debug, Clone, Copy)]
struct BatchPlace {
    /// Index of the topic.
    topic: usize,
    /// Index of the partition within its topic.
    partition: usize,
    uses_append_time: bool,
    /// `None` if the producer is not idempotent.
    numbered: Option<Numbered>,
}

/// A batch that may be proposed.
struct CheckedBatch {
    shard: Arc<ShardHandle>,
    append: Append,
    uses_append_time: bool,
    numbered: Option<Numbered>,
}

/// Proposed batches of one shard.
#[derive(Debug)]
struct Waiting {
    places: Vec<BatchPlace>,
    answer: oneshot::Receiver<AppendResult>,
}

/// The batches for one shard.
#[derive(Debug)]
struct ShardBatches {
    shard: Arc<ShardHandle>,
    items: Vec<Append>,
    places: Vec<BatchPlace>,
}

/// Checks and proposes. Called in the order of requests.
pub(crate) async fn propose(
    ctx: &Arc<Context>,
    call: &Call,
    request: ProduceRequest,
) -> Result<PendingProduce, Close> {
    let (acks, timeout_ms) = (request.acks, request.timeout_ms);
    let due = (acks != 0).then(|| Instant::now() + deadline::patience(timeout_ms));
    let proposed =
        |acks, response, waiting| Ok(PendingProduce { acks, due, timeout_ms, response, waiting });
    if !matches!(acks, -1..=1) {
        let why = format!("acks is {acks}, must be 0, 1 or -1 (all)");
        let response = refuse_all(call, request, ErrorCode::InvalidRequiredAcks, &why);
        return proposed(-1, response, Vec::new());
    }
    if let Some(id) = &request.transactional_id {
        let why = format!("transactions are not served yet (transactional.id is '{id}')");
        let response = refuse_all(call, request, ErrorCode::InvalidTxnState, &why);
        return proposed(acks, response, Vec::new());
    }
    if let Err((code, why)) = room(ctx, due, timeout_ms).await {
        if is_of_new_producer(ctx, &request) {
            call.peer.order.end();
        }
        let response = refuse_all(call, request, code, &why);
        return proposed(acks, response, Vec::new());
    }
    if call.peer.order.is_ended() {
        let behind = ropewalk_shard::ProposeError::Behind;
        let response = refuse_all(call, request, behind.into(), &behind.to_string());
        return proposed(acks, response, Vec::new());
    }
    let now_ms = clock::now_ms();
    let memory = BatchMemory::new(call);
    let mut shards: BTreeMap<ShardId, ShardBatches> = BTreeMap::new();
    let mut response = ProduceResponse::default();
    for (t, topic) in request.topic_data.into_iter().enumerate() {
        let view = ctx.topic(&topic.name, topic.topic_id);
        let mut answers = Vec::with_capacity(topic.partition_data.len());
        for (p, data) in topic.partition_data.into_iter().enumerate() {
            let index = data.index;
            let checked = match &view {
                Ok(view) => check_batch(ctx, &memory, view, data, now_ms),
                Err(code) => Err(refused(call, index, *code, None)),
            };
            answers.push(match checked {
                Ok(CheckedBatch { shard, append, uses_append_time, numbered }) => {
                    let to = shards.entry(shard.id()).or_insert_with(|| ShardBatches {
                        shard,
                        items: Vec::new(),
                        places: Vec::new(),
                    });
                    to.items.push(append);
                    let place = BatchPlace { topic: t, partition: p, uses_append_time, numbered };
                    to.places.push(place);
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
    let waiting = shards.into_values().flat_map(|to| appends(to, &call.peer.order)).collect();
    proposed(acks, response, waiting)
}

/// Waits for free memory for records that are not yet written to segments.
async fn room(
    ctx: &Context,
    due: Option<Instant>,
    timeout_ms: i32,
) -> Result<(), (ErrorCode, String)> {
    let budget = ctx.node.tail_budget();
    let waits_since = budget.is_over().then(Instant::now);
    let below = budget.wait_below();
    let waited = match due {
        Some(due) => timeout_at(due, below).await,
        None => Ok(below.await),
    };
    if let Some(since) = waits_since {
        ctx.metrics.waited_for_memory(since.elapsed());
    }
    match waited {
        Ok(Ok(())) => Ok(()),
        Ok(Err(full)) => Err((ErrorCode::KafkaStorageError, full.to_string())),
        Err(_) => {
            let why = format!(
                "nothing was stored: the memory for records that wait for the disk was full for \
                 timeout_ms={timeout_ms}"
            );
            Err((ErrorCode::RequestTimedOut, why))
        }
    }
}

/// Whether a batch is of an idempotent producer that its partition does not hold. A partition
/// accepts any first sequence of such a producer, so a later batch could be stored before this one.
fn is_of_new_producer(ctx: &Context, request: &ProduceRequest) -> bool {
    request.topic_data.iter().any(|topic| {
        let Ok(view) = ctx.topic(&topic.name, topic.topic_id) else { return false };
        topic.partition_data.iter().any(|data| {
            let Ok(found) = ctx.partition(&view, data.index) else { return false };
            let batch = data.records.single().unwrap_or_default();
            found.shard.state().is_of_new_producer(&Append { partition: found.id, batch })
        })
    })
}

/// Proposes one shard's batches in order, in chunks of an entry's size, because an entry is bounded
/// and a request may carry many batches.
fn appends(to: ShardBatches, order: &SendOrder) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    let (mut items, mut places, mut size_bytes) = (Vec::new(), Vec::new(), 0);
    for (item, place) in to.items.into_iter().zip(to.places) {
        let item_bytes = item.batch.len();
        if size_bytes + item_bytes > ENTRY_BYTES_MAX && !items.is_empty() {
            let answer = to.shard.append(std::mem::take(&mut items), order.clone());
            waiting.push(Waiting { places: std::mem::take(&mut places), answer });
            size_bytes = 0;
        }
        size_bytes += item_bytes;
        items.push(item);
        places.push(place);
    }
    waiting.push(Waiting { places, answer: to.shard.append(items, order.clone()) });
    waiting
}

impl BatchPlace {
    fn answer(self, response: &mut ProduceResponse) -> &mut PartitionProduceResponse {
        &mut response.responses[self.topic].partition_responses[self.partition]
    }
}

impl PendingProduce {
    /// Waits for the outcome, and names the leaders of what is led elsewhere; `None` if the client
    /// expects no response.
    pub(crate) async fn answer(
        self,
        ctx: &Context,
        call: &Call,
    ) -> Result<Option<ProduceResponse>, Close> {
        let due = self.due;
        let mut answered = self.outcome(call).await?;
        if call.version >= LEADER_HINTS_SINCE
            && let Some(response) = &mut answered
        {
            let until = Instant::now() + limits::LEADER_HINT_WAIT_MAX;
            let shards = led_elsewhere(ctx, response);
            ctx.cluster.know_leaders(&shards, due.map_or(until, |due| due.min(until))).await;
            name_leaders(ctx, call, response);
        }
        Ok(answered)
    }

    /// Waits for the outcome; `None` if the client expects no response.
    pub(crate) async fn outcome(mut self, call: &Call) -> Result<Option<ProduceResponse>, Close> {
        for mut waiting in self.waiting {
            let answer = match self.due {
                Some(due) => match timeout_at(due, &mut waiting.answer).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let places = &waiting.places;
                        expire(call, &mut self.response, places, self.timeout_ms);
                        call.keep_frame_until(waiting.answer);
                        continue;
                    }
                },
                None => waiting.answer.await,
            };
            let answer = answer.unwrap_or(Err(ropewalk_shard::ProposeError::Unknown));
            let results: Vec<Result<Result<_, _>, ropewalk_shard::ProposeError>> = match answer {
                Ok(results) => results.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); waiting.places.len()],
            };
            for (place, result) in waiting.places.into_iter().zip(results) {
                let answer = place.answer(&mut self.response);
                *answer = match result {
                    Ok(applied) => settled(call, answer.index, place, applied),
                    Err(error) => {
                        refused(call, answer.index, error.into(), Some(error.to_string()))
                    }
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

/// The shards of the partitions that this broker does not lead.
fn led_elsewhere(ctx: &Context, response: &ProduceResponse) -> BTreeSet<ShardId> {
    let mut shards = BTreeSet::new();
    for topic in &response.responses {
        let parts = topic.partition_responses.iter();
        let mut elsewhere = parts
            .filter(|part| part.error_code == ErrorCode::NotLeaderOrFollower.code())
            .peekable();
        if elsewhere.peek().is_some()
            && let Ok(view) = ctx.topic(&topic.name, topic.topic_id)
        {
            let homes = elsewhere.filter_map(|part| view.partition(part.index));
            shards.extend(homes.map(|(_, home)| home.shard));
        }
    }
    shards
}

/// Names the leader of each partition that this broker does not lead.
fn name_leaders(ctx: &Context, call: &Call, response: &mut ProduceResponse) {
    let mut hints = LeaderHints::new(ctx, &call.peer);
    for topic in &mut response.responses {
        let elsewhere = topic.partition_responses.iter_mut();
        let elsewhere =
            elsewhere.filter(|part| part.error_code == ErrorCode::NotLeaderOrFollower.code());
        let mut view = None;
        for part in elsewhere {
            let view = view.get_or_insert_with(|| ctx.topic(&topic.name, topic.topic_id));
            let hint = view.as_ref().ok().and_then(|view| hints.of(view, part.index));
            if let Some((leader_id, leader_epoch)) = hint {
                part.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
            }
        }
    }
    let endpoint =
        |Endpoint { id, host, port, rack }| NodeEndpoint { node_id: id, host, port, rack };
    response.node_endpoints = hints.into_endpoints().map(endpoint).collect();
}

/// Checks one partition's batch.
fn check_batch(
    ctx: &Context,
    memory: &BatchMemory,
    topic: &TopicView,
    data: PartitionProduceData,
    now_ms: i64,
) -> Result<CheckedBatch, PartitionProduceResponse> {
    let (call, index) = (memory.call(), data.index);
    let bytes = data.records.single().unwrap_or_default();
    let found = ctx.partition(topic, index).map_err(|code| {
        note_refused(ctx, &call.peer.order, topic, index, &bytes);
        refused(call, index, code, None)
    })?;
    let sent_at = bytes.as_ptr();
    let mut rules = topic.config.rules(call.version >= ZSTD_SINCE);
    rules.size_bytes_max = rules.size_bytes_max.min(BATCH_BYTES_MAX);
    let checked = check(bytes, &rules, now_ms).map_err(|why| not_accepted(call, index, &why))?;
    if checked.header.is_transactional() {
        let why = "the batch belongs to a transaction, and transactions are not served yet";
        return Err(refused(call, index, ErrorCode::InvalidTxnState, Some(why.into())));
    }
    let numbered = Numbered::new(found.id, &checked.header);
    let is_rewritten = checked.bytes.as_ptr() != sent_at;
    let batch = if is_rewritten { checked.bytes } else { memory.own(checked.bytes) };
    let append = Append { partition: found.id, batch };
    let shard = found.shard;
    if let Some(numbered) = &numbered {
        let order = &call.peer.order;
        order.arrives(numbered);
        if order.overtakes(numbered, || shard.state().is_of_new_producer(&append)) {
            let behind = ropewalk_shard::ProposeError::Behind;
            return Err(refused(call, index, behind.into(), Some(behind.to_string())));
        }
    }
    let uses_append_time = topic.config.stamps_append_time();
    Ok(CheckedBatch { shard, append, uses_append_time, numbered })
}

/// Notes that a batch is refused because this broker does not lead. If it is the first of its
/// producer here, one that is sent after it must not be stored before it, should this broker lead
/// by then. A broker without a replica cannot.
fn note_refused(ctx: &Context, order: &SendOrder, topic: &TopicView, index: i32, batch: &Bytes) {
    let Some((partition, home)) = topic.partition(index) else { return };
    let Some(shard) = ctx.node.shard(home.shard) else { return };
    let item = Append { partition, batch: batch.clone() };
    let is_new = shard.state().is_of_new_producer(&item);
    if is_new && let Some(numbered) = Numbered::of(&item) {
        order.refuse(&numbered);
    }
}

/// The answer for a batch that was applied.
fn settled(
    call: &Call,
    index: i32,
    place: BatchPlace,
    result: Result<AppendOutcome, AppendRefusal>,
) -> PartitionProduceResponse {
    let order = &call.peer.order;
    match result {
        Ok(appended) => {
            if let Some(numbered) = &place.numbered {
                order.stored(numbered);
            }
            accepted(index, &appended, place.uses_append_time)
        }
        Err(why @ AppendRefusal::OutOfOrderSequence { last, .. })
            if place.numbered.is_some_and(|n| order.is_early(&n, sequence_after(last, 1))) =>
        {
            let why = format!("{why}: send it again, after those between");
            refused(call, index, ropewalk_shard::ProposeError::Behind.into(), Some(why))
        }
        Err(why) => refused(call, index, why.into(), Some(why.to_string())),
    }
}

fn accepted(
    index: i32,
    appended: &AppendOutcome,
    uses_append_time: bool,
) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        base_offset: appended.base_offset,
        log_append_time_ms: if uses_append_time { appended.timestamp_ms } else { -1 },
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

/// Answers after the client's timeout, when the outcome is not known.
fn expire(call: &Call, response: &mut ProduceResponse, places: &[BatchPlace], timeout_ms: i32) {
    for place in places {
        let answer = place.answer(response);
        let why = format!("not durable within timeout_ms={timeout_ms}; it may still be stored");
        *answer = refused(call, answer.index, ErrorCode::RequestTimedOut, Some(why));
    }
}

fn refuse_all(call: &Call, request: ProduceRequest, code: ErrorCode, why: &str) -> ProduceResponse {
    let topic = |topic: TopicProduceData| TopicProduceResponse {
        name: topic.name,
        topic_id: topic.topic_id,
        partition_responses: topic
            .partition_data
            .into_iter()
            .map(|data| refused(call, data.index, code, Some(why.to_owned())))
            .collect(),
    };
    let responses = request.topic_data.into_iter().map(topic).collect();
    ProduceResponse { responses, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ropewalk_codec::ApiKey;

    use super::*;
    use crate::listen::{Lane, Lanes};

    fn proposed(acks: i16, timeout_ms: i32) -> (PendingProduce, oneshot::Sender<AppendResult>) {
        let (done, answer) = oneshot::channel();
        let part = PartitionProduceResponse { index: 3, ..Default::default() };
        let topic = TopicProduceResponse { partition_responses: vec![part], ..Default::default() };
        let place = BatchPlace { topic: 0, partition: 0, uses_append_time: false, numbered: None };
        let proposed = PendingProduce {
            acks,
            due: (acks != 0).then(|| Instant::now() + deadline::patience(timeout_ms)),
            timeout_ms,
            response: ProduceResponse { responses: vec![topic], ..Default::default() },
            waiting: vec![Waiting { places: vec![place], answer }],
        };
        (proposed, done)
    }

    /// The answer is "possibly stored", and the memory is counted until the outcome is known.
    #[tokio::test]
    async fn a_timed_out_produce_is_answered_as_possibly_stored() {
        let lanes = Lanes::new(1000);
        let free = lanes.free_bytes();
        let call = Call::of_test(ApiKey::Produce, lanes.acquire(Lane::Bulk, 700).await);
        let (proposed, done) = proposed(-1, 30);
        let answer = proposed.outcome(&call).await.expect("answered").expect("with a response");
        let part = &answer.responses[0].partition_responses[0];
        assert_eq!((part.index, part.error_code), (3, ErrorCode::RequestTimedOut.code()));
        assert_eq!(part.base_offset, -1);
        let why = part.error_message.as_deref().unwrap_or_default();
        assert!(why.contains("timeout_ms=30") && why.contains("may still be stored"), "{why}");

        drop(call);
        tokio::task::yield_now().await;
        assert_eq!(lanes.free_bytes(), free - 700, "the batch is still in the queue");
        drop(done);
        while lanes.free_bytes() < free {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn acks_0_has_no_timeout() {
        let share = Lanes::new(1).acquire(Lane::Bulk, 1).await;
        let call = Call::of_test(ApiKey::Produce, share);
        let (proposed, done) = proposed(0, 1);
        let answer = tokio::spawn(async move { proposed.outcome(&call).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!answer.is_finished(), "the connection is not closed by a slow disk");
        done.send(Ok(vec![Err(ropewalk_shard::state::AppendRefusal::NoSuchPartition)]))
            .expect("it waits");
        let closed = answer.await.expect("it ends");
        assert!(matches!(closed, Err(Close::Unanswerable { code: 3 })), "{closed:?}");
    }
}
