//! The receiving side of a broker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ropewalk_shard::ShardId;
use ropewalk_shard::engine::EntryId;

use super::Options;
use super::incoming::IncomingFiles;
use super::install::{self, LogRestart, Position};
use super::limit::TokenBucket;
use super::message::{Body, Message, SetId, StopReason};
use super::receive::Incoming;
use crate::limits;
use crate::store::Store;
use crate::work::{FirstError, Next, WorkError};

/// Whether a replica of this broker, with this Raft id, lacks an entry that a set includes: see
/// [`ropewalk_shard::replica::Replica::lacks`]. False also for a replica that is not this broker's.
pub type Need<'a> = &'a dyn Fn(ShardId, u64, EntryId) -> bool;

/// Stops the replica of this broker with this Raft id, unless it has an entry that a set includes,
/// and returns its position. `None` if it has the entry and continues. One that does not exist has
/// nothing to stop.
pub type Claim<'a> = &'a dyn Fn(ShardId, u64, EntryId) -> Option<Position>;

/// Receives the files of shards from other brokers. It writes and reads files, so it has a thread
/// of its own.
#[derive(Debug)]
pub struct Receiver {
    store: Arc<Store>,
    options: Options,
    bucket: TokenBucket,
    active: BTreeMap<ShardId, Incoming>,
    /// Shards that begin when another ends, with the replica that receives and the one that sends.
    waiting: VecDeque<(ShardId, u64, u64)>,
}

impl Receiver {
    /// The receiver of a store without transfers.
    #[must_use]
    pub fn new(store: Arc<Store>, options: Options) -> Self {
        let burst_bytes = u64::from(limits::TRANSFER_PIECE_BYTES_MAX);
        let bucket = TokenBucket::new(options.bytes_per_second, burst_bytes);
        Self { store, options, bucket, active: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// Begins or continues to receive a shard for `replica`, from the replica `peer`; waits if
    /// others are received. Called at start for a replica that is being received, and when the
    /// leader changes.
    ///
    /// # Errors
    /// When the files of an earlier attempt cannot be read.
    pub fn begin(&mut self, shard: ShardId, replica: u64, peer: u64) -> Result<(), WorkError> {
        match self.active.get_mut(&shard) {
            Some(incoming) if incoming.replica == replica => {
                incoming.set_peer(peer);
                return Ok(());
            }
            Some(_) => {
                self.active.remove(&shard);
            }
            None => {}
        }
        self.waiting.retain(|(waiting, ..)| *waiting != shard);
        if self.active.len() < limits::TRANSFERS_MAX {
            let incoming = Incoming::new(&self.store, self.options, shard, replica, peer)?;
            self.active.insert(shard, incoming);
        } else if self.waiting.len() < limits::TRANSFERS_WAITING_MAX {
            self.waiting.push_back((shard, replica, peer));
        }
        Ok(())
    }

    /// Handles a message of a sender. Returns the messages to send.
    ///
    /// # Errors
    /// See [`WorkError`]. After one that is not final the transfer continues later.
    pub fn handle(
        &mut self,
        message: &Message,
        need: Need<'_>,
        now_ms: i64,
    ) -> Result<Vec<Message>, WorkError> {
        let (shard, replica) = (message.shard, message.to);
        let mut out = Vec::new();
        if let Body::Offer(offer) = &message.body {
            let stop = |reason| message.answer(Body::Stop { set: offer.set, reason });
            if !need(shard, replica, offer.last) {
                out.push(stop(StopReason::NotNeeded));
                return Ok(out);
            }
            if self.active.get(&shard).is_none_or(|incoming| incoming.replica != replica) {
                self.begin(shard, replica, message.from)?;
            }
            if !self.active.contains_key(&shard) {
                out.push(stop(StopReason::Busy));
            }
        }
        if let Some(incoming) = self.active.get_mut(&shard)
            && incoming.replica == replica
        {
            incoming.handle(message, now_ms, &mut out)?;
        }
        Ok(out)
    }

    /// Does one piece of work of each transfer. Returns the messages to send.
    ///
    /// # Errors
    /// See [`Self::handle`].
    pub fn step(&mut self, now_ms: i64) -> Result<(Vec<Message>, Next), WorkError> {
        let (mut out, mut next) = (Vec::new(), Next::Wait);
        let mut errors = FirstError::default();
        for incoming in self.active.values_mut() {
            let done = incoming.step(&mut self.bucket, now_ms, &mut out);
            if errors.note(done)? == Some(Next::Now) {
                next = Next::Now;
            }
        }
        errors.first().map(|()| (out, next))
    }

    /// The shards that are received and verified, and can be installed.
    #[must_use]
    pub fn complete(&self) -> Vec<ShardId> {
        let complete = self.active.values().filter(|incoming| incoming.is_complete());
        complete.map(|incoming| incoming.shard).collect()
    }

    /// The shards that are being received.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        self.active.keys().copied().collect()
    }

    /// How often received bytes were refused because they were damaged, in the transfers that are
    /// under way.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.active.values().map(|incoming| incoming.refused).sum()
    }

