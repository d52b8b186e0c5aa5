//! The reception of one shard: what is asked for next, and what is done with the answer.
//!
//! # Invariants
//!
//! - **R1** one question is not answered at any time, so one piece is in memory.
//! - The manifest on the disk never says more than what is durable.
//! - Nothing is asked for while the disk is full.

use std::sync::Arc;

use bytes::BytesMut;
use ropewalk_shard::ShardId;

use super::Options;
use super::incoming::{IncomingFiles, ReceiveError};
use super::limit::TokenBucket;
use super::manifest::Manifest;
use super::message::{Body, Fetch, Message, Offer, SetId, StopReason};
use super::verify::Verification;
use crate::limits;
use crate::store::Store;
use crate::work::{Next, WorkError};

mod pieces;

use pieces::Cursor;

/// The reception of one shard.
#[derive(Debug)]
pub(super) struct Incoming {
    store: Arc<Store>,
    options: Options,
    pub(super) shard: ShardId,
    /// Raft id of the replica that receives.
    pub(super) replica: u64,
    /// Raft id of the replica that sends.
    pub(super) peer: u64,
    pub(super) files: IncomingFiles,
    pub(super) manifest: Option<Manifest>,
    state: State,
    unsynced_bytes: u64,
    /// How often received bytes were not what they should be.
    pub(super) refused: u64,
}

#[derive(Debug)]
enum State {
    /// No set. The next question is due at this time.
    Asking { due_ms: i64 },
    /// The list of the offered set is fetched.
    Listing { offer: Offer, list: BytesMut, asked: Option<Asked> },
    /// The files of the set are fetched.
    Fetching { cursor: Option<Cursor>, asked: Option<Asked> },
    /// Everything is there, and is read again.
    Verifying(Verification),
    /// It can be installed.
    Complete,
    /// The disk is full. It is checked again at this time.
    Full { due_ms: i64 },
}

/// A question that is not answered.
#[derive(Debug, Clone, Copy)]
struct Asked {
    fetch: Fetch,
    at_ms: i64,
}

