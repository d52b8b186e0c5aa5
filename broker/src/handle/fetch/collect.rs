//! Chooses what of each partition a response has.
//!
//! The partitions are read in turn, from the one on that got nothing for lack of room in the
//! connection's last fetch; those of a session in its order, in which the ones that had records are
//! last. What is read of the tail is by reference; of segments only the index is
//! read, and the first piece of the response.

use ropewalk_codec::Records;
use ropewalk_codec::fetch_request::FetchPartition;
use ropewalk_codec::fetch_response::{
    EpochEndOffset, FetchResponse, FetchableTopicResponse, PartitionData,
};
use ropewalk_shard::state::partition::EpochEnd;
use ropewalk_store::log::{Limits, Part, Planned, ReadError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::send::{Later, Queue};
use super::{PartitionRead, TopicRead, partitions};
use crate::clock;
use crate::handle::partition::HeldPartition;
use crate::handle::{Call, Context, ErrorCode};
use crate::limits;
use crate::listen::Permit;

/// What a response has.
pub(super) struct Collected {
    /// Of each partition, in the request's order.
    reads: Vec<Read>,
    /// Size of the records. A partition whose limit kept some back counts as its limit, as in
    /// Kafka, so that a fetch at its limits does not wait for more.
    pub(super) counted_bytes: usize,
    /// Whether it must be sent without a wait.
    pub(super) urgent: bool,
    share: Permit,
    /// Bytes of the share that are needed while it is sent.
    needed_bytes: usize,
    /// The partitions that were not read because the disk is damaged or the records have moved, if
    /// the bucket has the records. By their numbers in the request.
    pub(super) in_bucket: Vec<usize>,
    /// Shares of the records of the bucket.
    cold: Vec<Arc<Permit>>,
}

/// What a response has of one partition.
struct Read {
    data: PartitionData,
    /// Its records, if some of them are in segments.
    later: Queue,
    /// Whether the disk failed or no longer has the records, and the bucket has them.
    is_in_bucket: bool,
}

/// Why nothing of a partition is returned.
#[derive(Debug, Clone, Copy)]
struct Failed {
    /// The number of the error code.
    code: i16,
    /// Whether the disk failed or no longer has the records, and the bucket has them.
    is_in_bucket: bool,
}

/// The order in which partitions are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As the session has them.
    OfSession,
    /// From the one on that found no room in the connection's last fetch.
    InTurn,
}

/// What limits a response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Most bytes of records, unless the first batch is larger.
    pub(super) bytes_max: usize,
    /// Whether the fetch may still wait for more.
    pub(super) waits: bool,
}

/// Chooses what a response has.
pub(super) struct Collector<'a> {
    ctx: &'a Context,
    call: &'a Call,
    wants: &'a [TopicRead],
    bytes_max: usize,
    waits: bool,
    /// Whether a file may be read.
    may_block: bool,
    share: Permit,
    /// Bytes of the share.
    share_bytes: usize,
    /// Bytes of the share that are used.
    memory_bytes: usize,
    /// Size of the records so far.
    size_bytes: usize,
    counted_bytes: usize,
    urgent: bool,
    stretches: usize,
    cold: Vec<Arc<Permit>>,
}

impl<'a> Collector<'a> {
    /// `share` is a share of the response budget of [`limits::FETCH_RESERVE_BYTES`].
    pub(super) fn new(
        ctx: &'a Context,
        call: &'a Call,
        wants: &'a [TopicRead],
        limit: Limit,
        share: Permit,
    ) -> Self {
        let Limit { bytes_max, waits } = limit;
        Self {
            ctx,
            call,
            wants,
            bytes_max,
            waits,
            may_block: false,
            share,
            share_bytes: limits::FETCH_RESERVE_BYTES,
            memory_bytes: 0,
            size_bytes: 0,
            counted_bytes: 0,
            urgent: false,
            stretches: 0,
            cold: Vec::new(),
        }
    }

    /// Chooses records that are in memory.
    pub(super) fn collect_from_memory(mut self, order: Order) -> Collected {
        let reads = self.reads(order);
        self.finish(reads, 0)
    }

