//! What one fetch reads: all partitions that it names, or the active ones of its session (KIP-227).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use ropewalk_codec::Str;
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
use ropewalk_codec::fetch_response::FetchResponse;
use ropewalk_store::log::Waiter;
use ropewalk_store::remote::{RemoteLog, RemoteRange};
use tokio::time::Instant;
use uuid::Uuid;

use super::cache::{Cache, Named, Owner};
use super::cold::{Cold, ColdRead, ColdRequest};
use super::replica::Consumer;
use super::session::{Active, Key, Session};
use super::{PartitionRead, TopicRead, partitions};
use crate::handle::partition::barriers;
use crate::handle::{Call, Context, ErrorCode};
use crate::limits;

/// The session epoch of a request that opens a session.
const FIRST_EPOCH: i32 = 0;
/// The session epoch of a request without a session. It closes the session that it names.
const FINAL_EPOCH: i32 = -1;
/// The first version that names topics by id.
const FIRST_VERSION_WITH_IDS: i16 = 13;

/// The fetch sessions of this broker and their metrics.
#[derive(Debug)]
pub(crate) struct Sessions {
    cache: Mutex<Cache<Live>>,
    metrics: SessionMetrics,
}

/// Metrics of fetch sessions; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionMetrics {
    sessions: Gauge,
    partitions: Gauge,
    evictions: Counter,
    requests: Counter,
}

/// A session while a request or the cache owns it.
#[derive(Debug)]
struct Live {
    session: Session,
    waiter: Arc<Waiter>,
    /// The terms in which this broker leads or follows in its shards. A change affects partitions
    /// whose logs do not report it.
    terms: Vec<Terms>,
}

/// The term in which this broker leads a shard, and the one in which it follows there.
type Terms = (Option<u64>, Option<u64>);

/// The session of a request in progress. If the request is cancelled, the session is kept.
#[derive(Debug)]
struct Held {
    sessions: Arc<Sessions>,
    live: Option<Live>,
    owner: Owner,
    /// `None` for a full fetch, which opens the session with its response.
    named: Option<Named>,
}

/// The partitions that a fetch reads.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) wants: Vec<TopicRead>,
    consumer: Consumer,
    waiter: Arc<Waiter>,
    held: Option<Held>,
}

impl SessionMetrics {
    /// Creates the metrics and registers them in `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("fetch_sessions", "Fetch sessions", all.sessions.clone());
        registry.register(
            "fetch_session_partitions",
            "Partitions in fetch sessions",
            all.partitions.clone(),
        );
        registry.register(
            "fetch_session_evictions",
            "Fetch sessions removed to make room",
            all.evictions.clone(),
        );
        registry.register(
            "fetch_session_requests",
            "Fetches within a session, which name only what changed",
            all.requests.clone(),
        );
        all
    }
}

impl Sessions {
    /// No sessions yet, and at most `sessions_max`.
    pub(crate) fn new(sessions_max: usize, metrics: SessionMetrics) -> Arc<Self> {
        Arc::new(Self { cache: Mutex::new(Cache::new(sessions_max)), metrics })
    }

    fn change<R>(&self, change: impl FnOnce(&mut Cache<Live>) -> R) -> R {
        let mut cache = self.cache.lock();
        let evictions = cache.evictions();
        let outcome = change(&mut cache);
        self.metrics.evictions.inc_by(cache.evictions() - evictions);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.sessions.set(count(cache.len()));
        self.metrics.partitions.set(count(cache.partitions()));
        outcome
    }
}

impl Reading {
    /// The partitions that the request names or continues to read.
    ///
    /// # Errors
    /// The error code of the whole response, when the session cannot be used.
    pub(super) fn of(ctx: &Context, call: &Call, request: FetchRequest) -> Result<Self, ErrorCode> {
        let owner = Owner {
            listener: Arc::clone(&call.peer.listener),
            uses_ids: call.version >= FIRST_VERSION_WITH_IDS,
        };
        let consumer = Consumer::of(call, &request);
        let named = Named { id: request.session_id, epoch: request.session_epoch };
        if named.epoch != FIRST_EPOCH && named.epoch != FINAL_EPOCH {
            let (topics, forgotten) = (&request.topics, &request.forgotten_topics_data);
            return match continued(ctx, named, owner, topics, forgotten)? {
                Some(held) => Ok(Self::of_session(ctx, consumer, held)),
                None => Ok(Self::without_session(ctx, consumer, request.topics)),
            };
        }
        if named.id != 0 {
            ctx.fetch_sessions.change(|cache| cache.close(named.id, &owner.listener));
        }
        match Session::of(&request.topics) {
            Ok(session) if named.epoch == FIRST_EPOCH && session.len() > 0 => {
                let live = Live { session, waiter: Arc::default(), terms: terms(ctx) };
                let sessions = Arc::clone(&ctx.fetch_sessions);
                let held = Held { sessions, live: Some(live), owner, named: None };
                Ok(Self::of_session(ctx, consumer, held))
            }
            Ok(_) | Err(_) => Ok(Self::without_session(ctx, consumer, request.topics)),
        }
    }