impl Incoming {
    /// Begins a reception, or continues the one that an earlier process began.
    pub(super) fn new(
        store: &Arc<Store>,
        options: Options,
        shard: ShardId,
        replica: u64,
        peer: u64,
    ) -> Result<Self, WorkError> {
        let mut files = IncomingFiles::new(store.data(), shard);
        let mut manifest = files.load()?;
        if manifest.as_ref().is_some_and(|found| found.replica != replica) {
            files.abandon(manifest.take().as_ref())?;
        }
        Ok(Self {
            store: Arc::clone(store),
            options,
            shard,
            replica,
            peer,
            files,
            manifest,
            state: State::Asking { due_ms: i64::MIN },
            unsynced_bytes: 0,
            refused: 0,
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Bytes of what is kept in memory between two calls, besides the list of the files.
    pub(super) fn memory_bytes(&self) -> usize {
        match &self.state {
            State::Listing { list, .. } => list.capacity(),
            State::Asking { .. }
            | State::Fetching { .. }
            | State::Verifying(_)
            | State::Complete
            | State::Full { .. } => 0,
        }
    }

    /// Asks another replica from now on.
    pub(super) fn set_peer(&mut self, peer: u64) {
        let is_done = matches!(self.state, State::Verifying(_) | State::Complete);
        if self.peer != peer && !is_done {
            self.peer = peer;
            self.ask_at(i64::MIN);
        }
    }

    fn message(&self, body: Body) -> Message {
        Message { shard: self.shard, from: self.replica, to: self.peer, body }
    }

    fn ask_at(&mut self, due_ms: i64) {
        self.state = State::Asking { due_ms };
    }

    /// Handles a message of a sender. Messages to send are added to `out`.
    pub(super) fn handle(
        &mut self,
        message: &Message,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<(), WorkError> {
        match &message.body {
            Body::Offer(offer) => {
                if !matches!(self.state, State::Verifying(_) | State::Complete) {
                    self.peer = message.from;
                }
                let taken = self.take_offer(offer, now_ms);
                self.settle(taken, offer.set, now_ms, out)
            }
            Body::Piece { of, bytes } => {
                let taken = self.take_piece(of, bytes);
                self.settle(taken, of.set, now_ms, out)
            }
            Body::Expired { set } => {
                if self.set() == Some(*set) && self.fetches() {
                    self.ask_at(now_ms);
                }
                Ok(())
            }
            Body::Wait | Body::Want | Body::Fetch(_) | Body::Stop { .. } => Ok(()),
        }
    }

    /// Does one piece of work.
    pub(super) fn step(
        &mut self,
        bucket: &mut TokenBucket,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<Next, WorkError> {
        match &mut self.state {
            State::Asking { due_ms } => {
                if *due_ms <= now_ms {
                    *due_ms = now_ms.saturating_add(limits::TRANSFER_RETRY_MS);
                    out.push(self.message(Body::Want));
                }
                Ok(Next::Wait)
            }
            State::Full { due_ms } => {
                if *due_ms <= now_ms {
                    let due_ms = now_ms.saturating_add(limits::TRANSFER_RETRY_MS);
                    self.state = State::Full { due_ms };
                    if self.has_space() {
                        self.ask_at(now_ms);
                        return Ok(Next::Now);
                    }
                }
                Ok(Next::Wait)
            }
            State::Listing { asked, .. } | State::Fetching { asked, .. } => {
                let waits = asked.is_some_and(|asked| {
                    now_ms.saturating_sub(asked.at_ms) < limits::TRANSFER_RETRY_MS
                });
                if waits {
                    return Ok(Next::Wait);
                }
                let asked = self.ask_next(bucket, now_ms, out);
                let set = self.set().unwrap_or(SetId { replica: 0, number: 0 });
                self.settle(asked, set, now_ms, out).map(|()| Next::Wait)
            }
            State::Verifying(_) => {
                let verified = self.verify_next();
                let set = self.set().unwrap_or(SetId { replica: 0, number: 0 });
                self.settle(verified, set, now_ms, out).map(|()| Next::Now)
            }
            State::Complete => Ok(Next::Wait),
        }
    }

    /// The set that is being fetched.
    fn set(&self) -> Option<SetId> {
        if let State::Listing { offer, .. } = &self.state {
            return Some(offer.set);
        }
        self.manifest.as_ref().map(|manifest| manifest.list.set)
    }

    fn fetches(&self) -> bool {
        matches!(self.state, State::Listing { .. } | State::Fetching { .. })
    }

    /// Ends the set after a failure.
    fn settle(
        &mut self,
        done: Result<(), ReceiveError>,
        set: SetId,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<(), WorkError> {
        let due_ms = now_ms.saturating_add(limits::TRANSFER_RETRY_MS);
        let reason = match done {
            Ok(()) => return Ok(()),
            Err(ReceiveError::Full) => {
                tracing::warn!(shard = %self.shard, "disk is full: a transfer waits for space");
                self.state = State::Full { due_ms };
                StopReason::Full
            }
            Err(ReceiveError::Damaged(what)) => {
                let (shard, from) = (self.shard, self.peer);
                tracing::error!(%shard, from, what, "what another broker sent is refused");
                self.refused += 1;
                self.ask_at(due_ms);
                StopReason::Damaged
            }
            Err(ReceiveError::Work(error)) => {
                self.ask_at(due_ms);
                return Err(error);
            }
        };
        out.push(self.message(Body::Stop { set, reason }));
        Ok(())
    }

    fn take_offer(&mut self, offer: &Offer, now_ms: i64) -> Result<(), ReceiveError> {
        match &self.state {
            State::Verifying(_) | State::Complete => return Ok(()),
            State::Full { due_ms } if *due_ms > now_ms => return Err(ReceiveError::Full),
            State::Listing { .. } | State::Fetching { .. } if self.set() == Some(offer.set) => {
                return Ok(());
            }
            State::Asking { .. }
            | State::Full { .. }
            | State::Listing { .. }
            | State::Fetching { .. } => {}
        }
        let known = self.manifest.as_ref();
        let known = known.map(|manifest| (manifest.list.set, manifest.missing_bytes()));
        match known {
            Some((set, bytes)) if set == offer.set => {
                self.check_space(bytes)?;
                self.state = State::Fetching { cursor: None, asked: None };
            }
            // How much of it is there already is known when its list is.
            Some(_) | None => {
                self.check_space(offer.list_bytes)?;
                let (offer, list) = (offer.clone(), BytesMut::new());
                self.state = State::Listing { offer, list, asked: None };
            }
        }
        Ok(())
    }

    fn check_space(&self, bytes: u64) -> Result<(), ReceiveError> {
        let data = self.store.data();
        // If the free space is unknown, a failing write will show that the disk is full.
        let Ok(free_bytes) = data.disk().free_bytes(data.root()) else { return Ok(()) };
        let least = self.options.disk_free_bytes_min.saturating_add(bytes);
        if free_bytes < least { Err(ReceiveError::Full) } else { Ok(()) }
    }

    fn has_space(&self) -> bool {
        let bytes = self.manifest.as_ref().map_or(0, Manifest::missing_bytes);
        self.check_space(bytes).is_ok()
    }

    /// Asks for the next piece, if the rate allows it.
    fn ask_next(
        &mut self,
        bucket: &mut TokenBucket,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<(), ReceiveError> {
        let Some(fetch) = self.next_fetch()? else {
            self.save()?;
            self.state = State::Verifying(Verification::default());
            return Ok(());
        };
        if !bucket.take(u64::from(fetch.length_bytes), now_ms) {
            return Ok(());
        }
        out.push(self.message(Body::Fetch(fetch)));
        if let State::Listing { asked, .. } | State::Fetching { asked, .. } = &mut self.state {
            *asked = Some(Asked { fetch, at_ms: now_ms });
        }
        Ok(())
    }

    /// Makes what was received durable, and the manifest.
    fn save(&mut self) -> Result<(), ReceiveError> {
        if let Some(manifest) = &self.manifest {
            self.files.save(manifest)?;
            self.unsynced_bytes = 0;
            if self.fetches() {
                self.check_space(0)?;
            }
        }
        Ok(())
    }

    /// Verifies the next piece. What is damaged is fetched again.
    fn verify_next(&mut self) -> Result<(), ReceiveError> {
        let State::Verifying(verification) = &mut self.state else { return Ok(()) };
        let manifest = self.manifest.as_mut().expect("a set is verified");
        if verification.step(&self.files, manifest, self.options.piece_bytes_max)? {
            return Ok(());
        }
        self.refused += verification.damaged();
        self.state = match manifest.missing() {
            Some(_) => State::Fetching { cursor: None, asked: None },
            None => State::Complete,
        };
        Ok(())
    }
}