    /// Chooses records wherever they are, and reads the first piece of a segment. May block.
    pub(super) fn collect_from_anywhere(mut self, order: Order) -> Collected {
        self.may_block = true;
        // The buffers of pieces.
        self.memory_bytes = 2 * limits::ANSWER_PIECE_BYTES;
        let mut reads = self.reads(order);
        self.memory_bytes -= 2 * limits::ANSWER_PIECE_BYTES;
        let buffers_bytes = Queue::buffers_bytes(reads.iter().map(|read| &read.later));
        self.read_first_piece(&mut reads);
        self.finish(reads, buffers_bytes)
    }

    fn finish(self, reads: Vec<Read>, buffers_bytes: usize) -> Collected {
        let Self { share, counted_bytes, urgent, memory_bytes, cold, .. } = self;
        let needed_bytes = memory_bytes + buffers_bytes;
        let in_bucket = reads.iter().enumerate().filter(|(_, read)| read.is_in_bucket);
        let in_bucket = in_bucket.map(|(at, _)| at).collect();
        Collected { reads, counted_bytes, urgent, share, needed_bytes, in_bucket, cold }
    }

    /// Reads the partitions in this order.
    fn reads(&mut self, order: Order) -> Vec<Read> {
        let wants: Vec<&PartitionRead> = partitions(self.wants).collect();
        let mut reads: Vec<Option<Read>> = wants.iter().map(|_| None).collect();
        let turn = match order {
            Order::OfSession => 0,
            Order::InTurn => self.call.peer.fetch_turn.load(Ordering::Relaxed) % wants.len().max(1),
        };
        let mut next_turn = None;
        for at in (turn..wants.len()).chain(0..turn) {
            let (read, is_short) = self.read(wants[at]);
            // What a follower lacks may arrive while the fetch waits.
            let may_arrive = self.waits && wants[at].is_ahead();
            self.urgent |= read.data.error_code != ErrorCode::None.code() && !may_arrive
                || read.data.diverging_epoch.epoch >= 0
                || read.data.preferred_read_replica >= 0;
            if is_short {
                next_turn = next_turn.or(Some(at));
            }
            reads[at] = Some(read);
        }
        if order == Order::InTurn {
            self.call.peer.fetch_turn.store(next_turn.unwrap_or(0), Ordering::Relaxed);
        }
        reads.into_iter().flatten().collect()
    }

    /// Reads one partition. Also returns whether the response has too little room for it. The first
    /// batch of a response is returned whatever its size (KIP-74).
    fn read(&mut self, want: &PartitionRead) -> (Read, bool) {
        let asked = &want.asked;
        let found = match &want.found {
            Ok(found) => found,
            Err(code) => return (failed(self.call, asked.partition, *code).into(), false),
        };
        if found.log.is_closed() {
            // Its topic was deleted, or the broker received other files of the shard.
            let code = match found.is_current() && !found.is_followed() {
                true => ErrorCode::UnknownTopicOrPartition,
                false => ErrorCode::NotLeaderOrFollower,
            };
            return (failed(self.call, asked.partition, code).into(), false);
        }
        if want.is_ahead() {
            let code = ErrorCode::OffsetNotAvailable;
            return (failed(self.call, asked.partition, code).into(), false);
        }
        let mut data = PartitionData {
            partition_index: asked.partition,
            high_watermark: found.log.high_watermark(),
            log_start_offset: found.log.log_start(),
            ..Default::default()
        };
        data.last_stable_offset = data.high_watermark;
        data.records = Records::from_chunks(Vec::new());
        if let Some(preferred) = want.preferred {
            data.preferred_read_replica = preferred;
            return (data.into(), false);
        }
        match diverging(found, asked) {
            Ok(None) => {}
            Ok(Some(diverging)) => {
                data.diverging_epoch = diverging;
                return (data.into(), false);
            }
            Err(code) => {
                let data = PartitionData { error_code: self.call.refuse(code), ..data };
                return (data.into(), false);
            }
        }
        if want.cold.is_pending() {
            return (data.into(), true);
        }
        let wanted = usize::try_from(asked.partition_max_bytes).unwrap_or(0);
        let limit = wanted.min(self.bytes_max.saturating_sub(self.size_bytes));
        let planned = match self.plan_want(want, found, limit) {
            Ok(planned) => planned,
            Err(Failed { code, is_in_bucket }) => {
                let data = PartitionData { error_code: code, ..data };
                return (Read { is_in_bucket, ..Read::from(data) }, false);
            }
        };
        // The records may end above the high watermark that was read before them.
        data.high_watermark = data.high_watermark.max(planned.next_offset);
        data.last_stable_offset = data.high_watermark;
        data.records = Records::later(planned.size_bytes);
        let has_more = planned.next_offset < data.high_watermark;
        self.size_bytes += planned.size_bytes;
        self.counted_bytes +=
            if has_more { limit.max(planned.size_bytes) } else { planned.size_bytes };
        let is_short = has_more && (limit < wanted || planned.size_bytes == 0);
        (Read::new(data, planned), is_short)
    }