    /// Bytes of messages and lists that are kept between two calls.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.active.values().map(Incoming::memory_bytes).sum()
    }

    /// Installs a shard that is [complete](Self::complete): its files, its snapshot, then the log
    /// behind it. `claim` stops the replica, if it exists: nothing else changes its files then. It
    /// is opened again afterwards, unless it was not stopped. Returns the messages to send.
    ///
    /// # Errors
    /// See [`WorkError`]. After one that is not final it may be called again; if the process ends,
    /// recovery completes what has begun.
    pub fn install(
        &mut self,
        shard: ShardId,
        claim: Claim<'_>,
        log: &mut dyn LogRestart,
    ) -> Result<Vec<Message>, WorkError> {
        let Some(incoming) = self.active.get_mut(&shard).filter(|found| found.is_complete()) else {
            return Ok(Vec::new());
        };
        let manifest = incoming.manifest.as_ref().expect("it is complete");
        let Some(position) = claim(shard, incoming.replica, manifest.list.last()) else {
            return self.end(shard, StopReason::NotNeeded);
        };
        install::install(&self.store, &mut incoming.files, manifest, position, log)?;
        let stop = StopReason::Installed;
        let (set, index) = (manifest.list.set, manifest.list.index);
        tracing::info!(%shard, index, "the files of another broker are installed");
        let message = self.stop_message(shard, set, stop);
        self.active.remove(&shard);
        self.begin_next()?;
        Ok(message.into_iter().collect())
    }

    /// Ends the transfer of a shard to a replica that no longer exists, and removes what was
    /// received. Returns the messages to send.
    ///
    /// # Errors
    /// When files cannot be removed. Recovery removes them if no manifest names them.
    pub fn abandon(&mut self, shard: ShardId, replica: u64) -> Result<Vec<Message>, WorkError> {
        self.waiting.retain(|(waiting, of, _)| (*waiting, *of) != (shard, replica));
        if self.active.get(&shard).is_some_and(|incoming| incoming.replica == replica) {
            return self.end(shard, StopReason::NotNeeded);
        }
        let mut files = IncomingFiles::new(self.store.data(), shard);
        if let Some(manifest) = files.load()?.filter(|manifest| manifest.replica == replica) {
            files.abandon(Some(&manifest))?;
        }
        Ok(Vec::new())
    }

    fn end(&mut self, shard: ShardId, reason: StopReason) -> Result<Vec<Message>, WorkError> {
        let Some(mut incoming) = self.active.remove(&shard) else { return Ok(Vec::new()) };
        incoming.files.abandon(incoming.manifest.as_ref())?;
        let set = incoming.manifest.as_ref().map(|manifest| manifest.list.set);
        let (from, to) = (incoming.replica, incoming.peer);
        let body = set.map(|set| Body::Stop { set, reason });
        self.begin_next()?;
        Ok(body.map(|body| Message { shard, from, to, body }).into_iter().collect())
    }

    fn stop_message(&self, shard: ShardId, set: SetId, reason: StopReason) -> Option<Message> {
        let incoming = self.active.get(&shard)?;
        let body = Body::Stop { set, reason };
        Some(Message { shard, from: incoming.replica, to: incoming.peer, body })
    }

    /// Begins the next shard that waits.
    fn begin_next(&mut self) -> Result<(), WorkError> {
        match self.waiting.pop_front() {
            Some((shard, replica, peer)) => self.begin(shard, replica, peer),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl Receiver {
    /// Empties the token bucket.
    pub(super) fn drain(&mut self) {
        while self.bucket.take(1 << 10, 0) {}
    }
}