    fn of_session(ctx: &Context, consumer: Consumer, held: Held) -> Self {
        let live = held.live.as_ref().expect("it is put back with the response");
        let waiter = Arc::clone(&live.waiter);
        let mut reading = Self { wants: Vec::new(), consumer, waiter, held: None };
        reading.add(ctx, live.session.active());
        Self { held: Some(held), ..reading }
    }

    fn without_session(ctx: &Context, mut consumer: Consumer, topics: Vec<FetchTopic>) -> Self {
        let mut token = 0;
        let topic = |topic: FetchTopic| {
            let mut read = TopicRead::new(ctx, topic.topic, topic.topic_id);
            for asked in topic.partitions {
                read.add(ctx, &mut consumer, asked, (token, false));
                token += 1;
            }
            read
        };
        let wants = topics.into_iter().map(topic).collect();
        Self { wants, consumer, waiter: Arc::default(), held: None }
    }

    /// Adds partitions of the session, neighbours of one topic together.
    fn add(&mut self, ctx: &Context, all: impl IntoIterator<Item = Active>) {
        for Active { token, key, asked, watched } in all {
            let Key { topic, topic_id, .. } = key;
            let last = self.wants.last();
            if last.is_none_or(|last| last.topic != topic || last.topic_id != topic_id) {
                self.wants.push(TopicRead::new(ctx, topic, topic_id));
            }
            let last = self.wants.last_mut().expect("there is one now");
            last.add(ctx, &mut self.consumer, asked, (token, watched));
        }
    }

    /// Whether the partitions are those of a session, which keeps an order of its own.
    pub(super) fn has_session(&self) -> bool {
        self.held.is_some()
    }

    /// Whether some partitions may be read of a follower.
    pub(super) fn may_follow(&self) -> bool {
        self.consumer.has_rack()
    }