    /// Chooses records of one partition, from the bucket if they were read from there.
    fn plan_want(
        &mut self,
        want: &PartitionRead,
        found: &HeldPartition,
        limit: usize,
    ) -> Result<Planned, Failed> {
        let mut from = want.asked.fetch_offset;
        match want.cold.outcome() {
            // The log decides what is out of range.
            _ if from < found.log.log_start() => {}
            Some(Ok(records)) if records.is_empty() => from = records.next_offset(),
            Some(Ok(records)) => {
                self.cold.push(Arc::clone(&records.share));
                return Ok(records.planned(from, limit, self.size_bytes == 0));
            }
            Some(Err(error)) => {
                let partition = found.log.partition();
                tracing::debug!(%partition, from, %error, "nothing to read in the bucket");
                let code = self.call.refuse(ErrorCode::from(error));
                return Err(Failed { code, is_in_bucket: false });
            }
            None => {}
        }
        self.plan(found, from, limit).map_err(|error| self.failed(want, found, &error))
    }

    /// Chooses records of one partition within the limit and within the memory that is free.
    fn plan(
        &mut self,
        found: &HeldPartition,
        from: i64,
        limit: usize,
    ) -> Result<Planned, ReadError> {
        let first = self.size_bytes == 0;
        let mut planned = self.plan_within(found, from, limit, first)?;
        if !self.has_memory(in_memory(&planned)) {
            let free = self.share_bytes.saturating_sub(self.memory_bytes);
            planned = self.plan_within(found, from, limit.min(free), first)?;
        }
        self.memory_bytes += in_memory(&planned);
        self.stretches += planned.stretches;
        Ok(planned)
    }

    /// Chooses records within the limit. None if they are in files and no more may be read.
    fn plan_within(
        &self,
        found: &HeldPartition,
        from: i64,
        bytes: usize,
        at_least_one: bool,
    ) -> Result<Planned, ReadError> {
        if let Some(chunk) = found.log.read_from_memory(from, bytes, at_least_one)? {
            return Ok(chunk.into());
        }
        let stretches = limits::ANSWER_STRETCHES_MAX - self.stretches;
        if !self.may_block || stretches == 0 || self.share_bytes <= self.memory_bytes {
            return Ok(Planned { next_offset: from, ..Planned::default() });
        }
        found.log.plan(from, Limits { bytes, at_least_one, stretches })
    }

    /// Whether the share has room for so many bytes in memory, extended if there is some free.
    fn has_memory(&mut self, bytes: usize) -> bool {
        let missing = (self.memory_bytes + bytes).saturating_sub(self.share_bytes);
        let has_room = self.ctx.answers.try_extend(&mut self.share, missing);
        self.share_bytes += if has_room { missing } else { 0 };
        has_room
    }

    /// Reads the first piece of a segment, so that damage there is an error code.
    fn read_first_piece(&mut self, reads: &mut [Read]) {
        let wants: Vec<&PartitionRead> = partitions(self.wants).collect();
        for (read, want) in reads.iter_mut().zip(wants) {
            match read.later.read_first(&self.ctx.buffers) {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    let error = ReadError::from(error);
                    self.memory_bytes -= read.later.memory_bytes();
                    self.urgent = true;
                    if let Ok(found) = &want.found {
                        let failed = self.failed(want, found, &error);
                        (read.data.error_code, read.is_in_bucket) =
                            (failed.code, failed.is_in_bucket);
                    }
                    read.data.records = Records::from_chunks(Vec::new());
                    read.later = Queue::default();
                }
            }
        }
    }

    fn failed(&self, want: &PartitionRead, found: &HeldPartition, error: &ReadError) -> Failed {
        let (partition, from) = (found.log.partition(), want.asked.fetch_offset);
        tracing::debug!(%partition, from, %error, "nothing to read");
        let is_in_bucket = self.ctx.remote.get().is_some() && want.cold.is_no();
        let is_in_bucket = match error {
            ReadError::Storage(_) => is_in_bucket && from < found.tier_end(),
            ReadError::Remote(_) => is_in_bucket,
            ReadError::OutOfRange { .. } => false,
        };
        let code = if is_in_bucket {
            ErrorCode::from(error).code()
        } else {
            self.call.refuse(ErrorCode::from(error))
        };
        Failed { code, is_in_bucket }
    }
}

