//! The fetch sessions of a broker (KIP-227): their ids, epochs and owners, and which one makes room
//! for another. No I/O and no clock: callers pass the time and random ids.
//!
//! The request in progress takes the content of its session out of the cache and puts it back with
//! the response, so that reading needs no lock.
//!
//! # Invariants
//!
//! - **R1** at most `max.incremental.fetch.session.cache.slots` sessions, and at most
//!   [`limits::FETCH_SESSIONS_BYTES_MAX`] of memory in all of them. A client without a session
//!   names all partitions in each request.
//! - A request of a wrong epoch, listener or form of names never reaches the content.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::handle::ErrorCode;
use crate::limits;

/// Time without a request after which any other session may replace a session, and the age from
/// which a larger one may. Kafka's value.
const EVICTION_AGE: Duration = Duration::from_secs(120);

/// The id and epoch of a session that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    /// The session's id, never 0.
    pub(super) id: i32,
    /// The epoch of the request.
    pub(super) epoch: i32,
}

/// Properties of a session that do not change, and that each of its requests must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The name of the listener that the client is connected to. The connection may change.
    pub(super) listener: Arc<str>,
    /// Whether topics are named by id.
    pub(super) uses_ids: bool,
}

/// The sessions, each with content of type `S`.
#[derive(Debug)]
pub(super) struct Cache<S> {
    sessions: HashMap<i32, Cached<S>>,
    sessions_max: usize,
    partitions: usize,
    evictions: u64,
}

#[derive(Debug)]
struct Cached<S> {
    owner: Owner,
    /// The epoch that the next request must have.
    epoch: i32,
    partitions: usize,
    created: Instant,
    used: Instant,
    /// `None` while a request is in progress.
    content: Option<S>,
}

/// The epoch after `epoch`: from the largest one it continues with 1, because 0 and below have
/// meanings of their own.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

/// The memory of this many sessions and partitions, bytes.
fn memory(sessions: usize, partitions: usize) -> usize {
    (sessions + partitions) * limits::FETCH_SESSION_PARTITION_BYTES
}

impl<S> Cache<S> {
    /// A cache of at most `sessions_max` sessions.
    pub(super) fn new(sessions_max: usize) -> Self {
        Self { sessions: HashMap::new(), sessions_max, partitions: 0, evictions: 0 }
    }

    /// The number of sessions.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The number of partitions in all sessions.
    pub(super) fn partitions(&self) -> usize {
        self.partitions
    }

    /// The number of sessions that were removed to make room, since the start.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Adds a session, whose next epoch is 1. `ids` yields random numbers. Returns the id, or
    /// `None` if there is no room for the session.
    pub(super) fn create(
        &mut self,
        now: Instant,
        owner: Owner,
        (content, partitions): (S, usize),
        mut ids: impl FnMut() -> i32,
    ) -> Option<i32> {
        while self.sessions.len() >= self.sessions_max || !self.has_memory(1, partitions) {
            let evicted = self.evictable(now, partitions)?;
            self.remove(evicted);
            self.evictions += 1;
        }
        let id = loop {
            let id = ids() & i32::MAX;
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let content = Some(content);
        let cached = Cached { owner, epoch: 1, partitions, created: now, used: now, content };
        self.sessions.insert(id, cached);
        self.partitions += partitions;
        Some(id)
    }

    fn has_memory(&self, sessions: usize, partitions: usize) -> bool {
        let (sessions, partitions) = (self.len() + sessions, self.partitions + partitions);
        memory(sessions, partitions) <= limits::FETCH_SESSIONS_BYTES_MAX
    }

    /// The session that a new one of this size may replace: the one that is idle for longest, if
    /// that is long enough, else the smallest of the older ones, if it is smaller.
    fn evictable(&self, now: Instant, partitions: usize) -> Option<i32> {
        let is_old = |since: Instant| now.saturating_duration_since(since) > EVICTION_AGE;
        let (id, idlest) = self.sessions.iter().min_by_key(|(_, cached)| cached.used)?;
        if is_old(idlest.used) {
            return Some(*id);
        }
        let older = self.sessions.iter().filter(|(_, cached)| is_old(cached.created));
        let (id, smallest) = older.min_by_key(|(id, cached)| (cached.partitions, **id))?;
        (smallest.partitions < partitions).then_some(*id)
    }

    /// Takes the content for the request with this epoch, and advances the epoch.
    ///
    /// # Errors
    /// `FETCH_SESSION_ID_NOT_FOUND`, `INVALID_FETCH_SESSION_EPOCH` (also while another request of
    /// the session is in progress), `FETCH_SESSION_TOPIC_ID_ERROR`. The session is unchanged.
    pub(super) fn take(
        &mut self,
        now: Instant,
        named: Named,
        owner: &Owner,
    ) -> Result<S, ErrorCode> {
        let cached = self.sessions.get_mut(&named.id);
        let cached = cached.filter(|cached| cached.owner.listener == owner.listener);
        let cached = cached.ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if cached.epoch != named.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if cached.owner.uses_ids != owner.uses_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let content = cached.content.take().ok_or(ErrorCode::InvalidFetchSessionEpoch)?;
        cached.epoch = next_epoch(cached.epoch);
        cached.used = now;
        Ok(content)
    }

    /// Puts the content back after the request with the name `named`. It is dropped if the session
    /// was removed meanwhile, or has grown beyond the memory of all sessions.
    pub(super) fn put_back(&mut self, named: Named, (content, partitions): (S, usize)) {
        let Some(cached) = self.sessions.get_mut(&named.id) else { return };
        // Another session may have got the same id.
        if cached.epoch != next_epoch(named.epoch) || cached.content.is_some() {
            return;
        }
        self.partitions = self.partitions - cached.partitions + partitions;
        cached.partitions = partitions;
        cached.content = Some(content);
        if !self.has_memory(0, 0) {
            self.remove(named.id);
            self.evictions += 1;
        }
    }

    /// Removes the session that a client of this listener no longer uses.
    pub(super) fn close(&mut self, id: i32, listener: &Arc<str>) {
        if self.sessions.get(&id).is_some_and(|cached| cached.owner.listener == *listener) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: i32) {
        if let Some(cached) = self.sessions.remove(&id) {
            self.partitions -= cached.partitions;
        }
    }
}

#[cfg(test)]
mod tests;
