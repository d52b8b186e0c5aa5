//! Fetch: whole batches from each partition, or a wait until there are enough.
//!
//! Three steps: which partitions are read (`reading`), what of each fits the limits (`collect`),
//! and how the records of segments are read while the response is sent (`send`). What is in
//! memory is not copied: a response has slices of the tail.
//!
//! # Invariants
//!
//! - **D3** the size of everything that a response promises is known by verified index entries
//!   before its first byte leaves, and so is its first piece of a segment. Damage found there is an
//!   error code; damage behind it ends the connection, and the next fetch gets the error code.
//! - **R1** a response holds [`limits::ANSWER_PIECE_BYTES`] twice, or two batches if they are
//!   larger, the small files that were read whole, and what it names of the tail. All of it counts
//!   against the response budget.
//! - No thread of the runtime waits for the disk.
//!
//! - No answer depends on a leadership that is over: a fetch that waits is answered when it
//!   ends, and a position that this broker's log contradicts is refused only if the broker is known
//!   to lead still. A deposed leader lacks records, and its refusal would make a consumer start
//!   again elsewhere in the log.
//! - A follower returns only what is committed, and never says that an offset behind its end is out
//!   of range: see `replica`.
//!
//! `session` holds what a client asks and was answered in a fetch session (KIP-227), `cache` the
//! sessions of the broker; both decide without I/O. `reading` connects them with the logs. `cold`
//! reads what is in the bucket only.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_codec::Str;
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest};
use ropewalk_codec::fetch_response::{FetchResponse, LeaderIdAndEpoch, NodeEndpoint};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::partition::HeldPartition;
use super::placement::{Endpoint, LeaderHints};
use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;
use crate::limits;

mod cache;
mod session;
mod cold;
mod reading;
mod replica;
mod collect;
mod send;

use cold::Cold;
use collect::{Collected, Collector, Limit, Order, diverging};
use reading::Reading;
pub(crate) use reading::{SessionMetrics, Sessions};
pub(crate) use send::{Buffers, Later};

/// First version whose response names the leader of a partition that is led elsewhere (KIP-951).
const LEADER_HINTS_SINCE: i16 = 16;

/// The requested position of one partition.
#[derive(Debug)]
struct PartitionRead {
    asked: FetchPartition,
    found: Found,
    /// The broker that the consumer should read in place of this one.
    preferred: Option<i32>,
    /// Identifies the partition when its log changes.
    token: u32,
    /// Whether its log reports the next change.
    watched: bool,
    /// Whether this broker was known to lead the partition when it had all acknowledged records.
    confirmed: bool,
    /// Its records in the bucket.
    cold: Cold,
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
    call: &Arc<Call>,
    request: FetchRequest,
) -> Result<FetchResponse, Close> {
    let bytes_max =
        usize::try_from(request.max_bytes).unwrap_or(0).min(ctx.settings.fetch_bytes_max());
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait.min(limits::FETCH_WAIT_MAX);

    let (mut leadership, mut moved) = (ctx.groups.leadership(), false);
    let mut reading = match Reading::of(ctx, call, request) {
        Ok(reading) => reading,
        Err(code) => {
            let error_code = call.refuse(code);
            return Ok(FetchResponse { error_code, ..Default::default() });
        }
    };
    loop {
        let waits = bytes_min > 0 && Instant::now() < deadline && !reading.is_empty();
        if moved || leadership.has_changed().unwrap_or(false) {
            leadership.mark_unchanged();
            reading.follow_leaders(ctx);
        }
        reading.watch(ctx, waits);
        reading.begin_cold(ctx, call, bytes_max);
        // A fetch that only waits must not hold memory that other responses need.
        if !waits || partitions(&reading.wants).any(PartitionRead::has_news) {
            reading.confirm().await;
            let collected = collect(ctx, call, &mut reading, Limit { bytes_max, waits }).await?;
            if reading.refetch(ctx, &collected.in_bucket, bytes_max) {
                continue;
            }
            let Collected { counted_bytes, urgent, .. } = collected;
            if !waits || urgent || counted_bytes >= bytes_min {
                let mut response = collected.into_response(ctx, call, &reading.wants).await;
                if call.version >= LEADER_HINTS_SINCE {
                    name_leaders(ctx, call, &mut response);
                }
                reading.finish(&mut response);
                return Ok(response);
            }
        }
        // Whether woken or past the deadline, the logs are read again; past the deadline the result
        // is the response.
        let woken = async {
            tokio::select! {
                () = reading.changed() => false,
                _ = leadership.changed() => true,
            }
        };
        let look_again = Instant::now() + replica::LEADER_LOOK_INTERVAL;
        let until = if reading.may_follow() { deadline.min(look_again) } else { deadline };
        moved = timeout_at(until, woken).await.unwrap_or(reading.may_follow());
    }
}