    /// Whether nothing can arrive that the fetch waits for.
    pub(super) fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.held.is_none()
    }

    /// Adds the partitions that changed since the last call. Requests notice of the next change of
    /// every partition: always in a session, else if the fetch waits.
    pub(super) fn watch(&mut self, ctx: &Context, waits: bool) {
        let mut changed = self.waiter.take();
        changed.sort_unstable();
        for want in self.wants.iter_mut().flat_map(|topic| &mut topic.partitions) {
            want.watched &= changed.binary_search(&want.token).is_err();
        }
        let mut session = self.held.as_mut().and_then(Held::session);
        let woken: Vec<Active> = match &mut session {
            Some(session) => changed.iter().filter_map(|token| session.wake(*token)).collect(),
            None => Vec::new(),
        };
        self.add(ctx, woken);
        let mut session = self.held.as_mut().and_then(Held::session);
        if !waits && session.is_none() {
            return;
        }
        for want in self.wants.iter_mut().flat_map(|topic| &mut topic.partitions) {
            if let (false, Ok(found)) = (want.watched, &want.found) {
                found.log.notify_on_change(&self.waiter, want.token);
                want.watched = true;
                session.iter_mut().for_each(|session| session.watched(want.token));
            }
        }
    }

    /// Follows a change of the leadership of any shard.
    pub(super) fn follow_leaders(&mut self, ctx: &Context) {
        let Self { wants, consumer, .. } = self;
        consumer.forget_followers();
        wants.iter_mut().for_each(|topic| topic.follow_leaders(ctx, consumer));
        let woken = match self.held.as_mut().and_then(|held| held.live.as_mut()) {
            Some(live) => live.follow_leaders(ctx),
            None => Vec::new(),
        };
        self.add(ctx, woken);
    }

    /// Makes sure that this broker still leads the partitions whose logs contradict the client, and
    /// has every acknowledged record of them. Others are refused, and the client finds the leader.
    pub(super) async fn confirm(&mut self) {
        let doubtful = partitions(&self.wants).filter(|want| want.is_doubtful());
        let doubtful: Vec<_> = doubtful.filter_map(|want| want.found.as_ref().ok()).collect();
        if doubtful.is_empty() {
            return;
        }
        let barriers = barriers(doubtful.into_iter()).await;
        for want in self.wants.iter_mut().flat_map(|topic| &mut topic.partitions) {
            let doubtful = want.found.as_ref().ok().filter(|_| want.is_doubtful());
            match doubtful.and_then(|found| barriers.get(&found.shard.id())) {
                Some(Ok(())) => want.confirmed = true,
                Some(Err(_)) => want.found = Err(ErrorCode::NotLeaderOrFollower),
                None => {}
            }
        }
    }

    /// Begins to read what is in the bucket only.
    pub(super) fn begin_cold(&mut self, ctx: &Context, call: &Call, bytes_max: usize) {
        let Some(remote) = ctx.remote.get() else { return };
        let waiter = &self.waiter;
        let mut all: Vec<_> =
            self.wants.iter_mut().flat_map(|topic| &mut topic.partitions).collect();
        let begun = all.iter().filter(|want| matches!(want.cold, Cold::Begun(_))).count();
        let mut free = limits::COLD_READS_PER_FETCH.saturating_sub(begun);
        // The same order as that in which they are collected.
        let turn = match self.held.is_some() {
            true => 0,
            false => call.peer.fetch_turn.load(Ordering::Relaxed) % all.len().max(1),
        };
        all.rotate_left(turn);
        for want in all {
            if matches!(want.cold, Cold::Begun(_)) || want.preferred.is_some() {
                continue;
            }
            let range = want.found.as_ref().ok();
            let range = range.and_then(|found| found.log.remote_range(want.asked.fetch_offset));
            want.cold = match range {
                None => Cold::No,
                Some(_) if free == 0 => Cold::Queued,
                Some(range) => {
                    free -= 1;
                    want.read_cold(ctx, remote, range, (waiter, bytes_max))
                }
            };
        }
    }

    /// Begins to read from the bucket what is damaged on the disk or has just moved, by the numbers
    /// of the partitions in the request. Returns whether it has begun any read.
    pub(super) fn refetch(&mut self, ctx: &Context, numbers: &[usize], bytes_max: usize) -> bool {
        let (Some(remote), false) = (ctx.remote.get(), numbers.is_empty()) else { return false };
        let mut begun = false;
        let waiter = &self.waiter;
        let wants = self.wants.iter_mut().flat_map(|topic| &mut topic.partitions);
        for (_, want) in wants.enumerate().filter(|(at, _)| numbers.contains(at)) {
            let Ok(found) = &want.found else { continue };
            let (from, until) = (want.asked.fetch_offset, found.tier_end());
            if matches!(want.cold, Cold::No) && from < until {
                let (partition, is_local) = (found.id, from >= found.log.local_start());
                if is_local {
                    tracing::warn!(%partition, from, "damaged records are read from the bucket");
                }
                let range = RemoteRange { from, until };
                want.cold = want.read_cold(ctx, remote, range, (waiter, bytes_max));
                begun = true;
            }
        }
        begun
    }

    /// Waits for a change of a partition.
    pub(super) async fn changed(&self) {
        self.waiter.changed().await;
    }

    /// Turns the result of reading all of [`Self::wants`] into the response of the session: only
    /// what is new, unless it is the first.
    pub(super) fn finish(self, response: &mut FetchResponse) {
        let Some(mut held) = self.held else { return };
        let is_full = held.named.is_none();
        let Some(session) = held.session() else { return };
        let mut tokens = partitions(&self.wants).map(|want| want.token);
        response.responses.retain_mut(|topic| {
            topic.partitions.retain(|data| {
                let token = tokens.next().expect("each partition is answered once");
                session.answer(token, data) || is_full
            });
            !topic.partitions.is_empty()
        });
        response.session_id = match held.named {
            Some(named) => named.id,
            None => held.open().unwrap_or(0),
        };
    }
}