impl Read {
    fn new(mut data: PartitionData, planned: Planned) -> Self {
        if planned.stretches > 0 {
            return Self { data, later: planned.parts.into(), is_in_bucket: false };
        }
        let chunks = planned.parts.into_iter().filter_map(|part| match part {
            Part::Memory(bytes) => Some(bytes),
            Part::Segment(_) => None,
        });
        data.records = Records::from_chunks(chunks.collect());
        data.into()
    }
}

impl From<PartitionData> for Read {
    fn from(data: PartitionData) -> Self {
        Self { data, later: Queue::default(), is_in_bucket: false }
    }
}

impl Collected {
    /// The response. Its share of the budget is what it needs from here on.
    pub(super) async fn into_response(
        mut self,
        ctx: &Context,
        call: &Call,
        wants: &[TopicRead],
    ) -> FetchResponse {
        self.count_followers(ctx, wants);
        let queues = self.reads.iter_mut().map(|read| std::mem::take(&mut read.later));
        let queues: Vec<Queue> = queues.filter(|queue| !queue.is_empty()).collect();
        self.share.shrink_to(self.needed_bytes);
        let missing = self.needed_bytes.saturating_sub(self.share.bytes());
        ctx.answers.extend(&mut self.share, missing).await;
        let share = Arc::new(self.share);
        call.hold(Arc::clone(&share));
        self.cold.drain(..).for_each(|share| call.hold(share));
        if !queues.is_empty() {
            call.follow(Later::new(queues, ctx.buffers.clone(), share));
        }
        let now_ms = clock::now_ms();
        for (read, want) in self.reads.iter().zip(partitions(wants)) {
            if let Ok(found) = &want.found {
                ctx.load.read(found.shard.id(), now_ms, read.data.records.len());
            }
        }
        let mut data = self.reads.into_iter().map(|read| read.data);
        let responses = wants.iter().map(|topic| {
            let partitions = data.by_ref().take(topic.partitions.len()).collect();
            FetchableTopicResponse {
                topic: topic.topic.clone(),
                topic_id: topic.topic_id,
                partitions,
            }
        });
        let responses = responses.collect();
        FetchResponse { responses, ..Default::default() }
    }
}

impl Collected {
    fn count_followers(&self, ctx: &Context, wants: &[TopicRead]) {
        let (mut redirects, mut bytes) = (0, 0);
        for (read, want) in self.reads.iter().zip(partitions(wants)) {
            redirects += usize::from(read.data.preferred_read_replica >= 0);
            if want.found.as_ref().is_ok_and(HeldPartition::is_followed) {
                bytes += read.data.records.len();
            }
        }
        ctx.metrics.read_followers(redirects, bytes);
    }
}

/// Bytes of the parts that are in memory.
fn in_memory(planned: &Planned) -> usize {
    let size = |part: &Part| match part {
        Part::Memory(bytes) => bytes.len(),
        Part::Segment(_) => 0,
    };
    planned.parts.iter().map(size).sum::<usize>().max(planned.loaded_bytes)
}

/// The end of the client's diverging epoch, if its log diverges from this one (KIP-595). As in
/// Kafka, an offset below the log start is out of range whatever its epoch, and so is an epoch that
/// this log cannot have.
pub(super) fn diverging(
    found: &HeldPartition,
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
    // The epoch may be one of the leader's that this follower has not heard of.
    let unknown = if found.is_followed() {
        ErrorCode::OffsetNotAvailable
    } else {
        ErrorCode::OffsetOutOfRange
    };
    let EpochEnd { epoch, end_offset } = end.ok_or(unknown)?;
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
