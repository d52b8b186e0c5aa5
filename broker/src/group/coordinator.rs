//! The coordinator of the groups whose shard leads on this broker: it passes requests and the time
//! to their state machines, makes their decisions durable, and answers pending requests.
//!
//! A handler calls one method here. A [`GroupHandle`] owns the state machine of its group under its
//! own lock, and the group's shard stores the decisions. One task ([`Coordinator::run`]) runs the
//! timers of all groups.
//!
//! # Invariants
//!
//! - A state machine exists only while its shard leads here, and belongs to one term. When the
//!   leadership is lost, all pending requests are answered so that the clients look up the
//!   coordinator.
//! - Every decision of a state machine is proposed under its lock, so records of one group, commits
//!   and deletions reach the shard in the order in which they were decided.
//! - A group without members has no state machine. It is restored from the record when needed.
//!
//! # After a crash
//!
//! When a shard becomes leader, the state machines of its groups with members are restored at once,
//! so that members that died with the old coordinator time out.

mod pauses;
mod group_handle;
mod timers;
mod listing;
mod offsets;
mod offset_sizes;
mod offset_expiry;
mod shard_groups;
pub(crate) mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_node::Node;
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::MemberClaim;
use ropewalk_shard::{ProposeError, ShardId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::info;

use super::classic::{ClassicGroup, Join, Leaver, Reply, Rules, SyncRequest};
use super::{Refusal, SizeLimit};
use crate::catalog::View;
use crate::limits;
use crate::settings::Settings;
use group_handle::GroupHandle;
use offset_sizes::OffsetSizes;
pub(crate) use offsets::PendingCommit;
use shard_groups::ShardGroups;
use timers::Timers;

/// The broker's group settings, fixed until it stops.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The value of `group.min.session.timeout.ms`, milliseconds.
    pub session_ms_min: i32,
    /// The value of `group.max.session.timeout.ms`, milliseconds.
    pub session_ms_max: i32,
    /// The value of `group.initial.rebalance.delay.ms`, milliseconds.
    pub initial_delay_ms: i32,
    /// `group.max.size`, number of members.
    pub members_max: usize,
    /// `offset.metadata.max.bytes`, in UTF-16 code units as in Kafka.
    pub metadata_units_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`, as a duration.
    pub retention_check_interval: Duration,
}

impl Options {
    /// The group settings of the broker's settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let delay_ms = ms(settings.group_initial_rebalance_delay());
        Self {
            session_ms_min: settings.group_session_timeout_ms_min(),
            session_ms_max: settings.group_session_timeout_ms_max(),
            initial_delay_ms: i32::try_from(delay_ms).unwrap_or(i32::MAX),
            members_max: settings.group_members_max(),
            metadata_units_max: settings.offset_metadata_bytes_max(),
            retention_ms: ms(settings.offsets_retention()),
            retention_check_interval: settings.offsets_retention_check_interval(),
        }
    }
}

/// The coordinator of all groups on this broker.
#[derive(Debug)]
pub struct Coordinator {
    node: Arc<Node>,
    view: Arc<View>,
    options: Options,
    shard_groups: Mutex<HashMap<ShardId, ShardGroups>>,
    timers: Timers,
    begun: Instant,
    is_stopping: AtomicBool,
    metadata_bytes: Arc<AtomicUsize>,
    offset_sizes: OffsetSizes,
    changes: mpsc::UnboundedSender<Change>,
    leadership: watch::Sender<()>,
    changed: Mutex<Option<mpsc::UnboundedReceiver<Change>>>,
}

/// A replica became leader of its shard in a term, or lost the leadership (`None`).
type Change = (ShardId, Option<u64>);

impl Coordinator {
    /// A coordinator for the groups of `node`; [`Self::run`] runs its timers.
    #[must_use]
    pub fn new(node: Arc<Node>, view: Arc<View>, options: Options) -> Arc<Self> {
        let (changes, changed) = mpsc::unbounded_channel();
        Arc::new(Self {
            node,
            view,
            options,
            shard_groups: Mutex::default(),
            timers: Timers::default(),
            begun: Instant::now(),
            is_stopping: AtomicBool::new(false),
            metadata_bytes: Arc::default(),
            offset_sizes: OffsetSizes::default(),
            changes,
            leadership: watch::Sender::new(()),
            changed: Mutex::new(Some(changed)),
        })
    }

    /// Called by the shards' observer: a replica became leader or lost the leadership. Does not
    /// block.
    pub fn leads(&self, shard: ShardId, term: Option<u64>) {
        // The receiver lives as long as `self`, or in `run`; after that no group is coordinated.
        let _ = self.changes.send((shard, term));
        self.leadership.send_replace(());
    }

    /// Changes whenever a replica of this broker becomes leader or loses the leadership, after that
    /// can be read from its shard.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<()> {
        self.leadership.subscribe()
    }

    /// Follows the leadership of the shards and runs the timers of all groups, until dropped.
    pub async fn run(self: Arc<Self>) {
        let Some(mut changed) = self.changed.lock().take() else { return };
        // The shards that became leader before this task received changes.
        for shard in self.node.shards() {
            self.restore_groups(shard);
        }
        let mut age_at = Instant::now() + self.options.retention_check_interval;
        let mut scan = None;
        loop {
            let due = self.timers.next().map(|ms| self.instant(ms));
            tokio::select! {
                Some((shard, term)) = changed.recv() => match (self.node.held_shard(shard), term) {
                    (Some(shard), Some(_)) => self.restore_groups(shard),
                    (Some(shard), None) => self.follow(shard),
                    (None, _) => {}
                },
                () = sleep_until(due) => self.tick(),
                () = self.timers.earlier() => {}
                () = tokio::time::sleep_until(age_at) => {
                    age_at = Instant::now();
                    if self.expire_offsets(&mut scan) {
                        age_at += self.options.retention_check_interval;
                    }
                }
            }
        }
    }

    /// Answers every pending request so that the clients look up the coordinator again at once, and
    /// not at the end of their rebalance: the broker is stopping.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        let shard_groups = std::mem::take(&mut *self.shard_groups.lock());
        for handle in shard_groups.into_values().flat_map(|of_shard| of_shard.groups.into_values())
        {
            handle.retire(Refusal::NotAvailable);
        }
    }

    /// The shard that a group or a transactional id hashes to.
    #[must_use]
    pub fn shard_of(&self, group: &str) -> Option<ShardId> {
        let state = self.node.catalog().state();
        state.catalog.as_ref().map(|catalog| catalog.shard_of(group))
    }

    /// Whether this broker coordinates the group now.
    #[must_use]
    pub fn coordinates(&self, group: &str) -> bool {
        self.shard_of_group(group).is_ok()
    }

    /// A client joins; waits until the generation is fixed.
    pub(crate) async fn join(self: &Arc<Self>, group: &str, join: Join) -> Reply {
        let member_id = join.member_id.clone();
        let refused = |refusal| Reply::NotJoined { member_id: member_id.clone(), refusal };
        if group.is_empty() {
            return refused(Refusal::InvalidGroupId);
        }
        let asked = self
            .check_new(group)
            .and_then(|()| self.with_handle(group, |handle| handle.join(self, join.clone())));
        // The wait may be long, and the state machine keeps what it needs.
        drop(join);
        match asked {
            Ok(reply) => reply.await.unwrap_or_else(|_| refused(Refusal::NotAvailable)),
            Err(refusal) => refused(refusal),
        }
    }

    /// A member requests its assignment; waits until the leader has made it.
    pub(crate) async fn sync(self: &Arc<Self>, group: &str, request: SyncRequest) -> Reply {
        if group.is_empty() {
            return Reply::NotSynced(Refusal::InvalidGroupId);
        }
        let asked = self.with_handle(group, |handle| {
            handle.wait(self, |machine, token, now_ms| machine.sync(request.clone(), token, now_ms))
        });
        drop(request);
        match asked {
            Ok(reply) => reply.await.unwrap_or(Reply::NotSynced(Refusal::NotAvailable)),
            Err(refusal) => Reply::NotSynced(refusal),
        }
    }

    /// Checks that a group of this name exists or may be created.
    pub(super) fn check_new(&self, group: &str) -> Result<(), Refusal> {
        if group.len() > limits::GROUP_ID_BYTES_MAX {
            return Err(Refusal::InvalidGroupId);
        }
        let (shard, _) = self.shard_of_group(group)?;
        if shard.state().groups.contains_key(group) || self.has_handle(group) {
            return Ok(());
        }
        let recorded: usize = self.node.shards().map(|s| s.state().groups.len()).sum();
        let seated: usize =
            self.shard_groups.lock().values().map(|of_shard| of_shard.groups.len()).sum();
        let groups_max = limits::GROUPS_MAX;
        if recorded.max(seated) >= groups_max {
            return Err(Refusal::TooManyGroups { groups_max });
        }
        Ok(())
    }

    /// Size of the metadata of the members of all groups, bytes.
    fn metadata_bytes(&self) -> usize {
        self.metadata_bytes.load(Ordering::Relaxed)
    }

    /// A heartbeat of a member.
    pub(crate) fn heartbeat(
        self: &Arc<Self>,
        group: &str,
        claim: &MemberClaim,
    ) -> Result<(), Refusal> {
        if group.is_empty() {
            return Err(Refusal::InvalidGroupId);
        }
        self.with_handle(group, |handle| {
            handle.step(self, |machine, now_ms| {
                (machine.heartbeat(claim, now_ms), Default::default())
            })
        })?
    }

    /// Members leave. One result for each, or one for all.
    pub(crate) fn leave(
        self: &Arc<Self>,
        group: &str,
        leavers: &[Leaver],
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        if group.is_empty() {
            return Err(Refusal::InvalidGroupId);
        }
        self.with_handle(group, |handle| {
            handle.step(self, |machine, now_ms| machine.leave(leavers, now_ms))
        })?
    }

    /// Milliseconds since the start, by a monotonic clock.
    fn now_ms(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn instant(&self, ms: i64) -> Instant {
        self.begun + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    fn rules(&self) -> Rules {
        Rules {
            session_ms_min: self.options.session_ms_min,
            session_ms_max: self.options.session_ms_max,
            initial_delay_ms: self.options.initial_delay_ms,
            members_max: self.options.members_max,
        }
    }

    /// The group's shard, and the term in which it leads here.
    fn shard_of_group(&self, group: &str) -> Result<(&Arc<ShardHandle>, u64), Refusal> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(Refusal::NotAvailable);
        }
        let shard = self
            .shard_of(group)
            .and_then(|id| self.node.shard(id))
            .ok_or(Refusal::NotCoordinator)?;
        let term = shard.leading().ok_or(Refusal::NotCoordinator)?;
        Ok((shard, term))
    }

    /// Calls a function with the group's state machine. The handle may have been retired between
    /// its look-up and its lock (`None`); then the function is called with a new one.
    fn with_handle<T>(
        &self,
        group: &str,
        mut act: impl FnMut(&Arc<GroupHandle>) -> Option<T>,
    ) -> Result<T, Refusal> {
        loop {
            let (shard, term) = self.shard_of_group(group)?;
            let handle = self.handle_of(shard, term, group).ok_or(Refusal::NotCoordinator)?;
            if let Some(result) = act(&handle) {
                return Ok(result);
            }
        }
    }

    /// The group's handle; `None` if the term in which the caller saw the shard lead is over.
    fn handle_of(
        &self,
        shard: &Arc<ShardHandle>,
        term: u64,
        group: &str,
    ) -> Option<Arc<GroupHandle>> {
        let (handle, stale) = {
            let mut shard_groups = self.shard_groups.lock();
            let of_shard = shard_groups.entry(shard.id()).or_default();
            let stale = of_shard.enter(term)?;
            let handle = of_shard.groups.entry(group.to_owned()).or_insert_with(|| {
                let state = shard.state();
                let id = group.to_owned();
                let (rules, now_ms) = (self.rules(), self.now_ms());
                let machine = match state.groups.get(group) {
                    Some(record) => ClassicGroup::restore(id, record, rules, now_ms),
                    None => ClassicGroup::new(id, rules),
                };
                let all_bytes = Arc::clone(&self.metadata_bytes);
                GroupHandle::new(group.to_owned(), Arc::clone(shard), machine, all_bytes)
            });
            (Arc::clone(handle), stale)
        };
        retire_all(stale);
        Some(handle)
    }

    /// Restores every group of a shard that has members, so that their session timeouts run.
    fn restore_groups(self: &Arc<Self>, shard: &Arc<ShardHandle>) {
        let Some(term) = shard.leading() else { return };
        let stale = {
            let mut shard_groups = self.shard_groups.lock();
            let of_shard = shard_groups.entry(shard.id()).or_default();
            let Some(stale) = of_shard.enter(term) else { return };
            if std::mem::replace(&mut of_shard.is_restored, true) {
                return;
            }
            stale
        };
        retire_all(stale);
        let names: Vec<_> = {
            let state = shard.state();
            let with_members = state.groups.iter().filter(|(_, group)| !group.members.is_empty());
            with_members.map(|(name, _)| name.clone()).collect()
        };
        if !names.is_empty() {
            info!(shard = %shard.id(), term, groups = names.len(), "coordinating groups");
        }
        for name in names {
            let Some(handle) = self.handle_of(shard, term, &name) else { return };
            handle.arm(self);
        }
    }

    /// Ends the terms in which a shard led here.
    fn follow(&self, shard: &ShardHandle) {
        let stale = {
            let mut shard_groups = self.shard_groups.lock();
            let of_shard = shard_groups.entry(shard.id()).or_default();
            of_shard.leave(shard.leading())
        };
        retire_all(stale);
    }

    /// Drops a handle whose state machine holds nothing beyond the record.
    fn dismiss(&self, handle: &Arc<GroupHandle>) {
        let mut shard_groups = self.shard_groups.lock();
        let Some(of_shard) = shard_groups.get_mut(&handle.shard().id()) else { return };
        if of_shard.groups.get(handle.group()).is_some_and(|known| Arc::ptr_eq(known, handle)) {
            of_shard.groups.remove(handle.group());
        }
    }

    fn tick(self: &Arc<Self>) {
        for (at_ms, handle) in self.timers.due(self.now_ms()) {
            handle.fire(self, at_ms);
        }
    }
}

fn retire_all(handles: Vec<Arc<GroupHandle>>) {
    for handle in handles {
        handle.retire(Refusal::NotCoordinator);
    }
}

/// The error for requests of a group when a record of the group has no outcome. Members look up the
/// coordinator again, which restores the committed state.
fn refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader | ProposeError::Unknown => Refusal::NotCoordinator,
        ProposeError::Stopped
        | ProposeError::Full
        | ProposeError::Busy
        | ProposeError::Behind
        | ProposeError::AboveLevel { .. } => Refusal::NotAvailable,
        ProposeError::TooLarge { size_bytes, size_bytes_max } => {
            let what = SizeLimit::Group;
            Refusal::TooLarge { what, size: size_bytes, size_max: size_bytes_max }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