/// The session of an incremental request with the request applied; `None` if the client removed
/// the last partition.
fn continued(
    ctx: &Context,
    named: Named,
    owner: Owner,
    topics: &[FetchTopic],
    forgotten: &[ForgottenTopic],
) -> Result<Option<Held>, ErrorCode> {
    let sessions = &ctx.fetch_sessions;
    let mut live = sessions.change(|cache| cache.take(Instant::now(), named, &owner))?;
    sessions.metrics.requests.inc();
    let updated = live.session.update(topics, forgotten);
    if updated.is_err() || live.session.len() == 0 {
        sessions.change(|cache| cache.close(named.id, &owner.listener));
        // The client opens another session or, if that is too large as well, names all partitions.
        return updated.map(|()| None).map_err(|_| ErrorCode::FetchSessionIdNotFound);
    }
    live.follow_leaders(ctx);
    // Logs that changed since the last request.
    for token in live.waiter.take() {
        live.session.wake(token);
    }
    let sessions = Arc::clone(sessions);
    Ok(Some(Held { sessions, live: Some(live), owner, named: Some(named) }))
}

fn terms(ctx: &Context) -> Vec<Terms> {
    ctx.node.shards().map(|shard| (shard.leading(), shard.following())).collect()
}

impl Live {
    /// Makes all partitions active if this broker leads or follows in other shards, or in other
    /// terms, than before. Returns those that were settled.
    fn follow_leaders(&mut self, ctx: &Context) -> Vec<Active> {
        let terms = terms(ctx);
        if self.terms == terms {
            return Vec::new();
        }
        self.terms = terms;
        self.session.wake_settled()
    }
}

impl Held {
    fn session(&mut self) -> Option<&mut Session> {
        self.live.as_mut().map(|live| &mut live.session)
    }

    /// Adds the session of a full fetch to the cache. Returns its id if there is room for it.
    fn open(&mut self) -> Option<i32> {
        let live = self.live.take()?;
        let partitions = live.session.len();
        let owner = self.owner.clone();
        self.sessions
            .change(|cache| cache.create(Instant::now(), owner, (live, partitions), random_id))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(live), Some(named)) = (self.live.take(), self.named) {
            let partitions = live.session.len();
            self.sessions.change(|cache| cache.put_back(named, (live, partitions)));
        }
    }
}

fn random_id() -> i32 {
    let [a, b, c, d, ..] = Uuid::new_v4().into_bytes();
    i32::from_be_bytes([a, b, c, d])
}

impl PartitionRead {
    /// Begins to read a range from the bucket.
    fn read_cold(
        &self,
        ctx: &Context,
        remote: &Arc<dyn RemoteLog>,
        range: RemoteRange,
        (waiter, bytes_max): (&Arc<Waiter>, usize),
    ) -> Cold {
        let Ok(found) = &self.found else { return Cold::No };
        let wanted = usize::try_from(self.asked.partition_max_bytes).unwrap_or(0);
        let asked = ColdRequest {
            partition: found.id,
            range,
            bytes_max: wanted.min(bytes_max),
            waiter: (Arc::clone(waiter), self.token),
        };
        Cold::Begun(ColdRead::begin(Arc::clone(remote), ctx.cold.clone(), asked))
    }
}

impl TopicRead {
    fn new(ctx: &Context, topic: Str, topic_id: Uuid) -> Self {
        let view = ctx.topic(&topic, topic_id);
        Self { topic, topic_id, view, partitions: Vec::new() }
    }

    fn add(
        &mut self,
        ctx: &Context,
        consumer: &mut Consumer,
        asked: FetchPartition,
        (token, watched): (u32, bool),
    ) {
        let found = consumer.find(ctx, &self.view, &asked);
        let preferred = consumer.preferred(ctx, &found, &asked);
        let (confirmed, cold) = (false, Cold::No);
        let read = PartitionRead { asked, found, preferred, token, watched, confirmed, cold };
        self.partitions.push(read);
    }

    /// Looks up again what this broker no longer leads or follows, or in another term.
    fn follow_leaders(&mut self, ctx: &Context, consumer: &mut Consumer) {
        let Self { view, partitions, .. } = self;
        for want in partitions {
            if want.found.as_ref().is_ok_and(|found| !found.is_current()) {
                want.found = consumer.find(ctx, view, &want.asked);
                want.preferred = consumer.preferred(ctx, &want.found, &want.asked);
                want.confirmed = false;
            }
        }
    }
}