/// Names the leader of each partition that this broker does not lead, or leads in another epoch.
fn name_leaders(ctx: &Context, call: &Call, response: &mut FetchResponse) {
    let mut hints = LeaderHints::new(ctx, &call.peer);
    let codes = [ErrorCode::NotLeaderOrFollower.code(), ErrorCode::FencedLeaderEpoch.code()];
    for topic in &mut response.responses {
        let elsewhere = topic.partitions.iter_mut();
        let elsewhere = elsewhere.filter(|part| codes.contains(&part.error_code));
        let mut view = None;
        for part in elsewhere {
            let view = view.get_or_insert_with(|| ctx.topic(&topic.topic, topic.topic_id));
            let hint = view.as_ref().ok().and_then(|view| hints.of(view, part.partition_index));
            if let Some((leader_id, leader_epoch)) = hint {
                part.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
            }
        }
    }
    let endpoint =
        |Endpoint { id, host, port, rack }| NodeEndpoint { node_id: id, host, port, rack };
    response.node_endpoints = hints.into_endpoints().map(endpoint).collect();
}

/// Chooses what to send: at once if all of it is in memory, else on a thread that may block.
async fn collect(
    ctx: &Arc<Context>,
    call: &Arc<Call>,
    reading: &mut Reading,
    limit: Limit,
) -> Result<Collected, Close> {
    let share = ctx.answers.acquire(limits::FETCH_RESERVE_BYTES).await;
    let order = if reading.has_session() { Order::OfSession } else { Order::InTurn };
    let wants = &mut reading.wants;
    if partitions(wants).all(PartitionRead::is_in_memory) {
        return Ok(Collector::new(ctx, call, wants, limit, share).collect_from_memory(order));
    }
    let (ctx, call, lent) = (Arc::clone(ctx), Arc::clone(call), mem::take(wants));
    let collected = ropewalk_node::blocking::start(move || {
        (Collector::new(&ctx, &call, &lent, limit, share).collect_from_anywhere(order), lent)
    });
    let (collected, lent) = collected.await.map_err(Close::Panicked)?;
    *wants = lent;
    Ok(collected)
}

fn partitions(wants: &[TopicRead]) -> impl Iterator<Item = &PartitionRead> {
    wants.iter().flat_map(|wants| &wants.partitions)
}

impl PartitionRead {
    fn is_in_memory(&self) -> bool {
        if self.preferred.is_some() || self.cold.is_pending() {
            return true;
        }
        let offset = match self.cold.outcome() {
            Some(Ok(records)) if records.is_empty() => records.next_offset(),
            Some(_) => return true,
            None => self.asked.fetch_offset,
        };
        self.found.as_ref().map_or(true, |found| found.log.is_in_memory(offset))
    }

    /// Whether the partition has records to return, or an error.
    fn has_news(&self) -> bool {
        let Ok(found) = &self.found else { return true };
        if found.log.is_closed() || self.preferred.is_some() {
            return true;
        }
        if self.cold.is_pending() {
            return false;
        }
        // A follower may get what it lacks while the fetch waits.
        !self.is_ahead()
            && (found.log.high_watermark() != self.asked.fetch_offset
                || !matches!(diverging(found, &self.asked), Ok(None)))
    }

    /// Whether the client's position is behind the end of this broker's log, and the leader may
    /// have more.
    fn is_ahead(&self) -> bool {
        let Ok(found) = &self.found else { return false };
        found.is_followed() && self.asked.fetch_offset > found.log.high_watermark()
    }

    /// Whether the log contradicts the client's position and a newer leader might not. What is
    /// below the log start is gone on every broker.
    fn is_doubtful(&self) -> bool {
        let Ok(found) = &self.found else { return false };
        let (offset, epoch) = (self.asked.fetch_offset, self.asked.last_fetched_epoch);
        if self.confirmed || found.is_followed() || offset < found.log.log_start() {
            return false;
        }
        // The current epoch extends to the end of the log.
        let agrees = epoch < 0 || epoch == found.leader_epoch;
        offset > found.log.high_watermark()
            || !agrees && !matches!(diverging(found, &self.asked), Ok(None))
    }
}

/// A partition that this broker leads or follows, or the error code for it.
type Found = Result<HeldPartition, ErrorCode>;
