//! Which replica a consumer reads (KIP-392).
//!
//! With the rack-aware `replica.selector.class` the leader names a follower in the consumer's rack
//! and returns no records. A follower answers consumers that name a rack, and returns what is
//! committed and applied here. It does not know what else the leader has: a position behind its own
//! end is OFFSET_NOT_AVAILABLE and never out of range, and the consumer returns to the leader.
//!
//! A follower that knows of no leader answers NOT_LEADER_OR_FOLLOWER, so that a broker which is cut
//! off holds up its consumers no longer than an election takes. A consumer without a rack is always
//! sent to the leader, because it was not sent here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_codec::Str;
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest};
use ropewalk_node::ShardHandle;
use ropewalk_shard::{BrokerId, ShardId};

use super::Found;
use crate::catalog::TopicView;
use crate::handle::{Call, Context, ErrorCode};

/// First version of a fetch that names the consumer's rack.
const RACK_SINCE: i16 = 11;

/// Interval at which a fetch that waits looks whether this broker still follows the same leader,
/// which nothing reports.
pub(super) const LEADER_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The consumer of a fetch, as far as the choice of the replica depends on it.
#[derive(Debug)]
pub(super) struct Consumer {
    /// The rack of the consumer; `None` if it names none.
    rack: Option<Str>,
    /// The listener that it is connected to.
    listener: Arc<str>,
    /// The follower in the rack, by shard, as far as it was looked up.
    chosen: HashMap<ShardId, Option<i32>>,
}

impl Consumer {
    /// The consumer that sent the request.
    pub(super) fn of(call: &Call, request: &FetchRequest) -> Self {
        let has_rack = call.version >= RACK_SINCE && !request.rack_id.is_empty();
        Self {
            // A slice of the frame, which lives as long as the request.
            rack: has_rack.then(|| request.rack_id.clone()),
            listener: Arc::clone(&call.peer.listener),
            chosen: HashMap::new(),
        }
    }

    /// Whether it may read a follower.
    pub(super) fn has_rack(&self) -> bool {
        self.rack.is_some()
    }

    /// Has the followers be looked up again.
    pub(super) fn forget_followers(&mut self) {
        self.chosen.clear();
    }

    /// Looks a partition up: where this broker leads, or follows and may serve the consumer.
    pub(super) fn find(
        &self,
        ctx: &Context,
        view: &Result<Arc<TopicView>, ErrorCode>,
        asked: &FetchPartition,
    ) -> Found {
        let view = view.as_deref().map_err(|code| *code)?;
        let found = match ctx.partition(view, asked.partition) {
            Err(ErrorCode::NotLeaderOrFollower) if self.has_rack() => {
                ctx.followed(view, asked.partition)?
            }
            led => led?,
        };
        found.check_epoch(asked.current_leader_epoch)?;
        Ok(found)
    }

    /// The broker that the consumer should read in place of this one, which leads. A position that
    /// the leader does not have is refused by the leader itself.
    pub(super) fn preferred(
        &mut self,
        ctx: &Context,
        found: &Found,
        asked: &FetchPartition,
    ) -> Option<i32> {
        let rack = self.rack.as_ref().filter(|_| ctx.settings.selects_replicas_by_rack())?;
        let found = found.as_ref().ok().filter(|found| !found.is_followed())?;
        let has = found.log.log_start()..=found.log.high_watermark();
        if !has.contains(&asked.fetch_offset) {
            return None;
        }
        let choose = || follower_in(ctx, &found.shard, rack, &self.listener);
        *self.chosen.entry(found.shard.id()).or_insert_with(choose)
    }
}

/// The follower in the rack that has most of the log and is in sync, as Kafka's rack-aware selector
/// chooses it; `None` if the leader itself is in the rack, or no follower there can be reached.
fn follower_in(ctx: &Context, shard: &ShardHandle, rack: &Str, listener: &str) -> Option<i32> {
    if ctx.cluster.own().rack.as_ref() == Some(rack) {
        return None;
    }
    let is_in_rack = |id: &BrokerId| {
        ctx.cluster.broker(*id).is_some_and(|broker| {
            broker.rack.as_ref() == Some(rack) && broker.endpoints.contains_key(listener)
        })
    };
    let followers = ctx.cluster.followers_in_sync(shard).into_iter();
    followers.filter(|id| ctx.cluster.is_alive(*id)).find(is_in_rack).map(|id| id.0)
}
